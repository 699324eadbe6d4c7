"""What the parts of the fast forward pass share: the residual stream, norms, matrix products and initial values."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxadd.lanes import side_by_side
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
        if not side_by_side():
            return _look_up(self.rows, self.tokens)
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # Set when it is imported.
        return _look_up_for_products(self.rows, self.tokens, precision)


def _look_up(rows: jax.Array, tokens: jax.Array) -> jax.Array:
    """Look up tokens `[T, B]` in `[T, V, ·]`: `[T, B, ·]`."""
    length, vocabulary, *rest = rows.shape
    # With one flat index, as XLA scatters the gradient of `rows[positions, tokens]` much more slowly.
    return rows.reshape(length * vocabulary, *rest)[tokens + vocabulary * jnp.arange(length)[:, None]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _look_up_for_products(rows: jax.Array, tokens: jax.Array, precision: str | None) -> jax.Array:
    """Look up as `_look_up` does, with a matrix product in place of a scatter for the gradient.

    On a GPU thousands of examples add to a hundred rows, and the scatter takes a third of the step in Nanda et al.'s
    setting. On a CPU it is the faster of the two.
    """
    return _look_up(rows, tokens)


@_look_up_for_products.defjvp
def _(precision: str | None, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    rows, tokens = primals
    chosen = jax.nn.one_hot(tokens, rows.shape[1], dtype=rows.dtype)
    change = jnp.einsum("tbv,tv...->tb...", chosen, tangents[0], precision=precision)
    return _look_up(rows, tokens), change


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
