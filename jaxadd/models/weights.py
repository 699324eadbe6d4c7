"""Ties and parametric weights: a map from the trained parameters of a transformer to its matrices.

The forward pass, analysis and export see the matrices, which have the names and shapes of the untied network.
Training sees the parameters, so that gradients, weight decay and the count of parameters concern only what is free.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.types import Params, Sizes

if TYPE_CHECKING:
    from jaxadd.models.transformer import Transformer

_ATTENTION = ("W_Q", "W_K", "W_V", "W_O")
_SCORES = ("W_Q", "W_K")
_MLP = ("W_gate", "W_in", "W_out")
_GROUPED = ("W_K", "W_V", "b_K", "b_V")  # Shared by several query heads where kv_heads is below heads.
_HEAD_NORMS = ("q_norm", "k_norm")
_RADIUS, _ARC = 2.5, 2.6  # Of an arc at first; radians.
_PEAK = 6.0  # Nats, by which a head that attends by distance prefers one of them at first.


@dataclass(frozen=True)
class Weights:
    """Which matrices of a transformer are trained, and how the others follow from them."""

    embed: Literal["free", "arc"] = "free"
    """free; or arc: token d is at (A cos φ, A sin φ, 0, …) with φ = start + d · stride, which is three parameters"""
    unembed: Literal["free", "embed"] = "free"
    """free; or embed: W_U is the transpose of W_E"""
    value: Literal["free", "key"] = "free"
    """free; or key: W_V is W_K"""
    output: Literal["free", "query"] = "free"
    """free; or query: W_O of each head is the transpose of its W_Q"""
    value_rank: int = 0
    """width of values: the other coordinates of a head's values are 0, so that W_V W_O has this rank; 0 for all"""
    scores: Literal["free", "positions", "distance"] = "free"
    """free; positions: tokens are embedded in the first half of the stream, and queries and keys read the second;
    distance: each head has one query, and a fixed key, which positions rotate, and at first attends to one distance.
    Both attend whatever the tokens are"""
    norms: Literal["free", "shared", "final"] = "free"
    """free; shared: one weight for all norms of the stream, and one for those of queries and keys; final: of the
    norms of the stream only the final one has a weight and bias; nothing is lost where the others are RMSNorms that
    matrices follow"""
    layers: Literal["free", "shared"] = "free"
    """free; or shared: all blocks have the parameters of the first"""
    attention_rank: int = 0
    """rank of W_Q, W_K, W_V and W_O, each trained as the product of two factors; 0 for full matrices"""
    mlp_rank: int = 0
    """rank of the matrices of the MLP, each trained as the product of two factors; 0 for full matrices"""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("attention_rank", "mlp_rank", "value_rank"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")


def check(config: "Transformer") -> None:
    """Raise UserError where a tie does not fit the architecture."""
    tied = config.weights
    if tied.embed == "arc" and config.d_model < 2:
        raise UserError(f"an arc embedding needs d_model of at least 2, got {config.d_model}")
    whole = {"attention_rank 0": not tied.attention_rank, "value free": tied.value == "free"}
    apart = whole | {"output free": tied.output == "free"}
    by_position = whole | {
        "layers 1": config.layers == 1,
        "positions learned or sinusoidal": config.positions in ("learned", "sinusoidal"),
        "norm none or norm_where post": config.norm == "none" or config.norm_where == "post",
        "embed free": tied.embed == "free",
        "d_model of at least 2": config.d_model > 1,
    }
    by_distance = apart | {
        "positions rope": config.positions == "rope",
        "qk_norm False": not config.qk_norm,
    }
    for name, chosen, needs in (
        ("scores positions", tied.scores == "positions", by_position),
        ("scores distance", tied.scores == "distance", by_distance),
        ("norms final", tied.norms == "final", {"final_norm True": config.norm == "none" or config.final_norm}),
        ("a value_rank", tied.value_rank > 0, apart),
    ):
        if chosen and (missing := [what for what, there in needs.items() if not there]):
            raise UserError(f"{name} needs {' and '.join(missing)}")
    for name, rank, most in (
        ("attention_rank", tied.attention_rank, min(config.d_model, config.head_width)),
        ("value_rank", tied.value_rank, min(config.d_model, config.head_width)),
        ("mlp_rank", tied.mlp_rank, min(config.d_model, config.d_mlp)),
    ):
        if rank > most:
            raise UserError(f"{name} must be at most {most}, the rank of a full matrix, got {rank}")


def free(config: "Transformer", key: jax.Array, matrices: Params, sizes: Sizes) -> Params:
    """Return the initial trained parameters, given initial matrices of the untied network.

    Args:
      config: the architecture.
      key: typed key, from which factors are drawn.
      matrices: as `matrices` returns them; what is not free is dropped.
      sizes: of the task.
    """
    tied = config.weights
    params: dict[str, Any] = {name: dict(part) for name, part in matrices.items()}
    if config.positions == "sinusoidal":
        del params["pos_embed"]
    elif config.positions == "learned" and config.position_index == "place":
        params["pos_embed"] = {"W_pos": params["pos_embed"]["W_pos"][: max(sizes.places) + 1]}
    if tied.embed == "arc":
        # Centred on the first coordinate, which is then much the same for all digits while the second one grows with
        # the digit: keys can ignore the digit, which on a whole circle they cannot.
        stride = _ARC / len(matrices["embed"]["W_E"])
        arc = {"radius": _RADIUS, "start": (stride - _ARC) / 2, "stride": stride}
        params["embed"] = {name: jnp.float32(number) for name, number in arc.items()}
    if tied.scores == "positions":
        half = config.d_model // 2
        params["embed"] = {"W_E": params["embed"]["W_E"][:, :half]}
    if tied.unembed == "embed":
        del params["unembed"]["W_U"]
        if not params["unembed"]:
            del params["unembed"]
    for i in range(config.layers):
        name = f"blocks.{i}"
        if i > 0 and tied.layers == "shared":
            del params[name]
            continue
        params[name] = _free_block(config, jax.random.fold_in(key, i + 1), params[name])
    if tied.norms == "final":
        for name in [name for name in params if name.startswith("blocks.")]:
            params[name] = {part: w for part, w in params[name].items() if not part.startswith("ln")}
    if tied.norms == "shared":
        block = params["blocks.0"]
        named = {"norm": block.get(norm_names(config)[0]) if norm_names(config) else None}
        named["head_norm"] = block["attn"].get("q_norm")
        params = _without_norms(params) | {name: norm for name, norm in named.items() if norm is not None}
    return params


def matrices(config: "Transformer", params: Params, sizes: Sizes) -> Params:
    """Return the parameters of the untied network: nested dict of float32 arrays, of `Transformer.untied`."""
    tied = config.weights
    full = {name: dict(part) for name, part in params.items() if name not in ("norm", "head_norm")}
    if config.positions == "sinusoidal":
        full["pos_embed"] = {"W_pos": sinusoids(config.numbered(sizes), config.d_model, config.rope_theta)}
    elif config.positions == "learned" and config.position_index == "place":
        full["pos_embed"] = {"W_pos": params["pos_embed"]["W_pos"][jnp.asarray(sizes.places)]}
    if tied.embed == "arc":
        full["embed"] = {"W_E": _arc(params["embed"], sizes.vocabulary or 0, config.d_model)}
    if tied.scores == "positions":
        full["embed"] = {"W_E": jnp.pad(full["embed"]["W_E"], [(0, 0), (0, config.d_model - config.d_model // 2)])}
    if tied.unembed == "embed":
        full["unembed"] = {**full.get("unembed", {}), "W_U": full["embed"]["W_E"][: sizes.classes].T}
    for i in range(config.layers):
        block = full["blocks.0" if tied.layers == "shared" else f"blocks.{i}"]
        full[f"blocks.{i}"] = block if i and tied.layers == "shared" else _full_block(config, block)
    if tied.norms == "final":
        fixed = {"w": jnp.ones_like, "b": jnp.zeros_like}
        ones = {name: fixed[name](w) for name, w in full.get("ln_final", {}).items()}
        for i in range(config.layers if ones else 0):
            full[f"blocks.{i}"] = {**full[f"blocks.{i}"], **dict.fromkeys(norm_names(config), ones)}
    if tied.norms == "shared":
        full = _with_norms(config, full, params)
    return full


def sinusoids(numbers: Sequence[int], width: int, theta: float) -> jax.Array:
    """Return the positions of Vaswani et al. 2017, `[T, D]`: sines in even coordinates, cosines in odd ones."""
    coordinate = jnp.arange(width)
    angle = jnp.outer(jnp.asarray(numbers), theta ** (-(coordinate // 2 * 2) / width))
    return jnp.where(coordinate[None] % 2 == 0, jnp.sin(angle), jnp.cos(angle))


def _arc(params: Params, vocabulary: int, width: int) -> jax.Array:
    angle = params["start"] + params["stride"] * jnp.arange(vocabulary)
    circle = params["radius"] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return jnp.pad(circle, [(0, 0), (0, width - 2)])


def _free_block(config: "Transformer", key: jax.Array, block: Params) -> Params:
    """Drop and factor the matrices of one block."""
    tied = config.weights
    attn, mlp = dict(block["attn"]), dict(block.get("mlp", {}))
    kv_heads = config.kv_heads or config.heads
    attn = {name: w[:kv_heads] if name in _GROUPED else w for name, w in attn.items()}
    if tied.scores == "positions":
        for name in _SCORES:
            attn[name] = attn[name][:, config.d_model // 2 :]
    elif tied.scores == "distance":
        kept = ("W_V", "W_O", *(("b_V", "b_O") if config.attention_bias else ()))
        attn = {name: attn[name] for name in kept}
        attn["b_Q"] = jnp.asarray(_peaks(config), jnp.float32)
    if tied.value_rank:
        attn["W_V"], attn["W_O"] = attn["W_V"][..., : tied.value_rank], attn["W_O"][:, : tied.value_rank]
    if tied.value == "key":
        del attn["W_V"]
    if tied.output == "query":
        del attn["W_O"]
    for part, names, rank in ((attn, _ATTENTION, tied.attention_rank), (mlp, _MLP, tied.mlp_rank)):
        for name in [name for name in names if rank and name in part]:
            *rest, rows, columns = part.pop(name).shape
            left, right = jax.random.split(jax.random.fold_in(key, (*_ATTENTION, *_MLP).index(name)))
            # The product has the variance of a full matrix.
            part[f"{name}_left"] = jax.random.normal(left, (*rest, rows, rank)) / math.sqrt(config.d_model)
            part[f"{name}_right"] = jax.random.normal(right, (*rest, rank, columns)) / math.sqrt(rank)
    return {**block, "attn": attn, **({"mlp": mlp} if mlp else {})}


def _peaks(config: "Transformer") -> np.ndarray:
    """Return a query for each head, `[H, K]`, with which it attends to one distance; see `Weights.scores`.

    Queries that attend to everything are sharpened slowly: other heads learn to subtract what they add.
    """
    head = np.arange(config.heads)
    # Places lie on both sides, 0, 1, -1, 2, … above the query's; tokens of the sequence lie behind.
    above = np.where(head % 2, (head + 1) // 2, -(head // 2)) if config.position_index == "place" else -head
    pairs = _PEAK / np.sqrt(config.head_width) * 2 * np.exp(1j * config.angles(above))
    return joined(config, pairs)


def joined(config: "Transformer", pairs: np.ndarray) -> np.ndarray:
    """Return the coordinates of a head, `[..., K]`, given its rotated pairs as complex numbers, `[..., K/2]`."""
    parts = [pairs.real, pairs.imag]
    if config.rope_pairs == "interleaved":
        return np.stack(parts, axis=-1).reshape(*pairs.shape[:-1], -1)
    return np.concatenate(parts, axis=-1)


def _full_block(config: "Transformer", block: Params) -> dict[str, Any]:
    """Invert `_free_block`."""
    tied = config.weights
    parts = {part: _products(block[part]) for part in ("attn", "mlp") if part in block}
    attn = parts["attn"]
    group = config.heads // (config.kv_heads or config.heads)
    for name in _GROUPED:
        if group > 1 and name in attn:
            attn[name] = jnp.repeat(attn[name], group, axis=0)
    heads, wide, width = config.heads, config.d_model, config.head_width
    if tied.scores == "positions":
        for name in _SCORES:
            attn[name] = jnp.pad(attn[name], [(0, 0), (wide // 2, 0), (0, 0)])
    elif tied.scores == "distance":
        # As complex numbers, pairs of coordinates of the key are 1: the score is the real part of the rotated query.
        key = joined(config, np.ones(width // 2, complex))
        nothing = {"W_Q": (heads, wide, width), "W_K": (heads, wide, width), "b_V": (heads, width), "b_O": (wide,)}
        attn = {name: jnp.zeros(shape) for name, shape in nothing.items()} | attn
        attn["b_K"] = jnp.broadcast_to(jnp.asarray(key, jnp.float32), (heads, width))
    if tied.value_rank:
        rest = width - tied.value_rank
        attn["W_V"] = jnp.pad(attn["W_V"], [(0, 0), (0, 0), (0, rest)])
        attn["W_O"] = jnp.pad(attn["W_O"], [(0, 0), (0, rest), (0, 0)])
    if tied.value == "key":
        attn["W_V"] = attn["W_K"]
    if tied.output == "query":
        attn["W_O"] = attn["W_Q"].swapaxes(1, 2)
    return {**block, **parts, "attn": attn}


def _products(part: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Multiply the factors of every matrix that has them."""
    result = {}
    for name, w in part.items():
        if name.endswith("_left"):
            result[name.removesuffix("_left")] = jnp.matmul(
                w, part[name.replace("_left", "_right")], precision="highest"
            )
        elif not name.endswith("_right"):
            result[name] = w
    return result


def norm_names(config: "Transformer") -> tuple[str, ...]:
    """Return the names of the norms of a block on the residual stream."""
    if config.norm == "none":
        return ()
    suffixes = ("", "_post") if config.norm_where == "both" else ("",)
    return tuple(f"ln{i}{suffix}" for i in ((1, 2) if config.d_mlp else (1,)) for suffix in suffixes)


def _without_norms(params: Params) -> dict[str, Any]:
    result = {name: part for name, part in params.items() if name != "ln_final"}
    for name in [name for name in result if name.startswith("blocks.")]:
        block = {part: w for part, w in result[name].items() if not part.startswith("ln")}
        block["attn"] = {part: w for part, w in block["attn"].items() if part not in _HEAD_NORMS}
        result[name] = block
    return result


def _with_norms(config: "Transformer", full: Params, params: Params) -> dict[str, Any]:
    """Put the shared norms in all places of the untied network."""
    result = dict(full)
    for i in range(config.layers):
        block = dict(result[f"blocks.{i}"])
        if "norm" in params:
            block |= dict.fromkeys(norm_names(config), params["norm"])
        if "head_norm" in params:
            block["attn"] = {**block["attn"], **dict.fromkeys(_HEAD_NORMS, params["head_norm"])}
        result[f"blocks.{i}"] = block
    if "norm" in params and config.final_norm:
        result["ln_final"] = params["norm"]
    return result
