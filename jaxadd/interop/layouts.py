"""The parameters of one network in other layouts: that of Nanda et al. (`mainline`), and that of TransformerLens.

All have the same names ("blocks.0.attn.W_Q"), so that a layout is the axes of every name, in the order of torch's
state dict. Axes are v d t h k f c (vocabulary, d_model, positions, heads, d_head, d_mlp, classes); letters without a
space between them are one axis, the first varying slowest.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.trees import named_leaves
from jaxadd.types import Params

State = Mapping[str, Any]
Layout = Literal["mainline", "transformer-lens"]
_WORDS = {
    "v": "vocabulary",
    "d": "d_model",
    "t": "positions",
    "h": "heads",
    "k": "d_head",
    "f": "d_mlp",
    "c": "classes",
}
_JAXADD = {
    **{"embed.W_E": "v d", "pos_embed.W_pos": "t d"},
    **{f"{norm}.{name}": "d" for norm in ("ln1", "ln2") for name in "wb"},
    **{"attn.W_Q": "h d k", "attn.W_K": "h d k", "attn.W_V": "h d k", "attn.W_O": "h k d"},
    **{"mlp.W_in": "d f", "mlp.b_in": "f", "mlp.W_out": "f d", "mlp.b_out": "d"},
    **{"ln_final.w": "d", "ln_final.b": "d", "unembed.W_U": "d c"},
}
_MAINLINE = {
    **{"embed.W_E": "d v", "pos_embed.W_pos": "t d"},
    **{"attn.W_K": "h k d", "attn.W_Q": "h k d", "attn.W_V": "h k d", "attn.W_O": "d hk", "attn.mask": "t t"},
    **{"mlp.W_in": "f d", "mlp.b_in": "f", "mlp.W_out": "d f", "mlp.b_out": "d"},
    **{"unembed.W_U": "d c"},
}
_LENS = {
    **{"embed.W_E": "v d", "pos_embed.W_pos": "t d"},
    **{f"{norm}.{name}": "d" for norm in ("ln1", "ln2") for name in "wb"},
    **{"attn.W_Q": "h d k", "attn.W_O": "h k d", "attn.b_Q": "h k", "attn.b_O": "d"},
    **{"attn.W_K": "h d k", "attn.W_V": "h d k", "attn.b_K": "h k", "attn.b_V": "h k"},
    **{"attn.mask": "t t", "attn.IGNORE": ""},
    **{"mlp.W_in": "d f", "mlp.b_in": "f", "mlp.W_out": "f d", "mlp.b_out": "d"},
    **{"ln_final.w": "d", "ln_final.b": "d", "unembed.W_U": "d c", "unembed.b_U": "c"},
}
_BUFFERS = ("attn.mask", "attn.IGNORE")
# Biases that this model does not have; they must be zero.
_ABSENT = ("attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O", "unembed.b_U")


class _Kind(NamedTuple):
    blocks: int
    norm: bool
    mlp: bool


def from_mainline(state: State) -> Params:
    """Convert parameters from the layout of Nanda et al.

    Args:
      state: floating arrays by name, such as "embed.W_E" `[D, V]` and "blocks.0.attn.W_O" `[D, H·K]`; it may contain
        causal masks.

    Returns:
      parameters of `models.Transformer`, a nested dict of float32 NumPy arrays. Wider numbers are rounded.

    Raises:
      UserError: names are missing or unknown, shapes do not fit each other, attention is not causal, or a number is
        too large for float32.
    """
    return _nested(_convert(state, _MAINLINE, _JAXADD))


def to_mainline(params: Params) -> dict[str, np.ndarray]:
    """Convert parameters to the layout of Nanda et al., float32 arrays with causal masks `[T, T]`.

    Raises:
      UserError: the network has LayerNorm, which that layout lacks, or `params` are not those of one transformer.
    """
    flat = _flat(params)
    if _kind(flat).norm:
        raise UserError('the layout "mainline" has no LayerNorm; use the layout "transformer-lens" for this network')
    return _convert(flat, _JAXADD, _MAINLINE)


def from_transformer_lens(state: State) -> Params:
    """Convert parameters from a TransformerLens state dict.

    A LayerNorm whose weights are folded into other matrices ("LNPre") leaves no trace in a state dict, and would be
    read as no LayerNorm. Save such a network unfolded ("LN").

    Args:
      state: floating arrays by name, such as "blocks.0.attn.W_Q" `[H, D, K]` and "blocks.0.attn.W_O" `[H, K, D]`; it
        may contain biases of attention and unembedding, masks and IGNORE.

    Returns:
      parameters of `models.Transformer`, a nested dict of float32 NumPy arrays. Wider numbers are rounded.

    Raises:
      UserError: as for `from_mainline`, or a bias that this model does not have is not zero.
    """
    return _nested(_convert(state, _LENS, _JAXADD))


def to_transformer_lens(params: Params) -> dict[str, np.ndarray]:
    """Convert parameters to a TransformerLens state dict of float32 arrays.

    It is complete, as a strict `load_state_dict` requires: biases that this model does not have are zeros, causal
    masks are bool `[T, T]`, IGNORE is -inf.

    Raises:
      UserError: `params` are not those of one transformer.
    """
    return _convert(_flat(params), _JAXADD, _LENS)


def guess_layout(state: State) -> Layout:
    """Return the layout of a state dict: W_O is `[D, H·K]` in `mainline`, and `[H, K, D]` in TransformerLens."""
    return "mainline" if np.ndim(state.get("blocks.0.attn.W_O", 0)) == 2 else "transformer-lens"


def parameter_names(state: State) -> tuple[list[str], list[str]]:
    """Return the names of torch's parameters, in its order, and those of them that this model has."""
    parameters = [name for name in state if not name.endswith(_BUFFERS)]
    return parameters, [name for name in parameters if not name.endswith(_ABSENT)]


# --- between layouts -----------------------------------------------------------------------------------------


def _convert(state: State, source: dict[str, str], target: dict[str, str]) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(array) for name, array in state.items()}
    kind = _kind(arrays)
    axes = _check_names(arrays, _expand(source, kind))
    arrays = {name: arrays[name] for name in axes}
    sizes = _read_sizes(arrays, axes)
    _check_constants(arrays)
    converted = {}
    for name, target_axes in _expand(target, kind).items():
        if name.endswith((*_BUFFERS, *_ABSENT)):
            converted[name] = _constant(name, [sizes[x] for x in target_axes.split()], target)
            continue
        letters, order = axes[name].replace(" ", ""), target_axes.replace(" ", "")
        array = _float32(name, arrays[name]).reshape([sizes[x] for x in letters])
        array = array.transpose([letters.index(x) for x in order])
        converted[name] = np.array(array.reshape(_expected(target_axes, sizes)), order="C")
    return converted


def _kind(names: Iterable[str]) -> _Kind:
    names = list(names)
    numbers = {name.split(".")[1] for name in names if name.startswith("blocks.")}
    if not numbers or numbers != {str(i) for i in range(len(numbers))}:
        raise UserError(f"its blocks should be numbered from 0 on, got {_listed(sorted(numbers)) or 'none'}")
    return _Kind(len(numbers), any(".ln1." in name for name in names), any(".mlp." in name for name in names))


def _expand(layout: dict[str, str], kind: _Kind) -> dict[str, str]:
    """Return the axes of all names of a network in a layout."""

    def parts(*modules: str) -> dict[str, str]:
        return {name: axes for name, axes in layout.items() if name.split(".")[0] in modules}

    norms = ["ln1", *(["ln2"] if kind.mlp else [])] if kind.norm else []
    block = parts(*norms, "attn", *(["mlp"] if kind.mlp else []))
    blocks = {f"blocks.{i}.{name}": axes for i in range(kind.blocks) for name, axes in block.items()}
    return parts("embed", "pos_embed") | blocks | parts(*(["ln_final"] if kind.norm else []), "unembed")


def _check_names(arrays: Mapping[str, np.ndarray], axes: dict[str, str]) -> dict[str, str]:
    """Return the axes of the names in a state dict, without aliases; raises UserError for missing and other names."""
    if missing := [name for name in axes if name not in arrays and not name.endswith((*_BUFFERS, *_ABSENT))]:
        raise UserError(f"it lacks {_listed(missing)}")
    known = [array for name, array in arrays.items() if name in axes]
    unknown = [name for name in arrays if name not in axes and not _repeats(arrays[name], known)]
    if unknown:
        raise UserError(f"it holds {_listed(unknown)}, for which this model has no place")
    return {name: axes[name] for name in arrays if name in axes}


def _repeats(array: np.ndarray, others: Iterable[np.ndarray]) -> bool:
    """Return whether an array equals another one or its transpose: an alias, such as x_embed of embed.W_E."""
    return array.ndim > 0 and any(np.array_equal(array, x) or np.array_equal(array.T, x) for x in others)


def _read_sizes(arrays: Mapping[str, np.ndarray], axes: dict[str, str]) -> dict[str, int]:
    """Return the size of every axis; raises UserError where shapes contradict each other."""
    sizes: dict[str, int] = {}
    sources: dict[str, str] = {}  # The first array with an axis.
    for name, array in arrays.items():
        groups = axes[name].split()
        if array.ndim != len(groups) or 0 in array.shape:
            spelled = ", ".join("·".join(_WORDS[x] for x in group) for group in groups)
            raise UserError(f"{name} should have the axes [{spelled}], and its shape is {array.shape}")
        for letter, size in zip(groups, array.shape, strict=True):
            if len(letter) == 1 and sizes.setdefault(letter, size) != size:
                raise UserError(
                    f"shapes do not fit each other: {_WORDS[letter]} is {size} in {name} and {sizes[letter]} in "
                    f"{sources[letter]}"
                )
            sources.setdefault(letter, name)
    if sizes["h"] * sizes["k"] != sizes["d"]:
        raise UserError(f"heads × d_head should be d_model, got {sizes['h']} × {sizes['k']} and {sizes['d']}")
    for name, array in arrays.items():
        if array.shape != (expected := _expected(axes[name], sizes)):
            raise UserError(f"{name} should have shape {expected}, got {array.shape}")
    return sizes


def _expected(axes: str, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(math.prod(sizes[x] for x in group) for group in axes.split())


def _check_constants(arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if name.endswith("attn.mask") and not np.array_equal(array != 0, np.tri(len(array), dtype=np.bool_)):
            raise UserError(f"{name} is not that of causal attention, and no other is supported")
        if name.endswith(_ABSENT) and np.any(array):
            raise UserError(f"{name} is not zero, and this model has no such bias")


def _constant(name: str, shape: list[int], layout: dict[str, str]) -> np.ndarray:
    if name.endswith("attn.mask"):
        return np.tri(*shape, dtype=np.float32 if layout is _MAINLINE else np.bool_)
    return np.full(shape, -np.inf if name.endswith("IGNORE") else 0, np.float32)


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"{name} should be of a floating dtype, got {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(np.float32)
    if np.any(np.isinf(result) != np.isinf(array)):
        raise UserError(f"{name} holds numbers too large for float32")
    return result


def _flat(params: Params) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in named_leaves(params)}


def _nested(arrays: Mapping[str, np.ndarray]) -> Params:
    """Invert `_flat`: "blocks.0.attn.W_Q" is at ["blocks.0"]["attn"]["W_Q"]."""
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        if path[0] == "blocks":
            path[:2] = [".".join(path[:2])]
        inner = nested
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = array
    return nested


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
