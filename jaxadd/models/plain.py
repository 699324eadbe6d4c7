"""The forward pass of the transformer in its plain form: every position of every example.

This is the definition. `fast` computes the same logits with less work, and the tests compare the two. Axes: B batch,
T tokens (q as queries, s as sources of attention), D model, H heads, K head, F mlp, C classes.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxadd.models import structure
from jaxadd.models.fast import LAYER_NORM_EPSILON, MASKED
from jaxadd.models.model import ACTIVATIONS, Model
from jaxadd.models.transformer import Transformer
from jaxadd.types import Params

einsum = functools.partial(jnp.einsum, precision="highest")


@jax.numpy_rank_promotion("allow")  # Biases and positions are added as they are written on paper.
def forward(params: Params, model: Model, tokens: jax.Array) -> jax.Array:
    """Return the logits of a transformer at every position, float32 `[B, T, C]`, for int32 tokens `[B, T]`.

    Raises UserError for an architecture that is not a transformer.
    """
    config = structure.transformer(model)
    x = params["embed"]["W_E"][tokens] + params["pos_embed"]["W_pos"]
    for i in range(config.layers):
        block = params[f"blocks.{i}"]
        x = x + attention(config, block["attn"], normalized(config, block, "ln1", x))
        if config.d_mlp:
            x = x + mlp(config, block["mlp"], normalized(config, block, "ln2", x))
    x = normalized(config, params, "ln_final", x)
    return einsum("btd,dc->btc", x, params["unembed"]["W_U"])


def attention(config: Transformer, params: Params, x: jax.Array) -> jax.Array:
    """Return the sum of the outputs of all heads of a layer, `[B, T, D]`."""
    q = einsum("btd,hdk->bhtk", x, params["W_Q"])
    k = einsum("btd,hdk->bhtk", x, params["W_K"])
    v = einsum("btd,hdk->bhtk", x, params["W_V"])
    scores = einsum("bhqk,bhsk->bhqs", q, k)
    if config.attention == "causal":
        scores = jnp.where(jnp.tri(x.shape[1], dtype=bool), scores, MASKED)
    pattern = jax.nn.softmax(scores / math.sqrt(config.d_head), axis=-1)
    z = einsum("bhqs,bhsk->bhqk", pattern, v)
    return einsum("bhqk,hkd->bqd", z, params["W_O"])


def mlp(config: Transformer, params: Params, x: jax.Array) -> jax.Array:
    """Return the output of the MLP of a layer, `[B, T, D]`."""
    pre = einsum("btd,df->btf", x, params["W_in"]) + params["b_in"]
    post = ACTIVATIONS[config.activation](pre)
    return einsum("btf,fd->btd", post, params["W_out"]) + params["b_out"]


def normalized(config: Transformer, params: Params, name: str, x: jax.Array) -> jax.Array:
    """Return `x` after the LayerNorm of that name, or `x` where the architecture has none."""
    if config.layer_norm == "none":
        return x
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return centred / jnp.sqrt(variance + LAYER_NORM_EPSILON) * params[name]["w"] + params[name]["b"]
