"""Modular arithmetic: the published data exactly, every pair once, and answers in words."""

import functools
import hashlib
import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.errors import UserError
from jaxadd.tasks import Modular
from jaxadd.tasks.modular import OPERATIONS, multiplicative
from jaxadd.types import Sizes


def lane(data, s=0):
    return data._replace(lane=jax.tree.map(lambda x: x[s], data.lane))


@pytest.mark.parametrize(
    ("seed", "first", "total", "digest"),
    [
        (0, [(18, 34), (10, 83), (55, 28), (25, 51), (63, 65)], 24672933, "05e31aeca9c7a58572c2897966d0b301"),
        (1, [(58, 58), (76, 57), (60, 23)], 24321622, "9887230a62d0120282205b60c018bffd"),
        (2, [(5, 5), (76, 6), (99, 17)], 24161830, "4d43ca4e665375b9826617837fe046f2"),
    ],
)
def test_published_split(seed, first, total, digest):
    data = Modular().data([seed])
    train = np.asarray(data.lane["train"][0])
    assert train.shape == (3830,)
    assert data.lane["test"].shape == (1, 8939)
    assert [divmod(int(i), 113) for i in train[: len(first)]] == first
    assert train.sum() == total
    assert hashlib.sha256(",".join(map(str, train)).encode()).hexdigest()[:32] == digest


def quotient(a, b, p):
    return a * pow(b, -1, p)


FORMULAS = {
    "add": lambda a, b, p: a + b,
    "subtract": lambda a, b, p: a - b,
    "multiply": lambda a, b, p: a * b,
    "divide": quotient,
    "a2+b2": lambda a, b, p: a**2 + b**2,
    "a2+ab+b2": lambda a, b, p: a**2 + a * b + b**2,
    "a2+ab+b2+a": lambda a, b, p: a**2 + a * b + b**2 + a,
    "a3+ab": lambda a, b, p: a**3 + a * b,
    "a3+ab2+b": lambda a, b, p: a**3 + a * b**2 + b,
    "divide-if-odd": lambda a, b, p: quotient(a, b, p) if b % 2 else a - b,
}
ON_UNITS = ("multiply", "divide")


@functools.partial(jax.jit, static_argnums=0)
def batches(task, data):
    return task.train_batch(data, jax.random.key(0), jnp.int32(3)), task.test_batch(data)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([3, 8, 12, 31]),
    st.sampled_from(sorted(FORMULAS)),
    st.sampled_from(["python", "keyed"]),
    st.integers(0, 99),
)
def test_every_problem_once_with_the_correct_answer(p, operation, split, seed):
    if operation == "divide-if-odd" and p == 12:
        return  # 3 and 9 have no inverse.
    task = Modular(p=p, operation=operation, split=split, train_fraction=0.5)
    data = lane(task.data([seed]))
    train, test = jax.device_get(batches(replace(task, split="python"), data))
    operands = [r for r in range(p) if operation not in ON_UNITS or math.gcd(r, p) == 1]
    assert len(train.inputs) == int(0.5 * len(operands) ** 2)
    seen = set()
    for batch in (train, test):
        for (a, b, equals), (c,) in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            assert equals == p
            assert c == FORMULAS[operation](a, b, p) % p
            seen.add((a, b))
    assert seen == set(itertools.product(operands, repeat=2))


def test_formulas_are_exact_at_the_largest_modulus():
    p, pairs = 4093, np.random.default_rng(0).integers(1, 4093, (2, 500))
    for operation, rule in OPERATIONS.items():
        if rule.formula is not None:
            found = np.asarray(rule.apply([jnp.asarray(x, jnp.int32) for x in pairs], p))
            exact = [FORMULAS[operation](a, b, p) % p for a, b in pairs.T.tolist()]
            np.testing.assert_array_equal(found, exact, err_msg=operation)


@pytest.mark.parametrize(
    ("operation", "count", "words"),
    [
        ("add", 3, "1 + 2 + 3 mod 5"),
        ("subtract", 4, "1 - 2 - 3 - 4 mod 5"),
        ("multiply", 3, "1 × 2 × 3 mod 5"),
        ("divide", 3, "1 ÷ 2 ÷ 3 mod 5"),
    ],
)
def test_any_number_of_operands(operation, count, words):
    task = Modular(p=5, operation=operation, operands=count, train_fraction=0.5, equals="token")
    fold = lambda row: functools.reduce(lambda a, b: FORMULAS[operation](a, b, 5), row) % 5
    batch = task.batch(np.arange(task.problems), {})
    assert task.sizes == Sizes(count + 1, 5, 6, read=(count,))
    assert task.position_names == (*"abcd"[:count], "=")
    rows = np.asarray(batch.inputs)[:, :-1].tolist()
    assert rows == [list(row) for row in itertools.product(task.elements.tolist(), repeat=count)]
    assert batch.targets[:, 0].tolist() == [fold(row) for row in rows]
    answer = np.array([fold([1, 2, 3, 4][:count])])
    assert task.describe(np.array([*[1, 2, 3, 4][:count], 5]), answer, answer).startswith(f"{words}: ")


# --- groups -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [3, 4, 5, 8, 9, 15, 16, 24, 30, 49, 105, 113, 128])
def test_the_units_are_a_product_of_cyclic_groups(p):
    """The coordinates of a product are the sums of the coordinates: an isomorphism, in lexicographic order."""
    group = multiplicative(p)
    assert sorted(group.elements) == [r for r in range(1, p) if math.gcd(r, p) == 1]
    coordinates = np.array(list(itertools.product(*map(range, group.orders)))).reshape(len(group.elements), -1)
    place = {element: tuple(x) for element, x in zip(group.elements, coordinates.tolist(), strict=True)}
    for a, b in itertools.product(group.elements[:40], repeat=2):
        total = (np.array(place[a]) + place[b]) % group.orders
        assert place[a * b % p] == tuple(total.tolist())
    assert all(pow(g, n, p) == 1 for g, n in zip(group.generators, group.orders, strict=True))


def test_known_generators():
    assert multiplicative(113).generators == (3,)
    assert multiplicative(113).orders == (112,)
    assert multiplicative(2).elements == (1,)
    assert multiplicative(15).orders == (2, 4)
    assert Modular(p=15, operation="divide").group is multiplicative(15)
    assert Modular(p=15).group.elements == tuple(range(15))
    assert Modular(operation="a3+ab").group is None


@pytest.mark.parametrize("operation", [name for name, rule in OPERATIONS.items() if rule.group])
def test_operations_are_sums_or_differences_in_their_group(operation):
    task = Modular(p=15, operation=operation)
    group = task.group
    coordinates = np.array(list(itertools.product(*map(range, group.orders))))
    place = np.zeros((15, len(group.orders)), int)
    place[list(group.elements)] = coordinates
    batch = task.batch(np.arange(task.problems), {})
    a, b = np.asarray(batch.inputs)[:, :2].T
    expected = (place[a] + task.rule.sign * place[b]) % group.orders
    np.testing.assert_array_equal(place[np.asarray(batch.targets)[:, 0]], expected)


def test_random_table_is_fixed_and_shared_by_lanes():
    task = Modular(p=11, operation="random")
    one, other = (task.data([seed]) for seed in (0, 5))
    np.testing.assert_array_equal(one.shared["table"], other.shared["table"])
    (_, batch), (_, again) = batches(task, lane(one)), batches(task, lane(other))
    answers = {tuple(pair): c for pair, (c,) in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)}
    for pair, (c,) in zip(again.inputs.tolist(), again.targets.tolist(), strict=True):
        assert answers.get(tuple(pair), c) == c
    assert len(np.unique(one.shared["table"])) > 8
    assert not np.array_equal(
        one.shared["table"], Modular(p=11, operation="random", table_seed=1).data([0]).shared["table"]
    )


@pytest.mark.parametrize("split", ["python", "keyed"])
def test_lanes_have_their_own_split_by_default(split):
    free = Modular(p=13, split=split).data([3, 4]).lane["train"]
    assert not np.array_equal(free[0], free[1])
    np.testing.assert_array_equal(free[1], Modular(p=13, split=split).data([4]).lane["train"][0])
    tied = Modular(p=13, split=split, split_seed=4).data([3, 4]).lane["train"]
    np.testing.assert_array_equal(tied[0], free[1])
    np.testing.assert_array_equal(tied[1], free[1])


def test_minibatches_come_from_the_train_set():
    task = Modular(p=13, batch_size=7)
    data = lane(task.data([0]))
    train = set(np.asarray(data.lane["train"]).tolist())
    batch = jax.jit(task.train_batch)(data, jax.random.key(0), np.int32(5))
    assert {13 * a + b for a, b, _ in batch.inputs.tolist()} < train
    assert batch.inputs.shape == (7, 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"p": 1}, "modulus from 2"),
        ({"operation": "power"}, "operation must be one of add"),
        ({"p": 2, "operation": "divide"}, "a ÷ b is defined on the units mod p, and mod 2 the only unit is 1"),
        ({"p": 15, "operation": "divide-if-odd"}, "no inverse mod 15, 3 the first of them; p must be a prime or"),
        ({"operation": "a3+ab", "operands": 3}, "operands must be 2, or more for add, subtract"),
        ({"operands": 1}, "operands must be 2"),
        ({"operands": 4}, "4 operands with 113 values each make 163,047,361, so lower p or operands"),
        ({"train_fraction": 0.0}, "leaves 0"),
        ({"train_fraction": 1.0}, "leaves 12769"),
        ({"train_fraction": float("nan")}, "leaves 0"),
        ({"p": 2, "train_fraction": 0.2}, "leaves 0 to train on"),
        ({"batch_size": 4000}, "3830 training examples"),
        ({"split": "mine"}, "split must be one of python, keyed"),
    ],
)
def test_bad_fields(fields, words):
    with pytest.raises(ValueError, match=words):
        Modular(**fields)


def test_predictions_in_words():
    describe = Modular().describe
    assert describe(np.array([18, 34, 113]), np.array([52]), np.array([51])) == (
        "18 + 34 mod 113: predicts 51, the answer is 52"
    )
    assert (
        describe(np.array([18, 34, 113]), np.array([52]), np.array([52])) == "18 + 34 mod 113: predicts 52, correct"
    )
    assert "predicts =, " in describe(np.array([1, 2, 113]), np.array([3]), np.array([113]))
    assert "predicts nothing, " in describe(np.array([1, 2, 113]), np.array([3]), np.array([-1]))


@pytest.mark.parametrize(
    ("equals", "positions", "vocabulary", "classes"),
    [("class", ("a", "b", "="), 8, 8), ("token", ("a", "b", "="), 8, 7), ("none", ("a", "b"), 7, 7)],
)
def test_the_input_ends_in_an_equals_sign_or_not(equals, positions, vocabulary, classes):
    task = Modular(p=7, train_fraction=0.5, equals=equals)
    batch = task.batch(np.arange(49), {})
    assert task.position_names == positions
    assert task.sizes == Sizes(len(positions), classes, vocabulary, read=(len(positions) - 1,))
    assert len(task.token_names) == vocabulary
    a, b = np.divmod(np.arange(49), 7)
    np.testing.assert_array_equal(batch.inputs, np.stack([a, b, np.full(49, 7)][: len(positions)], axis=1))
    np.testing.assert_array_equal(batch.targets[:, 0], (a + b) % 7)
    assert (
        task.describe(np.asarray(batch.inputs[9]), np.array([3]), np.array([3])) == "1 + 2 mod 7: predicts 3, correct"
    )


def test_wrong_labels_are_a_fixed_share_of_the_train_set_and_of_nothing_else():
    task = Modular(p=11, train_fraction=0.5, label_noise=0.35)
    data = task.data((3,))
    one = lane(data)
    true = task.batch(one.lane["train"], {}).targets
    batches = [task.train_batch(one, jax.random.key(k), jnp.int32(step)).targets for k, step in ((0, 0), (1, 7))]
    np.testing.assert_array_equal(*batches)
    assert np.sum(np.asarray(batches[0] != true)) == round(0.35 * task.train_size)
    assert ((np.asarray(batches[0]) >= 0) & (np.asarray(batches[0]) < 11)).all()
    clean = replace(task, label_noise=0.0)
    np.testing.assert_array_equal(task.test_batch(one).targets, clean.test_batch(lane(clean.data((3,)))).targets)
    np.testing.assert_array_equal(one.lane["shift"], lane(task.data((3,))).lane["shift"])
    some = replace(task, batch_size=7).train_batch(one, jax.random.key(0), jnp.int32(1))
    label_of = {tuple(pair): label for pair, label in zip(
        np.asarray(task.batch(one.lane["train"], {}).inputs).tolist(), np.asarray(batches[0])[:, 0], strict=True
    )}  # fmt: skip
    assert [label_of[tuple(pair)] for pair in some.inputs.tolist()] == some.targets[:, 0].tolist()
    units = replace(task, operation="multiply")
    one = lane(units.data((3,)))
    labels, true = units.labelled(one.lane["train"], one).targets, units.batch(one.lane["train"], {}).targets
    assert np.sum(np.asarray(labels != true)) == round(0.35 * units.train_size)
    assert np.asarray(labels).min() > 0  # A wrong label is a unit, too.
    with pytest.raises(UserError, match="label_noise must be from 0 to 1"):
        replace(task, label_noise=1.5)
