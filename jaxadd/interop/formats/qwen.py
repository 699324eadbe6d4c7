"""Networks whose tensors are named as by Hugging Face's Qwen and Llama, such as "layers.0.self_attn.q_proj.weight".

Most networks of AdderBoard, the contest of the smallest transformer that adds ten digits, are of this kind. Some are
parametric or tied: an embedding on an arc, V = K's projection, O = Qᵀ; their matrices are computed on reading.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop import fields, rotary
from jaxadd.interop.fields import Fields
from jaxadd.interop.formats import arcs
from jaxadd.interop.formats.format import Format, Found, State, checked, missing_parts_note, shapes, zero_biases_note
from jaxadd.interop.layouts import any_nonzero, float32, listed
from jaxadd.models import Transformer
from jaxadd.tasks.addition import board

_DIGITS = 10  # the vocabulary of AdderBoard
_THETA = 3.0
_PROJECTIONS = (".q_proj.weight", ".k_proj.weight", ".v_proj.weight")
_ARC = ("arc_A", "arc_start", "arc_stride")
# Names of modules in other systems, in the order of their replacement.
_MODULES = (
    (r"^(model|transformer|decoder)\.", ""),
    (r"^block\.", "layers.0."),
    (r"^(blocks|h)\.", "layers."),
    (r"^(embed|tok_emb|token_emb|token_embedding|wte)\.weight$", "embed_tokens.weight"),
    (r"^(final_norm|ln_f|ln_final|norm_f)\.", "norm."),
    (r"^(head|output)\.", "lm_head."),
    (r"^(layers\.\d+)\.attn\.", r"\1.self_attn."),
    (r"^(layers\.\d+)\.(ln1|ln_1|norm1|attn_norm)\.", r"\1.input_layernorm."),
    (r"^(layers\.\d+)\.(ln2|ln_2|norm2|mlp_norm|ffn_norm)\.", r"\1.post_attention_layernorm."),
)
_IGNORED = re.compile(r"rotary_emb\.inv_freq$|\.(mask|causal_mask|rope_cos|rope_sin)$")
# The names of this library, in the order of their replacement.
_THEIRS = (
    (r"^blocks\.", "layers."),
    (r"^ln_final\.", "norm."),
    (r"^unembed\.W_U$", "lm_head.weight"),
    (r"^unembed\.b_U$", "lm_head.bias"),
    (r"\.ln1\.", ".input_layernorm."),
    (r"\.ln2\.", ".post_attention_layernorm."),
    (r"\.attn\.", ".self_attn."),
    (r"norm\.w$", "norm.weight"),
    (r"norm\.b$", "norm.bias"),
    (r"\.W_gate$", ".gate_proj.weight"),
    (r"\.W_in$", ".up_proj.weight"),
    (r"\.W_out$", ".down_proj.weight"),
    (r"\.b_in$", ".up_proj.bias"),
    (r"\.b_out$", ".down_proj.bias"),
)


class _Heads(NamedTuple):
    """The numbers of heads, of heads of keys and values, and the width of one."""

    heads: int
    kv_heads: int
    width: int


def recognises(names: Collection[str]) -> bool:
    """Return whether a state dict has tensors of these names."""
    return any(name.endswith(_PROJECTIONS) for name in names) or set(_ARC) <= set(names)


def read(state: State, stated: Fields, given: Fields) -> Found:
    """Return the network in a state dict; see `Format`.

    Raises:
      UserError: names are missing or unknown, shapes do not fit each other, or the number of heads is not stated.
    """
    source = _Source(state)
    arc = all(name in state for name in _ARC)
    asked = {**stated, **given}
    layers = source.layers()
    query = source.take("layers.0.self_attn.q_proj.weight", 2)
    notes: list[str] = []
    embedding = _arc(state, query.shape[1], notes) if arc else source.take("embed_tokens.weight", 2)
    vocabulary, width = embedding.shape
    heads = _heads(source, query, asked)
    if stated.get("kv_heads") not in (None, heads.kv_heads):
        notes.append(
            f"its config states {stated['kv_heads']} heads of keys and values, and its tensors have "
            f"{heads.kv_heads}; the config may be of another network"
        )
    unembedding = _unembedding(source, embedding, stated, notes)
    found = _architecture(source, layers, width, heads, asked)
    assumed = {"positions": "rope", "activation": "silu", "norm_epsilon": 1e-6, "rope_theta": _THETA}
    assumed["rope_pairs"] = "interleaved" if arc else "half"
    config = fields.config_of(assumed=assumed, stated=stated, found=found, given=given)
    notes += fields.assumption(fields.unshown(config), {**asked, **found}, "the networks of AdderBoard")
    notes += [*missing_parts_note(_missing_parts(config)), *zero_biases_note(_missing_biases(source, layers))]
    arrays = {"embed.W_E": embedding, "unembed.W_U": unembedding.T, "unembed.b_U": source.get("lm_head.bias")}
    arrays |= {"ln_final.w": source.get("norm.weight"), "ln_final.b": source.get("norm.bias")}
    for i in range(layers):
        arrays |= {f"blocks.{i}.{name}": w for name, w in _block(source, i, heads, width, stated, arc).items()}
    expected = shapes(config, 1, vocabulary, len(unembedding))
    params = checked(arrays, expected, _spelled)
    source.check_all_used()
    classes = len(unembedding)
    task = board.TASK if vocabulary == classes == _DIGITS else None
    return Found(params, config, "qwen", None, vocabulary, classes, task, tuple(notes))


FORMAT = Format("embed_tokens.weight, layers.0.self_attn.q_proj.weight … (Qwen, AdderBoard)", recognises, read)


class _Source:
    """A state dict by the names of Hugging Face; it knows which tensors were used."""

    def __init__(self, state: State):
        self.names: dict[str, str] = {}  # The name in the file, by that of Hugging Face.
        self._state = state
        self._used: set[str] = set(_ARC)
        for original in state:
            name = _renamed(original, _MODULES)
            if name in self.names:
                raise UserError(f"it holds both {self.names[name]} and {original}")
            self.names[name] = original

    def layers(self) -> int:
        """Return the number of blocks."""
        numbers = {name.split(".")[1] for name in self.names if name.startswith("layers.")}
        if not numbers or numbers != {str(i) for i in range(len(numbers))}:
            raise UserError(f"its layers should be numbered from 0 on, got {listed(sorted(numbers)) or 'none'}")
        return len(numbers)

    def get(self, name: str) -> np.ndarray | None:
        """Return a tensor, or None."""
        if name not in self.names:
            return None
        self._used.add(self.names[name])
        return self._state[self.names[name]]

    def take(self, name: str, axes: int) -> np.ndarray:
        """Return a tensor with a number of axes, as float32; raises UserError where there is none."""
        array = self.get(name)
        if array is None:
            raise UserError(f"it lacks {name}")
        if array.ndim != axes or 0 in array.shape:
            raise UserError(
                f"{self.names[name]} should have {axes} axes, none of them empty, and its shape is {array.shape}"
            )
        return float32(self.names[name], array)

    def check_all_used(self) -> None:
        """Raise UserError for tensors that nothing read, but for buffers and copies of others."""
        used = [self._state[name] for name in self._used if name in self._state]
        left = [
            f"{name} {array.shape}"
            for name, array in self._state.items()
            if name not in self._used
            and not _IGNORED.search(name)
            and not any(array.ndim and np.array_equal(array, other) for other in used)
        ]
        if left:
            raise UserError(f"it holds {listed(left)}, for which this model has no place")


def _renamed(name: str, replacements: Sequence[tuple[str, str]]) -> str:
    """Return a name with every pattern that it has replaced, one after the other."""
    for pattern, replacement in replacements:
        name = re.sub(pattern, replacement, name, count=1)
    return name


def _spelled(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Return the name and shape of an array in a file of this kind; see `format.checked`."""
    name = _renamed(name, _THEIRS)
    return name, shape[::-1] if "_proj" in name or "lm_head" in name else shape


def _unembedding(source: _Source, embedding: np.ndarray, stated: Fields, notes: list[str]) -> np.ndarray:
    """Return the unembedding `[C, D]`: a matrix of its own, or that of the embedding where there is none."""
    own = source.take("lm_head.weight", 2) if "lm_head.weight" in source.names else None
    tied = stated.get("tie_word_embeddings")
    if tied is not None and not tied and own is None:
        notes.append("its config states tie_word_embeddings false, and it lacks lm_head.weight; read as tied")
    if tied and own is not None and not np.array_equal(own, embedding):
        notes.append("its config states tie_word_embeddings, and lm_head.weight is another matrix; read as not tied")
    return embedding if own is None else own


def _missing_parts(config: Transformer) -> dict[str, str]:
    """Return what networks of this kind have and this one does not: what a tensor is for, by its name."""
    parts = {}
    if config.norm == "none":
        parts["input_layernorm.weight"] = "norms"
    elif not config.final_norm:
        parts["norm.weight"] = "a final norm"
    if not config.d_mlp:
        parts["up_proj.weight"] = "an MLP"
    elif config.mlp == "plain":
        parts["gate_proj.weight"] = "a gate in the MLP"
    return parts


def _missing_biases(source: _Source, layers: int) -> list[str]:
    """Return the biases that a file lacks where it has others of their kind; Qwen 2 has none of o_proj."""
    missing = []
    for kind, parts in (("self_attn", "qkv"), ("mlp", ("up", "down"))):
        others = (name for name in source.names if f".{kind}." in name and "gate_proj" not in name)
        if any(name.endswith(".bias") for name in others):
            names = [f"layers.{i}.{kind}.{part}_proj.bias" for i in range(layers) for part in parts]
            missing += [name for name in names if name not in source.names]
    return missing


def _heads(source: _Source, query: np.ndarray, asked: Fields) -> _Heads:
    rows = len(query)
    norms = (source.get(f"layers.0.self_attn.{name}.weight") for name in ("q_norm", "k_norm"))
    norm = next((w for w in norms if w is not None), None)
    key = source.take("layers.0.self_attn.k_proj.weight", 2)
    if norm is not None and norm.ndim == 1:
        width = len(norm)
    elif asked.get("d_head") or asked.get("heads"):
        width = asked.get("d_head") or rows // asked["heads"]
    else:
        raise UserError(f"nothing states how many heads the {rows} rows of q_proj are; state the field heads")
    heads = asked.get("heads") or rows // max(width, 1)
    if heads * width != rows or len(key) % width or rows % len(key):
        raise UserError(
            f"q_proj has {rows} rows and k_proj {len(key)}, which are not whole heads: heads {heads}, d_head {width}"
        )
    return _Heads(heads, len(key) // width, width)


def _architecture(source: _Source, layers: int, width: int, heads: _Heads, known: Fields) -> dict[str, Any]:
    names, block = source.names, "layers.0."
    attention, mlp = f"{block}self_attn.", f"{block}mlp."
    # Of an MLP that lacks one of its matrices, the others show the width, so that the missing one is named.
    into = [source.get(f"{mlp}{part}_proj.weight") for part in ("up", "gate")]
    neurons = next((len(w) for w in into if w is not None), 0)
    norms = [f"{block}{name}" for name in ("input_layernorm", "post_attention_layernorm")]
    normed = any(f"{name}.weight" in names for name in norms)
    kind = "layernorm" if any(f"{name}.bias" in names for name in norms) else "rmsnorm"
    frequencies = [np.asarray(source.get(name)) for name in names if name.endswith("rotary_emb.inv_freq")]
    return {
        **{"layers": layers, "d_model": width, "heads": heads.heads, "kv_heads": None},
        "d_head": None if heads.heads * heads.width == width else heads.width,
        "d_mlp": neurons,
        "mlp": "gated" if f"{mlp}gate_proj.weight" in names else "plain",
        **{"norm": kind if normed else "none", "final_norm": "norm.weight" in names},
        "qk_norm": any(f"{attention}{name}.weight" in names for name in ("q_norm", "k_norm")),
        "attention_bias": any(f"{attention}{part}_proj.bias" in names for part in "qkvo"),
        "mlp_bias": any(f"{mlp}{part}_proj.bias" in names for part in ("up", "down")),
        "unembed_bias": "lm_head.bias" in names,
        **(rotary.of_frequencies(frequencies, known) if frequencies else {}),
    }


def _block(
    source: _Source, layer: int, heads: _Heads, width: int, stated: Fields, arc: bool
) -> dict[str, np.ndarray | None]:
    """Return the arrays of a block by the names of this library; None for those it lacks."""
    prefix, (count, kv_heads, head) = f"layers.{layer}.", heads
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."

    def projection(part: str, heads: int) -> np.ndarray:
        name = f"{attention}{part}_proj.weight"
        w = source.take(name, 2)
        if w.shape != (heads * head, width):
            raise UserError(f"{source.names[name]} should have shape {(heads * head, width)}, got {w.shape}")
        return np.repeat(w.reshape(heads, head, width).transpose(0, 2, 1), count // heads, axis=0)

    def tied(part: str, field: str) -> bool:
        return f"{attention}{part}_proj.weight" not in source.names and bool(stated.get(field, arc))

    arrays: dict[str, np.ndarray | None] = {"attn.W_Q": projection("q", count), "attn.W_K": projection("k", kv_heads)}
    arrays["attn.W_V"] = arrays["attn.W_K"] if tied("v", "tie_kv") else projection("v", kv_heads)
    if tied("o", "tie_qo"):
        arrays["attn.W_O"] = projection("q", count).swapaxes(1, 2)
    else:
        out = source.take(f"{attention}o_proj.weight", 2)
        if out.shape != (width, count * head):
            raise UserError(f"o_proj.weight should have shape {(width, count * head)}, got {out.shape}")
        arrays["attn.W_O"] = out.reshape(width, count, head).transpose(1, 2, 0)
    for part, number in (("q", count), ("k", kv_heads), ("v", kv_heads)):
        bias = source.get(f"{attention}{part}_proj.bias")
        shaped = np.zeros((count, head), np.float32)
        if bias is not None and bias.shape == (number * head,):
            shaped = np.repeat(bias.reshape(number, head), count // number, axis=0)
        arrays[f"attn.b_{part.upper()}"] = shaped if bias is None or bias.shape == (number * head,) else bias
    bias = source.get(f"{attention}o_proj.bias")
    arrays["attn.b_O"] = np.zeros(width, np.float32) if bias is None else bias
    for ours, theirs in (("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm")):
        arrays |= {
            f"{ours}.w": source.get(f"{prefix}{theirs}.weight"),
            f"{ours}.b": source.get(f"{prefix}{theirs}.bias"),
        }
    for name in ("q_norm", "k_norm"):
        arrays[f"attn.{name}.w"] = source.get(f"{attention}{name}.weight")
    for ours, theirs in (("gate", "gate"), ("in", "up"), ("out", "down")):
        w, bias = source.get(f"{mlp}{theirs}_proj.weight"), source.get(f"{mlp}{theirs}_proj.bias")
        arrays[f"mlp.W_{ours}"] = None if w is None else w.T
        if ours == "gate" and bias is not None and any_nonzero(bias):
            raise UserError(f"{mlp}gate_proj.bias is not zero, and this model has no such bias")
        zeros = None if w is None else np.zeros(len(w), np.float32)
        arrays[f"mlp.b_{ours}"] = zeros if bias is None else bias
    return arrays


def _arc(state: State, width: int, notes: list[str]) -> np.ndarray:
    """Return the embedding (A cos φ, A sin φ, 0, …), φ = start + d · stride, of the ten digits."""
    if wrong := [f"{name} {state[name].shape}" for name in _ARC if state[name].size != 1]:
        raise UserError(f"the parameters of an arc should be single numbers, got {listed(wrong)}")
    radius, start, stride = (float(float32(name, state[name]).reshape(())) for name in _ARC)
    if width < 2:
        raise UserError(f"an embedding on an arc has at least 2 coordinates, and q_proj reads {width}")
    embedding = np.zeros((_DIGITS, width), np.float32)
    embedding[:, :2] = arcs.embedding(radius, start, stride, _DIGITS)
    notes.append("the embedding on an arc was computed from its parameters")
    return embedding
