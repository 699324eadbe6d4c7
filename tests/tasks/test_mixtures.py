"""Mixtures of problems contain the kinds of problems that they should, in the fractions that they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.errors import UserError
from jaxadd.tasks import Addition, Mixture
from jaxadd.tasks.addition.carries import carries


def rows(problems):
    return [tuple(row) for row in np.asarray(problems).reshape(len(problems), -1).tolist()]


@pytest.mark.parametrize(("base", "operands"), [(10, 2), (2, 3), (7, 2)])
def test_uniform_digits(base, operands):
    count = 10_000
    drawn = np.asarray(Addition(digits=3, base=base, operands=operands).draw(jax.random.key(2), count))
    assert drawn.shape == (count, operands, 3)
    assert drawn.dtype == np.int32
    expected = count / base
    for m in range(operands):
        for k in range(3):
            found = np.bincount(drawn[:, m, k], minlength=base)
            assert len(found) == base
            assert ((found - expected) ** 2 / expected).sum() < base - 1 + 5 * np.sqrt(2 * (base - 1)) + 5
    pairs = np.bincount(drawn[:, 0, 0] * base + drawn[:, 1, 1], minlength=base**2)
    free = base**2 - 1
    assert ((pairs - count / base**2) ** 2 / (count / base**2)).sum() < free + 5 * np.sqrt(2 * free) + 5


@pytest.mark.parametrize(("base", "operands", "fraction"), [(10, 2, 0.4), (10, 3, 0.7), (2, 2, 0.5), (5, 2, 1.0)])
def test_fraction_of_enriched_columns(base, operands, fraction):
    mixture = Mixture(uniform=0, enriched=1, enriched_fraction=fraction)
    count = 4000
    drawn = np.asarray(
        Addition(digits=5, base=base, operands=operands, mixture=mixture).draw(jax.random.key(0), count)
    )
    assert 0 <= drawn.min() <= drawn.max() < base
    propagating = drawn.sum(1) == base - 1
    unforced = np.bincount(sum(np.ix_(*[np.arange(base)] * operands)).ravel())[base - 1] / base**operands
    expected = fraction + (1 - fraction) * unforced
    deviation = np.sqrt(expected * (1 - expected) / count)
    np.testing.assert_allclose(propagating.mean(0), expected, atol=5 * deviation + 1e-9)
    each = drawn[:, :, 0][propagating[:, 0]]
    assert all(len(np.unique(row)) == base for row in each.T), "every digit occurs in a forced column"


def check_cascade(drawn, base, length, start):
    """Of `[B, 2, N]`, the start column generates, the next `length` propagate, and the one after does not."""
    column = drawn.sum(1)
    assert (column[:, start] >= base).all()
    assert (column[:, start + 1 : start + 1 + length] == base - 1).all()
    if start + length + 1 < drawn.shape[2]:
        assert (column[:, start + length + 1] != base - 1).all()
    assert 0 <= drawn.min() <= drawn.max() < base


@pytest.mark.parametrize("base", [2, 10])
def test_forced_cascades_of_two_operands(base):
    task = Addition(digits=4, base=base)
    for length in range(4):
        for start in range(4 - length):
            drawn = task.cascade(jax.random.key(length), 60, length, start)
            check_cascade(np.asarray(drawn), base, length, start)
            facts = carries(drawn, base)
            assert (facts.carry_in[:, start + 1 : start + length + 2] == 1).all()
            assert (facts.cascade >= length).all()
            assert len(set(rows(drawn))) > 5


def test_forced_cascades_of_three_operands():
    task = Addition(digits=4, operands=3)
    for length in range(4):
        drawn = np.asarray(task.cascade(jax.random.key(length), 60, length))
        check_cascade(drawn, 10, length, 0)
        assert (drawn[:, 2, : length + 2] == 0).all()
        raised = np.asarray(carries(jnp.asarray(drawn[..., : length + 1]), 10).cascade)
        assert (raised == length).all()


@pytest.mark.parametrize("base", [2, 10])
@pytest.mark.parametrize(("length", "start"), [(None, None), (1, None), (None, 2), (2, 1)])
def test_every_cascade_that_fits_is_drawn_where_none_is_named(base, length, start):
    mixture = Mixture(uniform=0, cascades=1, cascade_length=length, cascade_start=start)
    drawn = np.asarray(Addition(digits=4, base=base, mixture=mixture).draw(jax.random.key(1), 800))
    column = drawn.sum(1)
    possible = [(n, s) for n in range(4) for s in range(4 - n) if length in (None, n) and start in (None, s)]
    fitting = {}
    for n, s in possible:
        fits = (column[:, s] >= base) & (column[:, s + 1 : s + 1 + n] == base - 1).all(1)
        fitting[n, s] = fits & (column[:, s + n + 1 : s + n + 2] != base - 1).all(1)
    assert np.any(list(fitting.values()), axis=0).all()
    # Lengths are drawn first, then columns: each pair is forced at least once in 4 · 4 problems.
    for (n, s), fits in fitting.items():
        assert fits.mean() > 1 / 16 - 5 * np.sqrt(1 / 16 / 800), (n, s)


@pytest.mark.parametrize("operands", [2, 3])
def test_weights_of_a_mixture(operands):
    mixture = Mixture(uniform=1, enriched=2, cascades=3, enriched_fraction=1.0, cascade_length=2, cascade_start=1)
    count, digits = 6000, 6
    task = Addition(digits=digits, operands=operands, mixture=mixture)
    column = np.asarray(task.draw(jax.random.key(3), count)).sum(1)
    enriched = (column == 9).all(1)
    cascade = (column[:, 1] >= 10) & (column[:, 2:4] == 9).all(1) & (column[:, 4] != 9)
    for found, fraction in ((enriched, 2 / 6), (cascade, 3 / 6), (~enriched & ~cascade, 1 / 6)):
        # One uniform problem in 200 at most looks forced.
        assert found.mean() == pytest.approx(fraction, abs=5 * np.sqrt(fraction * (1 - fraction) / count) + 1 / 1200)


def test_listed_problems_are_drawn_beside_the_others():
    mixture = Mixture(uniform=1, listed=1, problems=("012+345=0357", "999+001"))
    drawn = np.asarray(mixture.draw(jax.random.key(0), (1000, 2, 3), 10))
    for listed in ([[2, 1, 0], [5, 4, 3]], [[9, 9, 9], [1, 0, 0]]):
        assert 0.2 < (drawn == np.asarray(listed)).all(axis=(1, 2)).mean() < 0.3


def test_skewed_numbers_have_two_digits_and_means_far_from_the_middle():
    drawn = np.asarray(Mixture(uniform=0, skewed=1).draw(jax.random.key(0), (2000, 2, 30), 10)).reshape(-1, 30)
    assert max(len(np.unique(number)) for number in drawn) == 2
    assert {*np.unique(drawn)} == {*range(10)}
    # Means of uniform digits would have variance 8.25 / 30; here it is 8.25 (p² + (1 - p)²), 2/3 on average over p.
    assert drawn.mean(axis=1).std() == pytest.approx(np.sqrt(8.25 * 2 / 3), rel=0.05)


def test_skewed_problems_are_drawn_beside_listed_and_uniform_ones():
    mixture = Mixture(uniform=2, skewed=1, listed=1, problems=("012345678901+012345678901",))
    drawn = np.asarray(mixture.draw(jax.random.key(0), (4000, 2, 12), 10))
    digits = np.asarray([len(np.unique(number)) for number in drawn[:, 0]])
    assert (digits <= 2).mean() == pytest.approx(1 / 4, abs=0.03)
    assert (digits == 10).mean() == pytest.approx(1 / 4, abs=0.04)


@pytest.mark.parametrize("text", ["12+345", "012", "012+34x", "012+345+678"])
def test_a_listed_problem_has_to_fit_the_task(text):
    with pytest.raises(UserError, match="a listed problem must have 2 numbers of 3 digits"):
        Addition(digits=3, mixture=Mixture(listed=1, problems=(text,)))


def test_listed_problems_need_a_weight():
    for fields in ({"listed": 1.0}, {"problems": ("1+2",)}):
        with pytest.raises(UserError, match="listed"):
            Mixture(**fields)
