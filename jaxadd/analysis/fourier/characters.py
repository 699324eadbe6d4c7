"""Characters of a group: its frequencies and their names, transforms, and masks of frequencies.

The group is that of P numbers under addition mod P, or any product of cyclic groups, given by their `orders`; its P
elements are then in lexicographic order of their coordinates. Multiplication of units becomes such a sum of
coordinates too, see `tasks.modular.cyclic`, so that whatever is written here of a + b holds for a · b.

Frequency k is w_k = 2πk/P radians per step, k = 1 … P//2. In a product of r cyclic groups a frequency is a vector of
r whole numbers, and w_k n stands for Σᵢ 2π kᵢ nᵢ / ordersᵢ; a vector and its negative are one frequency. They are
numbered from 1 too, in lexicographic order, those last that equal their own negative and have no sine; people read
and write their `names`, which are numbers mod P and vectors otherwise. With K frequencies, a mask of them is bool
`[K]`, entry k - 1 for k; K = P//2 mod P.
"""

import functools
import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

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


def group_of(orders: int | Orders) -> _Group:
    """Return what follows from the orders of a group; a number is the order of a cyclic one."""
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
    return len(group_of(orders).vectors)


def names(orders: int | Orders) -> tuple[str, ...]:
    """Return the names of the K frequencies: numbers mod P, vectors such as (1, 0) in a product of groups."""
    vectors = group_of(orders).vectors
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


def read_frequencies(text: str, orders: int | Orders) -> tuple[int, ...]:
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
    group = group_of(orders)
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
    group = group_of(orders)
    factors = np.array([orders] if isinstance(orders, int) else orders)
    period = math.lcm(*factors.tolist())
    steps = np.sum(group.vectors[k - 1] * group.coordinates % factors * (period // factors), axis=1)
    return 2 * np.pi * (steps % period) / period


@functools.lru_cache(maxsize=32)
def combine(orders: int | Orders, sign: int) -> np.ndarray:
    """Return the table of a group, int64 `[P, P]`, read-only: i + j at [i, j], or i - j for a `sign` of -1."""
    group, factors = group_of(orders), (orders,) if isinstance(orders, int) else orders
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
    group = group_of(orders)
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
    sines = group_of(orders or len(squares)).sines
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
