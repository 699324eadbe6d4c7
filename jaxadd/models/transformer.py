"""The config of the decoder-only transformer."""

from dataclasses import dataclass
from typing import Literal

from jaxadd.errors import UserError, check_choices
from jaxadd.models.model import Dtype, ModelConfig, Precision
from jaxadd.types import Sizes


@dataclass(frozen=True)
class Transformer(ModelConfig):
    """Decoder-only transformer; the defaults are those of Nanda et al. 2023: one layer, ReLU, no LayerNorm.

    Only the MLP has biases. Every matrix is initialised as N(0, 1) / √D, W_U as N(0, 1) / √C.
    """

    layers: int = 1
    """number of blocks, L"""
    d_model: int = 128
    """width of the residual stream, D"""
    heads: int = 4
    """number of attention heads per block, H; d_model must be divisible by it"""
    d_mlp: int = 512
    """number of neurons per block, F; 0 leaves out the MLP"""
    activation: Literal["relu", "gelu"] = "relu"
    """activation function of the neurons; gelu is the exact form, with erf"""
    layer_norm: Literal["none", "pre"] = "none"
    """none, or pre: LayerNorm before attention, before the MLP and before the unembedding"""
    attention: Literal["causal", "bidirectional"] = "causal"
    """causal, or bidirectional for tasks whose input does not hold the answers: every position sees every other"""
    dtype: Dtype = "float32"
    """dtype of activations; parameters, logits and loss are always float32"""
    precision: Precision = "highest"
    """precision of matrix products; below highest, accelerators may round inputs to TF32 or bfloat16"""

    def __post_init__(self) -> None:
        for name, least in (("layers", 1), ("d_model", 1), ("heads", 1), ("d_mlp", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.d_model % self.heads:
            raise UserError(f"d_model must be divisible by heads, got d_model {self.d_model} and heads {self.heads}")
        check_choices(self)

    @property
    def d_head(self) -> int:
        """The width of one head, K."""
        return self.d_model // self.heads

    def check_fits(self, sizes: Sizes) -> None:
        """Raise UserError for real-valued input, and for bidirectional attention if the input holds the answers."""
        if sizes.vocabulary is None:
            raise UserError("a transformer reads tokens, and this task's input is real-valued; use an MLP")
        if sizes.autoregressive and self.attention != "causal":
            raise UserError("this task's input holds the answers, so attention must be causal, not bidirectional")

    def activation_names(self) -> tuple[str, ...]:
        """Return the names of all activations but the logits, those of TransformerLens where it has one."""
        names = ["hook_embed", "hook_pos_embed"]
        norm = self.layer_norm == "pre"
        for i in range(self.layers):
            block = ["hook_resid_pre", *(["ln1.hook_normalized"] if norm else [])]
            block += [f"attn.hook_{x}" for x in ("q", "k", "v", "attn_scores", "pattern", "z")] + ["hook_attn_out"]
            if self.d_mlp:
                block += ["hook_resid_mid", *(["ln2.hook_normalized"] if norm else [])]
                block += ["mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"]
            names += [f"blocks.{i}.{name}" for name in (*block, "hook_resid_post")]
        return (*names, *(["ln_final.hook_normalized"] if norm else []))
