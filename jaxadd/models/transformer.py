"""The config of the decoder-only transformer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.models import weights
from jaxadd.models.model import Activation, Dtype, ModelConfig, Precision
from jaxadd.models.weights import Weights
from jaxadd.types import Params, Sizes


@dataclass(frozen=True)
class Transformer(ModelConfig):
    """Decoder-only transformer; the defaults are those of Nanda et al. 2023: one layer, ReLU, no norms.

    Every matrix is initialised as N(0, 1) / √D, W_U as N(0, 1) / √C; biases as 0 and the weights of norms as 1.
    """

    layers: int = 1
    """number of blocks, L"""
    d_model: int = 128
    """width of the residual stream, D"""
    heads: int = 4
    """number of attention heads per block, H"""
    d_head: int | None = None
    """width of a head, K; by default d_model / heads"""
    kv_heads: int | None = None
    """number of heads of keys and values, each shared by heads / kv_heads queries; by default one for each head"""
    d_mlp: int = 512
    """number of neurons per block, F; 0 leaves out the MLP"""
    mlp: Literal["plain", "gated"] = "plain"
    """plain: W_out act(W_in x); gated: W_out (act(W_gate x) · W_in x), SwiGLU with activation silu"""
    activation: Activation = "relu"
    """activation function of the neurons; gelu is the exact form, with erf"""
    norm: Literal["none", "layernorm", "rmsnorm"] = "none"
    """layernorm centres and scales the residual stream before it is read, rmsnorm scales it"""
    norm_where: Literal["pre", "post", "both"] = "pre"
    """pre: before attention and MLP; post: after their output is added; both: before, and on the output itself"""
    final_norm: bool = True
    """a norm before the unembedding, where there are norms"""
    norm_weight: bool = True
    """norms multiply by a learned weight"""
    norm_bias: bool = True
    """layernorm adds a learned bias"""
    norm_epsilon: float = 1e-5
    """number added to the variance or mean square inside a norm"""
    qk_norm: bool = False
    """queries and keys of each head are divided by their root mean square, with a learned weight if norm_weight"""
    positions: Literal["learned", "sinusoidal", "rope", "alibi", "none"] = "learned"
    """learned or sinusoidal: vectors added to the stream; rope: rotated queries and keys; alibi: far keys lose"""
    position_index: Literal["sequence", "place"] = "sequence"
    """what positions count: tokens, or the places of digits, the same in every number (McLeish et al. 2024)"""
    rope_theta: float = 10_000.0
    """base of the wavelengths of rope and of sinusoidal positions"""
    rope_scale: float = 1.0
    """angle between neighbouring positions of rope's fastest pair, radians; with 0.5, 12.6 positions are one turn"""
    rope_pairs: Literal["half", "interleaved"] = "half"
    """coordinates that rope rotates together: i and i + K/2, or 2i and 2i + 1"""
    attention: Literal["causal", "bidirectional"] = "causal"
    """causal, or bidirectional for tasks whose input does not hold the answers: every position sees every other"""
    attention_mix: float = 1.0
    """attention weights are this times the softmax plus 1 minus this (Zhong et al. 2023); 0 makes all of them 1"""
    attention_bias: bool = False
    """queries, keys, values and the output of attention have biases"""
    mlp_bias: bool = True
    """W_in and W_out have biases"""
    unembed_bias: bool = False
    """the logits have a bias"""
    dropout: float = 0.0
    """fraction of the outputs of attention and MLP set to 0 in training; the mask follows from seed and step"""
    weights: Weights = field(default_factory=Weights)
    """which matrices are trained, and how the others follow from them"""
    dtype: Dtype = "float32"
    """dtype of activations; parameters, logits and loss are always float32"""
    precision: Precision = "highest"
    """precision of matrix products; below highest, accelerators may round inputs to TF32 or bfloat16"""

    def __post_init__(self) -> None:
        for name, least in (
            ("layers", 1),
            ("d_model", 1),
            ("heads", 1),
            ("d_head", 1),
            ("kv_heads", 1),
            ("d_mlp", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, got {value}")
        check_choices(self)
        if self.d_head is None and self.d_model % self.heads:
            raise UserError(
                f"d_model must be divisible by heads where d_head is not given, "
                f"got d_model {self.d_model} and heads {self.heads}"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise UserError(
                f"heads must be divisible by kv_heads, got heads {self.heads} and kv_heads {self.kv_heads}"
            )
        if self.positions == "rope" and self.head_width % 2:
            raise UserError(
                f"rope rotates pairs of coordinates, so the width of a head must be even: {self.head_width}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be at least 0 and below 1, got {self.dropout:g}")
        if not 0 <= self.attention_mix <= 1:
            raise UserError(f"attention_mix must be from 0 to 1, got {self.attention_mix:g}")
        for name in ("norm_epsilon", "rope_theta", "rope_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be above 0 and finite, got {getattr(self, name):g}")
        weights.check(self)

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        normed, neurons = self.norm != "none", "an MLP, d_mlp above 0"
        scored = self.attention_mix > 0
        mixed = "" if scored else " with attention_mix above 0"
        rotary, heads_normed = self.positions == "rope" and scored, self.qk_norm and scored
        placed = self.positions in ("learned", "sinusoidal") or (self.positions != "none" and scored)
        effects = {
            "norm_where": (normed, "a norm"),
            "final_norm": (normed, "a norm"),
            "norm_weight": (normed or heads_normed, f"a norm or qk_norm{mixed}"),
            "norm_epsilon": (normed or heads_normed, f"a norm or qk_norm{mixed}"),
            "norm_bias": (self.norm == "layernorm", "norm layernorm"),
            "weights.norms": (normed or heads_normed, f"a norm or qk_norm{mixed}"),
            "weights.layers": (self.layers > 1, "several layers"),
            "qk_norm": (scored, "attention_mix above 0"),
            "position_index": (placed, f"positions other than none{mixed}"),
            "rope_theta": (rotary or self.positions == "sinusoidal", f"positions sinusoidal, or rope{mixed}"),
            "rope_scale": (rotary, f"positions rope{mixed}"),
            "rope_pairs": (rotary, f"positions rope{mixed}"),
            "mlp": (self.d_mlp > 0, neurons),
            "activation": (self.d_mlp > 0, neurons),
            "mlp_bias": (self.d_mlp > 0, neurons),
        }
        return {name: purpose for name, (used, purpose) in effects.items() if not used}

    @property
    def head_width(self) -> int:
        """The width of one head, K."""
        return self.d_head or self.d_model // self.heads

    def check_fits(self, sizes: Sizes) -> None:
        """Raise UserError where the task's input or classes do not fit the network.

        That is real-valued input, bidirectional attention that would see the answers, positions by place where the
        input has no places, and a W_U tied to the embedding of fewer tokens than there are classes.
        """
        if sizes.vocabulary is None:
            raise UserError("a transformer reads tokens, and this task's input is real-valued; use an MLP")
        if sizes.autoregressive and self.attention != "causal":
            raise UserError("this task's input holds the answers, so attention must be causal, not bidirectional")
        if self.position_index == "place" and not sizes.places:
            raise UserError(
                "position_index place is for tasks whose input has places, such as addition; use sequence"
            )
        if self.weights.unembed == "embed" and sizes.classes > sizes.vocabulary:
            raise UserError(
                f"W_U cannot be the embedding's transpose: {sizes.classes} classes and {sizes.vocabulary} tokens"
            )

    def numbered(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the number that stands for each of the T positions: its index, or the place of its digit."""
        return sizes.places if self.position_index == "place" else tuple(range(sizes.length))

    def angles(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return what rotary positions turn the pairs of coordinates by, radians, float64 `[T, K/2]`.

        Pair j turns by rope_scale · θ^(-2j/K) from one number to the next.
        """
        half = self.head_width // 2
        return np.outer(numbers, self.rope_scale * self.rope_theta ** (-np.arange(half) / half))

    def activation_names(self) -> tuple[str, ...]:
        """Return the names of all activations but the logits, those of TransformerLens where it has one."""
        normed = self.norm != "none"
        pre, post, both = (normed and self.norm_where in where for where in (("pre", "both"), ("post",), ("both",)))
        rotated = ["attn.hook_rot_q", "attn.hook_rot_k"] if self.positions == "rope" else []
        names = ["hook_embed", *(["hook_pos_embed"] if self.positions in ("learned", "sinusoidal") else [])]
        for i in range(self.layers):
            block = ["hook_resid_pre", *(["ln1.hook_normalized"] if pre else [])]
            block += [f"attn.hook_{x}" for x in ("q", "k", "v")] + rotated
            block += [f"attn.hook_{x}" for x in ("attn_scores", "pattern", "z")]
            block += [*(["ln1_post.hook_normalized"] if both else []), "hook_attn_out"]
            block += ["ln1.hook_normalized"] if post else []
            if self.d_mlp:
                block += ["hook_resid_mid", *(["ln2.hook_normalized"] if pre else []), "mlp.hook_pre"]
                block += ["mlp.hook_pre_linear"] if self.mlp == "gated" else []
                block += ["mlp.hook_post", *(["ln2_post.hook_normalized"] if both else []), "hook_mlp_out"]
                block += ["ln2.hook_normalized"] if post else []
            names += [f"blocks.{i}.{name}" for name in (*block, "hook_resid_post")]
        return (*names, *(["ln_final.hook_normalized"] if normed and self.final_norm else []))

    def untied(self) -> "Transformer":
        """Return the same network with every matrix a parameter of its own."""
        bias = self.attention_bias or self.weights.scores == "distance"  # b_Q and b_K then hold the queries and keys.
        result = replace(self, weights=Weights(), kv_heads=None, attention_bias=bias)
        if self.positions in ("learned", "sinusoidal"):  # A row of W_pos for each position.
            return replace(result, positions="learned", position_index="sequence")
        return result

    def free(self, key: jax.Array, matrices: Params, sizes: Sizes) -> Params:
        """Return the initial trained parameters, given those of the untied network."""
        return weights.free(self, key, matrices, sizes)

    def matrices(self, params: Params, sizes: Sizes) -> Params:
        """Return the parameters of the untied network, functions of those that are trained."""
        return weights.matrices(self, params, sizes)
