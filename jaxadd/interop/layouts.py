"""The parameters of one network under other names and with other axes: the mainline's, and TransformerLens's.

All name their matrices alike ("blocks.0.attn.W_Q"), so a layout is the axes of every name, in the order in which
torch lists them. Axes are v d t h k f c (vocabulary, d_model, positions, heads, d_head, d_mlp, classes); letters
without a space between them are one axis, the first running slowest.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
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
_OURS = {
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
# What this model lacks: biases, which must then be zero.
_ABSENT = ("attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O", "unembed.b_U")


class _Kind(NamedTuple):
    blocks: int
    norm: bool
    mlp: bool


def from_mainline(state: State) -> Params:
    """Take parameters from the mainline's names and axes.

    Args:
      state: floating arrays by name, such as "embed.W_E" `[D, V]` and "blocks.0.attn.W_O" `[D, H·K]`; causal
        masks may be among them.

    Returns:
      nested dict of float32 NumPy arrays, those of `model.Transformer`. Wider numbers are rounded.

    Raises:
      UserError: names are missing or unknown, shapes do not fit each other, attention is not causal, or a number
        is too large for float32.
    """
    return _nested(_convert(state, _MAINLINE, _OURS))


def to_mainline(params: Params) -> dict[str, np.ndarray]:
    """Give parameters the mainline's names and axes, float32, with its causal masks `[T, T]`.

    Raises:
      UserError: the network has LayerNorm, which that layout lacks, or `params` are not those of one transformer.
    """
    flat = _flat(params)
    if _kind(flat).norm:
        raise UserError('the mainline has no LayerNorm; write this network in the layout "transformer-lens"')
    return _convert(flat, _OURS, _MAINLINE)


def from_transformer_lens(state: State) -> Params:
    """Take parameters from a TransformerLens state dict.

    LayerNorm whose weights were folded into others ("LNPre") leaves no trace in a state dict, and would be read
    as no LayerNorm: save such a network unfolded ("LN").

    Args:
      state: floating arrays by name, such as "blocks.0.attn.W_Q" `[H, D, K]` and "blocks.0.attn.W_O" `[H, K, D]`;
        biases of attention and unembedding, masks and IGNORE may be among them.

    Returns:
      nested dict of float32 NumPy arrays, those of `model.Transformer`. Wider numbers are rounded.

    Raises:
      UserError: as in `from_mainline`, or a bias that this model lacks is not zero.
    """
    return _nested(_convert(state, _LENS, _OURS))


def to_transformer_lens(params: Params) -> dict[str, np.ndarray]:
    """Give parameters the names and axes of a TransformerLens state dict, float32.

    It is complete, as a strict `load_state_dict` wants it: biases that this model lacks are zeros, causal masks
    are bool `[T, T]`, IGNORE is -inf.

    Raises:
      UserError: `params` are not those of one transformer.
    """
    return _convert(_flat(params), _OURS, _LENS)


def guess_layout(state: State) -> Layout:
    """Distinguish the mainline's layout, whose W_O `[D, H·K]` has two axes, from TransformerLens's `[H, K, D]`."""
    return "mainline" if np.ndim(state.get("blocks.0.attn.W_O", 0)) == 2 else "transformer-lens"


def parameter_names(state: State) -> tuple[list[str], list[str]]:
    """List what torch counts as parameters, in its order, and those of them that this model has."""
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
    for name, wanted in _expand(target, kind).items():
        if name.endswith((*_BUFFERS, *_ABSENT)):
            converted[name] = _constant(name, [sizes[x] for x in wanted.split()], target)
            continue
        letters, order = axes[name].replace(" ", ""), wanted.replace(" ", "")
        array = _float32(name, arrays[name]).reshape([sizes[x] for x in letters])
        array = array.transpose([letters.index(x) for x in order])
        converted[name] = np.array(array.reshape(_expected(wanted, sizes)), order="C")
    return converted


def _kind(names: Iterable[str]) -> _Kind:
    names = list(names)
    numbers = {name.split(".")[1] for name in names if name.startswith("blocks.")}
    if not numbers or numbers != {str(i) for i in range(len(numbers))}:
        raise UserError(f"its blocks should be numbered from 0 on, got {_listed(sorted(numbers)) or 'none'}")
    return _Kind(len(numbers), any(".ln1." in name for name in names), any(".mlp." in name for name in names))


def _expand(layout: dict[str, str], kind: _Kind) -> dict[str, str]:
    """List the axes of all names of a network."""

    def parts(*rooms: str) -> dict[str, str]:
        return {name: axes for name, axes in layout.items() if name.split(".")[0] in rooms}

    norms = ["ln1", *(["ln2"] if kind.mlp else [])] if kind.norm else []
    block = parts(*norms, "attn", *(["mlp"] if kind.mlp else []))
    blocks = {f"blocks.{i}.{name}": axes for i in range(kind.blocks) for name, axes in block.items()}
    return parts("embed", "pos_embed") | blocks | parts(*(["ln_final"] if kind.norm else []), "unembed")


def _check_names(arrays: Mapping[str, np.ndarray], axes: dict[str, str]) -> dict[str, str]:
    """Return the axes of the names that are there, without aliases; raises UserError for others than expected."""
    if missing := [name for name in axes if name not in arrays and not name.endswith((*_BUFFERS, *_ABSENT))]:
        raise UserError(f"it lacks {_listed(missing)}")
    known = [array for name, array in arrays.items() if name in axes]
    unknown = [name for name in arrays if name not in axes and not _repeats(arrays[name], known)]
    if unknown:
        raise UserError(f"it holds {_listed(unknown)}, for which this model has no place")
    return {name: axes[name] for name in arrays if name in axes}


def _repeats(array: np.ndarray, others: Iterable[np.ndarray]) -> bool:
    """Whether a tensor is another one once more, or its transpose: an alias, such as x_embed of embed.W_E."""
    return array.ndim > 0 and any(np.array_equal(array, x) or np.array_equal(array.T, x) for x in others)


def _read_sizes(arrays: Mapping[str, np.ndarray], axes: dict[str, str]) -> dict[str, int]:
    """Give every axis its size; raises UserError where shapes contradict each other."""
    sizes: dict[str, int] = {}
    found: dict[str, str] = {}
    for name, array in arrays.items():
        groups = axes[name].split()
        if array.ndim != len(groups) or 0 in array.shape:
            spelled = ", ".join("·".join(_WORDS[x] for x in group) for group in groups)
            raise UserError(f"{name} should have the axes [{spelled}], and its shape is {array.shape}")
        for letter, size in zip(groups, array.shape, strict=True):
            if len(letter) == 1 and sizes.setdefault(letter, size) != size:
                raise UserError(
                    f"shapes do not fit each other: {_WORDS[letter]} is {size} in {name} and {sizes[letter]} in "
                    f"{found[letter]}"
                )
            found.setdefault(letter, name)
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
            raise UserError(f"{name} is not that of causal attention, the only one read")
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
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def _nested(flat: Mapping[str, np.ndarray]) -> Params:
    """Undo `_flat`: "blocks.0.attn.W_Q" stands at ["blocks.0"]["attn"]["W_Q"]."""
    nested: dict[str, Any] = {}
    for name, array in flat.items():
        *rooms, last = name.split(".")
        if rooms[0] == "blocks":
            rooms[:2] = [".".join(rooms[:2])]
        room = nested
        for part in rooms:
            room = room.setdefault(part, {})
        room[last] = array
    return nested


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
