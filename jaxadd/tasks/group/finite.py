"""Finite groups as values: a Cayley table, the names of the elements, and what follows from the table.

Elements are numbers 0 … n - 1; entry (a, b) of a table is a·b.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import chex
import numpy as np

from jaxadd.errors import UserError

LARGEST = 4096
"""The most elements of a group: a table and a train set of n² pairs are held in memory."""


@dataclass(frozen=True, eq=False)
class FiniteGroup:
    """A finite group.

    Attributes:
      name: as people write it, such as "S5"; of a group that has none, "a group of order 21".
      table: int32 `[n, n]`, read-only.
      elements: the name of each element, `[n]`.
      points: int `[n, m]`, where a group of permutations of m points sends each point; None for another group.
    """

    name: str
    table: np.ndarray
    elements: Sequence[str]
    points: np.ndarray | None = None

    def __post_init__(self) -> None:
        chex.assert_shape(self.table, (len(self.elements), len(self.elements)))
        self.table.setflags(write=False)

    @property
    def order(self) -> int:
        """The number n of elements."""
        return len(self.table)

    @functools.cached_property
    def identity(self) -> int:
        """The element e with e·a = a."""
        return int(np.argmax((self.table == np.arange(self.order)).all(axis=1)))

    @functools.cached_property
    def inverse(self) -> np.ndarray:
        """The inverse of each element, int `[n]`."""
        return np.argmax(self.table == self.identity, axis=1)

    @functools.cached_property
    def classes(self) -> np.ndarray:
        """The conjugacy class of each element, int `[n]`, numbered by their first elements."""
        first = np.min(self.conjugates, axis=0)
        return np.unique(first, return_inverse=True)[1]

    @functools.cached_property
    def conjugates(self) -> np.ndarray:
        """g·a·g⁻¹ at (g, a), int `[n, n]`."""
        return self.table[self.table, self.inverse[:, None]]

    @functools.cached_property
    def element_orders(self) -> np.ndarray:
        """The least k ≥ 1 with aᵏ = e for each element a, int `[n]`."""
        orders, power = np.zeros(self.order, int), np.arange(self.order)
        for k in range(1, self.order + 1):
            orders[(orders == 0) & (power == self.identity)] = k
            if orders.all():
                break
            power = self.table[power, np.arange(self.order)]
        return orders


def generated(table: np.ndarray, elements: Sequence[int]) -> np.ndarray:
    """Return all products of some elements, a mask bool `[n]`; in a group this is the subgroup that they generate.

    Raises AssertionError for a table that is not square.
    """
    chex.assert_shape(table, (len(table), len(table)))
    steps = np.unique(np.asarray(elements, int))
    inside = np.zeros(len(table), bool)
    inside[steps] = True
    new = steps
    while new.size:
        found = np.unique(np.concatenate([table[new][:, steps].ravel(), table[steps][:, new].ravel()]))
        new = found[~inside[found]]
        inside[new] = True
    return inside


def generators(table: np.ndarray) -> list[int]:
    """Return elements of which every element is a product, each the first one that those before it do not reach."""
    chosen: list[int] = []
    inside = np.zeros(len(table), bool)
    while not inside.all():
        chosen.append(int(np.argmin(inside)))
        inside = generated(table, chosen)
    return chosen


def commuting(table: np.ndarray) -> float:
    """Return the fraction of pairs with a·b = b·a."""
    return float(np.mean(table == table.T))


def is_latin(table: np.ndarray) -> bool:
    """Return whether every row and every column has each of 0 … n - 1 once."""
    numbers = np.arange(len(table))
    return bool((np.sort(table, axis=1) == numbers).all() and (np.sort(table, axis=0) == numbers[:, None]).all())


def not_associative(table: np.ndarray) -> tuple[int, int, int] | None:
    """Return elements with (a·b)·c ≠ a·(b·c); None where all triples are associative.

    Elements b with (a·b)·c = a·(b·c) for all a and c are closed under products, so that it suffices to try those of
    which all others are products (Light's test): exact, with n² comparisons for each.
    """
    for b in generators(table):
        wrong = table[table[:, b]] != table[:, table[b]]
        if wrong.any():
            a, c = np.unravel_index(np.argmax(wrong), wrong.shape)
            return int(a), b, int(c)
    return None


def violation(table: np.ndarray, elements: Sequence[str] = ()) -> str | None:
    """Return which axiom of a group a table violates first, with an example; None for the table of a group.

    Args:
      table: int `[n, n]`.
      elements: how the n elements are written; by default their numbers.
    """
    n = len(table)
    name = lambda i: elements[i] if elements else i
    if table.ndim != 2 or table.shape != (n, n) or n == 0:
        return f"a Cayley table has as many rows as columns, and this one has shape {table.shape}"
    if (outside := (table < 0) | (table >= n)).any():
        a, b = np.unravel_index(np.argmax(outside), table.shape)
        return f"it is not closed: {a}·{b} = {table[a, b]}, which is none of its elements 0 to {n - 1}"
    if (triple := not_associative(table)) is not None:
        a, b, c = triple
        left, right = table[table[a, b], c], table[a, table[b, c]]
        a, b, c, left, right = map(name, (a, b, c, left, right))
        return f"it is not associative: ({a}·{b})·{c} = {left}, and {a}·({b}·{c}) = {right}"
    numbers = np.arange(n)
    neutral = (table == numbers).all(axis=1) & (table == numbers[:, None]).all(axis=0)
    if not neutral.any():
        return "it has no identity: no element e has e·a = a·e = a for every a"
    lacking = ~(table == np.argmax(neutral)).any(axis=1)
    if lacking.any():
        a, identity = name(np.argmax(lacking)), name(np.argmax(neutral))
        return f"{a} has no inverse: no product {a}·b is the identity, {identity}"
    return None


def read_table(path: str) -> np.ndarray:
    """Return the Cayley table in a file, int32 `[n, n]` of numbers from 0.

    The file is a NumPy array (.npy), or text: a row for each line, its numbers separated by commas or blanks. Numbers
    1 … n, as GAP writes them, become 0 … n - 1.

    Raises:
      UserError: there is no such file, it holds something else, or the table is not that of a group, with the first
        axiom that it violates; or the group has more than LARGEST elements.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no file {path}; expected one with a Cayley table, a row of numbers for each line")
    stat = file.stat()
    return _read_table(str(file), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)  # A task is asked for its table again and again.
def _read_table(path: str, modified: int, size: int) -> np.ndarray:
    try:
        if path.endswith(".npy"):
            table = np.load(path, allow_pickle=False)
        else:
            lines = Path(path).read_text().replace(",", " ").splitlines()
            words = [line.split() for line in lines if line.strip()]
            if strange := [word for row in words for word in row if not word.lstrip("-").isdecimal()]:
                raise ValueError(f"{strange[0]!r} is no whole number; elements are numbered from 0 or 1 on")
            rows = [[int(word) for word in row] for row in words]
            if not rows:
                raise ValueError("it is empty")
            if len({len(row) for row in rows}) > 1:
                raise ValueError("its rows differ in length")
            table = np.array(rows)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text file; expected one with a Cayley table, or a NumPy array (.npy)"
        ) from error
    except (ValueError, OSError, OverflowError) as error:
        raise UserError(f"{path} holds no Cayley table of numbers: {error}") from error
    if not np.issubdtype(table.dtype, np.integer):
        raise UserError(f"{path} holds no Cayley table of numbers: its entries are {table.dtype}")
    check_order(path, len(table))
    if table.size and table.min() == 1 and table.max() == len(table):
        table = table - 1
    if (problem := violation(table)) is not None:
        raise UserError(f"{path} is not the table of a group: {problem}")
    return table.astype(np.int32)


def check_order(name: str, order: int) -> None:
    """Raise UserError where a group has more than LARGEST elements, saying how large its table would be."""
    if order > LARGEST:
        # The square of 99! exceeds the largest float.
        shown, cells = (f"{x:,}" if x < 10**15 else f"{Decimal(x):.1e}" for x in (order, order**2))
        raise UserError(f"{name} has {shown} elements, a table of {cells} products; expected at most {LARGEST:,}")
