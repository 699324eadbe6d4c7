"""Finite groups: by name, by table and by file, recognised in any order of elements, and as a task."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.errors import UserError
from jaxadd.tasks import Group
from jaxadd.tasks.group import families, finite, recognition
from jaxadd.tasks.group.finite import FiniteGroup
from jaxadd.types import Sizes


def shuffled(group, seed=0):
    """The same group with its elements in another order: element order[i] is number i."""
    order = np.random.default_rng(seed).permutation(group.order)
    number = np.argsort(order)
    table = number[group.table[np.ix_(order, order)]].astype(np.int32)
    return FiniteGroup("shuffled", table, tuple(map(str, range(group.order)))), order


@pytest.mark.parametrize(
    ("name", "order", "classes", "commuting"),
    [
        ("S3", 6, 3, 1 / 2),
        ("S5", 120, 7, 7 / 120),
        ("S6", 720, 11, 11 / 720),
        ("A4", 12, 4, 1 / 3),
        ("A5", 60, 5, 1 / 12),
        ("D59", 118, 31, 31 / 118),
        ("C2xC4", 8, 8, 1),
        ("S3×C₂", 12, 6, 1 / 2),
        ("Q8", 8, 5, 5 / 8),
        ("C1", 1, 1, 1),
    ],
)
def test_named_groups(name, order, classes, commuting):
    group = families.by_name(name)
    assert finite.violation(group.table) is None
    assert (group.order, len(set(group.classes.tolist()))) == (order, classes)
    assert finite.commuting(group.table) == pytest.approx(commuting)
    assert len(set(group.elements)) == order
    assert group.elements[group.identity] in ("e", "0", "(0, 0)", "(e, 0)")
    np.testing.assert_array_equal(group.table[np.arange(order), group.inverse], group.identity)


def test_elements_are_written_as_people_write_them():
    s4 = families.by_name("S4")
    products = {(a, b): s4.elements[s4.table[s4.elements.index(a), s4.elements.index(b)]] for a, b in (
        ("(1 2)", "(2 3)"), ("(1 2)(3 4)", "(1 3)"), ("(1 2 3 4)", "(1 2 3 4)"))}  # fmt: skip
    # The right permutation is applied first: (2 3) takes 3 to 2, and (1 2) that to 1.
    assert list(products.values()) == ["(1 2 3)", "(1 4 3 2)", "(1 3)(2 4)"]
    d5 = families.by_name("D5")
    assert d5.elements == ("e", "r", "r^2", "r^3", "r^4", "s", "r s", "r^2 s", "r^3 s", "r^4 s")
    s, r = d5.elements.index("s"), d5.elements.index("r")
    assert d5.elements[d5.table[s, r]] == "r^4 s"
    assert families.by_name("C2xC3").elements == ("(0, 0)", "(0, 1)", "(0, 2)", "(1, 0)", "(1, 1)", "(1, 2)")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("S20", r"S20 has 2\.4e\+18 elements, a table of .* products; expected at most 4,096"),
        ("S99", r"S99 has 9\.3e\+155 elements, a table of 8\.7e\+311 products"),
        ("D4000", "D4000 has 8,000 elements, a table of 64,000,000 products"),
        ("S6xS6", "has 518,400 elements"),
        ("S5000", "S5000 has at least 5,000 elements; expected at most 4,096"),
        ("five", "no group is named 'five'; expected names such as S5, A4"),
        ("S0", "the number of S must be from 1, got 0"),
        ("Q6", "the number of Q must be a multiple of 4, from 8, got 6"),
    ],
)
def test_names_of_no_group_and_groups_too_large(name, words):
    with pytest.raises(UserError, match=words):
        Group(name=name)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([[0, 1], [1, 2]], "it is not closed: 1·1 = 2"),
        ([[0, 1, 2], [1, 2, 0], [2, 1, 0]], r"it is not associative: \(\d·\d\)·\d = \d, and"),
        ([[0, 0], [0, 0]], "it has no identity"),
        ([[0, 1], [1, 1]], "1 has no inverse: no product 1·b is the identity, 0"),
        ([[0, 1, 2]], "as many rows as columns"),
    ],
)
def test_the_first_violated_axiom_is_named(table, words, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in table))
    with pytest.raises(UserError, match=words) as raised:
        Group(file=str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("form", ["0 based text", "1 based csv", "npy"])
def test_a_table_is_read_from_a_file(form, tmp_path):
    table = families.by_name("S3").table
    path = tmp_path / ("table.npy" if form == "npy" else "table.txt")
    if form == "npy":
        np.save(path, table)
    else:
        rows = [map(str, row) for row in table + (form == "1 based csv")]
        path.write_text("\n".join((", " if "csv" in form else " ").join(row) for row in rows) + "\n\n")
    task = Group(file=str(path), train_fraction=0.5)
    np.testing.assert_array_equal(task.group.table, table)
    assert task.title == "a·b in S3, trained on 50%"
    assert set(task.group.elements) == set(families.by_name("S3").elements)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it is empty"),
        ("0 one\n1 0", "holds no Cayley table of numbers: 'one' is no whole number"),
        ("0 1\n1", "its rows differ in length"),
    ],
)
def test_files_that_hold_no_table(content, words, tmp_path):
    path = tmp_path / "table.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        Group(file=str(path))
    with pytest.raises(UserError, match="there is no file"):
        Group(file=str(tmp_path / "missing.txt"))


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_lights_test_agrees_with_all_triples(n, seed):
    table = np.random.default_rng(seed).integers(0, n, (n, n))
    if seed % 3 == 0:  # Nearly a group.
        table = (np.arange(n)[:, None] + np.arange(n)) % n
        table[seed % n, seed // 7 % n] = seed // 3 % n
    triples = [
        t
        for t in itertools.product(range(n), repeat=3)
        if table[table[t[0], t[1]], t[2]] != table[t[0], table[t[1], t[2]]]
    ]
    found = finite.not_associative(table)
    assert found in triples if triples else found is None


RECOGNISED = [
    "S3",
    "S4",
    "S5",
    "A4",
    "A5",
    "D4",
    "D59",
    "Q8",
    "Q12",
    "C12",
    "C113",
    "C2xC4",
    "C2xC6",
    "C2xC2xC2",
    "C2xD4",
    "S3xS3",
]


@pytest.mark.parametrize("name", RECOGNISED)
def test_a_group_is_recognised_in_any_order_of_elements(name):
    group = families.by_name(name)
    other, _ = shuffled(group, seed=len(name))
    found = recognition.recognise(other)
    assert found.group.name == name
    # An isomorphism, from the shuffled table to the named one.
    np.testing.assert_array_equal(found.to[other.table], found.group.table[np.ix_(found.to, found.to)])
    assert sorted(found.to) == list(range(group.order))


def test_groups_of_one_order_are_told_apart_and_other_names_are_the_same_group():
    eight = ["C8", "C2xC4", "C2xC2xC2", "D4", "Q8"]
    for a, b in itertools.combinations(eight, 2):
        assert recognition.isomorphism(families.by_name(a), families.by_name(b)) is None
    for a, b in (("D3", "S3"), ("C2xC3", "C6"), ("D2", "C2xC2"), ("A3", "C3"), ("D6", "C2xS3")):
        assert recognition.isomorphism(families.by_name(a), families.by_name(b)) is not None


def test_a_group_of_no_family_has_no_name():
    # The affine maps x ↦ m x + t mod 7 with m in {1, 2, 4}: 21 elements.
    maps = [(m, t) for m in (1, 2, 4) for t in range(7)]
    cells = [maps.index((m * k % 7, (m * u + t) % 7)) for m, t in maps for k, u in maps]
    task = Group(table=tuple(cells), train_fraction=0.5)
    assert task.title == "a·b in a group of order 21, trained on 50%"
    assert task.known.named is None
    assert task.group.elements[:2] == ("0", "1")


@pytest.mark.parametrize(
    ("operation", "formula"),
    [
        ("product", lambda g, a, b: g.table[a, b]),
        ("conjugate", lambda g, a, b: g.table[g.table[a, b], g.inverse[a]]),
        ("aba", lambda g, a, b: g.table[a, g.table[b, a]]),
    ],
)
def test_every_pair_once_with_the_correct_answer(operation, formula):
    task = Group(name="S3", operation=operation, train_fraction=0.5, equals="none")
    data = task.data([0])
    data = data._replace(lane={name: x[0] for name, x in data.lane.items()})
    train, test = task.train_batch(data, jax.random.key(0), jnp.int32(0)), task.test_batch(data)
    inputs, targets = (
        np.concatenate([np.asarray(getattr(b, what)) for b in (train, test)]) for what in ("inputs", "targets")
    )
    assert len(train.inputs) == 18
    assert len({tuple(pair) for pair in inputs.tolist()}) == 36
    group = task.group
    assert [int(formula(group, a, b)) for a, b in inputs] == targets[:, 0].tolist()


@pytest.mark.parametrize(
    ("equals", "sizes"),
    [
        ("class", Sizes(3, 9, 9, read=(2,))),
        ("token", Sizes(3, 8, 9, read=(2,))),
        ("none", Sizes(2, 8, 8, read=(1,))),
    ],
)
def test_sizes_and_names(equals, sizes):
    task = Group(name="Q8", equals=equals, train_fraction=0.5)
    assert task.sizes == sizes
    assert task.token_names == (*families.by_name("Q8").elements, "=")[: sizes.vocabulary]
    assert task.position_names == ("a", "b", "=")[: sizes.length]


def test_the_same_split_as_modular_arithmetic_and_wrong_labels():
    from jaxadd.tasks import Modular

    noise = {"train_fraction": 0.4, "label_noise": 0.25, "batch_size": 5}
    ours, theirs = Group(name="C11", **noise), Modular(p=11, **noise)
    for a, b in zip(jax.tree.leaves(ours.data((3,)).lane), jax.tree.leaves(theirs.data((3,)).lane), strict=True):
        np.testing.assert_array_equal(a, b)
    ours, theirs = (
        task.train_batch(
            task.data((3,))._replace(lane={k: v[0] for k, v in task.data((3,)).lane.items()}),
            jax.random.key(0),
            jnp.int32(4),
        )
        for task in (ours, theirs)
    )
    np.testing.assert_array_equal(ours.inputs, theirs.inputs)
    np.testing.assert_array_equal(ours.targets, theirs.targets)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train_fraction": 1.0}, "leaves 14400 to train on"),
        ({"operation": "power"}, "operation must be one of product"),
        ({"label_noise": 2.0}, "label_noise must be from 0 to 1"),
        ({"batch_size": 10**5}, "batch_size must be from 1 to the 4320 training examples"),
        ({"file": "x", "table": (0,)}, "file and table both name"),
        ({"table": (0, 1, 1)}, "has n² entries"),
        ({"table": (0, 1, 1, 1)}, "not that of a group: 1 has no inverse"),
    ],
)
def test_bad_fields(fields, words):
    with pytest.raises(UserError, match=words):
        Group(**fields)


def test_problems_and_predictions_in_words():
    task = Group(name="S3", train_fraction=0.5)
    a, b = task.parse("(1 2) * (2 3)=")
    np.testing.assert_array_equal(task.parse("(12)·(23)".replace("12", "1 2").replace("23", "2 3")), [a, b])
    target = int(task.group.table[a, b])
    text = task.describe(np.array([a, b, 6]), np.array([target]), np.array([0]))
    assert text == "(1 2)·(2 3) in S3: predicts e, the answer is (1 2 3)"
    assert "predicts =" in task.describe(np.array([a, b, 6]), np.array([target]), np.array([6]))
    assert "predicts nothing" in task.describe(np.array([a, b, 6]), np.array([target]), np.array([-1]))
    conjugate = replace(task, operation="conjugate")
    assert conjugate.formula(a, b) == "(1 2)·(2 3)·(1 2)⁻¹"
    for text in ("(1 2)", "(1 2)*(2 4)", "a*b*c"):
        with pytest.raises(UserError, match=r"is no problem in S3; write a and b such as"):
            task.parse(text)
