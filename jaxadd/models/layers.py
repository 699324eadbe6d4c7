"""What the parts of the fast forward pass share: the residual stream, norms, matrix products and initial values."""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxadd.models.transformer import Transformer
from jaxadd.types import Positions


class Stream(NamedTuple):
    """The residual stream at all T positions: of each example, or of each vocabulary entry.

    Positions are the first axis throughout the fast pass: they are few, and a CPU sums few long rows much faster than
    many short ones. `Hooks` transposes activations to batch first.

    Attributes:
      rows: `[T, B, ·]` where `tokens` is None; otherwise `[T, V, ·]`, the stream for each token at each position, and
        the stream of example b at position t is `rows[t, tokens[t, b]]`.
      tokens: int32 `[T, B]`, or None.
    """

    rows: jax.Array
    tokens: jax.Array | None

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "Stream":
        """Apply a function to the rows."""
        return Stream(function(self.rows), self.tokens)

    def at(self, positions: Positions) -> "Stream":
        """Return the stream at some positions only."""
        if isinstance(positions, tuple) and positions == tuple(range(len(self.rows))):
            return self
        index = jnp.asarray(positions)
        return Stream(self.rows[index], None if self.tokens is None else self.tokens[index])

    def per_example(self) -> jax.Array:
        """Return the stream of every example, `[T, B, ·]`."""
        if self.tokens is None:
            return self.rows
        length, vocabulary, *rest = self.rows.shape
        # With one flat index, as XLA scatters the gradient of `rows[positions, tokens]` much more slowly.
        flat = self.rows.reshape(length * vocabulary, *rest)
        return flat[self.tokens + vocabulary * jnp.arange(length)[:, None]]


def normal(fan: int) -> Callable:
    """Return the initialiser N(0, 1) / √fan."""
    return nn.initializers.normal(stddev=1 / math.sqrt(fan))


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis; `of_heads` is the RMSNorm of queries and keys."""

    config: Transformer
    of_heads: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise `[..., D]`, or the heads `[..., K]` of queries or keys."""
        c, over = self.config, (None,) * (x.ndim - 1)
        centred = self.config.norm == "layernorm" and not self.of_heads
        if centred:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + c.norm_epsilon)
        if c.norm_weight:
            x = x * self.param("w", nn.initializers.ones, x.shape[-1:])[over]
        if centred and c.norm_bias:
            x = x + self.param("b", nn.initializers.zeros, x.shape[-1:])[over]
        return x


def matmul(x: jax.Array, w: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Multiply `[..., D]` by `[D, F]` as one product of two matrices, and add the bias `[F]`.

    For a product over a `[B, 1, D]` array, XLA on CPU first copies x to a transposed layout for the gradient of w,
    which costs a tenth of the step in Nanda et al.'s setting.
    """
    product = x.reshape(-1, x.shape[-1]) @ w
    return (product if bias is None else product + bias[None]).reshape(*x.shape[:-1], w.shape[-1])
