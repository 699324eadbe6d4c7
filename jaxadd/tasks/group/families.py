"""Groups by the names that people write: S5, A4, D59, C113, Q8, and products such as C2xC4.

A family is one line of `FAMILIES`: how many elements its n-th group has, and how it is built.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxadd.errors import UserError
from jaxadd.tasks.group.finite import LARGEST, FiniteGroup, check_order


class Family(NamedTuple):
    """Groups of one kind, by a number n.

    Attributes:
      order: the number of elements of the n-th group.
      build: the n-th group.
      valid: the numbers n that there are, in words, and whether n is one.
      new_from: the least n whose group is in no family before and has more than one element.
    """

    order: Callable[[int], int]
    build: Callable[[int], FiniteGroup]
    valid: tuple[str, Callable[[int], bool]]
    new_from: int


def _cyclic(n: int) -> FiniteGroup:
    numbers = np.arange(n)
    return FiniteGroup(f"C{n}", _int32((numbers[:, None] + numbers) % n), tuple(map(str, numbers)))


def _dihedral(n: int) -> FiniteGroup:
    """Build the symmetries of an n-gon: rᵏ is k and rᵏ s is n + k, with s r = r⁻¹ s."""
    k, flip = np.arange(2 * n) % n, np.arange(2 * n) // n
    turned = (k[:, None] + np.where(flip == 1, -1, 1)[:, None] * k) % n
    table = turned + n * (flip[:, None] ^ flip)
    return FiniteGroup(f"D{n}", _int32(table), (*map(_power, range(n)), *(_power(i, "s") for i in range(n))))


def _quaternion(n: int) -> FiniteGroup:
    """Build the dicyclic group: rᵏ is k and rᵏ s is n/2 + k, with s r = r⁻¹ s and s² = r^{n/4}; Q8 for n = 8."""
    half = n // 2
    k, flip = np.arange(n) % half, np.arange(n) // half
    both = flip[:, None] & flip
    turned = (k[:, None] + np.where(flip == 1, -1, 1)[:, None] * k + n // 4 * both) % half
    table = turned + half * (flip[:, None] ^ flip)
    return FiniteGroup(f"Q{n}", _int32(table), (*map(_power, range(half)), *(_power(i, "s") for i in range(half))))


def _power(k: int, after: str = "") -> str:
    power = {0: "", 1: "r"}.get(k, f"r^{k}")
    return " ".join(filter(None, (power, after))) or "e"


def _symmetric(n: int) -> FiniteGroup:
    return _permutations(f"S{n}", np.array(list(itertools.permutations(range(n)))))


def _alternating(n: int) -> FiniteGroup:
    points = np.array(list(itertools.permutations(range(n))))
    above, below = np.triu_indices(n, 1)
    inversions = np.sum(points[:, above] > points[:, below], axis=1)
    return _permutations(f"A{n}", points[inversions % 2 == 0])


def _permutations(name: str, points: np.ndarray) -> FiniteGroup:
    """Build a group of permutations, in lexicographic order; a·b is b first, then a."""
    order, n = points.shape
    places = n ** np.arange(n)
    keys = points @ places
    by_key = np.argsort(keys)
    table = np.empty((order, order), np.int32)
    for a in range(order):
        table[a] = by_key[np.searchsorted(keys, points[a][points] @ places, sorter=by_key)]
    return FiniteGroup(name, table, tuple(map(cycles, points)), points)


def cycles(permutation: np.ndarray) -> str:
    """Return a permutation of points 0 … m - 1 in cycle notation, of points 1 … m: "(1 2)(3 4 5)", or "e"."""
    left, text = set(range(len(permutation))), ""
    while left:
        cycle = [min(left)]
        while (after := int(permutation[cycle[-1]])) != cycle[0]:
            cycle.append(after)
        left -= set(cycle)
        text += f"({' '.join(str(point + 1) for point in cycle)})" if len(cycle) > 1 else ""
    return text or "e"


def _int32(table: np.ndarray) -> np.ndarray:
    return table.astype(np.int32)


_ANY = ("from 1", lambda n: n >= 1)
FAMILIES: dict[str, Family] = {
    "C": Family(lambda n: n, _cyclic, _ANY, new_from=2),
    "S": Family(math.factorial, _symmetric, _ANY, new_from=3),
    "A": Family(lambda n: max(1, math.factorial(n) // 2), _alternating, _ANY, new_from=4),
    "D": Family(lambda n: 2 * n, _dihedral, _ANY, new_from=4),
    "Q": Family(lambda n: n, _quaternion, ("a multiple of 4, from 8", lambda n: n >= 8 and n % 4 == 0), new_from=8),
}
"""Cyclic, symmetric, alternating, dihedral and dicyclic groups, in the order in which recognition tries them."""

_PLAIN = str.maketrans("₀₁₂₃₄₅₆₇₈₉×*", "0123456789xx")


def parse(name: str) -> tuple[tuple[str, int], ...]:
    """Return the factors of a name, such as (("C", 2), ("C", 4)) for "C2xC4".

    Raises:
      UserError: it is no name of a group, or its group has too many elements.
    """
    factors = []
    for word in name.translate(_PLAIN).split("x"):
        found = re.fullmatch(r"\s*([A-Z])_?(\d{1,6})\s*", word)
        if found is None or found[1] not in FAMILIES:
            raise UserError(f"no group is named {name!r}; expected names such as S5, A4, D59, C113, Q8 or C2xC4")
        letter, n = found[1], int(found[2])
        numbers, valid = FAMILIES[letter].valid
        if not valid(n):
            raise UserError(f"no group is named {name!r}: the number of {letter} must be {numbers}, got {n}")
        if n > LARGEST:  # The n-th group of a family has at least n elements, and to count them may take long.
            raise UserError(f"{name} has at least {n:,} elements; expected at most {LARGEST:,}")
        factors.append((letter, n))
    check_order(name, math.prod(FAMILIES[letter].order(n) for letter, n in factors))
    return tuple(factors)


def by_name(name: str) -> FiniteGroup:
    """Return the group of a name, as for `parse`."""
    return _product(parse(name))


@functools.lru_cache(maxsize=16)
def _product(factors: tuple[tuple[str, int], ...]) -> FiniteGroup:
    parts = [FAMILIES[letter].build(n) for letter, n in factors]
    if len(parts) == 1:
        return parts[0]
    table = np.zeros((1, 1), np.int32)
    for part in parts:
        n = part.order
        # Elements are numbered lexicographically: the last factor changes first.
        table = (table[:, None, :, None] * n + part.table[None, :, None, :]).reshape(len(table) * n, -1)
    names = (f"({', '.join(names)})" for names in itertools.product(*(part.elements for part in parts)))
    return FiniteGroup("x".join(part.name for part in parts), table, tuple(names))
