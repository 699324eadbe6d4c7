"""Which group a Cayley table is of: a named group of its order with the same invariants, and an isomorphism.

Elements are coloured by what every isomorphism keeps: their order, the size of their conjugacy class, the number of
their square roots, and the same of their squares and cubes. Generators of the named group are then mapped to elements
of their colours, one after the other, as long as the map of what they generate is a homomorphism.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import chex
import numpy as np

from jaxadd.tasks.group import families
from jaxadd.tasks.group.finite import FiniteGroup, generated


class Recognised(NamedTuple):
    """A named group, and for each element of another one its number there, int `[n]`, an isomorphism."""

    group: FiniteGroup
    to: np.ndarray


def recognise(group: FiniteGroup) -> Recognised | None:
    """Return the first named group that a group is isomorphic to, and an isomorphism; None where there is none."""
    colours = _colours(group)
    for name in candidates(group.order):
        other = families.by_name(name)
        if sorted(colours) == sorted(_colours(other)) and (to := isomorphism(group, other)) is not None:
            return Recognised(other, to)
    return None


def isomorphism(group: FiniteGroup, other: FiniteGroup) -> np.ndarray | None:
    """Return for each element of one group its image in another, int `[n]`; None where they are not isomorphic."""
    if group.order != other.order:
        return None
    ours, theirs = _colours(group), _colours(other)
    if sorted(ours) != sorted(theirs):
        return None
    by_colour: dict[tuple, list[int]] = {}
    for i, colour in enumerate(ours):
        by_colour.setdefault(colour, []).append(i)
    chosen = _generators(other, theirs, {colour: len(found) for colour, found in by_colour.items()})
    images = _extend(group, other, chosen, [by_colour[theirs[g]] for g in chosen], ())
    return None if images is None else np.argsort(images)


def _extend(
    group: FiniteGroup, other: FiniteGroup, chosen: list[int], allowed: list[list[int]], images: tuple[int, ...]
) -> np.ndarray | None:
    """Map the remaining generators; returns the image of each element of `other`, None where that is impossible."""
    at = len(images)
    if at == len(chosen):
        return _homomorphism(group, other, chosen, images)
    options = allowed[at]
    if at == 0:  # Conjugation by any element is an isomorphism: one of each class stands for all.
        options = [options[i] for i in np.unique(group.classes[options], return_index=True)[1]]
    for option in options:
        tried = (*images, option)
        if _homomorphism(group, other, chosen[: at + 1], tried) is not None:
            found = _extend(group, other, chosen, allowed, tried)
            if found is not None:
                return found
    return None


def _homomorphism(
    group: FiniteGroup, other: FiniteGroup, chosen: list[int], images: tuple[int, ...]
) -> np.ndarray | None:
    """Return the images of what some elements of `other` generate, -1 elsewhere; None where none are possible."""
    result = np.full(other.order, -1)
    result[other.identity] = group.identity
    new = np.array([other.identity])
    while new.size:
        reached = []
        for generator, image in zip(chosen, images, strict=True):
            products, wanted = other.table[new, generator], group.table[result[new], image]
            known = result[products] >= 0
            if (result[products[known]] != wanted[known]).any():
                return None
            result[products[~known]] = wanted[~known]
            reached.append(products[~known])
        new = np.unique(np.concatenate(reached)) if reached else new[:0]
    mapped = result[result >= 0]
    return None if len(np.unique(mapped)) < len(mapped) else result


def _generators(group: FiniteGroup, colours: list[tuple], counts: dict[tuple, int]) -> list[int]:
    """Return generators with few possible images: each, of the elements that add most, one of the rarest colour."""
    chosen: list[int] = []
    inside = np.arange(group.order) == group.identity
    while not inside.all():
        rare = sorted(np.flatnonzero(~inside), key=lambda i: counts[colours[i]])
        # One of each colour is enough to find elements that add much.
        tried = {colours[i]: int(i) for i in reversed(rare)}
        sizes = {i: generated(group.table, [*chosen, i]).sum() for i in tried.values()}
        best = max(sizes, key=lambda i: (sizes[i], -counts[colours[i]]))
        chosen.append(best)
        inside = generated(group.table, chosen) | inside
    return chosen


def _colours(group: FiniteGroup) -> list[tuple]:
    """Return what every isomorphism keeps of each element, the same in isomorphic groups."""
    n, table = group.order, group.table
    sizes = np.bincount(group.classes)[group.classes]
    squares = table[np.arange(n), np.arange(n)]
    roots = np.bincount(squares, minlength=n)
    own = np.stack([group.element_orders, sizes, roots, roots[squares]], axis=1)
    cubes = table[squares, np.arange(n)]
    return [tuple(map(int, (*own[i], *own[squares[i]], *own[cubes[i]]))) for i in range(n)]


@functools.cache
def candidates(order: int) -> tuple[str, ...]:
    """Return the names of groups with so many elements: single groups first, then products of few factors.

    Groups that have another name before are left out, such as D3, which is S3.
    """
    chex.assert_scalar_positive(order)
    names = ("x".join(factors) for factors in _products(order, tuple(_members(order))))
    return tuple(sorted(names, key=lambda name: name.count("x"))) if order > 1 else ("C1",)


def _products(order: int, members: tuple[tuple[str, int], ...]) -> Iterator[tuple[str, ...]]:
    """Yield products of some groups, in the order of the list, with so many elements."""
    for i, (name, size) in enumerate(members):
        if size == order:
            yield (name,)
        elif order % size == 0:
            yield from ((name, *rest) for rest in _products(order // size, members[i:]))


def _members(most: int) -> Iterator[tuple[str, int]]:
    """Yield the groups of all families with at most so many elements, from two on, and their orders."""
    for letter, family in families.FAMILIES.items():
        for n in itertools.count(family.new_from):
            if family.order(n) > most:
                break
            if family.valid[1](n):
                yield f"{letter}{n}", family.order(n)
