"""The adders of MicroAdder (Zarechnev 2026), whose stream is split into coordinates of tokens and of positions.

Digits are on an arc, and positions on a spiral that the two operands and the answer share. Queries and keys are one
projection of the positions, which an angle turns; values read the tokens by the transpose of the matrix that precedes
the unembedding, and so may the second matrix of the MLP. All of this is plain matrices of a block with learned
positions, and is computed on reading. The number is read without a 0 before it: `Addition(separators="zero-signs")`.
"""

import dataclasses
import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop import fields
from jaxadd.interop.fields import Fields
from jaxadd.interop.formats import arcs
from jaxadd.interop.formats.format import Format, Found, State, checked, shapes
from jaxadd.interop.layouts import float32, listed
from jaxadd.tasks.addition import board

_ARC = ("tok_arc_A", "tok_arc_start", "tok_arc_stride")
_SPIRAL = ("spiral_amp", "spiral_phase", "spiral_slope", "spiral_offset")
_SPECIAL = ("_plus_pos", "special_pos_equals", "z_hi_pos", "_eos_pos")
_NORMS = {"norm1.weight": "blocks.0.ln1.w", "norm2.weight": "blocks.0.ln2.w", "norm_f.weight": "ln_final.w"}
_PROJECTIONS = ("q_proj.weight", "q_phase_angle", "out_proj.A", "out_proj.B", "fc1.weight", "head_proj.weight")
_NEEDED = (*_ARC, *_SPIRAL, *_SPECIAL[:3], *_PROJECTIONS)
_OPTIONAL = ("_eos_pos", *_NORMS, "fc2.weight")
_BUFFERS = ("causal_mask", "_pos_sources", "_pos_indices")
_TASK = dataclasses.replace(board.TASK, separators="zero-signs")
_DIGITS = 10  # of a number; also the period of the spiral, and the number of tokens


def recognises(names: Collection[str]) -> bool:
    """Return whether a state dict has tensors of these names."""
    return bool({*_ARC, "q_phase_angle"} & set(names))


def read(state: State, stated: Fields, given: Fields) -> Found:
    """Return the network in a state dict; see `Format`.

    Raises:
      UserError: names are missing or unknown, or shapes do not fit each other.
    """
    w, own, width, inner, reads, neurons = _tensors(state)
    head, query = w["head_proj.weight"], w["q_proj.weight"]
    radius, start, stride = (float(w[name]) for name in _ARC)
    tokens = arcs.embedding(radius, start, stride, _DIGITS)
    positions = _positions(w, width - own)
    key = np.zeros((1, width, inner))
    key[0, width - reads :] = query.T
    value, out = np.zeros((1, width, inner)), np.zeros((1, inner, width))
    value[0, :own, 0], out[0, 0] = (head @ w["out_proj.A"])[:, 0], w["out_proj.B"][0]
    arrays = {
        "embed.W_E": np.pad(tokens, ((0, 0), (0, width - own))),
        "pos_embed.W_pos": np.pad(positions, ((0, 0), (own, 0))),
        **{"blocks.0.attn.W_Q": _turned(key, float(w["q_phase_angle"][0])), "blocks.0.attn.W_K": key},
        **{"blocks.0.attn.W_V": value, "blocks.0.attn.W_O": out},
        **{ours: w[name] for name, ours in _NORMS.items() if name in w},
        **{
            "blocks.0.mlp.W_in": w["fc1.weight"].T,
            "blocks.0.mlp.W_out": w["fc2.weight"].T if "fc2.weight" in w else head,
        },
        "unembed.W_U": head.T @ tokens.T,
    }
    found = {
        **{"layers": 1, "d_model": width, "heads": 1, "kv_heads": None, "d_head": inner, "d_mlp": neurons},
        **{"positions": "learned", "attention": "causal", "mlp": "plain", "norm": "rmsnorm", "norm_where": "pre"},
        **{"final_norm": True, "norm_weight": "norm1.weight" in w, "qk_norm": False},
        **{"attention_bias": False, "mlp_bias": False, "unembed_bias": False},
    }
    # What it states as d_head is the width of values before they were factored, which decides nothing.
    stated = {name: value for name, value in stated.items() if name != "d_head"}
    assumed = {"norm_epsilon": 1e-5, "activation": "gelu"}
    config = fields.config_of(assumed=assumed, stated=stated, found=found, given=given)
    params = checked(arrays, shapes(config, len(positions), _DIGITS, _DIGITS))
    note = "the arc, the spiral and tied matrices were computed from their parameters"
    notes = (note, *fields.assumption(fields.unshown(config), {**stated, **given}, "MicroAdder"))
    return Found(params, config, "microadder", len(positions), _DIGITS, _DIGITS, _TASK, notes)


FORMAT = Format("tok_arc_A, spiral_amp, q_proj.weight … (MicroAdder)", recognises, read)


class _Tensors(NamedTuple):
    """The tensors of a state dict that fit each other, and the widths that follow from their shapes.

    Attributes:
      w: tensors by name, float64, without buffers.
      own: coordinates of the stream that tokens have.
      width: D, those of tokens and positions.
      inner: width of the head.
      reads: coordinates that queries and keys read, the last ones.
      neurons: of the MLP.
    """

    w: dict[str, np.ndarray]
    own: int
    width: int
    inner: int
    reads: int
    neurons: int


def _tensors(state: State) -> _Tensors:
    """Return the tensors of a state dict; raises UserError where they are incomplete or do not fit each other."""
    norms = tuple(_NORMS) if any(name in state for name in _NORMS) else ()
    if missing := [name for name in (*_NEEDED, *norms) if name not in state]:
        raise UserError(f"it lacks {listed(missing)}")
    known = {*_NEEDED, *_OPTIONAL}
    if unknown := [f"{name} {array.shape}" for name, array in state.items() if name not in {*known, *_BUFFERS}]:
        raise UserError(f"it holds {listed(unknown)}, for which this model has no place")
    w = {name: float32(name, state[name]).astype(np.float64) for name in known & set(state)}
    head, query = w["head_proj.weight"], w["q_proj.weight"]
    matrices = [name for name in _NEEDED if name.endswith(".weight")]
    if any(w[name].ndim != 2 for name in matrices):
        given = ", ".join(str(w[name].shape) for name in matrices)
        raise UserError(f"{', '.join(matrices)} should be matrices, got the shapes {given}")
    (own, width), (inner, reads), neurons = head.shape, query.shape, len(w["fc1.weight"])
    expected = {
        **dict.fromkeys((*_ARC, *_SPIRAL), ()),
        **{name: (1, width - own) for name in _SPECIAL if name in w},
        **dict.fromkeys(norms, (width,)),
        **{"q_proj.weight": (inner, width if reads == width else width - own), "q_phase_angle": (1,)},
        **{"out_proj.A": (width, 1), "out_proj.B": (1, width), "fc1.weight": (neurons, width)},
        **({"fc2.weight": (width, neurons)} if "fc2.weight" in w else {"head_proj.weight": (neurons, width)}),
    }
    if wrong := [
        f"{name} should have shape {s}, got {w[name].shape}" for name, s in expected.items() if w[name].shape != s
    ]:
        raise UserError("; ".join(wrong[:3]))
    if own != 2 or width - own not in (2, 3):
        raise UserError(
            f"its stream has {own} coordinates of tokens and {width - own} of positions; expected 2, and 2 or 3"
        )
    return _Tensors(w, own, width, inner, reads, neurons)


def _positions(w: State, width: int) -> np.ndarray:
    """Return the positions of a₀…a₉ + b₀…b₉ = z₀…z₁₀ and the end, `[34, width]`."""
    amplitude, phase, slope, offset = (float(w[name]) for name in _SPIRAL)
    place = np.arange(_DIGITS)
    angle = 2 * math.pi * place / _DIGITS + phase
    spiral = np.stack([amplitude * np.cos(angle), amplitude * np.sin(angle), slope * place + offset], axis=1)
    spiral = spiral[:, :width]
    plus, equals, carry = (w[name] for name in _SPECIAL[:3])
    end = w.get("_eos_pos", np.zeros((1, width)))
    return np.concatenate([spiral, plus, spiral, equals, spiral, carry, end])


def _turned(w: np.ndarray, angle: float) -> np.ndarray:
    """Return the weights of queries: those of keys, every pair of neighbouring coordinates turned by an angle."""
    turned, pairs = w.copy(), w.shape[-1] // 2 * 2
    even, odd = w[..., 0:pairs:2], w[..., 1:pairs:2]
    turned[..., 0:pairs:2] = even * math.cos(angle) - odd * math.sin(angle)
    turned[..., 1:pairs:2] = even * math.sin(angle) + odd * math.cos(angle)
    return turned
