"""The parameters of one network in other layouts: that of Nanda et al. (`mainline`), and that of TransformerLens.

All have the same names ("blocks.0.attn.W_Q"), so that a layout is the axes of every name, in the order of torch's
state dict. Axes are v d t h g k f c (vocabulary, d_model, positions, heads, heads of keys and values, d_head, d_mlp,
classes); letters without a space between them are one axis, the first varying slowest.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.models import Model, Transformer
from jaxadd.trees import named_leaves
from jaxadd.types import Params

Layout = Literal["mainline", "transformer-lens"]
WORDS = {
    **{"v": "vocabulary", "d": "d_model", "t": "positions", "h": "heads", "g": "kv_heads", "k": "d_head"},
    **{"f": "d_mlp", "c": "classes"},
}
_NORMS = {f"{norm}.{name}": "d" for norm in ("ln1", "ln1_post", "ln2", "ln2_post") for name in "wb"}
_LENS = {
    **{"embed.W_E": "v d", "pos_embed.W_pos": "t d"},
    **_NORMS,
    **{"attn.W_Q": "h d k", "attn.W_O": "h k d", "attn.b_Q": "h k", "attn.b_O": "d"},
    **{"attn.W_K": "h d k", "attn.W_V": "h d k", "attn.b_K": "h k", "attn.b_V": "h k"},
    **{"attn._W_K": "g d k", "attn._W_V": "g d k", "attn._b_K": "g k", "attn._b_V": "g k"},
    **{"attn.q_norm.w": "k", "attn.k_norm.w": "k", "attn.mask": "t t", "attn.IGNORE": ""},
    **{"mlp.W_in": "d f", "mlp.b_in": "f", "mlp.W_gate": "d f", "mlp.W_out": "f d", "mlp.b_out": "d"},
    **{"ln_final.w": "d", "ln_final.b": "d", "unembed.W_U": "d c", "unembed.b_U": "c"},
}
_MAINLINE = {
    **{"embed.W_E": "d v", "pos_embed.W_pos": "t d"},
    **{"attn.W_K": "h k d", "attn.W_Q": "h k d", "attn.W_V": "h k d", "attn.W_O": "d hk", "attn.mask": "t t"},
    **{"mlp.W_in": "f d", "mlp.b_in": "f", "mlp.W_out": "d f", "mlp.b_out": "d"},
    **{"unembed.W_U": "d c"},
}
AXES: Mapping[Layout, dict[str, str]] = {"mainline": _MAINLINE, "transformer-lens": _LENS}
"""The axes of each name in a layout, without the number of the block."""
BUFFERS = ("attn.mask", "attn.IGNORE")
"""The ends of names that are no parameters."""
MAY_BE_ZERO = ("attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O", "mlp.b_in", "mlp.b_out", "unembed.b_U")
"""The ends of names that a file may lack, and that are then zero."""


def to_mainline(params: Params, model: Model) -> dict[str, np.ndarray]:
    """Convert a network to the layout of Nanda et al., float32 arrays with masks `[T, T]`.

    Raises:
      UserError: the layout cannot express a field of the architecture, or `params` are not those of the model.
    """
    _check("mainline", _untied(model))
    return _written(params, model, "mainline")


def to_transformer_lens(params: Params, model: Model) -> dict[str, np.ndarray]:
    """Convert a network to a TransformerLens state dict of float32 arrays.

    It is complete, as a strict `load_state_dict` requires: biases that the network does not have are zeros, masks are
    bool `[T, T]`, IGNORE is -inf.

    Raises:
      UserError: TransformerLens cannot express a field of the architecture, or `params` are not those of the model.
    """
    _check("transformer-lens", _untied(model))
    return _written(params, model, "transformer-lens")


def ours(name: str, array: np.ndarray, layout: Layout, sizes: Mapping[str, int]) -> np.ndarray:
    """Return an array of a layout with the axes of this library, those of TransformerLens, in float32."""
    inner = inner_name(name)
    letters, order = AXES[layout][inner].replace(" ", ""), _LENS[inner].replace(" ", "")
    array = float32(name, array).reshape([sizes[x] for x in letters])
    return np.array(array.transpose([letters.index(x) for x in order]), order="C")


def inner_name(name: str) -> str:
    """Return a name without the number of its block: "attn.W_Q" for "blocks.0.attn.W_Q"."""
    return name.split(".", 2)[2] if name.startswith("blocks.") and name.count(".") > 1 else name


def shape_of(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of an array with the axes."""
    return tuple(math.prod(sizes[x] for x in group) for group in axes.split())


def float32(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array as float32, wider numbers rounded; raises UserError where it holds none or larger ones."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"{name} should be of a floating dtype, got {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(np.float32)
    if np.any(np.isinf(result) != np.isinf(array)):
        raise UserError(f"{name} holds numbers too large for float32")
    return result


def any_nonzero(array: np.ndarray) -> bool:
    """Return whether a number of an array is not zero; NaN counts as nonzero."""
    with np.errstate(invalid="ignore"):
        return bool(np.any(array != 0))


def flat(params: Params) -> dict[str, np.ndarray]:
    """Return the leaves of parameters by name, such as "blocks.0.attn.W_Q"."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves(params)}


def nested(arrays: Mapping[str, np.ndarray]) -> Params:
    """Invert `flat`: "blocks.0.attn.W_Q" is at ["blocks.0"]["attn"]["W_Q"]."""
    result: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        if path[0] == "blocks":
            path[:2] = [".".join(path[:2])]
        inner = result
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = array
    return result


def listed(names: list[str]) -> str:
    """Return the first names of a list in one line."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _untied(model: Model) -> Transformer:
    config = model.untied.config
    if not isinstance(config, Transformer):
        raise UserError(f"only transformers can be exported, got {type(config).__name__}")
    return config


def _check(layout: Layout, config: Transformer) -> None:
    """Raise UserError for a field whose value a layout cannot express."""
    if fields := _inexpressible(layout, config):
        name, values = next(iter(fields.items()))
        others = [other for other in AXES if not _inexpressible(other, config)]
        hint = f'; try layout "{others[0]}"' if others else ""
        allowed = " or ".join(map(str, values))
        raise UserError(f'the layout "{layout}" cannot express {name} {getattr(config, name)}, only {allowed}{hint}')


def _inexpressible(layout: Layout, config: Transformer) -> dict[str, tuple[Any, ...]]:
    """Return the fields whose values a layout cannot express, and the values that it can."""
    expressible = _of_mainline(config) if layout == "mainline" else _of_transformer_lens(config)
    return {name: values for name, values in expressible.items() if getattr(config, name) not in values}


def _of_mainline(config: Transformer) -> dict[str, tuple[Any, ...]]:
    """Return the values that the layout of Nanda et al. can express, of each field that it restricts."""
    plain: dict[str, tuple[Any, ...]] = {
        **{"norm": ("none",), "mlp": ("plain",), "qk_norm": (False,), "positions": ("learned",)},
        **{"attention_mix": (1,), "attention_bias": (False,), "unembed_bias": (False,)},
    }
    return plain | ({"mlp_bias": (True,)} if config.d_mlp else {})


def _of_transformer_lens(config: Transformer) -> dict[str, tuple[Any, ...]]:
    """Return the values that TransformerLens can express, given the other fields, of each field that it restricts."""
    values: dict[str, tuple[Any, ...]] = {"attention_mix": (1,), "positions": ("learned", "rope", "alibi")}
    if config.d_mlp:
        values["activation"] = ("relu", "gelu", "silu")
        if config.mlp == "gated":
            values["mlp_bias"] = (False,)
    if config.norm != "none":
        values |= {"norm_where": ("pre", "both"), "final_norm": (True,)}
    if config.norm == "layernorm":
        values["norm_bias"] = (config.norm_weight,)
    if config.qk_norm:
        values["norm_weight"] = (True,)
    if config.positions == "rope":
        values["rope_scale"] = (1,)
    if config.positions in ("rope", "alibi"):
        values["position_index"] = ("sequence",)
    return values


def _written(params: Params, model: Model, layout: Layout) -> dict[str, np.ndarray]:
    """Return the state dict of a network in a layout."""
    config = _untied(model)
    arrays = flat(params)
    expected = {name: leaf.shape for name, leaf in named_leaves(model.shapes())}
    if wrong := sorted(
        name for name in expected | arrays if name not in arrays or expected.get(name) != arrays[name].shape
    ):
        raise UserError(f"the names and shapes of {listed(wrong)} are not those of the model's parameters")
    arrays = {name: float32(name, array) for name, array in flat(model.matrices(params)).items()}
    length, heads, width = model.sizes.length, config.heads, config.head_width
    sizes = {"t": length, "h": heads, "k": width, "d": config.d_model, "f": config.d_mlp, "c": model.sizes.classes}
    state = {}
    for name, axes in _expanded(layout, config).items():
        if name in arrays:
            letters, order = _LENS[inner_name(name)].replace(" ", ""), axes.replace(" ", "")
            array = arrays[name].transpose([letters.index(x) for x in order])
            state[name] = np.array(
                array.reshape(shape_of(axes, sizes | {"v": model.sizes.vocabulary or 0})), order="C"
            )
        elif name.endswith("attn.mask"):
            seen = np.ones((length, length)) if config.attention == "bidirectional" else np.tri(length)
            state[name] = seen.astype(np.float32 if layout == "mainline" else np.bool_)
        elif name.endswith("attn.IGNORE"):
            state[name] = np.asarray(-np.inf, np.float32)
        elif name.endswith(MAY_BE_ZERO):
            state[name] = np.zeros(shape_of(axes, sizes), np.float32)
    return state


def _expanded(layout: Layout, config: Transformer) -> dict[str, str]:
    """Return the axes of all names that a network of an architecture may have in a layout, in order."""

    def parts(*modules: str) -> dict[str, str]:
        return {name: axes for name, axes in AXES[layout].items() if name.split(".")[0] in modules}

    norms = ("ln1", "ln1_post", "ln2", "ln2_post")
    block = parts(*norms, "attn", *(["mlp"] if config.d_mlp else []))
    blocks = {f"blocks.{i}.{name}": axes for i in range(config.layers) for name, axes in block.items()}
    return parts("embed", "pos_embed") | blocks | parts("ln_final", "unembed")
