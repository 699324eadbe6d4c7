"""Subgroups of a finite group up to conjugation, and how far functions are constant on their cosets.

A neuron that fires on cosets of a subgroup H (Stander et al. 2024, "Grokking group multiplication with cosets") reads
the left element a through its coset Ha and the right element b through its coset bK, K conjugate to H.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import chex
import numpy as np

from jaxadd.tasks.group import recognition
from jaxadd.tasks.group.finite import FiniteGroup, generated

MOST = 1500
"""The most cyclic subgroups of a group whose subgroups are listed."""
ON_COSETS = 0.95
"""The least concentration of a neuron that reads cosets."""


class Subgroups(NamedTuple):
    """A conjugacy class of subgroups.

    Attributes:
      name: of the subgroups as groups, such as "S4", and "order 20" where they have no name; with an index where
        several classes have the same one.
      members: masks of elements, bool `[m, n]`.
    """

    name: str
    members: np.ndarray

    @property
    def order(self) -> int:
        """The number of elements of each of the subgroups."""
        return int(self.members[0].sum())


@functools.lru_cache(maxsize=8)
def subgroups(group: FiniteGroup) -> tuple[Subgroups, ...]:
    """Return all subgroups that one or two elements generate, by conjugacy class and ascending order.

    In groups such as S5 these are all subgroups; one that needs three generators, such as C2xC2xC2, is left out, and
    a group with more than MOST cyclic subgroups has none listed.
    """
    cyclic = _cyclic(group)
    if len(cyclic) > MOST:
        return ()
    seen: set[bytes] = set()
    found: list[np.ndarray] = []
    # Conjugation carries the first generator to the first element of its class, and its centraliser the second one.
    first = np.min(group.conjugates, axis=0)
    for g in cyclic[first[cyclic] == cyclic]:
        centraliser = np.flatnonzero(group.table[g] == group.table[:, g])
        for h in cyclic[np.min(group.conjugates[np.ix_(centraliser, cyclic)], axis=0) == cyclic]:
            mask = generated(group.table, [g, h])
            if _bits(mask) not in seen:
                members = _conjugates(group, mask)
                seen.update(map(_bits, members))
                found.append(members)
    found.sort(key=lambda members: (members[0].sum(), len(members)))
    names = [_name(group, members[0]) for members in found]
    return tuple(Subgroups(_numbered(names, i), members) for i, members in enumerate(found))


def _cyclic(group: FiniteGroup) -> np.ndarray:
    """Return the first generator of each cyclic subgroup that is the first of its class as an element, ascending."""
    known = np.zeros(group.order, bool)
    result = []
    for g in range(group.order):
        if not known[g]:
            result.append(g)
            inside = generated(group.table, [g])
            known |= inside & (group.element_orders == group.element_orders[g])
    return np.array(result)


def _numbered(names: Sequence[str], i: int) -> str:
    return names[i] if names.count(names[i]) == 1 else f"{names[i]} ({names[: i + 1].count(names[i])})"


def _bits(mask: np.ndarray) -> bytes:
    return np.packbits(mask).tobytes()


def _conjugates(group: FiniteGroup, mask: np.ndarray) -> np.ndarray:
    """Return the subgroups g H g⁻¹, masks bool `[m, n]`, the first one first."""
    moved = np.zeros((group.order, group.order), bool)
    np.put_along_axis(moved, group.conjugates[:, mask], True, axis=1)
    first = np.unique(np.packbits(moved, axis=1), axis=0, return_index=True)[1]
    return moved[np.sort(first)]


def _name(group: FiniteGroup, mask: np.ndarray) -> str:
    elements = np.flatnonzero(mask)
    number = np.zeros(group.order, np.int32)
    number[elements] = np.arange(len(elements))
    table = number[group.table[np.ix_(elements, elements)]]
    found = recognition.recognise(FiniteGroup("", table, tuple(map(str, range(len(elements))))))
    return f"order {len(elements)}" if found is None else found.group.name


def concentration(
    group: FiniteGroup, mask: np.ndarray, values: np.ndarray, side: Literal["left", "right"]
) -> np.ndarray:
    """Compute how far functions are constant on the cosets of a subgroup: the fraction of variance between cosets.

    A function without structure has (m - 1) / (n - 1) of its variance between m cosets; that chance level is taken
    off, so that it scores 0 on average, and one that is constant on every coset scores 1.

    Args:
      group: of n elements.
      mask: bool `[n]`, the subgroup H.
      values: `[n, F]`, functions on the group.
      side: "left" for the cosets aH, "right" for the cosets Ha.

    Returns:
      float64 `[F]`; 0 for a constant function, and for the subgroups of one and of all elements.
    """
    chex.assert_rank(values, 2)
    chex.assert_shape([mask, values[:, 0]], (group.order,))
    elements = np.flatnonzero(mask)
    products = group.table[:, elements] if side == "left" else group.table[elements].T
    cosets = products[np.unique(products.min(axis=1), return_index=True)[1]]  # [m, |H|]
    centred = np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64)
    total, chance = np.sum(centred**2, axis=0), (len(cosets) - 1) / max(1, group.order - 1)
    if chance in (0, 1):
        return np.zeros(values.shape[1])
    between = np.sum(np.sum(centred[cosets], axis=1) ** 2, axis=0) / len(elements)
    fraction = np.divide(between, total, out=np.full_like(total, chance), where=total > 0)
    return (fraction - chance) / (1 - chance)


def concentrations(group: FiniteGroup, classes: Sequence[Subgroups], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the coset concentration of neurons: the smaller of that of what they read of a and of b.

    Args:
      group: of n elements.
      classes: K conjugacy classes of its subgroups.
      a: `[n, F]`, what F neurons read of the left element; its cosets are Ha.
      b: `[n, F]`, what they read of the right element; its cosets are bK, K conjugate to H.

    Returns:
      float64 `[K, F]`, by the best subgroups of each class.
    """
    result = []
    for one in classes:
        of_a = np.max([concentration(group, mask, a, "right") for mask in one.members], axis=0)
        of_b = np.max([concentration(group, mask, b, "left") for mask in one.members], axis=0)
        result.append(np.minimum(of_a, of_b))
    return np.array(result).reshape(len(classes), a.shape[1])
