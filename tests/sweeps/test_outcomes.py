"""Survival curves against their definition, and the four outcomes."""

import numpy as np
import pytest

from jaxadd.sweeps.outcomes import kaplan_meier, outcome
from jaxadd.tables import quantiles


def test_without_censoring_it_is_the_share_left():
    rng = np.random.default_rng(0)
    steps = rng.integers(1, 50, 200).tolist()
    curve = kaplan_meier(steps, [100] * 200)
    for step, share in zip(curve.step, curve.fraction, strict=True):
        assert share == pytest.approx(np.mean(np.array(steps) > step))
    assert curve.fraction[-1] == 0
    assert curve.censored.size == 0


def test_censored_lanes_leave_the_number_at_risk():
    """The worked example of five lanes: 5 of 5, then 3 of 3 left, then 1."""
    curve = kaplan_meier([10, None, 20, None, 30], [10, 15, 20, 25, 30])
    np.testing.assert_array_equal(curve.step, [0, 10, 20, 30])
    np.testing.assert_allclose(curve.fraction, [1, 4 / 5, 4 / 5 * 2 / 3, 0])
    np.testing.assert_array_equal(curve.censored, [15, 25])
    # 0.8 to the power of exp(± 1.96 √(1 / (5 · 4)) / |log 0.8|), by hand.
    assert curve.low[1] == pytest.approx(0.2038, abs=1e-4)
    assert curve.high[1] == pytest.approx(0.9692, abs=1e-4)
    assert (curve.low[1:3] < curve.fraction[1:3]).all()
    assert (curve.high[1:3] > curve.fraction[1:3]).all()


def test_what_is_censored_is_not_called_late():
    """Half ended early: the estimate is that of the others, not half of it."""
    rng = np.random.default_rng(1)
    true = rng.exponential(100, 4000)
    end = rng.uniform(0, 200, 4000)
    curve = kaplan_meier([t if t <= e else None for t, e in zip(true, end, strict=True)], end)
    at = np.searchsorted(curve.step, 100, side="right") - 1
    assert curve.fraction[at] == pytest.approx(np.exp(-1), abs=0.03)
    assert curve.low[at] < np.exp(-1) < curve.high[at]


def test_quantiles_are_those_of_numpy_and_never_comes_last():
    steps = np.random.default_rng(2).integers(1, 99, 8).tolist()
    np.testing.assert_allclose(quantiles(steps), np.quantile(steps, (0.25, 0.5, 0.75)))
    np.testing.assert_array_equal(quantiles([None, 5, float("nan")]), [np.inf] * 3)
    np.testing.assert_array_equal(quantiles([None, 5, 7], (0, 0.5, 1)), [5, 7, np.inf])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="as many ends"):
        kaplan_meier([1], [])


@pytest.mark.parametrize(
    ("train", "test", "name"),
    [
        (100, 150, "comprehension"),
        (100, 1100, "comprehension"),
        (100, 1101, "grokking"),
        (100, None, "memorisation"),
        (None, None, "confusion"),
        (None, 50, "comprehension"),
    ],
)
def test_outcomes(train, test, name):
    assert outcome(train, test) == name
