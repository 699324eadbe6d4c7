"""What analysis asks of an architecture: the answers follow from the config, never from the names of parameters.

Everything that reads weights or activations by their place in the network asks here. An architecture that analysis
does not cover raises UserError, so that no number is computed from a structure that was guessed.
"""

import jax
import jax.numpy as jnp

from jaxadd.errors import UserError
from jaxadd.models.fast import LAYER_NORM_EPSILON
from jaxadd.models.model import Model
from jaxadd.models.transformer import Transformer
from jaxadd.types import Params

# The axes of an activation after the batch, by the last part of its name; all others are [position, D].
_AXES = {
    **dict.fromkeys(("hook_q", "hook_k", "hook_v", "hook_z"), ("positions", "heads", "")),
    **dict.fromkeys(("hook_pattern", "hook_attn_scores"), ("heads", "positions", "sources")),
    **dict.fromkeys(("hook_pre", "hook_post"), ("positions", "neurons")),
}


def is_transformer(model: Model) -> bool:
    """Whether the network has blocks of attention, which circuits, attribution and the lens are about."""
    return isinstance(model.config, Transformer)


def transformer(model: Model) -> Transformer:
    """Return the config of a transformer; raises UserError for any other architecture."""
    if not isinstance(model.config, Transformer):
        raise UserError(
            f"circuits, attention and attribution are defined for a Transformer, not for {type(model.config).__name__}"
        )
    return model.config


def layers(model: Model) -> int:
    """Return the number of blocks, L."""
    return transformer(model).layers


def heads(model: Model) -> int:
    """Return the number of attention heads of every block, H."""
    return transformer(model).heads


def has_neurons(model: Model) -> bool:
    """Whether every block has an MLP."""
    return transformer(model).d_mlp > 0


def has_layer_norm(model: Model) -> bool:
    """Whether LayerNorm stands before attention, MLP and unembedding."""
    return transformer(model).layer_norm == "pre"


def block(params: Params, model: Model, layer: int) -> Params:
    """Return the parameters of one block; raises UserError where there is no such layer."""
    if not 0 <= layer < layers(model):
        raise UserError(f"layer must be from 0 to {layers(model) - 1}, the layers of this network, got {layer}")
    return params[f"blocks.{layer}"]


def mlp(params: Params, model: Model, layer: int) -> Params:
    """Return the parameters of a block's MLP; raises UserError where there is none."""
    if not has_neurons(model):
        raise UserError("this network has no MLP (d_mlp is 0), so it has no neurons to read")
    return block(params, model, layer)["mlp"]


def activation_axes(name: str) -> tuple[str, ...]:
    """Return what the axes of an activation are after the batch: "positions", "heads", "neurons", "sources" or ""."""
    return _AXES.get(name.rpartition(".")[2], ("positions", ""))


def only_where_read(model: Model, name: str) -> bool:
    """Whether an activation exists at the scored positions only: the last block's after its attention scores, and
    all that follows.
    """
    last = f"blocks.{layers(model) - 1}."
    whole = ("hook_resid_pre", "ln1.hook_normalized", "attn.hook_k", "attn.hook_v")
    later = name in ("logits", "ln_final.hook_normalized")
    return later or (name.startswith(last) and name.removeprefix(last) not in whole)


def folded(params: Params, model: Model) -> Params:
    """Fold the linear part of every LayerNorm into the matrices that read through it; without any, change nothing.

    LayerNorm is (x - mean x) / σ(x) · w + b. Its centring and its weight w go into W_Q, W_K, W_V, W_in and W_U,
    so that x W_folded / σ(x) is what the matrix makes of LN(x) but for a constant, the bias b times the matrix.
    The scale 1 / σ(x), which depends on x, and the constants are left out.

    Returns:
      parameters of the same shapes without LayerNorms.
    """
    if not has_layer_norm(model):
        return params

    def fold(norm: Params, weights: Params) -> dict[str, jax.Array]:
        reads = {"W_Q", "W_K", "W_V", "W_in", "W_U"}
        return {name: _centred(norm["w"][:, None] * w) if name in reads else w for name, w in weights.items()}

    result = {**params, "unembed": fold(params["ln_final"], params["unembed"])}
    del result["ln_final"]
    parts = {"attn": "ln1"} | ({"mlp": "ln2"} if has_neurons(model) else {})
    for i in range(layers(model)):
        block = params[f"blocks.{i}"]
        result[f"blocks.{i}"] = {part: fold(block[norm], block[part]) for part, norm in parts.items()}
    return result


def final_scale(model: Model, stream: jax.Array) -> jax.Array | float:
    """Return the factor by which the final LayerNorm scales a residual stream `[B, R, D]`: `[B, R, 1]`; 1 without."""
    if not has_layer_norm(model):
        return 1.0
    return jax.lax.rsqrt(jnp.var(stream, axis=-1, keepdims=True) + LAYER_NORM_EPSILON)


def _centred(w: jax.Array) -> jax.Array:
    return w - jnp.mean(w, axis=-2, keepdims=True)
