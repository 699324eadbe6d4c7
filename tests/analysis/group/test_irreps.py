"""Irreps of finite groups: they are representations, irreducible, orthogonal and complete, and have their names."""

import functools
import itertools
import re

import numpy as np
import pytest
from representations import matrices, span

from jaxadd.analysis.group.irreps import irreps, meaning
from jaxadd.tasks.group import families
from jaxadd.tasks.group.finite import FiniteGroup, generators

GROUPS = ["S3", "S4", "S5", "S6", "A4", "A5", *(f"D{n}" for n in range(3, 13)), "D59", "C2xC4", "C7", "Q8", "Q12xC3"]


@functools.cache
def represented(name):
    group = families.by_name(name)
    found = irreps(group)
    return group, found, [matrices(group, irrep) for irrep in found]


@pytest.mark.parametrize("name", GROUPS)
def test_matrices_are_orthogonal_representations(name):
    group, found, acting = represented(name)
    for irrep, rho in zip(found, acting, strict=True):
        np.testing.assert_allclose(rho @ rho.transpose(0, 2, 1), np.eye(irrep.dimension) + 0 * rho, atol=1e-10)
        np.testing.assert_allclose(np.trace(rho, axis1=1, axis2=2), irrep.character, atol=1e-10)
        for g in generators(group.table):  # Every element is a product of these, so that this is all products.
            np.testing.assert_allclose(rho[group.table[:, g]], rho @ rho[g], atol=1e-10)


@pytest.mark.parametrize("name", GROUPS)
def test_matrix_entries_are_orthogonal_and_span_all_functions(name):
    """Schur: mean ρ_ij σ_kl is 0 for different irreps, and within one a projection of their rank, times e/d."""
    group, found, acting = represented(name)
    n = group.order
    entries = [rho.reshape(n, -1) for rho in acting]
    gram = np.concatenate(entries, axis=1).T @ np.concatenate(entries, axis=1) / n
    ends = np.cumsum([0, *(part.shape[1] for part in entries)])
    for i, irrep in enumerate(found):
        own = slice(ends[i], ends[i + 1])
        assert np.abs(np.delete(gram[own], np.r_[own], axis=1)).max(initial=0) < 1e-6
        projection = irrep.dimension / irrep.commutant * gram[own, own]
        np.testing.assert_allclose(projection @ projection, projection, atol=1e-6)
        assert np.trace(projection) == pytest.approx(irrep.dimension**2 / irrep.commutant, abs=1e-6)
        if irrep.kind == "real":
            np.testing.assert_allclose(projection, np.eye(irrep.dimension**2), atol=1e-6)
    # Over the complex numbers ρ is one irrep, two conjugate ones, or one twice.
    complex_dimensions = [
        irrep.dimension // {"real": 1, "complex": 2, "quaternionic": 2}[irrep.kind]
        for irrep in found
        for _ in range(2 if irrep.kind == "complex" else 1)
    ]
    assert sum(d * d for d in complex_dimensions) == n
    assert sum(irrep.dimension**2 // irrep.commutant for irrep in found) == n


@pytest.mark.parametrize("name", GROUPS)
def test_characters_satisfy_both_orthogonality_relations(name):
    group, found, _ = represented(name)
    characters = np.stack([irrep.character for irrep in found])
    commutants = [irrep.commutant for irrep in found]
    np.testing.assert_allclose(characters @ characters.T / group.order, np.diag(commutants), atol=1e-6)
    columns = np.einsum("kg,kh,k->gh", characters, characters, 1 / np.array(commutants))
    # The centraliser's order for conjugate elements, half of it from each of a class and its inverse.
    commuting = np.sum(group.table == group.table.T, axis=1)
    same = (group.classes[:, None] == group.classes).astype(float)
    inverse = (group.classes[:, None] == group.classes[group.inverse]).astype(float)
    np.testing.assert_allclose(columns, commuting[:, None] * (same + inverse) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("S3", ["trivial", "sign", "standard"]),
        ("S4", ["trivial", "sign", "2d", "standard", "standard⊗sign"]),
        ("S5", ["trivial", "sign", "standard", "standard⊗sign", "5d_a", "5d_b", "6d"]),
        ("A5", ["trivial", "3d_a", "3d_b", "standard", "5d"]),
        ("D4", ["trivial", "1d_a", "1d_b", "1d_c", "2d"]),
        ("C7", ["trivial", "2d_1", "2d_2", "2d_3"]),
        ("C1", ["trivial"]),
    ],
)
def test_irreps_have_the_names_that_people_write(name, want):
    assert [irrep.name for irrep in represented(name)[1]] == want


DIMENSION = "Names of irreps: the number before d is the dimension"
TURN = "with k after _, element {} acts as a rotation by k/{} of a turn"
LETTERS = (
    "with letters after _, they are in descending order of their characters at the first element where these differ"
)
ALONE = "without _, it is the only one of its dimension without a name of its own"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("S3", ""),
        ("D7", f"{DIMENSION}; {TURN.format('r', 7)}."),
        ("C9", f"{DIMENSION}; {TURN.format('1', 9)}."),
        ("Q24", f"{DIMENSION}; {TURN.format('r', 12)}; {LETTERS}."),
        ("S4", f"{DIMENSION}; {ALONE}."),
        ("S5", f"{DIMENSION}; {LETTERS}; {ALONE}."),
    ],
)
def test_the_names_are_explained_and_no_two_irreps_have_one(name, said):
    group, found, _ = represented(name)
    names = [irrep.name for irrep in found]
    assert len(set(names)) == len(names)
    text = meaning(names, group)
    assert text == said
    # A number is that of the turn: tr ρ(g) of the element 1 is d cos(2πk/m).
    order = next(m for m in range(1, 99) if power(group, 1, m) == group.identity)
    for irrep in found:
        if re.fullmatch(r"\d+d_\d+", irrep.name):
            k = int(irrep.name.partition("_")[2])
            assert irrep.character[1] == pytest.approx(irrep.dimension * np.cos(2 * np.pi * k / order))
    # Letters are in descending order of the first character that differs.
    lettered = [irrep for irrep in found if re.fullmatch(r"\d+d_[a-z]+", irrep.name)]
    for one, other in itertools.pairwise(lettered):
        if one.dimension == other.dimension:
            differ = np.abs(one.character - other.character) > 1e-6
            at = np.argmax(differ)
            assert one.character[at] > other.character[at]


def power(group, element, exponent):
    return functools.reduce(lambda a, _: group.table[a, element], range(exponent), group.identity)


def test_kinds_are_real_complex_and_quaternionic():
    kinds = {irrep.name: irrep.kind for irrep in represented("Q8")[1]}
    assert kinds == {"trivial": "real", **{f"1d_{k}": "real" for k in "abc"}, "4d": "quaternionic"}
    assert [irrep.kind for irrep in represented("C7")[1]] == ["real", "complex", "complex", "complex"]
    # Frequency k of a cyclic group is its k-th two-dimensional irrep.
    waves = [2 * np.cos(2 * np.pi * k * np.arange(7) / 7) for k in (1, 2, 3)]
    np.testing.assert_allclose([irrep.character for irrep in represented("C7")[1][1:]], waves, atol=1e-12)


def test_projections_on_the_spans_add_up_to_everything():
    group, found, acting = represented("D6")
    parts = [span(group, irrep) for irrep in found]
    np.testing.assert_allclose(sum(parts), np.eye(12), atol=1e-12)
    for part, rho in zip(parts, acting, strict=True):
        np.testing.assert_allclose(part @ rho.reshape(12, -1), rho.reshape(12, -1), atol=1e-12)


def test_a_table_that_is_no_group_has_no_irreps():
    table = np.array(families.by_name("C4").table)
    table[1, 2], table[1, 1] = table[1, 1], table[1, 2]
    with pytest.raises((ArithmeticError, ValueError)):
        irreps(FiniteGroup("nothing", table, tuple("0123")))
