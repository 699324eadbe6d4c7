"""The structure of a network for analysis; it follows from the config, never from the names of parameters.

All code that reads weights or activations by their position in the network uses these functions. An architecture that
analysis does not cover raises UserError, so that no number is computed from a guessed structure.
"""

import jax
import jax.numpy as jnp

from jaxadd.errors import UserError
from jaxadd.models.fast import LAYER_NORM_EPSILON
from jaxadd.models.model import Model
from jaxadd.models.transformer import Transformer
from jaxadd.types import Params

# The axes of an activation after the batch, by the last part of its name; [positions, D] for all others.
_AXES = {
    **dict.fromkeys(("hook_q", "hook_k", "hook_v", "hook_z"), ("positions", "heads", "")),
    **dict.fromkeys(("hook_pattern", "hook_attn_scores"), ("heads", "positions", "sources")),
    **dict.fromkeys(("hook_pre", "hook_post"), ("positions", "neurons")),
}


def is_transformer(model: Model) -> bool:
    """Return whether the network is a transformer; circuits, attribution and the logit lens need one."""
    return isinstance(model.config, Transformer)


def transformer(model: Model) -> Transformer:
    """Return the config of a transformer; raises UserError for any other architecture."""
    if not isinstance(model.config, Transformer):
        raise UserError(
            f"circuits, attention and attribution are defined for a Transformer, got {type(model.config).__name__}"
        )
    return model.config


def layers(model: Model) -> int:
    """Return the number of blocks, L."""
    return transformer(model).layers


def heads(model: Model) -> int:
    """Return the number of attention heads of every block, H."""
    return transformer(model).heads


def has_neurons(model: Model) -> bool:
    """Return whether every block has an MLP."""
    return transformer(model).d_mlp > 0


def has_layer_norm(model: Model) -> bool:
    """Return whether there is LayerNorm before attention, MLP and unembedding."""
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
    """Return the axes of an activation after the batch: "positions", "heads", "neurons", "sources", or ""."""
    return _AXES.get(name.rpartition(".")[2], ("positions", ""))


def only_where_read(model: Model, name: str) -> bool:
    """Return whether an activation exists only at the scored positions: in the last block the queries and everything
    computed from them, and all that follows.
    """
    last = f"blocks.{layers(model) - 1}."
    everywhere = ("hook_resid_pre", "ln1.hook_normalized", "attn.hook_k", "attn.hook_v")
    after = name in ("logits", "ln_final.hook_normalized")
    return after or (name.startswith(last) and name.removeprefix(last) not in everywhere)


def folded(params: Params, model: Model) -> Params:
    """Fold the linear part of every LayerNorm into the matrices that read its output.

    LayerNorm is (x - mean x) / σ(x) · w + b. The centring and the weight w are folded into W_Q, W_K, W_V, W_in and
    W_U, so that x W_folded / σ(x) equals LN(x) W up to a constant, b W. The scale 1 / σ(x), which depends on x, and
    the constants are left out.

    Returns:
      parameters of the same shapes without LayerNorms; `params` where the network has none.
    """
    if not has_layer_norm(model):
        return params

    def fold(norm: Params, weights: Params) -> dict[str, jax.Array]:
        readers = {"W_Q", "W_K", "W_V", "W_in", "W_U"}
        weighted = lambda w: jnp.einsum("d,...df->...df", norm["w"], w, precision="highest")
        return {name: _centred(weighted(w)) if name in readers else w for name, w in weights.items()}

    result = {**params, "unembed": fold(params["ln_final"], params["unembed"])}
    del result["ln_final"]
    parts = {"attn": "ln1"} | ({"mlp": "ln2"} if has_neurons(model) else {})
    for i in range(layers(model)):
        block = params[f"blocks.{i}"]
        result[f"blocks.{i}"] = {part: fold(block[norm], block[part]) for part, norm in parts.items()}
    return result


def final_scale(model: Model, stream: jax.Array) -> jax.Array | float:
    """Return 1 / σ of the final LayerNorm at a residual stream `[B, R, D]`, `[B, R, 1]`; 1 without LayerNorm."""
    if not has_layer_norm(model):
        return 1.0
    return jax.lax.rsqrt(jnp.var(stream, axis=-1, keepdims=True) + LAYER_NORM_EPSILON)


def _centred(w: jax.Array) -> jax.Array:
    return w - jnp.mean(w, axis=-2, keepdims=True)
