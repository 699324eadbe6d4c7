"""The phases are found where synthetic curves have them, and only where they have them."""

import numpy as np
import pytest

from jaxadd.analysis.phases import phases
from jaxadd.errors import UserError

STEPS = np.arange(0, 20_001, 100)


def falling(at, width=400.0, high=1.0, low=0.0):
    """A smooth step down, half done `at`."""
    return low + (high - low) / (1 + np.exp((STEPS - at) / width))


def grokking():
    """Curves like the mainline's: memorised at 1400, circuits formed at 9000, then cleaned up."""
    train = np.maximum(4.7 * np.exp(-STEPS / 40), 1e-7)
    test = 24 * falling(9000, 150) + 1e-7
    excluded = np.exp(np.interp(STEPS, [0, 1400, 12_000], np.log([4.7, 1e-4, 12])))
    squares = falling(10_500, high=3000, low=900)
    return train, test, excluded, squares


def test_the_three_phases_of_a_run_that_groks():
    memorised, formed, cleaned = phases(STEPS, *grokking())
    assert memorised == 1400
    assert formed == 9000
    # 95 % of a logistic fall lie before its middle + log(19) widths.
    assert 10_500 + 400 * np.log(19) <= cleaned <= 10_500 + 400 * np.log(19) + 200


def test_a_spike_after_grokking_moves_nothing():
    train, test, excluded, squares = grokking()
    spiked = test.copy()
    spiked[170] = 60
    assert phases(STEPS, train, spiked, excluded, squares) == phases(STEPS, train, test, excluded, squares)


def test_a_run_that_never_groks_only_memorises():
    train, _, excluded, squares = grokking()
    flat = 24 - 8 * STEPS / STEPS[-1]
    assert phases(STEPS, train, flat, excluded, squares) == (1400, None, None)
    # Nor has it ended memorising while the excluded loss still falls.
    assert phases(STEPS, train, flat, np.maximum(train, 1e-6), squares) == (None, None, None)


def test_a_record_too_short_does_not_end_its_last_phase():
    curves = grokking()
    short = lambda end: phases(STEPS[:end], *(curve[:end] for curve in curves))
    assert short(80) == (1400, None, None)
    assert short(100) == (1400, 9000, None)
    assert short(112) == (1400, 9000, None)
    assert short(150) == phases(STEPS, *curves)


def test_without_decay_the_test_loss_alone_ends_clean_up():
    train, test, excluded, squares = grokking()
    cleaned = phases(STEPS, train, test, excluded, 900 + STEPS / 10).cleaned
    at = np.searchsorted(STEPS, cleaned)
    assert test[at] < 0.24 <= test[at - 1]
    assert cleaned < phases(STEPS, train, test, excluded, squares).cleaned


def test_a_network_that_generalises_at_once_ends_no_memorisation():
    _, _, _, squares = grokking()
    train = 4.7 * np.exp(-STEPS / 500) + 1e-7
    excluded = 4.7 + STEPS / 1000
    found = phases(STEPS, train, train, excluded, squares)
    assert found.memorised is None
    assert found.formed == 300  # 4.7 / 2 is passed at 347.


def test_records_without_a_number_are_passed_over():
    curves = [curve.copy() for curve in grokking()]
    for i, curve in enumerate(curves):
        curve[33 + i] = np.nan
    assert phases(STEPS, *curves) == phases(STEPS, *grokking())
    assert phases([0], [np.nan], [1], [1], [1]) == (None, None, None)


def test_series_of_several_lanes_are_refused():
    with pytest.raises(UserError, match="of one lane"):
        phases(STEPS, *(np.stack([curve] * 2) for curve in grokking()))


def test_a_run_that_diverged_is_judged_by_what_came_before():
    curves = [curve.copy() for curve in grokking()]
    for curve in curves:
        curve[150:] = np.nan
    assert phases(STEPS, *curves) == phases(STEPS[:150], *(curve[:150] for curve in curves))
    assert phases(STEPS, *(np.full_like(curve, np.inf) for curve in curves)) == (None, None, None)
