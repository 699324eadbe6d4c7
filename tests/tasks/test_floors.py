"""Floors equal enumeration where that is possible, and closed forms where it is not."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from jaxadd.errors import UserError
from jaxadd.tasks.addition import floors
from jaxadd.tasks.addition.carries import answer_length
from jaxadd.tasks.addition.floors import Information, floor, ladder


def binary_entropy(p):
    p = np.asarray(p, float)
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


def carry_chance(k):
    """The probability p_k of a carry into column k, two operands in base 10."""
    return (1 - 10.0**-k) / 2


@cache
def problems(digits, base, operands):
    """Every problem once, its operand digits as int64 [P, M, N], units first."""
    count = base ** (digits * operands)
    powers = base ** np.arange(digits * operands)
    return (np.arange(count)[:, None] // powers % base).reshape(count, operands, digits)


def enumerated(digit, information, *, digits, base=10, operands=2, carry=True):
    """The same entropy by listing all problems, with integer sums in place of carries."""
    held = problems(digits, base, operands)
    total = (held @ base ** np.arange(digits)).sum(1)

    def answer(k):
        return total // base**k % base if carry else held[:, :, k].sum(1) % base

    key = np.zeros(len(held), np.int64)
    for k in information.columns:
        for m in range(operands):
            key = key * base + held[:, m, k]
    for k in information.answers:
        key = key * base + answer(k)
    if information.bag == "sum":
        key = key * (digits * operands * base) + held.sum((1, 2))
    if information.bag == "digits":
        for column in np.sort(held.reshape(len(held), -1), axis=1).T:
            key = key * base + column
    _, key = np.unique(key, return_inverse=True)
    joint = np.bincount(key * base + answer(digit), minlength=(key.max() + 1) * base).reshape(-1, base) / len(held)
    ratio = joint / joint.sum(1, keepdims=True)
    return -np.sum(joint * np.log(np.where(ratio > 0, ratio, 1)))


@st.composite
def questions(draw, sizes):
    """Draw a problem, one of its answer digits and any information on it."""
    digits, base, operands = draw(st.sampled_from(sizes))
    carry = draw(st.booleans())
    length = answer_length(digits, base, operands, carry)
    digit = draw(st.integers(0, length - 1))
    columns = draw(st.permutations(range(digits)))[: draw(st.integers(0, digits))]
    others = [k for k in range(length) if k != digit]
    answers = draw(st.permutations(others))[: draw(st.integers(0, len(others)))]
    information = Information(tuple(columns), tuple(answers), draw(st.sampled_from(["none", "sum", "digits"])))
    return digit, information, {"digits": digits, "base": base, "operands": operands, "carry": carry}


SMALL = [(n, b, 2) for b in (2, 3) for n in (1, 2, 3)] + [
    (4, 2, 2), (1, 10, 2), (2, 10, 2), (2, 5, 2), (3, 2, 3), (2, 3, 3), (1, 10, 3), (2, 2, 4), (2, 2, 6), (1, 3, 7),
]  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(questions(SMALL))
def test_equals_enumeration(question):
    digit, information, problem = question
    assert floor(digit, information, **problem) == pytest.approx(
        enumerated(digit, information, **problem), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize(
    ("digit", "information"),
    [
        (0, Information(bag="digits")),
        (0, Information(answers=(1, 2))),
        (1, Information((0,), (2,), "sum")),
        (1, Information((1,), (0, 2))),
        (1, Information(answers=(0, 2), bag="sum")),
        (2, Information((1,), bag="digits")),
        (2, Information((0, 2), (1,), "digits")),
        (2, Information(answers=(0,), bag="digits")),
    ],
)
def test_equals_enumeration_of_a_million_problems(digit, information, carry):
    value = floor(digit, information, digits=3, carry=carry)
    assert value == pytest.approx(enumerated(digit, information, digits=3, carry=carry), abs=1e-9)


@pytest.mark.parametrize("information", [Information(bag="digits"), Information((1,), (0, 1), "sum"), Information()])
def test_carry_out_of_a_million_problems(information):
    value = floor(3, information, digits=3)
    assert value == pytest.approx(enumerated(3, information, digits=3), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(questions([*SMALL, (5, 10, 2), (4, 3, 3)]), st.data())
def test_knowing_less_never_lowers_the_entropy(question, data):
    digit, information, problem = question
    bags = ["none", "sum", "digits"]
    less = Information(
        information.columns[: data.draw(st.integers(0, len(information.columns)))],
        information.answers[: data.draw(st.integers(0, len(information.answers)))],
        bags[data.draw(st.integers(0, bags.index(information.bag)))],
    )
    try:
        lower, upper = floor(digit, information, **problem), floor(digit, less, **problem)
    except UserError:  # More states than it tells apart, which it says and another test checks.
        reject()
    assert 0 <= lower <= upper + 1e-9 <= np.log(problem["base"]) + 2e-9


def test_large_keys_of_a_bag_do_not_overflow():
    # The multiset of one column fixes its sum, also where its key needs more than 64 bits.
    assert floor(1, Information(bag="digits"), digits=1, base=60) == 0


@pytest.mark.parametrize("digits", [3, 5, 20])
def test_closed_forms(digits):
    for k in range(digits):
        expected = np.log(10)
        assert floor(k, Information(), digits=digits) == pytest.approx(expected, rel=1e-12)
        assert floor(k, Information(tuple(range(k + 1))), digits=digits) == 0
        for j in range(min(k, 4)):
            expected = 10.0**-j * binary_entropy(carry_chance(k - j))
            parallel = Information(tuple(range(k - j, k + 1)))
            above = range(k - j, min(k + 2, digits))
            sequential = Information(tuple(above), (k + 1,))
            assert floor(k, parallel, digits=digits) == pytest.approx(expected, rel=1e-12)
            assert floor(k, sequential, digits=digits) == pytest.approx(0.9 * expected, rel=1e-12)
    assert floor(digits, Information(), digits=digits) == pytest.approx(
        binary_entropy(carry_chance(digits)), rel=1e-12
    )
    for j in range(min(digits - 1, 18)):
        expected = 0.1 ** (j + 1) * binary_entropy(carry_chance(digits - 1 - j))
        information = Information(tuple(range(digits - 1 - j, digits)))
        assert floor(digits, information, digits=digits) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("digit", "information", "digits", "expected"),
    [
        (2, Information((2,)), 3, 0.69310),
        (2, Information((2,), (3,)), 3, 0.62379),
        (2, Information((2, 1)), 3, 0.06881),
        (2, Information((2, 1), (3,)), 3, 0.06193),
        (1, Information((1,)), 3, 0.68814),
        (3, Information((2,)), 3, 0.06931),
        (3, Information((2, 1)), 3, 0.00688),
        (4, Information(answers=(5,)), 5, 2.1133),
        (5, Information(bag="sum"), 5, 0.6042),
    ],
)
def test_reference_values(digit, information, digits, expected):
    assert floor(digit, information, digits=digits) == pytest.approx(
        expected, abs=10.0 ** -len(str(expected)[2:]) / 2
    )


def test_merging_close_beliefs_costs_less_than_a_nano_nat():
    # The low six digits v leave v + 1 problems without and 999,999 - v with a carry out.
    with_carry = np.arange(1, 10**6) / 10**6
    expected = binary_entropy(with_carry).sum() / 10**6
    assert floor(6, Information(answers=tuple(range(6))), digits=6) == pytest.approx(expected, abs=1e-9)
    assert floor(12, Information(answers=tuple(range(12))), digits=12) == pytest.approx(0.5, abs=1e-9)


def test_without_carries_only_the_own_column_matters():
    for columns, answers, expected in [((0, 1, 3), (0, 1, 3), np.log(10)), ((2,), (), 0)]:
        value = floor(2, Information(columns, answers), digits=4, carry=False)
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "length"),
    [
        ((5,), 6),
        ((20, 10, 2), 21),
        ((3, 2, 2), 4),
        ((1, 10, 11), 2),
        ((1, 10, 12), 3),
        ((2, 2, 6), 5),
        ((1, 3, 7), 3),
    ],
)
def test_answer_length(arguments, length):
    assert answer_length(*arguments) == length
    assert answer_length(*arguments, carry=False) == arguments[0]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: Information(columns=(1, 0, 1)), r"columns must name each index once, got \(1, 0, 1\)"),
        (lambda: Information(answers=(2, 2)), "answers must name each index once"),
        (lambda: Information(bag="mean"), "bag must be one of none, sum, digits, got 'mean'"),
        (lambda: answer_length(0), "digits must be at least 1, got 0"),
        (lambda: answer_length(3, base=1), "base must be at least 2, got 1"),
        (lambda: answer_length(3, operands=1), "operands must be at least 2, got 1"),
        (lambda: floor(0, Information(), digits=0), "digits must be at least 1"),
        (lambda: floor(4, Information(), digits=3), "digit must lie from 0, the units, to 3, got 4"),
        (lambda: floor(3, Information(), digits=3, carry=False), "digit must lie from 0, the units, to 2, got 3"),
        (lambda: floor(-1, Information(), digits=3), "digit must lie .* got -1"),
        (lambda: floor(0, Information(columns=(3,)), digits=3), "columns must lie .* to 2, got 3"),
        (lambda: floor(0, Information(answers=(1, 4)), digits=3), "answers must lie .* to 3, got 1, 4"),
        (lambda: floor(2, Information(answers=(3, 2)), digits=3), r"must not show the digit .* \(3, 2\); remove 2"),
        (lambda: floor(2, Information(bag="digits"), digits=20), r"about 4\.1e\+10 states, and at most 1e\+07"),
        (
            lambda: floor(9, Information(answers=tuple(range(9)), bag="sum"), digits=20),
            r"states, and at most 1e\+07 are computed; make fewer answers visible",
        ),
        (lambda: ladder(0, digits=3, target="both", order="msd"), "target must be one of sequential, .* got 'both'"),
        (lambda: ladder(0, digits=3, target="single", order="up"), "order must be one of msd, lsd, got 'up'"),
        (lambda: ladder(4, digits=3, target="single", order="msd"), "digit must lie"),
    ],
)
def test_errors_say_what_was_expected_and_got(ask, message):
    with pytest.raises(UserError, match=message):
        ask()


def check_ladder(levels, expected):
    assert list(levels) == list(expected)
    assert list(levels.values()) == pytest.approx(list(expected.values()), abs=1e-4)


def test_ladder_of_the_top_column():
    # The digit sum leaves 2.2985 of log 10, too near to be a level of its own.
    common = {"nothing known": np.log(10)}
    check_ladder(
        ladder(4, digits=5, target="sequential", order="msd"),
        {
            **common,
            "A5 seen": 2.11327,
            "column 4, A5 seen": 0.62383,
            "columns 4-3, A5 seen": 0.06238,
            "columns 4-2, A5 seen": 0.00624,
        },
    )
    assert floor(4, Information(bag="sum"), digits=5) == pytest.approx(2.29848, abs=1e-5)
    # Column 3 carries with probability (9 - a_3 + p_3) / 10 once its answer is seen.
    seen = binary_entropy((9 - np.arange(10) + carry_chance(3)) / 10).mean()
    check_ladder(
        ladder(4, digits=5, target="sequential", order="lsd"),
        {
            **common,
            "column 4": 0.69315,
            "column 4, A3 seen": seen,
            "columns 4-3": 0.06931,
            "columns 4-2": 0.00693,
        },
    )
    parallel = {**common, "column 4": 0.69315, "columns 4-3": 0.06931, "columns 4-2": 0.00693}
    for target in ("parallel", "single"):
        for order in ("msd", "lsd"):
            check_ladder(ladder(4, digits=5, target=target, order=order), parallel)


def test_ladder_of_the_carry_out_starts_at_the_column_below():
    levels = ladder(3, digits=3, target="sequential", order="msd")
    assert levels == ladder(3, digits=3, target="parallel", order="lsd")
    assert levels["column 2"] == pytest.approx(0.06931, abs=1e-5)
    assert levels["columns 2-1"] == pytest.approx(0.00688, abs=1e-5)
    backward = ladder(3, digits=3, target="sequential", order="lsd")
    assert backward["A0-A2 seen"] == floor(3, Information(answers=(0, 1, 2)), digits=3)


def test_ladder_of_a_middle_digit_knows_the_column_above():
    levels = ladder(2, digits=5, target="sequential", order="msd")
    assert "A5-A3 seen" not in levels, "it is as good as nothing known"
    assert levels["columns 3-2, A3 seen"] == pytest.approx(0.9 * binary_entropy(0.495), rel=1e-12)
    assert levels["columns 3-1, A3 seen"] == pytest.approx(0.09 * binary_entropy(0.45), rel=1e-12)
    assert "columns 3-0, A3 seen" not in levels


def test_ladder_settles_for_the_neighbour_where_all_answers_are_too_many(monkeypatch):
    monkeypatch.setattr(floors, "_MAX_STATES", 20_000)
    levels = ladder(5, digits=5, target="sequential", order="lsd")
    assert levels["A4 seen"] == floor(5, Information(answers=(4,)), digits=5)
    assert "A0-A4 seen" not in levels


@pytest.mark.parametrize("order", ["msd", "lsd"])
@pytest.mark.parametrize("target", ["sequential", "parallel", "single"])
@pytest.mark.parametrize(("digits", "base", "operands"), [(1, 10, 2), (3, 10, 2), (4, 2, 2), (3, 10, 3), (2, 10, 12)])
def test_every_ladder_descends_from_nothing_known(digits, base, operands, target, order):
    for carry in (True, False):
        problem = {"digits": digits, "base": base, "operands": operands, "carry": carry}
        for digit in range(answer_length(**problem)):
            levels = ladder(digit, **problem, target=target, order=order)
            values = list(levels.values())
            assert next(iter(levels)) == "nothing known"
            assert values[0] == floor(digit, Information(), **problem)
            assert all(lower < 0.99 * upper for upper, lower in pairwise(values))
            assert min(values[1:], default=1) >= 1e-3
            assert "seen" not in "".join(levels) or target == "sequential"
