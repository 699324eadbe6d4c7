"""The forward pass of the transformer in its plain form: every position of every example.

This is the definition. `fast` computes the same logits with less work, and the tests compare the two. Axes: B batch,
T tokens (q as queries, s as sources of attention), D model, H heads, K head, F mlp, C classes.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.models import structure
from jaxadd.models.attention import MASKED, slopes
from jaxadd.models.model import ACTIVATIONS, Model
from jaxadd.models.transformer import Transformer
from jaxadd.types import Params

einsum = functools.partial(jnp.einsum, precision="highest")


@jax.numpy_rank_promotion("allow")  # Biases and positions are added as they are written on paper.
def forward(params: Params, model: Model, tokens: jax.Array) -> jax.Array:
    """Return the logits of a transformer at every position, float32 `[B, T, C]`, for int32 tokens `[B, T]`.

    Raises UserError for an architecture that is not a transformer.
    """
    config, params = structure.transformer(model.untied), model.matrices(params)
    x, numbers = params["embed"]["W_E"][tokens], np.asarray(config.numbered(model.sizes))
    if config.positions == "learned":
        x = x + params["pos_embed"]["W_pos"]
    for i in range(config.layers):
        block = params[f"blocks.{i}"]
        x = sublayer(config, block, "ln1", x, lambda y, block=block: attention(config, block["attn"], y, numbers))
        if config.d_mlp:
            x = sublayer(config, block, "ln2", x, lambda y, block=block: mlp(config, block["mlp"], y))
    if config.final_norm:
        x = normalized(config, params.get("ln_final"), x)
    return einsum("btd,dc->btc", x, params["unembed"]["W_U"]) + params["unembed"].get("b_U", 0)


def sublayer(config: Transformer, block: Params, name: str, x: jax.Array, function) -> jax.Array:
    """Return the stream `[B, T, D]` after attention or MLP, `function`, with the norms around it."""
    if config.norm_where == "post":
        return normalized(config, block.get(name), x + function(x))
    out = function(normalized(config, block.get(name), x))
    if config.norm_where == "both":
        out = normalized(config, block.get(f"{name}_post"), out)
    return x + out


def attention(config: Transformer, params: Params, x: jax.Array, numbers: np.ndarray) -> jax.Array:
    """Return the sum of the outputs of all heads of a layer, `[B, T, D]`; `numbers` `[T]` stand for positions."""
    q, k, v = (
        einsum("btd,hdk->bhtk", x, params[f"W_{name}"])
        + (params[f"b_{name}"][:, None] if config.attention_bias else 0)
        for name in "QKV"
    )
    if config.qk_norm:
        q, k = (scaled(config, params.get(name), x) for name, x in (("q_norm", q), ("k_norm", k)))
    if config.positions == "rope":
        q, k = rotated(config, q, numbers), rotated(config, k, numbers)
    scores = einsum("bhqk,bhsk->bhqs", q, k)
    length = x.shape[1]
    causal = config.attention == "causal"
    visible = jnp.tri(length, dtype=bool) if causal else jnp.ones((length, length), bool)
    scores = jnp.where(visible, scores, MASKED) / math.sqrt(config.head_width)
    if config.positions == "alibi":
        scores = scores - jnp.asarray(slopes(config.heads))[:, None, None] * abs(numbers[:, None] - numbers)
    pattern = config.attention_mix * jax.nn.softmax(scores, axis=-1) + (1 - config.attention_mix) * visible
    z = einsum("bhqs,bhsk->bhqk", pattern, v)
    return einsum("bhqk,hkd->bqd", z, params["W_O"]) + params.get("b_O", 0)


def rotated(config: Transformer, x: jax.Array, numbers: np.ndarray) -> jax.Array:
    """Rotate queries or keys `[B, H, T, K]`: pairs of coordinates as complex numbers, times e^(i · angle)."""
    half, interleaved = config.head_width // 2, config.rope_pairs == "interleaved"
    pairs = x.reshape(*x.shape[:-1], half, 2) if interleaved else x.reshape(*x.shape[:-1], 2, half).swapaxes(-1, -2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * jnp.asarray(np.exp(1j * config.angles(numbers)))
    parts = [turned.real, turned.imag]
    return jnp.stack(parts, axis=-1).reshape(x.shape) if interleaved else jnp.concatenate(parts, axis=-1)


def mlp(config: Transformer, params: Params, x: jax.Array) -> jax.Array:
    """Return the output of the MLP of a layer, `[B, T, D]`."""
    linear = einsum("btd,df->btf", x, params["W_in"]) + params.get("b_in", 0)
    activation = ACTIVATIONS[config.activation]
    if config.mlp == "gated":
        post = activation(einsum("btd,df->btf", x, params["W_gate"])) * linear
    else:
        post = activation(linear)
    return einsum("btf,fd->btd", post, params["W_out"]) + params.get("b_out", 0)


def normalized(config: Transformer, params: Params | None, x: jax.Array) -> jax.Array:
    """Return `x` after a norm over its last axis, or `x` where the architecture has none."""
    if config.norm == "none":
        return x
    if config.norm == "layernorm":
        x = x - jnp.mean(x, axis=-1, keepdims=True)
    return scaled(config, params, x)


def scaled(config: Transformer, params: Params | None, x: jax.Array) -> jax.Array:
    """Divide by the root mean square over the last axis, and apply the weight and bias there are."""
    x = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + config.norm_epsilon)
    return x * (params or {}).get("w", 1) + (params or {}).get("b", 0)
