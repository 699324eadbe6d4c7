"""Carry features equal what Python's integers, which do not overflow, say of the same sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.errors import UserError
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.carries import CLASSES, Carries, answer_length, carries

BATCH = 3
# Digits, base and operands: each is compiled once, for many problems.
TWO = [(1, 2, 2), (2, 16, 2), (5, 10, 2), (7, 3, 2), (20, 16, 2)]
FORMS = [*TWO, (1, 5, 3), (4, 2, 3), (7, 10, 3)]


@st.composite
def sums(draw, forms=FORMS):
    """Draw a base, and BATCH problems as digits `[B][M][N]`, units first; columns of sum base - 1 are common."""
    digits, base, count = draw(st.sampled_from(forms))

    def column():
        free = [draw(st.integers(0, base - 1)) for _ in range(count)]
        propagates = [free[0], base - 1 - free[0]] + [0] * (count - 2)
        return draw(st.permutations(propagates)) if draw(st.booleans()) else free

    columns = [[column() for _ in range(digits)] for _ in range(BATCH)]
    return base, np.array(columns, np.int32).swapaxes(1, 2)


def by_integers(operands, base):
    """Work out the features of one problem `[M, N]` from whole numbers: carries are what is beyond a remainder."""
    count, digits = operands.shape
    numbers = [sum(int(d) * base**k for k, d in enumerate(row)) for row in operands]
    length = len(written(sum([base**digits - 1] * count), base))
    powers = [base**k for k in range(length + 1)]
    column = [sum(x // power % base for x in numbers) for power in powers[:-1]]
    carry = [sum(x % power for x in numbers) // power for power in powers]  # Into each column, and out of the last.
    raised = [carry[k + 1] > column[k] // base for k in range(length)]
    return Carries(
        sum=column,
        generate=[s >= base for s in column],
        propagate=[len({(s + c) // base for c in range(count)}) > 1 for s in column],
        carry_in=carry[:-1],
        naive=[s % base for s in column],
        answer=[sum(numbers) // power % base for power in powers[:-1]],
        carry_count=sum(c > 0 for c in carry[1:]),
        cascade=max(len(run) for run in "".join(" x"[r] for r in raised).split(" ")),
    )


def written(number, base):
    """List the digits of a number, units first."""
    return [number % base, *(written(number // base, base) if number >= base else [])]


def stacked(rows):
    return Carries(*(np.array(x) for x in zip(*rows, strict=True)))


@settings(deadline=None, max_examples=40)
@given(sums())
def test_every_feature_equals_whole_numbers(problem):
    base, operands = problem
    facts, expected = carries(operands, base), stacked([by_integers(row, base) for row in operands])
    for name, value in facts._asdict().items():
        np.testing.assert_array_equal(value, getattr(expected, name), err_msg=name)
        assert value.dtype == (bool if name in ("generate", "propagate") else np.int32), name
    assert facts.answer.shape[-1] == answer_length(operands.shape[2], base, operands.shape[1])
    assert (facts.carry_in < operands.shape[1]).all()
    np.testing.assert_array_equal((facts.naive + facts.carry_in) % base, facts.answer)


@settings(deadline=None, max_examples=30)
@given(sums(TWO))
def test_two_operands_have_the_classes_of_quirke_and_barez(problem):
    """A cascade is a column of sum ≥ base, then columns of sum base - 1: read off the digits, without any carry."""
    base, operands = problem
    facts = carries(operands, base)
    np.testing.assert_array_equal(facts.propagate, facts.sum == base - 1)
    for column, kind, cascade in zip(np.asarray(facts.sum), facts.kind, facts.cascade, strict=True):
        shape = "".join("g" if s >= base else "p" if s == base - 1 else "." for s in column)
        chains = [len(rest) - len(rest.lstrip("p")) for rest in shape.split("g")[1:]]
        assert cascade == max(chains, default=0)
        assert CLASSES[kind] == ("S0" if not chains else f"S{1 + min(max(chains), 4)}")


@settings(deadline=None, max_examples=25)
@given(sums())
def test_without_carries_every_digit_is_naive(problem):
    base, operands = problem
    facts, column = carries(operands, base, carry=False), operands.sum(1)
    np.testing.assert_array_equal(facts.sum, column)
    np.testing.assert_array_equal(facts.answer, column % base)
    np.testing.assert_array_equal(facts.naive, column % base)
    assert not np.any(facts.carry_in)
    for value in (facts.carry_count, facts.cascade, facts.kind):
        np.testing.assert_array_equal(value, np.zeros(BATCH))


@pytest.mark.parametrize(
    ("left", "right", "answer", "count", "cascade", "kind"),
    [
        ("12345", "67890", "080235", 3, 1, "S2"),
        ("11111", "22222", "033333", 0, 0, "S0"),
        ("00045", "99954", "099999", 0, 0, "S0"),  # Columns that would propagate, and nothing to pass on.
        ("55555", "55555", "111110", 5, 0, "S1"),  # Every column carries by itself.
        ("99999", "00001", "100000", 5, 4, "S5"),
        ("09999", "00001", "010000", 4, 3, "S4"),
        ("95905", "05095", "101000", 5, 2, "S3"),  # Cascades of 2 and of 1: a column that carries by itself ends one.
    ],
)
def test_worked_examples(left, right, answer, count, cascade, kind):
    digits = lambda text: [int(d) for d in reversed(text)]
    facts = carries(jnp.array([digits(left), digits(right)]), 10)
    assert facts.answer.tolist() == digits(answer)
    assert (facts.carry_count, facts.cascade, CLASSES[facts.kind]) == (count, cascade, kind)


def test_fractions_of_the_classes_among_uniform_problems():
    count = 200_000
    kinds = jax.jit(lambda key: carries(Addition().draw(key, count), 10).kind)(jax.random.key(0))
    found = np.bincount(kinds, minlength=6) / count
    fractions = np.array([0.05033, 0.77575, 0.16043, 0.0126, 0.000855, 0.000045])
    assert (np.abs(found - fractions) < 5 * np.sqrt(fractions / count) + 5e-6).all(), (
        found
    )  # The fractions are rounded.


def test_leading_axes_and_tracing():
    operands = np.random.default_rng(1).integers(7, size=(2, 3, 4, 6), dtype=np.int32)
    facts = carries(operands, 7)
    chained = jax.jit(jax.vmap(jax.vmap(lambda x: carries(x, 7))))(operands)
    for a, b in zip(facts, chained, strict=True):
        np.testing.assert_array_equal(a, b)
    assert facts.answer.shape == (2, 3, answer_length(6, 7, 4))
    assert facts.kind.shape == (2, 3)


def test_one_number_is_no_sum():
    with pytest.raises(AssertionError):
        carries(jnp.zeros((5, 1, 4), jnp.int32), 10)
    with pytest.raises(UserError, match="base must be at least 2"):
        carries(jnp.zeros((2, 4), jnp.int32), 1)
