"""Characters of a group: transforms, the projections P_k of logits, and key frequencies by each of four rules.

The group is that of P numbers under addition mod P, or any product of cyclic groups, given by their `orders`; its P
elements are then in lexicographic order of their coordinates. Multiplication of units becomes such a sum of
coordinates too, see `tasks.modular.cyclic`, so that whatever is written here of a + b holds for a · b.

Where a logit or activation is not finite, what is computed from it is NaN, and no frequency is a key.

Frequency k is w_k = 2πk/P radians per step, k = 1 … P//2. In a product of r cyclic groups a frequency is a vector of
r whole numbers, and w_k n stands for Σᵢ 2π kᵢ nᵢ / ordersᵢ; a vector and its negative are one frequency. They are
numbered from 1 too, in lexicographic order, those last that equal their own negative and have no sine; people read
and write their `names`, which are numbers mod P and vectors otherwise. With K
frequencies, a mask of them is bool `[K]`, entry k - 1 for k; K = P//2 mod P. Logits and activations have one row for
each pair (a, b), in lexicographic order, `[P², ·]`; logits are those of the P elements. `answers`, int `[P²]`, are
the elements s = a + b or a - b; each occurs P times.

The waves u_k ∝ cos w_k(a + b) and v_k ∝ sin w_k(a + b) depend on a pair through its answer s alone. So projecting
logits `[P², C]` on them is a one-dimensional projection, along s, of their mean over the P pairs of each answer,
and the cubes cos w_k(a + b - c) need no more than its mean over all (s, c) of one c - s: exact, in P³ operations
where the definition takes P⁴. Definitions: Nanda et al. 2023, "Progress measures for grokking".
"""

import functools
import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError

Orders = tuple[int, ...]
"""The orders of the factors of a product of cyclic groups; (P,) for the numbers mod P."""
_LISTED = 8  # names of frequencies in a message

# --- groups -----------------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """What follows from the orders of a group.

    Attributes:
      size: P, the number of elements.
      coordinates: int64 `[P, r]`.
      vectors: int64 `[K, r]`, the frequencies; those with a sine come first.
      sines: how many frequencies have a sine.
    """

    size: int
    coordinates: np.ndarray
    vectors: np.ndarray
    sines: int

    @property
    def cosine_rows(self) -> np.ndarray:
        """The row of each frequency's cosine in the basis, int `[K]`."""
        k = np.arange(len(self.vectors))
        return np.where(k < self.sines, 2 * k + 1, k + self.sines + 1)


def _group(orders: int | Orders) -> _Group:
    return _group_of((orders,) if isinstance(orders, int) else orders)


@functools.lru_cache(maxsize=16)
def _group_of(orders: Orders) -> _Group:
    size = math.prod(orders)
    if size < 2:
        raise UserError(f"a modulus must be at least 2, got {size}")
    coordinates = list(itertools.product(*map(range, orders)))
    negative = lambda k: tuple(-x % n for x, n in zip(k, orders, strict=True))
    with_sine = [k for k in coordinates if k < negative(k)]
    without = [k for k in coordinates[1:] if k == negative(k)]
    return _Group(size, np.array(coordinates), np.array(with_sine + without), len(with_sine))


def count(orders: int | Orders) -> int:
    """Return the number of frequencies of a group, K: P//2 mod P."""
    return len(_group(orders).vectors)


def names(orders: int | Orders) -> tuple[str, ...]:
    """Return the names of the K frequencies: numbers mod P, vectors such as (1, 0) in a product of groups."""
    vectors = _group(orders).vectors
    if vectors.shape[1] == 1:
        return tuple(map(str, range(1, len(vectors) + 1)))
    return tuple(f"({', '.join(map(str, k))})" for k in vectors.tolist())


def described(orders: int | Orders) -> str:
    """Return in words which frequencies a group has: "mod 7, which are 1 to 3"."""
    factors, known = (orders,) if isinstance(orders, int) else orders, names(orders)
    if len(factors) == 1:
        return f"mod {factors[0]}, which are 1 to {len(known)}"
    listed = known if len(known) <= _LISTED else (*known[: _LISTED - 1], f"… {known[-1]}")
    return f"of {' × '.join(f'C{n}' for n in factors)}, which are {', '.join(listed)}"


def named(text: str, orders: int | Orders) -> tuple[int, ...]:
    """Return the numbers of frequencies that are listed by name, such as "3,6,23" or "(0, 1),(1, 2)", ascending.

    Raises:
      UserError: the group has no frequency of such a name.
    """
    plain = lambda name: "".join(name.split())
    known = {plain(name): k for k, name in enumerate(names(orders), 1)}
    listed = re.split(r",(?![^()]*\))", text)  # at commas that are in no vector
    if wrong := [name for name in listed if plain(name) not in known]:
        raise UserError(f"expected frequencies {described(orders)}, got {wrong[0].strip()!r}")
    return tuple(sorted({known[plain(name)] for name in listed}))


def frequency_of_row(orders: int | Orders) -> np.ndarray:
    """Return which frequency each row of the basis belongs to, int `[P]`; 0 for the constant."""
    group = _group(orders)
    k = np.arange(1, len(group.vectors) + 1)
    return np.concatenate([[0], np.repeat(k, np.where(k <= group.sines, 2, 1))])


def row_names(orders: int | Orders) -> list[str]:
    """Return the names of the P rows of the basis: constant, cos 1, sin 1, …"""
    of_row, known = frequency_of_row(orders), names(orders)
    again = np.append(False, of_row[1:] == of_row[:-1])
    waves = [f"{'sin' if second else 'cos'} {known[k - 1]}" for k, second in zip(of_row, again, strict=True) if k]
    return ["constant", *waves]


def angles(orders: int | Orders, k: int) -> np.ndarray:
    """Return w_k n for each element n, radians, float64 `[P]`."""
    group = _group(orders)
    factors = np.array([orders] if isinstance(orders, int) else orders)
    period = math.lcm(*factors.tolist())
    steps = np.sum(group.vectors[k - 1] * group.coordinates % factors * (period // factors), axis=1)
    return 2 * np.pi * (steps % period) / period


@functools.lru_cache(maxsize=32)
def combine(orders: int | Orders, sign: int) -> np.ndarray:
    """Return the table of a group, int64 `[P, P]`, read-only: i + j at [i, j], or i - j for a `sign` of -1."""
    group, factors = _group(orders), (orders,) if isinstance(orders, int) else orders
    x = group.coordinates
    table = np.zeros((group.size, group.size), np.int64)
    for axis, order in enumerate(factors):
        table = table * order + (x[:, None, axis] + sign * x[None, :, axis]) % order
    table.setflags(write=False)
    return table


# --- transforms -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def basis(orders: int | Orders) -> np.ndarray:
    """Build the orthonormal basis of the characters: float32 `[P, P]`, read-only, computed in float64.

    Rows are the constant, cos w_1 n, sin w_1 n, cos w_2 n, …; last come frequencies without a sine, for even P the
    alternating row cos πn. Raises UserError for P below 2.
    """
    group = _group(orders)
    angle = np.array([angles(orders, k) for k in range(1, len(group.vectors) + 1)])
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=1)[: group.sines].reshape(-1, group.size)
    rows = np.concatenate([np.ones((1, group.size)), waves, np.cos(angle[group.sines :])])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows.setflags(write=False)
    return rows


def transform(x: jax.Array, axis: int = 0, orders: Orders | None = None) -> jax.Array:
    """Write one axis of length P in the basis of a group, by default that mod P; the shape stays."""
    return _along(basis(orders or x.shape[axis]), x, axis)


def inverse(x: jax.Array, axis: int = 0, orders: Orders | None = None) -> jax.Array:
    """Undo `transform`."""
    return _along(basis(orders or x.shape[axis]).T, x, axis)


def transform_2d(x: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Write the first two axes, those of a and b, in the basis of a group: `[P, P, ...]`."""
    return transform(transform(x, 0, orders), 1, orders)


@functools.partial(jax.jit, static_argnames=("axis", "orders"))
def norms(x: jax.Array, axis: int = 0, orders: Orders | None = None) -> jax.Array:
    """Compute the norm of what every frequency holds, over cosine, sine and all other axes.

    Returns:
      `[K + 1]`; entry k is frequency k, entry 0 the constant.
    """
    moved = jnp.moveaxis(x, axis, 0)
    squares = jnp.sum(transform(moved, 0, orders).reshape(len(moved), -1) ** 2, axis=1)
    return jnp.sqrt(by_frequency(squares, orders))


def _along(matrix: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    return jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis), precision="highest"), 0, axis)


def by_frequency(squares: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Add what the cosine and the sine of each frequency hold: `[P, ...]` to `[K + 1, ...]`."""
    sines = _group(orders or len(squares)).sines
    waves = squares[1 : 2 * sines + 1].reshape(sines, 2, *squares.shape[1:])
    return jnp.concatenate([squares[:1], jnp.sum(waves, axis=1), squares[2 * sines + 1 :]])


# --- masks of frequencies ---------------------------------------------------------------------------------


def mask(frequencies: Sequence[int], orders: int | Orders) -> np.ndarray:
    """Return frequencies as a mask, bool `[K]`; raises UserError for one that the group does not have."""
    if wrong := [k for k in frequencies if not 1 <= k <= count(orders)]:
        group = described(orders).partition(",")[0]
        raise UserError(f"frequencies {group} are numbered 1 to {count(orders)}, got {', '.join(map(str, wrong))}")
    keys = np.zeros(count(orders), bool)
    keys[np.asarray(frequencies, int) - 1] = True
    return keys


def frequencies(keys: jax.Array | np.ndarray) -> tuple[int, ...]:
    """List the frequencies of a mask, ascending."""
    return tuple(int(k) + 1 for k in np.flatnonzero(keys))


# --- logits: the waves of the answer ----------------------------------------------------------------------


def waves(orders: int | Orders, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors u_k ∝ cos w_k(a + b) and v_k ∝ sin w_k(a + b), float32 `[P²]` each.

    A frequency without a sine, such as P/2 of even P, has a v_k of 0.
    """
    mask([k], orders)
    group, rows = _group(orders), basis(orders)
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
    keys, group = jnp.asarray(keys), _group(orders or len(means))
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
    return _divide(cube_coefficients(centred, answers, orders), jnp.linalg.norm(centred))


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
    coefficients = transform(jnp.mean(by_offset, axis=0), 0, orders)[_group(orders).cosine_rows]
    return _divide(math.sqrt(len(answers)) * coefficients, jnp.linalg.norm(centred))


def keep_cubes(means: jax.Array, keys: jax.Array, orders: Orders | None = None) -> jax.Array:
    """Keep only the cubes of some frequencies, in logits averaged by answer: `[P, P]`."""
    group, keys, orders = _group(orders or len(means)), jnp.asarray(keys), orders or (len(means),)
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
    return transform(by_offset, 0, orders)[_group(orders).cosine_rows]


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
    if (sines := _group(orders).sines) < len(power):  # Without a sine, the waves of a + b and a - b are one.
        power = power.at[sines:, 3].set(0)
    total, size = jnp.sum(centred**2, axis=0), jnp.sum(activations**2, axis=0)
    total = jnp.where(total <= 1e-12 * size, 0, total)  # Less is float32 rounding of a constant.
    return jnp.minimum(_divide(jnp.sum(power, axis=1), total[None]).T, 1)


@jax.jit
def clusters(fractions: jax.Array, threshold: float = 0.85) -> Clusters:
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
    activations: jax.Array, threshold: float = 0.85, least: int = 2, orders: Orders | None = None
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
