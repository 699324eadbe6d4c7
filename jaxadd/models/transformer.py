"""The decoder-only transformer: its config."""

from dataclasses import dataclass
from typing import Literal

from jaxadd.errors import UserError, check_choices
from jaxadd.models.model import Dtype, ModelConfig, Precision
from jaxadd.types import Sizes


@dataclass(frozen=True)
class Transformer(ModelConfig):
    """Decoder-only transformer; as it stands, the mainline's: one layer, ReLU, no LayerNorm.

    Biases exist in the MLP only. Every matrix starts as N(0, 1) / √D, W_U as N(0, 1) / √C.
    """

    layers: int = 1
    """blocks, L"""
    d_model: int = 128
    """width of the residual stream, D"""
    heads: int = 4
    """attention heads per block, H; D must be divisible by it"""
    d_mlp: int = 512
    """neurons per block, F; 0 leaves the MLP out"""
    activation: Literal["relu", "gelu"] = "relu"
    """gelu is the exact form, with erf"""
    layer_norm: Literal["none", "pre"] = "none"
    """pre: LayerNorm before attention, before the MLP and before the unembedding"""
    attention: Literal["causal", "bidirectional"] = "causal"
    """bidirectional: every position sees every other; not for a task whose input holds the answers"""
    dtype: Dtype = "float32"
    """of activations; parameters, logits and loss are always float32"""
    precision: Precision = "highest"
    """of matrix products; below highest, accelerators may round their inputs to TF32 or bfloat16"""

    def __post_init__(self) -> None:
        for name, least in (("layers", 1), ("d_model", 1), ("heads", 1), ("d_mlp", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.d_model % self.heads:
            raise UserError(f"d_model must be divisible by heads, got d_model {self.d_model} and heads {self.heads}")
        check_choices(self)

    @property
    def d_head(self) -> int:
        """Width of one head, K."""
        return self.d_model // self.heads

    def check_fits(self, sizes: Sizes) -> None:
        """Raise UserError for real-valued input, or answers in the input that attention would see too early."""
        if sizes.vocabulary is None:
            raise UserError("a transformer reads tokens, and this task's input is real-valued; use an MLP")
        if sizes.autoregressive and self.attention != "causal":
            raise UserError("this task's input holds the answers, so attention must be causal, not bidirectional")

    def activation_names(self) -> tuple[str, ...]:
        """Return the names of all activations but the logits, TransformerLens's where it has one."""
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
