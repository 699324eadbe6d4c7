"""Waves mod P: transforms of any P, the projections P_k of logits, and key frequencies by each of four rules.

Where a logit or activation is not finite, what is computed from it is NaN, and no frequency is a key.

Frequency k is w_k = 2πk/P radians per step, k = 1 … P//2. A mask of frequencies is bool `[P//2]`, entry k - 1
for k. Logits and activations have one row for each pair (a, b), in lexicographic order, `[P², ·]`; logits are
those of the P numbers. `answers`, int `[P²]`, are s = a + b or a - b mod P; each occurs P times.

The waves u_k ∝ cos w_k(a + b) and v_k ∝ sin w_k(a + b) depend on a pair through its answer s alone. So projecting
logits `[P², C]` on them is a one-dimensional projection, along s, of their mean over the P pairs of each answer,
and the cubes cos w_k(a + b - c) need no more than its mean over all (s, c) of one c - s: exact, in P³ operations
where the definition takes P⁴. Definitions: Nanda et al. 2023, "Progress measures for grokking".
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError

# --- transforms -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def basis(p: int) -> np.ndarray:
    """Build the orthonormal Fourier basis: float32 `[P, P]`, read-only, computed in float64.

    Rows are the constant, cos w_1 n, sin w_1 n, cos w_2 n, …; even P ends with the alternating row cos πn, which
    has no sine. Raises UserError for P below 2.
    """
    if p < 2:
        raise UserError(f"a modulus must be at least 2, got {p}")
    k, n = np.arange(1, p // 2 + 1)[:, None], np.arange(p)
    angle = 2 * np.pi * (k * n % p) / p
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=1).reshape(-1, p)
    rows = np.concatenate([np.ones((1, p)), waves])[:p]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows.setflags(write=False)
    return rows


def transform(x: jax.Array, axis: int = 0) -> jax.Array:
    """Write one axis of length P in the Fourier basis; the shape stays."""
    return _along(basis(x.shape[axis]), x, axis)


def inverse(x: jax.Array, axis: int = 0) -> jax.Array:
    """Undo `transform`."""
    return _along(basis(x.shape[axis]).T, x, axis)


def transform_2d(x: jax.Array) -> jax.Array:
    """Write the first two axes, those of a and b, in the Fourier basis: `[P, P, ...]`."""
    return transform(transform(x, 0), 1)


@functools.partial(jax.jit, static_argnames="axis")
def norms(x: jax.Array, axis: int = 0) -> jax.Array:
    """Compute the norm of what every frequency holds, over cosine, sine and all other axes.

    Returns:
      `[P//2 + 1]`; entry k is frequency k, entry 0 the constant.
    """
    moved = jnp.moveaxis(x, axis, 0)
    return jnp.sqrt(_by_frequency(jnp.sum(transform(moved).reshape(len(moved), -1) ** 2, axis=1)))


def _along(matrix: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    return jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis), precision="highest"), 0, axis)


def _by_frequency(squares: jax.Array) -> jax.Array:
    """Add what the cosine and the sine of each frequency hold: `[P, ...]` to `[P//2 + 1, ...]`."""
    p = len(squares)
    waves = jnp.pad(squares[1:], [(0, 1 - p % 2)] + [(0, 0)] * (squares.ndim - 1))  # Even P lacks its last sine.
    return jnp.concatenate([squares[:1], jnp.sum(waves.reshape(p // 2, 2, *squares.shape[1:]), axis=1)])


# --- masks of frequencies ---------------------------------------------------------------------------------


def mask(frequencies: Sequence[int], p: int) -> np.ndarray:
    """Return frequencies as a mask, bool `[P//2]`; raises UserError for one that P does not have."""
    if wrong := [k for k in frequencies if not 1 <= k <= p // 2]:
        raise UserError(f"frequencies mod {p} are 1 to {p // 2}, got {', '.join(map(str, wrong))}")
    keys = np.zeros(p // 2, bool)
    keys[np.asarray(frequencies, int) - 1] = True
    return keys


def frequencies(keys: jax.Array | np.ndarray) -> tuple[int, ...]:
    """List the frequencies of a mask, ascending."""
    return tuple(int(k) + 1 for k in np.flatnonzero(keys))


# --- logits: the waves of the answer ----------------------------------------------------------------------


def waves(p: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors u_k ∝ cos w_k(a + b) and v_k ∝ sin w_k(a + b), float32 `[P²]` each.

    Frequency P/2 of even P has no sine: its v_k is 0.
    """
    mask([k], p)
    cos = basis(p)[2 * k - 1]
    if 2 * k == p:
        return np.outer(cos, cos).reshape(-1), np.zeros(p * p, np.float32)
    sin = basis(p)[2 * k]
    u, v = np.outer(cos, cos) - np.outer(sin, sin), np.outer(sin, cos) + np.outer(cos, sin)
    return u.reshape(-1) / np.float32(math.sqrt(2)), v.reshape(-1) / np.float32(math.sqrt(2))


def by_answer(values: jax.Array, answers: jax.Array) -> jax.Array:
    """Average over the P pairs of each answer: `[P², ...]` to `[P, ...]`.

    Raises:
      UserError: where `answers` are known (not traced) and do not hold each of 0 … P - 1 exactly P times.
    """
    chex.assert_rank(answers, 1)
    chex.assert_equal_shape_prefix([values, answers], 1)
    p = math.isqrt(len(answers))
    _check_answers(answers, p)
    order = jnp.argsort(answers, stable=True)
    return jnp.mean(values[order].reshape(p, p, *values.shape[1:]), axis=1)


def _check_answers(answers: jax.Array, p: int) -> None:
    try:
        known = np.sort(np.asarray(answers))
    except jax.errors.TracerArrayConversionError:
        return
    if not np.array_equal(known, np.repeat(np.arange(p), p)):
        raise UserError(
            "answers must hold each of 0 … P - 1 exactly P times, as those of a + b and a - b mod P do; "
            f"these {len(known)} do not, so they have no waves"
        )


def keep(means: jax.Array, keys: jax.Array) -> jax.Array:
    """Keep only some frequencies along the first axis, without the constant: `[P, ...]`.

    Of `by_answer(logits, answers)` this returns Σ_k P_k L, for each answer instead of each pair.
    """
    keys = jnp.asarray(keys)
    chex.assert_shape(keys, (len(means) // 2,))
    rows = jnp.concatenate([jnp.zeros(1, bool), jnp.repeat(keys, 2)])[: len(means)]
    return inverse(jnp.where(rows.reshape(-1, *[1] * (means.ndim - 1)), transform(means), 0))


def project(logits: jax.Array, answers: jax.Array, keys: jax.Array) -> jax.Array:
    """Project logits on the waves of the frequencies in a mask, Σ_k P_k L with P_k L = u_k u_kᵀ L + v_k v_kᵀ L.

    Args:
      logits: float32 `[P², C]`.
      answers: int `[P²]`.
      keys: bool `[P//2]`, may be traced.

    Returns:
      float32 `[P², C]`.
    """
    return keep(by_answer(logits, answers), keys)[answers]


# --- logits: the cubes cos w_k(answer - c) ----------------------------------------------------------------


def cube_coefficients(logits: jax.Array, answers: jax.Array) -> jax.Array:
    """Compute ⟨L, c_k⟩ with the unit cubes c_k ∝ cos w_k(a + b - c).

    Args:
      logits: float32 `[P², P]`.
      answers: int `[P²]`.

    Returns:
      float32 `[P//2]`, signed.
    """
    means = by_answer(logits, answers)
    return len(means) * _cosines(means)


def cosine_similarities(logits: jax.Array, answers: jax.Array) -> jax.Array:
    """Compute ⟨L, c_k⟩ / ‖L‖, L centred per row: `[P//2]`; 0 for logits that are all equal, NaN where any is NaN.

    Their squares add up to the fraction of the logits' variance that Σ_k α_k cos w_k(a + b - c) explains, α free.
    """
    centred = logits - jnp.mean(logits, axis=1, keepdims=True)
    return _divide(cube_coefficients(centred, answers), jnp.linalg.norm(centred))


def keep_cubes(means: jax.Array, keys: jax.Array) -> jax.Array:
    """Keep only the cubes of some frequencies, in logits averaged by answer: `[P, P]`."""
    p, keys = len(means), jnp.asarray(keys)
    chex.assert_shape(keys, (p // 2,))
    by_offset = jnp.matmul(jnp.where(keys, _cosines(means), 0), basis(p)[1::2], precision="highest")
    return by_offset[(np.arange(p) - np.arange(p)[:, None]) % p]


def cube_projection(logits: jax.Array, answers: jax.Array, keys: jax.Array) -> jax.Array:
    """Project logits on the cubes of the frequencies in a mask, Σ_k ⟨L, c_k⟩ c_k: float32 `[P², P]`."""
    return keep_cubes(by_answer(logits, answers), keys)[answers]


def _cosines(means: jax.Array) -> jax.Array:
    """Return the cosine coefficients, `[P//2]`, of the mean over all answers s, as a function of c - s."""
    chex.assert_rank(means, 2)
    p = len(means)
    chex.assert_shape(means, (p, p))
    s = np.arange(p)[:, None]
    return transform(jnp.mean(means[s, (s + np.arange(p)) % p], axis=0))[1::2]


def _divide(x: jax.Array, by: jax.Array) -> jax.Array:
    """Divide by what is at least 0; 0 where that is 0, NaN where it is NaN."""
    return jnp.where(by == 0, 0, x / jnp.where(by == 0, 1, by))


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


@jax.jit
def neuron_fractions(activations: jax.Array) -> jax.Array:
    """Compute which fraction of each neuron's variance over (a, b) every frequency explains.

    It is the fraction in the 3 × 3 block {constant, cos w_k, sin w_k}² of the 2-D transform of the centred
    activation; for P/2 of even P, in the block {constant, cos}². That block is spanned by the waves of frequency k
    along a, b, a + b and a - b, which are orthogonal; so the averages along these four directions hold all of it.

    Args:
      activations: float32 `[P², F]`.

    Returns:
      float32 `[F, P//2]`, in [0, 1]; 0 for a dead neuron, whose activation is the same everywhere, NaN for one
      whose activations are not finite.
    """
    chex.assert_rank(activations, 2)
    p = math.isqrt(len(activations))
    chex.assert_axis_dimension(activations, 0, p * p)
    centred = activations - jnp.mean(activations, axis=0, keepdims=True)
    a, s = np.arange(p), np.arange(p)[:, None]
    pairs = (p * a + s, p * s + a, p * a + (s - a) % p, p * a + (a - s) % p)  # by b, by a, by sum, by difference
    means = jnp.stack([jnp.mean(centred[index], axis=1) for index in pairs], axis=1)  # [P, 4, F]
    power = p * _by_frequency(transform(means) ** 2)[1:]
    if p % 2 == 0:  # cos π(a + b) and cos π(a - b) are one wave.
        power = power.at[-1, 3].set(0)
    total, size = jnp.sum(centred**2, axis=0), jnp.sum(activations**2, axis=0)
    total = jnp.where(total <= 1e-12 * size, 0, total)  # Less is float32 rounding of a constant.
    return jnp.minimum(_divide(jnp.sum(power, axis=1), total[None]).T, 1)


@jax.jit
def clusters(fractions: jax.Array, threshold: float = 0.85) -> Clusters:
    """Assign each neuron to the frequency that explains most of it, where that is more than `threshold`.

    Args:
      fractions: float32 `[F, P//2]`, of `neuron_fractions`.
      threshold: fraction of variance.
    """
    explained = largest(fractions, axis=1)
    best = jnp.argmax(fractions, axis=1) + 1
    return Clusters(jnp.where(explained > threshold, best, 0).astype(jnp.int32), explained)


# --- key frequencies --------------------------------------------------------------------------------------


@jax.jit
def keys_of_neurons(activations: jax.Array, threshold: float = 0.85, least: int = 2) -> jax.Array:
    """Find the key frequencies by rule (a): those that explain more than `threshold` of `least` neurons.

    Args:
      activations: float32 `[P², F]` of an MLP.
      threshold: fraction of a neuron's variance.
      least: neurons; the default is two because one neuron, with its one phase, can write one wave
        cos(w_k(a + b) + φ) to the logits, while cos w_k(a + b - c) takes both cosine and sine.

    Returns:
      bool `[P//2]`.
    """
    frequency = clusters(neuron_fractions(activations), threshold).frequency
    p = math.isqrt(len(activations))
    return jnp.sum(frequency[:, None] == jnp.arange(1, p // 2 + 1)[None], axis=0) >= least


@jax.jit
def keys_of_neuron_logit_map(neuron_logit_map: jax.Array, threshold: float = 0.25) -> jax.Array:
    """Find the key frequencies by rule (b), the transform of W_L = W_out W_U over the answers.

    Args:
      neuron_logit_map: float32 `[F, P]`, the classes that are numbers.
      threshold: a key frequency's norm exceeds this part of the largest one; the sources name none, so it is
        that of rule (c). The constant does not count.

    Returns:
      bool `[P//2]`.
    """
    chex.assert_rank(neuron_logit_map, 2)
    return _stand_out(norms(neuron_logit_map, axis=1), threshold)


@jax.jit
def keys_of_embedding(embedding: jax.Array, threshold: float = 0.25) -> jax.Array:
    """Find the key frequencies by rule (c): bool `[P//2]`.

    Args:
      embedding: float32 `[P, D]`, W_E of the numbers, without `=`.
      threshold: a key frequency's norm exceeds this part of the largest one; the constant does not count.
    """
    chex.assert_rank(embedding, 2)
    return _stand_out(norms(embedding), threshold)


def keys_of_logits(logits: jax.Array, answers: jax.Array, threshold: float = 0.005) -> jax.Array:
    """Find the key frequencies by rule (d): bool `[P//2]`, cosine similarity to cos w_k(a + b - c) above `threshold`.

    Args:
      logits: float32 `[P², P]`.
      answers: int `[P²]`.
      threshold: of `cosine_similarities`.
    """
    return cosine_similarities(logits, answers) > threshold


def _stand_out(size: jax.Array, threshold: float) -> jax.Array:
    return size[1:] > threshold * largest(size[1:])  # None where one is NaN.


def largest(x: jax.Array, axis: int | None = None) -> jax.Array:
    """Return the maximum, NaN where any value is NaN: XLA's own passes over NaN on a CPU."""
    return jnp.where(jnp.any(jnp.isnan(x), axis=axis), jnp.nan, jnp.max(x, axis=axis))
