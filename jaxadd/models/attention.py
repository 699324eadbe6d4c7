"""The attention of the fast forward pass.

Scores are looked up in a table over pairs of tokens where the stream is a table over the vocabulary; with one query a
sum takes the place of a batch of tiny matrix products.
"""

import functools
import math
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.models.hooks import Hooks
from jaxadd.models.layers import Norm, Stream, matmul, normal
from jaxadd.models.transformer import Transformer
from jaxadd.types import Positions

MASKED = -1e10  # The attention score of a masked position, as in the published code.


class Attention(nn.Module):
    """Multi-head attention of one block, all of its variants.

    Attributes:
      config: the architecture.
      prefix: of the names of activations.
      numbers: what rotary positions and ALiBi take for each of the T positions.
    """

    config: Transformer
    prefix: str
    numbers: tuple[int, ...]

    @nn.compact
    def __call__(self, stream: Stream, hooks: Hooks, at: Positions) -> jax.Array:
        """Return what attention adds to the stream at the positions `at`: `[R, B, D]`."""
        c, k_width = self.config, self.config.head_width
        tap = lambda name, *rest: hooks(self.prefix + name, *rest)

        def project(name: str, stream: Stream) -> Stream:
            """Multiply by a matrix; per example where the result is read or replaced."""
            weight = self.param(f"W_{name}", normal(c.d_model), (c.heads, c.d_model, k_width))
            stream = stream.map(lambda rows: jnp.einsum("txd,hdk->txhk", rows, weight))
            if c.attention_bias:
                bias = self.param(f"b_{name}", nn.initializers.zeros, (c.heads, k_width))
                stream = stream.map(lambda rows: rows + bias[None, None])
            hook = f"hook_{name.lower()}"
            return Stream(tap(hook, stream.per_example()), None) if hooks.uses(self.prefix + hook) else stream

        def prepared(name: str, stream: Stream, positions: jax.Array) -> Stream:
            """Normalise and rotate queries or keys."""
            if c.qk_norm:
                stream = stream.map(Norm(c, of_heads=True, name=f"{name}_norm"))
            if c.positions != "rope":
                return stream
            hook = f"hook_rot_{name}"
            stream = stream.map(lambda rows: rotated(rows, positions, self.numbers, c))
            return Stream(tap(hook, stream.per_example()), None) if hooks.uses(self.prefix + hook) else stream

        at_index, every = jnp.asarray(at), jnp.arange(len(stream.rows))
        q, k, v = project("Q", stream.at(at)), project("K", stream), project("V", stream)
        q, k = prepared("q", q, at_index), prepared("k", k, every)
        causal = c.attention == "causal"
        visible = (
            every[None] <= at_index[:, None] if causal else jnp.ones((len(at_index), len(every)), bool)
        )  # [R, T]
        if c.attention_mix == 0 and not hooks.uses(f"{self.prefix}hook_attn_scores"):
            pattern = jnp.broadcast_to(
                visible[..., None, None].astype(stream.rows.dtype),
                (*visible.shape, v.per_example().shape[1], c.heads),
            )
        else:
            table = _scores_by_table(q, k)
            scores = _table_scores(q, k) if table else _scores(q.per_example(), k.per_example())
            if causal:
                scores = jnp.where(visible[..., None, None], scores, MASKED)
            scores = scores / math.sqrt(k_width)
            if c.positions == "alibi":
                numbers = jnp.asarray(self.numbers)
                distance = jnp.abs(numbers[at_index][:, None] - numbers[None]).astype(scores.dtype)
                scores = (
                    scores - distance[..., None, None] * jnp.asarray(slopes(c.heads), scores.dtype)[None, None, None]
                )
            scores = tap("hook_attn_scores", scores, (2, 3, 0, 1))
            pattern = jax.nn.softmax(scores, axis=1)
            if c.attention_mix < 1:
                ones = visible[..., None, None].astype(pattern.dtype)
                pattern = c.attention_mix * pattern + (1 - c.attention_mix) * ones
        pattern = tap("hook_pattern", pattern, (2, 3, 0, 1))
        z = tap("hook_z", _mix(pattern, v.per_example()))
        w_o = self.param("W_O", normal(c.d_model), (c.heads, k_width, c.d_model))
        b_o = self.param("b_O", nn.initializers.zeros, (c.d_model,)) if c.attention_bias else None
        return matmul(z.reshape(*z.shape[:2], -1), w_o.reshape(-1, c.d_model), b_o)


def rotated(x: jax.Array, positions: jax.Array, numbers: tuple[int, ...], config: Transformer) -> jax.Array:
    """Rotate pairs of coordinates by the number of a position times a frequency (Su 2021).

    Args:
      x: queries or keys `[R, B, H, K]`.
      positions: int `[R]`.
      numbers: what stands for each of the T positions.
      config: the architecture.
    """
    # float64: float32 angles err by 1e-5 at 100 radians.
    half, angle = config.head_width // 2, config.angles(numbers)
    cos, sin = (jnp.asarray(y, x.dtype)[positions][:, None, None] for y in (np.cos(angle), np.sin(angle)))
    if config.rope_pairs == "interleaved":
        a, b = x[..., ::2], x[..., 1::2]
        return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def slopes(heads: int) -> list[float]:
    """Return what each position of distance takes from a head's scores: 2^(-8 h / H), h = 1 … H (Press 2021)."""
    return [2 ** (-8 * (h + 1) / heads) for h in range(heads)]


def _scores_by_table(q: Stream, k: Stream) -> bool:
    """Return whether scores of all pairs of tokens cost at most about as much as scores of all examples."""
    return q.tokens is not None and k.tokens is not None and k.rows.shape[1] ** 2 <= 4 * k.tokens.shape[1]


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """Compute q·k for `[R, B, H, K]` and `[T, B, H, K]`: `[R, T, B, H]`."""
    if len(q) == 1:  # For one query, a product and a sum are much faster on CPU than B·H tiny matrix products.
        return jnp.sum(q * k, axis=-1)[None]
    # B·H products of small matrices; in the layout of XLA's batched product they take a quarter less time.
    return jnp.einsum("bhrk,bhtk->bhrt", q.transpose(1, 2, 0, 3), k.transpose(1, 2, 0, 3)).transpose(2, 3, 0, 1)


def _table_scores(q: Stream, k: Stream) -> jax.Array:
    """Compute q·k once per pair of (position, token), then look it up for each example: `[R, T, B, H]`."""
    assert q.tokens is not None  # Both are checked by `_scores_by_table`.
    assert k.tokens is not None
    (queries, vocabulary), length = q.rows.shape[:2], len(k.rows)
    table = jnp.einsum("ruhk,tvhk->rutvh", q.rows, k.rows)
    r, t = jnp.arange(queries)[:, None, None], jnp.arange(length)[None, :, None]
    flat = ((r * vocabulary + q.tokens[:, None]) * length + t) * vocabulary + k.tokens[None]
    return table.reshape(-1, table.shape[-1])[flat]


def _mix(pattern: jax.Array, v: jax.Array) -> jax.Array:
    """Average values `[T, B, H, K]` by attention `[R, T, B, H]`: `[R, B, H, K]`."""
    if len(pattern) == 1:
        return functools.reduce(operator.add, pattern[0, ..., None] * v)[None]
    return jnp.einsum("bhrt,bhtk->bhrk", pattern.transpose(2, 3, 0, 1), v.transpose(1, 2, 0, 3)).transpose(2, 0, 1, 3)
