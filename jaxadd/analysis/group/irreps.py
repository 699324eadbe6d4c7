"""The irreducible real representations of a finite group, computed from its Cayley table in float64.

Sums over a conjugacy class and its inverses commute with each other and are symmetric, so one eigenproblem of their
size has all real characters as its eigenvectors (Burnside's method, for real representations). Characters are enough
for everything that is measured: `projector` makes of a character the projection on the functions that the matrix
entries of its irrep span. Nothing is tabulated. Serre 1977, "Linear Representations of Finite Groups".
"""

import functools
import math
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxadd.tasks.group.finite import FiniteGroup
from jaxadd.tasks.group.task import Known

_TRIES = 8  # Random elements, of which that with the best separated eigenvalues is taken.
_KINDS = {1: ("real", 1), 0: ("complex", 2), -1: ("quaternionic", 4)}


class Irrep(NamedTuple):
    """An irreducible real representation ρ.

    Attributes:
      name: trivial, sign, standard, standard⊗sign, or its dimension and more, such as "5d_b"; see `meaning`.
      dimension: d, of the real representation.
      kind: "real"; "complex" or "quaternionic" where it is two complex irreps, conjugate or equal, of dimension d/2.
      commutant: e, the dimension of what commutes with it: 1, 2 or 4 by its kind.
      character: tr ρ(g), float64 `[n]`.
    """

    name: str
    dimension: int
    kind: str
    commutant: int
    character: np.ndarray


def projector(group: FiniteGroup, character: np.ndarray, weight: float) -> np.ndarray:
    """Return the matrix with weight·χ(s t⁻¹) at (s, t), float64 `[n, n]`.

    With the weight d/(e n) of an irrep it is the projection of functions on G on the span of its matrix entries.
    """
    return weight * character[group.table[:, group.inverse]]


@functools.lru_cache(maxsize=16)
def irreps(group: FiniteGroup) -> tuple[Irrep, ...]:
    """Compute all irreducible real representations of a group, by dimension, the trivial one first.

    Raises:
      ArithmeticError: they do not satisfy Σ d²/e = n, or are not orthogonal, to 1e-6.
    """
    characters, kinds = _characters(group)
    found = []
    for character, kind in zip(characters, kinds, strict=True):
        words, commutant = _KINDS[kind]
        dimension = round(math.sqrt(commutant) * character[group.identity])
        found.append(("", dimension, words, commutant, math.sqrt(commutant) * character))
    _check(group, found)
    # By dimension, and then from the largest character of the first class in which they differ.
    found.sort(key=lambda irrep: (irrep[1], *(-np.round(irrep[4], 6))))
    names = _names(group, [Irrep(*irrep) for irrep in found])
    return tuple(Irrep(name, *irrep[1:]) for name, irrep in zip(names, found, strict=True))


def irreps_of(known: Known) -> tuple[Irrep, ...]:
    """Return the irreps of a task's group, in the order and with the names of those of the named group, if any."""
    return tuple(irrep._replace(character=irrep.character[known.to]) for irrep in irreps(known.reference))


def _characters(group: FiniteGroup) -> tuple[np.ndarray, np.ndarray]:
    """Return the real characters divided by √e, so that their mean square is 1, `[k, n]`; and their indicators."""
    n, classes = group.order, group.classes
    merged = np.unique(np.minimum(classes, classes[group.inverse]), return_inverse=True)[1]
    sizes = np.bincount(merged)
    count = len(sizes)
    first = np.unique(merged, return_index=True)[1]
    # At (j, c): how often each class leads from the first element of class j to class c, by right multiplication.
    target = merged[group.table[first]]
    scale = np.sqrt(sizes[:, None] / sizes)
    best, vectors = -1.0, np.ones((count, count))
    for seed in range(_TRIES):
        weights = np.random.default_rng(seed).normal(size=count)[merged]
        matrix = np.stack([np.bincount(row, weights, count) for row in target]) * scale
        values, found = np.linalg.eigh((matrix + matrix.T) / 2)
        gap = np.min(np.diff(values), initial=np.inf) / max(np.ptp(values), 1e-300) if count > 1 else 1.0
        if gap > best:
            best, vectors = gap, found
    characters = (math.sqrt(n) * vectors / np.sqrt(sizes)[:, None]).T[:, merged]
    characters *= np.sign(characters[:, [group.identity]])
    squares = group.table[np.arange(n), np.arange(n)]
    return characters, np.rint(np.mean(characters[:, squares], axis=1)).astype(int)


def _check(group: FiniteGroup, found: list) -> None:
    total = sum(dimension**2 // commutant for _, dimension, _, commutant, _ in found)
    characters = np.stack([character / math.sqrt(commutant) for *_, commutant, character in found])
    error = np.abs(characters @ characters.T / group.order - np.eye(len(found))).max()
    if total != group.order or error > 1e-6:
        raise ArithmeticError(
            f"the irreps of {group.name} were not found: Σ d²/e is {total} of {group.order}, and characters are "
            f"orthogonal to {error:.1e}"
        )


def meaning(names: Sequence[str], group: FiniteGroup) -> str:
    """Return a sentence with the rules by which irreps have names such as 2d_3, 5d_b or 6d.

    Args:
      names: of irreps of the group.
      group: the group, with the elements of which they are the irreps.

    Returns:
      a rule for each kind of name that there is; "" where all are names that people write, such as "sign".
    """
    rules = {
        r"\d+d.*": "the number before d is the dimension",
        r"\d+d_\d+": f"with k after _, element {group.elements[min(1, group.order - 1)]} acts as a rotation by "
        f"k/{group.element_orders[min(1, group.order - 1)]} of a turn",
        r"\d+d_[a-z]+": "with letters after _, they are in descending order of their characters at the first element "
        "where these differ",
        r"\d+d": "without _, it is the only one of its dimension without a name of its own",
    }
    needed = [rule for kind, rule in rules.items() if any(re.fullmatch(kind, name) for name in names)]
    return f"Names of irreps: {'; '.join(needed)}." if needed else ""


def _names(group: FiniteGroup, found: list[Irrep]) -> list[str]:
    """Name irreps: sign is the only other one of dimension 1, standard that of permuted points; others by `_ends`."""
    names = {0: "trivial"}
    lines = [i for i, irrep in enumerate(found) if irrep.dimension == 1]
    if len(lines) == 2:
        names[lines[1]] = "sign"
    if group.points is not None:
        fixed = np.sum(group.points == np.arange(group.points.shape[1]), axis=1) - 1.0
        wanted = {"standard": fixed}
        if len(lines) == 2:
            wanted["standard⊗sign"] = fixed * found[lines[1]].character
        for name, character in wanted.items():
            for i, irrep in enumerate(found):
                if i not in names and np.abs(irrep.character - character).max() < 1e-6:
                    names[i] = name
    for dimension in {irrep.dimension for irrep in found}:
        others = [i for i, irrep in enumerate(found) if irrep.dimension == dimension and i not in names]
        for i, end in zip(others, _ends(group, [found[i] for i in others]), strict=True):
            names[i] = f"{dimension}d{end}"
    return [names[i] for i in range(len(found))]


def _ends(group: FiniteGroup, found: list[Irrep]) -> list[str]:
    """Return what tells irreps of one dimension apart: "_k" where they turn element 1 by k/m, its order; or letters.

    Of cyclic, dihedral and dicyclic groups element 1 is the rotation, and k is the frequency.
    """
    if len(found) < 2:
        return [""] * len(found)
    dimension, m = found[0].dimension, int(group.element_orders[1])
    cosines = np.array([irrep.character[1] for irrep in found]) / dimension
    turns = np.arccos(np.clip(cosines, -1, 1)) * m / (2 * np.pi)
    # A trace is that of one rotation in a plane, or of two equal ones in a quaternionic irrep of dimension 4.
    plane = dimension == 2 or (dimension == 4 and all(irrep.kind == "quaternionic" for irrep in found))
    whole = np.rint(turns).astype(int)
    if plane and np.abs(np.cos(2 * np.pi * whole / m) - cosines).max() < 1e-6 and len(set(whole)) == len(found):
        return [f"_{k}" for k in whole]
    return [f"_{_letters(i)}" for i in range(len(found))]


def _letters(i: int) -> str:
    """Return a, b, …, z, aa, ab, … by number from 0."""
    return (_letters(i // 26 - 1) if i >= 26 else "") + string.ascii_lowercase[i % 26]
