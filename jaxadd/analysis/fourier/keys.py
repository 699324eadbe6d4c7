"""Key frequencies by each of four rules, and the frequency of each neuron.

Activations have one row for each pair (a, b), in lexicographic order, `[P², F]`. Where a logit or activation is not
finite, what is computed from it is NaN, and no frequency is a key.
"""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.fourier.characters import (
    Orders,
    by_frequency,
    combine,
    group_of,
    norms,
    transform,
)
from jaxadd.analysis.fourier.projections import cosine_similarities
from jaxadd.analysis.measures import EXPLAINED, divide

# --- neurons ----------------------------------------------------------------------------------------------


class Clusters(NamedTuple):
    """Which frequency each neuron computes.

    Attributes:
      frequency: int32 `[F]`, 0 for a neuron of none.
      explained: float32 `[F]`, the fraction of its variance that its best frequency explains, whether or not that is
        enough; NaN for a neuron whose activations are not finite.
    """

    frequency: jax.Array
    explained: jax.Array


@functools.partial(jax.jit, static_argnames="orders")
def neuron_fractions(activations: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Compute which fraction of each neuron's variance over (a, b) every frequency explains.

    It is the fraction in the 3 × 3 block {constant, cos w_k, sin w_k}² of the 2-D transform of the centred
    activation; without a sine, as for P/2 of even P, in the block {constant, cos}². That block is spanned by the
    waves of frequency k along a, b, a + b and a - b, which are orthogonal; so the averages along these four
    directions hold all of it.

    Args:
      activations: float32 `[P², F]`.
      orders: of the group, by default that mod P.

    Returns:
      float32 `[F, K]`, in [0, 1]; 0 for a dead neuron, whose activation is the same everywhere, NaN for one
      whose activations are not finite.
    """
    chex.assert_rank(activations, 2)
    p = math.isqrt(len(activations))
    chex.assert_axis_dimension(activations, 0, p * p)
    centred = activations - jnp.mean(activations, axis=0, keepdims=True)
    orders = orders or (p,)
    a, s, minus = np.arange(p), np.arange(p)[:, None], combine(orders, -1)
    pairs = (p * a + s, p * s + a, p * a + minus, p * a + minus.T)  # by b, by a, by sum, by difference
    means = jnp.stack([jnp.mean(centred[index], axis=1) for index in pairs], axis=1)  # [P, 4, F]
    power = p * by_frequency(transform(means, 0, orders) ** 2, orders)[1:]
    if (sines := group_of(orders).sines) < len(power):  # Without a sine, the waves of a + b and a - b are one.
        power = power.at[sines:, 3].set(0)
    total, size = jnp.sum(centred**2, axis=0), jnp.sum(activations**2, axis=0)
    total = jnp.where(total <= 1e-12 * size, 0, total)  # Less is float32 rounding of a constant.
    return jnp.minimum(divide(jnp.sum(power, axis=1), total[None]).T, 1)


@jax.jit
def clusters(fractions: jax.Array, threshold: float = EXPLAINED) -> Clusters:
    """Assign each neuron to the frequency that explains most of it, where that is more than `threshold`.

    Args:
      fractions: float32 `[F, K]`, of `neuron_fractions`.
      threshold: fraction of variance.
    """
    explained = largest(fractions, axis=1)
    best = jnp.argmax(fractions, axis=1) + 1
    return Clusters(jnp.where(explained > threshold, best, 0).astype(jnp.int32), explained)


# --- key frequencies --------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="orders")
def keys_of_neurons(
    activations: jax.Array, threshold: float = EXPLAINED, least: int = 2, orders: Orders | None = None
) -> jax.Array:
    """Find the key frequencies by rule (a): those that explain more than `threshold` of `least` neurons.

    Args:
      activations: float32 `[P², F]` of an MLP.
      threshold: fraction of a neuron's variance.
      least: neurons; the default is two because one neuron, with its one phase, can write one wave
        cos(w_k(a + b) + φ) to the logits, while cos w_k(a + b - c) takes both cosine and sine.
      orders: of the group, by default that mod P.

    Returns:
      bool `[K]`.
    """
    fractions = neuron_fractions(activations, orders)
    frequency = clusters(fractions, threshold).frequency
    return jnp.sum(frequency[:, None] == jnp.arange(1, fractions.shape[1] + 1)[None], axis=0) >= least


@functools.partial(jax.jit, static_argnames="orders")
def keys_of_neuron_logit_map(
    neuron_logit_map: jax.Array, threshold: float = 0.25, orders: Orders | None = None
) -> jax.Array:
    """Find the key frequencies by rule (b), the transform of W_L = W_out W_U over the answers.

    Args:
      neuron_logit_map: float32 `[F, P]`, the classes that are numbers.
      threshold: a key frequency's norm exceeds this part of the largest one; the sources name none, so it is
        that of rule (c). The constant does not count.
      orders: of the group, by default that mod P.

    Returns:
      bool `[K]`.
    """
    chex.assert_rank(neuron_logit_map, 2)
    return _stand_out(norms(neuron_logit_map, 1, orders), threshold)


@functools.partial(jax.jit, static_argnames="orders")
def keys_of_embedding(embedding: jax.Array, threshold: float = 0.25, orders: Orders | None = None) -> jax.Array:
    """Find the key frequencies by rule (c): bool `[K]`.

    Args:
      embedding: float32 `[P, D]`, W_E of the numbers, without `=`.
      threshold: a key frequency's norm exceeds this part of the largest one; the constant does not count.
      orders: of the group, by default that mod P.
    """
    chex.assert_rank(embedding, 2)
    return _stand_out(norms(embedding, 0, orders), threshold)


def keys_of_logits(
    logits: jax.Array, answers: jax.Array, threshold: float = 0.005, orders: Orders | None = None
) -> jax.Array:
    """Find the key frequencies by rule (d): bool `[K]`, cosine similarity to cos w_k(a + b - c) above `threshold`.

    Args:
      logits: float32 `[P², P]`.
      answers: int `[P²]`.
      threshold: of `cosine_similarities`.
      orders: of the group, by default that mod P.
    """
    return cosine_similarities(logits, answers, orders) > threshold


def _stand_out(size: jax.Array, threshold: float) -> jax.Array:
    return size[1:] > threshold * largest(size[1:])  # None where one is NaN.


def largest(x: jax.Array, axis: int | None = None) -> jax.Array:
    """Return the maximum, NaN where any value is NaN: XLA's own passes over NaN on a CPU."""
    return jnp.where(jnp.any(jnp.isnan(x), axis=axis), jnp.nan, jnp.max(x, axis=axis))
