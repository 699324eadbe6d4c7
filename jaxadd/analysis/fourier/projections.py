"""Logits in the characters of a group: the projections P_k, and the cubes cos w_k(answer - c).

Logits have one row for each pair (a, b), in lexicographic order, `[P², ·]`; they are those of the P elements.
`answers`, int `[P²]`, are the elements s = a + b or a - b; each occurs P times.

The waves u_k ∝ cos w_k(a + b) and v_k ∝ sin w_k(a + b) depend on a pair through its answer s alone. So projecting
logits `[P², C]` on them is a one-dimensional projection, along s, of their mean over the P pairs of each answer,
and the cubes cos w_k(a + b - c) need no more than its mean over all (s, c) of one c - s: exact, in P³ operations
where the definition takes P⁴. Definitions: Nanda et al. 2023, "Progress measures for grokking".
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.fourier.characters import (
    Orders,
    basis,
    combine,
    group_of,
    inverse,
    mask,
    transform,
)
from jaxadd.analysis.measures import divide
from jaxadd.errors import UserError

# --- logits: the waves of the answer ----------------------------------------------------------------------


def waves(orders: int | Orders, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors u_k ∝ cos w_k(a + b) and v_k ∝ sin w_k(a + b), float32 `[P²]` each.

    A frequency without a sine, such as P/2 of even P, has a v_k of 0.
    """
    mask([k], orders)
    group, rows = group_of(orders), basis(orders)
    row = group.cosine_rows[k - 1]
    cos = rows[row]
    if k > group.sines:
        return np.outer(cos, cos).reshape(-1), np.zeros(group.size**2, np.float32)
    sin = rows[row + 1]
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


def keep(means: jax.Array, keys: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Keep only some frequencies along the first axis, without the constant: `[P, ...]`.

    Of `by_answer(logits, answers)` this returns Σ_k P_k L, for each answer instead of each pair.
    """
    keys, group = jnp.asarray(keys), group_of(orders or len(means))
    chex.assert_shape(keys, (len(group.vectors),))
    rows = jnp.concatenate([jnp.zeros(1, bool), jnp.repeat(keys[: group.sines], 2), keys[group.sines :]])
    kept = jnp.where(rows.reshape(-1, *[1] * (means.ndim - 1)), transform(means, 0, orders), 0)
    return inverse(kept, 0, orders)


def project(logits: jax.Array, answers: jax.Array, keys: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Project logits on the waves of the frequencies in a mask, Σ_k P_k L with P_k L = u_k u_kᵀ L + v_k v_kᵀ L.

    Args:
      logits: float32 `[P², C]`.
      answers: int `[P²]`.
      keys: bool `[K]`, may be traced.
      orders: of the group, by default that mod P.

    Returns:
      float32 `[P², C]`.
    """
    return keep(by_answer(logits, answers), keys, orders)[answers]


# --- logits: the cubes cos w_k(answer - c) ----------------------------------------------------------------


def cube_coefficients(logits: jax.Array, answers: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Compute ⟨L, c_k⟩ with the unit cubes c_k ∝ cos w_k(a + b - c).

    Args:
      logits: float32 `[P², P]`.
      answers: int `[P²]`.
      orders: of the group, by default that mod P.

    Returns:
      float32 `[K]`, signed.
    """
    means = by_answer(logits, answers)
    return len(means) * _cosines(means, orders)


def cosine_similarities(logits: jax.Array, answers: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Compute ⟨L, c_k⟩ / ‖L‖, L centred per row: `[K]`; 0 for logits that are all equal, NaN where any is NaN.

    Their squares add up to the fraction of the logits' variance that Σ_k α_k cos w_k(a + b - c) explains, α free.
    """
    _check_answers(answers, math.isqrt(len(answers)))  # Before they are traced.
    return _cosine_similarities(logits, answers, orders)


@functools.partial(jax.jit, static_argnames="orders")
def _cosine_similarities(logits: jax.Array, answers: jax.Array, orders: Orders | None) -> jax.Array:
    centred = logits - jnp.mean(logits, axis=1, keepdims=True)
    return divide(cube_coefficients(centred, answers, orders), jnp.linalg.norm(centred))


@functools.partial(jax.jit, static_argnames="orders")
def answer_cosines(logits: jax.Array, answers: jax.Array, orders: Orders) -> jax.Array:
    """Compute ⟨L, c_k⟩ / ‖L‖ with c_k ∝ cos w_k(s - c), L centred per row, for answers s of any distribution: `[K]`.

    In each row the c_k are orthogonal to each other, whatever s is.

    Args:
      logits: float32 `[B, P]`.
      answers: int `[B]`, elements of the group.
      orders: of the group.
    """
    chex.assert_shape(logits, (len(answers), math.prod(orders)))
    centred = logits - jnp.mean(logits, axis=1, keepdims=True)
    by_offset = jnp.take_along_axis(centred, jnp.asarray(combine(orders, 1))[answers], axis=1)
    coefficients = transform(jnp.mean(by_offset, axis=0), 0, orders)[group_of(orders).cosine_rows]
    return divide(math.sqrt(len(answers)) * coefficients, jnp.linalg.norm(centred))


def keep_cubes(means: jax.Array, keys: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Keep only the cubes of some frequencies, in logits averaged by answer: `[P, P]`."""
    group, keys, orders = group_of(orders or len(means)), jnp.asarray(keys), orders or (len(means),)
    chex.assert_shape(keys, (len(group.vectors),))
    cosines = basis(orders)[group.cosine_rows]
    by_offset = jnp.matmul(jnp.where(keys, _cosines(means, orders), 0), cosines, precision="highest")
    return by_offset[combine(orders, -1).T]


def cube_projection(
    logits: jax.Array, answers: jax.Array, keys: jax.Array, orders: Orders | None = None
) -> jax.Array:
    """Project logits on the cubes of the frequencies in a mask, Σ_k ⟨L, c_k⟩ c_k: float32 `[P², P]`."""
    return keep_cubes(by_answer(logits, answers), keys, orders)[answers]


def _cosines(means: jax.Array, orders: Orders | None) -> jax.Array:
    """Return the cosine coefficients, `[K]`, of the mean over all answers s, as a function of c - s."""
    chex.assert_rank(means, 2)
    p = len(means)
    chex.assert_shape(means, (p, p))
    orders = orders or (p,)
    by_offset = jnp.mean(means[np.arange(p)[:, None], combine(orders, 1)], axis=0)
    return transform(by_offset, 0, orders)[group_of(orders).cosine_rows]
