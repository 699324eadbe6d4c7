"""Networks whose tensors are named as by Nanda et al. and TransformerLens, such as "blocks.0.attn.W_Q".

Four systems have these names: Nanda et al. 2023 and Zhong et al. 2023 (Pizza) with one order of axes; TransformerLens
and Chughtai et al. 2023 with another. See `layouts`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop import fields, rotary
from jaxadd.interop.fields import Fields
from jaxadd.interop.formats.format import Format, Found, State, checked, missing_parts_note, shapes, zero_biases_note
from jaxadd.interop.layouts import (
    AXES,
    BUFFERS,
    MAY_BE_ZERO,
    WORDS,
    Layout,
    any_nonzero,
    inner_name,
    listed,
    ours,
    shape_of,
)
from jaxadd.models import Transformer
from jaxadd.types import Params

_ATTENTION_BIASES = ("b_Q", "b_K", "b_V", "b_O")
_GROUPED = ("W_K", "W_V", "b_K", "b_V")
_HIDDEN = -1e4  # A score below this has no weight beside others; TransformerLens has had -1e5 and -inf.
_ROTARY = ("attn.rotary_sin", "attn.rotary_cos")


def recognises(names: Collection[str]) -> bool:
    """Return whether a state dict has tensors of these names."""
    return "embed.W_E" in names or any(n.startswith("blocks.") and ".attn.W_" in n for n in names)


def read(state: State, stated: Fields, given: Fields) -> Found:
    """Return the network in a state dict; see `Format`.

    Raises:
      UserError: names are missing or unknown, or shapes do not fit each other.
    """
    _check_blocks(state)
    for name, array in state.items():
        if name.endswith("attn.IGNORE") and not np.all(array < _HIDDEN):
            raise UserError(f"{name} should be very negative, so that what is masked has no weight")
    if "attn_coeff" in stated:  # Zhong et al. state "causal" for networks that never use their mask.
        stated = {name: value for name, value in stated.items() if name != "attention"}
    layout = _layout(state)
    known = {name: array for name, array in state.items() if inner_name(name) in AXES[layout]}
    _check_unknown(state, known)
    sizes = _sizes(known, layout)
    rotated = _rotary(state, {**stated, **given})
    config = _config(known, sizes, stated, rotated, given)
    if config.positions == "learned" and "t" not in sizes:
        raise UserError(
            f"it lacks {_with_shape('pos_embed.W_pos', sizes, layout)}; where it has none, state the field "
            "positions, such as none or sinusoidal"
        )
    length = sizes["t"] if config.positions == "learned" else None
    arrays = {name: ours(name, array, layout, sizes) for name, array in known.items() if not name.endswith(BUFFERS)}
    expected = shapes(config, sizes.get("t", 1), sizes["v"], sizes["c"])
    notes = _fold_gated(arrays, config) if config.mlp == "gated" else ()
    if config.norm != "none" and not config.final_norm:
        notes += missing_parts_note({"ln_final.w": "a final norm"})
    if config.norm == "layernorm" and config.norm_weight and not config.norm_bias:
        notes += missing_parts_note({"ln1.b": "biases of its norms"})
    biases = [name for name in expected if name.endswith(MAY_BE_ZERO)]
    notes += zero_biases_note([name for name in biases if not {name, _grouped(name)} & set(arrays)])
    source = "Nanda et al." if layout == "mainline" else "TransformerLens"
    notes += fields.assumption(fields.unshown(config), {**stated, **rotated, **given}, source)
    return Found(
        _params(arrays, expected, sizes, layout), config, layout, length, sizes["v"], sizes["c"], notes=notes
    )


def moments(arrays: State, found: Found) -> Params:
    """Return an optimiser's moments as the parameters of `found` are; see `Format`."""
    assert isinstance(found.config, Transformer)  # As `read` returned it.
    layout: Layout = "mainline" if found.layout == "mainline" else "transformer-lens"
    sizes = _sizes(arrays, layout)
    if "g" in sizes or found.config.mlp == "gated":
        raise UserError("moments of grouped heads or a gated MLP are not read")
    expected = shapes(found.config, sizes.get("t", 1), sizes["v"], sizes["c"])
    converted = {name: ours(name, array, layout, sizes) for name, array in arrays.items()}
    return _params(converted, expected, sizes, layout)


FORMAT = Format("embed.W_E, blocks.0.attn.W_Q … (Nanda et al., TransformerLens)", recognises, read, moments)


def _params(
    arrays: dict[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], layout: Layout
) -> Params:
    """Return the expected arrays, with grouped heads repeated and missing optional biases zero."""
    arrays = dict(arrays)
    for name in expected:
        if name.rpartition(".")[2] in _GROUPED and (shared := _grouped(name)) in arrays:
            arrays[name] = np.repeat(arrays.pop(shared), sizes["h"] // sizes["g"], axis=0)
    for name, shape in expected.items():
        if name not in arrays and inner_name(name) in MAY_BE_ZERO:
            arrays[name] = np.zeros(shape, np.float32)
    if missing := [name for name in expected if name not in arrays]:
        raise UserError(f"it lacks {listed([_with_shape(name, sizes, layout) for name in missing])}")
    return checked(arrays, expected)


def _grouped(name: str) -> str:
    """Return the name of an array for each head of keys and values: blocks.0.attn._W_K for blocks.0.attn.W_K."""
    head, _, last = name.rpartition(".")
    return f"{head}._{last}"


def _with_shape(name: str, sizes: Mapping[str, int], layout: Layout) -> str:
    axes = AXES[layout].get(inner_name(name))
    if axes is None:
        return f"{name}, which its layout does not have"
    known = all(x in sizes for x in axes.replace(" ", ""))
    return f"{name} {shape_of(axes, sizes) if known else _spelled(axes)}"


def _spelled(axes: str) -> str:
    return "[" + ", ".join("·".join(WORDS[x] for x in group) for group in axes.split()) + "]"


def _rotary(state: State, known: Fields) -> dict[str, Any]:
    """Return the fields of positions that the tables of rotary positions state; nothing where there are none."""
    sines, cosines = ([table for name, table in state.items() if inner_name(name) == kind] for kind in _ROTARY)
    angles = rotary.of_tables(sines, cosines, known) if sines and cosines else {}
    return {"positions": "rope", **angles} if sines or cosines else {}


def _config(known: State, sizes: Mapping[str, int], stated: Fields, rotated: Fields, given: Fields) -> Transformer:
    """Return the architecture; raises UserError where a bias that is not zero is to be left out."""
    inner = {inner_name(name) for name in known}
    nonzero = {inner_name(name).replace("._", ".") for name, array in known.items() if any_nonzero(array)}
    found: dict[str, Any] = {
        "layers": len({name.split(".")[1] for name in known if name.startswith("blocks.")}),
        "d_model": sizes["d"],
        "heads": sizes["h"],
        "d_head": None if stated.get("d_head") is None and sizes["h"] * sizes["k"] == sizes["d"] else sizes["k"],
        "kv_heads": None,
        "d_mlp": sizes.get("f", 0),
        "mlp": "gated" if "mlp.W_gate" in inner else "plain",
    }
    if norms := {name.rpartition(".")[2] for name in inner if name.startswith("ln")}:
        names = {"norm_weight": "w" in norms, "norm_bias": "b" in norms}
        kind = "layernorm" if names["norm_bias"] or stated.get("norm") == "layernorm" else "rmsnorm"
        where = "both" if "ln1_post.w" in inner else stated.get("norm_where", "pre")
        found |= names | {"norm": kind, "norm_where": where, "final_norm": bool(inner & {"ln_final.w", "ln_final.b"})}
        if kind == "rmsnorm":
            del found["norm_bias"]
    if rotated:
        found |= rotated
    elif "pos_embed.W_pos" in inner:
        found["positions"] = "learned"
    if inner & {"attn.q_norm.w", "attn.k_norm.w"}:
        found["qk_norm"] = True
    found |= _attention(known, stated)
    if any(f"attn.{name}" in nonzero for name in _ATTENTION_BIASES):
        found["attention_bias"] = True
    if "unembed.b_U" in nonzero:
        found["unembed_bias"] = True
    biases = {"mlp.b_in", "mlp.b_out"} & (nonzero if found["mlp"] == "gated" else inner)
    if "f" in sizes and (not biases or "mlp.b_in" in nonzero or "mlp.b_out" in nonzero or "mlp_bias" not in stated):
        found["mlp_bias"] = bool(biases)
    config = fields.config_of(assumed={}, stated=stated, found=found, given=given)
    for field, names in (("attention_bias", _ATTENTION_BIASES), ("mlp_bias", ("b_in", "b_out"))):
        lost = [name for name in sorted(nonzero) if name.rpartition(".")[2] in names]
        if not getattr(config, field) and lost:
            raise UserError(f"{field} is False as given, and {lost[0]} is not zero")
    if "unembed.b_U" in nonzero and not config.unembed_bias:
        raise UserError("unembed_bias is False as given, and unembed.b_U is not zero")
    return config


def _attention(known: State, stated: Fields) -> dict[str, Any]:
    """Return which positions attention sees, by the masks and what is stated."""
    if "attn_coeff" in stated:
        return {"attention": "bidirectional"}
    for name, mask in known.items():
        if not name.endswith("attn.mask"):
            continue
        if len(mask) > 1 and np.all(mask != 0) and np.all(np.isfinite(mask)):
            return {"attention": "bidirectional"}
        causal = np.tri(len(mask), dtype=np.bool_)
        if not np.all(np.isfinite(mask)) or not np.array_equal(mask != 0, causal):
            raise UserError(f"{name} is neither that of causal attention nor all ones, and no other is supported")
    return {}


def _fold_gated(arrays: dict[str, np.ndarray], config: Transformer) -> tuple[str, ...]:
    """Move b_in of TransformerLens's gated MLP, which is added to the neurons, into b_out."""
    folded = False
    for i in range(config.layers):
        name = f"blocks.{i}.mlp"
        bias = arrays.get(f"{name}.b_in")
        if bias is not None and any_nonzero(bias):
            out = arrays.get(f"{name}.b_out", 0) + bias.astype(np.float64) @ arrays[f"{name}.W_out"]
            arrays[f"{name}.b_out"], arrays[f"{name}.b_in"] = out.astype(np.float32), np.zeros_like(bias)
            folded = True
    return ("b_in of the gated MLP, which TransformerLens adds to the neurons, was moved into b_out",) * folded


def _layout(state: State) -> Layout:
    """Return the layout: W_O is [D, H·K] in that of Nanda et al., and [H, K, D] in TransformerLens."""
    out = next((array for name, array in state.items() if name.endswith("attn.W_O")), None)
    if out is not None:
        return "mainline" if out.ndim == 2 else "transformer-lens"
    widths = [state[name].shape[-1:] for name in ("embed.W_E", "pos_embed.W_pos") if name in state]
    return "mainline" if len(set(widths)) > 1 else "transformer-lens"


def _check_blocks(state: State) -> None:
    numbers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    if not numbers or numbers != {str(i) for i in range(len(numbers))}:
        raise UserError(f"its blocks should be numbered from 0 on, got {listed(sorted(numbers)) or 'none'}")


def _check_unknown(state: State, known: State) -> None:
    """Raise UserError for tensors that are neither known nor aliases of others, such as x_embed."""
    values = list(known.values())
    unknown = [
        f"{name} {array.shape}"
        for name, array in state.items()
        if name not in known and inner_name(name) not in _ROTARY and not _repeats(array, values)
    ]
    if unknown:
        raise UserError(f"it holds {listed(unknown)}, for which this model has no place")


def _repeats(array: np.ndarray, others: Collection[np.ndarray]) -> bool:
    """Return whether an array equals another one or its transpose."""
    return array.ndim > 0 and any(np.array_equal(array, x) or np.array_equal(array.T, x) for x in others)


def _sizes(arrays: State, layout: Layout) -> dict[str, int]:
    """Return the size of every axis by its letter; raises UserError where shapes contradict each other."""
    sizes: dict[str, int] = {}
    sources: dict[str, str] = {}  # The first array with an axis.
    axes = {name: AXES[layout][inner_name(name)] for name in arrays}
    for name, array in arrays.items():
        groups = axes[name].split()
        if array.ndim != len(groups) or 0 in array.shape:
            axes_of = f"{_spelled(axes[name])}, none of them empty"
            raise UserError(f"{name} should have the axes {axes_of}, and its shape is {array.shape}")
        for letter, size in zip(groups, array.shape, strict=True):
            if len(letter) == 1 and sizes.setdefault(letter, size) != size:
                raise UserError(
                    f"shapes do not fit each other: {WORDS[letter]} is {size} in {name} and {sizes[letter]} in "
                    f"{sources[letter]}"
                )
            sources.setdefault(letter, name)
    needed = {"v": "embed.W_E", "d": "embed.W_E", "h": "blocks.0.attn.W_Q", "k": "blocks.0.attn.W_Q"}
    needed["c"] = "unembed.W_U"
    if lacking := [name for letter, name in needed.items() if letter not in sizes]:
        raise UserError(f"it lacks {listed(list(dict.fromkeys(lacking)))}")
    if "g" in sizes and sizes["h"] % sizes["g"]:
        raise UserError(f"heads should be a multiple of kv_heads, got {sizes['h']} and {sizes['g']}")
    for name, array in arrays.items():
        if array.shape != (expected := shape_of(axes[name], sizes)):
            raise UserError(f"{name} should have shape {expected}, got {array.shape}")
    return sizes
