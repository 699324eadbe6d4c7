"""Plateaus of synthetic curves whose truth is known."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.analysis.plateaus import find, smooth, steps_to_leave, steps_to_reach

LOG10, LOG2 = np.log(10), np.log(2)
FLOORS = {"log 10": LOG10, "A4 | A5": 2.1133, "log 2": LOG2, "0.9 log 2": 0.9 * LOG2, "0.09 log 2": 0.09 * LOG2}
STEP = np.arange(6001)
# Levels, and the steps at which the curve is halfway from each to the next.
LEVELS, DROPS = [LOG10, LOG2, 0.9 * LOG2, 0.09 * LOG2, 0.001], [150, 450, 1100, 3500]


def staircase(seed, levels=LEVELS, drops=DROPS, step=STEP, noise=0.04, width=0.03):
    """Noisy sigmoids in log-step; `noise` is relative, and 0.002 nats of skewed noise come on top."""
    rng = np.random.default_rng(seed)
    up = [1 / (1 + np.exp(np.clip((np.log(drop) - np.log1p(step)) / width, -50, 50))) for drop in drops]
    clean = levels[0] + sum((b - a) * u for a, b, u in zip(levels, levels[1:], up, strict=False))
    return clean * (1 + noise * rng.standard_normal(len(step))) + noise * rng.gamma(1, 0.05, len(step))


@pytest.mark.parametrize("seed", range(15))
def test_staircase(seed):
    plateaus = find(staircase(seed), STEP, FLOORS)
    assert [plateau.name for plateau in plateaus] == ["log 10", "log 2", "0.9 log 2", "0.09 log 2"]
    np.testing.assert_allclose([plateau.level for plateau in plateaus], LEVELS[:4], rtol=0.05)
    np.testing.assert_allclose([plateau.level for plateau in plateaus[:3]], LEVELS[:3], rtol=0.02)
    np.testing.assert_allclose([plateau.end for plateau in plateaus], DROPS, rtol=0.15)
    np.testing.assert_allclose([plateau.start for plateau in plateaus[1:]], DROPS[:3], rtol=0.2)
    assert plateaus[0].start <= 60
    assert all(plateau.left for plateau in plateaus)


@pytest.mark.parametrize("seed", range(5))
def test_conditional_entropy_is_told_from_log_10(seed):
    plateaus = find(staircase(seed, [LOG10, 2.1133, 0], [100, 1000]), STEP, FLOORS)
    assert [plateau.name for plateau in plateaus] == ["log 10", "A4 | A5"]


@pytest.mark.parametrize("seed", range(5))
def test_never_left_and_spiked(seed):
    # A batch of 256 in which one digit in ten costs log 2 has a noise of 19 %.
    noise = np.where(STEP < 300, 0.03, 0.19) * np.random.default_rng(seed).standard_normal(len(STEP))
    loss = np.where(STEP < 300, LOG10, 0.0624) * (1 + noise)
    loss[2500:2505] = 3
    first, last = find(loss, STEP, FLOORS)
    assert (first.name, last.name) == ("log 10", "0.09 log 2")
    assert last.level == pytest.approx(0.0624, rel=0.02)
    assert 300 <= last.start < 1000
    assert last.end == STEP[-1]
    assert not last.left


def test_a_long_spike_does_not_cut_a_plateau():
    loss = 0.65 * (1 + 0.03 * np.random.default_rng(0).standard_normal(len(STEP)))
    loss[1500:1900] = 2
    (plateau,) = find(loss, STEP, FLOORS)
    assert (plateau.end, plateau.left) == (6000, False)
    assert plateau.level == pytest.approx(0.65, rel=0.02)
    loss[1500:1900] = 0.2  # But a visit to a lower level ends it.
    high, again = find(loss, STEP, FLOORS)[0], find(loss, STEP, FLOORS)[-1]
    assert high.end == pytest.approx(1500, rel=0.1)
    assert high.left
    assert again.start == pytest.approx(1900, rel=0.1)


def test_few_records_fake_no_plateau():
    assert find(np.array([2.55, 2.5, 2.3] + 100 * [2.3]), 10 * np.arange(103), FLOORS)[0].name == "log 10"
    # Each neighbouring pair of losses is within the band and far apart in steps.
    assert find(np.array([2.3, 2.15, 2.0, 1.85]), np.array([0, 1000, 2000, 4000]), FLOORS) == []


def test_level_is_exact_without_noise():
    (plateau,) = find(np.full(200, LOG2), np.arange(200), FLOORS)
    assert plateau == (pytest.approx(LOG2), 0, 199, False, "log 2")


@pytest.mark.parametrize("power", [0.2, 0.3, 0.5, 1, 3])
def test_a_power_law_has_no_plateau(power):
    found = 0
    for seed in range(20):
        noise = 1 + 0.03 * np.random.default_rng(seed).standard_normal(len(STEP))
        found += len(find(2.3 * (1.0 + STEP) ** -power * noise, STEP, FLOORS))
    assert found <= 1


@pytest.mark.parametrize("power", [0.03, 0.05])
def test_a_slow_slide_has_at_most_an_end(power):
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(len(STEP))
    (end,) = find(2.3 * (1.0 + STEP) ** -power * noise, STEP, {})
    assert end.end == STEP[-1]
    assert not end.left
    assert find(2.3 * (1.0 + STEP) ** -power * noise, STEP, {}, slope=0.02) == []


@pytest.mark.parametrize("seed", range(10))
def test_an_exponential_decay_has_no_plateau_but_its_limit(seed):
    step = STEP + 300
    rng = np.random.default_rng(seed)
    decay, noise = 2 * np.exp(-STEP / 300), 0.03 * rng.standard_normal(len(STEP))
    assert find(decay * (1 + noise), step, FLOORS) == []
    (limit,) = find((decay + LOG2) * (1 + noise), step, FLOORS)
    assert limit.name == "log 2"
    assert 300 + 3 * 300 < limit.start < 300 + 6 * 300  # 14 % and 0.7 % above the limit


@pytest.mark.parametrize("tail", [0, 1e-6, 0.008])
def test_a_converged_tail_is_no_plateau(tail):
    (plateau,) = find(staircase(0, [LOG10, tail], [300], noise=0.01), STEP, FLOORS)
    assert plateau.name == "log 10"


def test_names():
    def name(level, floors=FLOORS):
        (plateau,) = find(np.full(100, level), np.arange(100), floors)
        return plateau.name

    assert name(LOG10 * 1.04) == "log 10"
    assert name(LOG10 * 1.07) == ""
    assert name(0.65) == "0.9 log 2"
    assert name(0.67) == "log 2"
    assert name(1.2) == ""
    assert name(LOG10, {}) == ""


def test_frozen_lane():
    loss = staircase(0)
    loss[800:] = np.nan
    log10, log2, low = find(loss, STEP, FLOORS)
    assert (log10.name, log2.name, low.name) == ("log 10", "log 2", "0.9 log 2")
    assert (low.end, low.left) == (799, False)
    assert steps_to_reach(loss, STEP, 0.65) == pytest.approx(450, rel=0.1)
    assert steps_to_reach(loss, STEP, 0.5) is None
    smoothed = smooth(loss, STEP)
    assert np.all(np.isfinite(smoothed[:800]))
    assert np.all(np.isnan(smoothed[800:]))
    loss[800] = np.inf
    assert find(loss, STEP, FLOORS) == [log10, log2, low]


@pytest.mark.parametrize("loss", [[], [1.0], [np.nan, np.nan, np.nan], [np.nan, 2.0, np.nan]])
def test_nothing_to_find(loss):
    step = np.arange(len(loss))
    assert find(np.array(loss), step, FLOORS) == []
    assert steps_to_reach(np.array(loss), step, 0.5) is None
    assert steps_to_leave(np.array(loss), step, 0.5) is None
    np.testing.assert_array_equal(smooth(np.array(loss), step), loss)


@pytest.mark.parametrize("seed", range(5))
def test_every_tenth_step_shows_the_same_plateaus(seed):
    loss = staircase(seed, drops=[250, 700, 1700, 4000], noise=0.02)
    every, tenth = find(loss, STEP, FLOORS), find(loss[::10], STEP[::10], FLOORS)
    assert len(every) == 4
    assert [plateau.name for plateau in tenth] == [plateau.name for plateau in every]
    # Five records, the least that a window holds, are 40 steps.
    np.testing.assert_allclose([s.end for s in tenth], [s.end for s in every], rtol=0.05, atol=20)
    np.testing.assert_allclose([s.start for s in tenth[1:]], [s.start for s in every[1:]], rtol=0.05, atol=20)


def test_only_the_ratios_of_steps_matter():
    loss = staircase(0)
    once, tenfold = find(loss, STEP, FLOORS), find(loss, 10 * STEP, FLOORS)
    assert [plateau.name for plateau in tenfold] == [plateau.name for plateau in once]
    np.testing.assert_allclose([s.end for s in tenfold], [10 * s.end for s in once], rtol=0.05)


def test_a_resumed_record_shows_the_rest_of_the_plateaus():
    loss = staircase(0)
    rest = find(loss[500:], STEP[500:], FLOORS)
    assert [plateau.name for plateau in rest] == ["0.9 log 2", "0.09 log 2"]
    assert rest[0].start == 500
    assert steps_to_reach(loss[500:], STEP[500:], 0.3) == steps_to_reach(loss, STEP, 0.3)


@settings(deadline=None)
@given(
    drop=st.integers(3, 2900),
    first=st.sampled_from([0, 1, 1000]),
    every=st.sampled_from([1, 10]),
    levels=st.sampled_from([(LOG10, 2.1133), (LOG10, LOG2), (LOG2, 0.9 * LOG2), (LOG2, 0.001)]),
)
def test_a_jump_is_located_exactly(drop, first, every, levels):
    step = first + every * np.arange(3000)
    loss = np.where(np.arange(3000) < drop, *levels)
    assert steps_to_leave(loss, step, levels[0]) == step[drop]
    assert steps_to_reach(loss, step, np.mean(levels)) == step[drop]
    assert steps_to_leave(loss, step, levels[1]) is None
    assert steps_to_reach(loss, step, 0.999 * levels[1]) is None


@pytest.mark.parametrize("seed", range(10))
def test_crossings_of_noisy_curves(seed):
    loss = staircase(seed, width=0.01)
    for threshold, drop in ((1.2, 150), (0.3, 1100), (0.03, 3500)):
        assert steps_to_reach(loss, STEP, threshold) == pytest.approx(drop, rel=0.03)
    for level, drop in zip(LEVELS, DROPS, strict=False):
        assert steps_to_leave(loss, STEP, level) == pytest.approx(drop, rel=0.06)


def test_a_dip_is_reached_but_not_left():
    loss = np.full(3000, LOG10)
    loss[1000:1050] = 1.0
    assert steps_to_reach(loss, STEP[:3000], 2.0) == 1000
    assert steps_to_leave(loss, STEP[:3000], LOG10) is None
    loss[2000:] = 1.0
    assert steps_to_leave(loss, STEP[:3000], LOG10) == 2000
    assert steps_to_leave(loss, STEP[:3000], LOG10, hold=1.05) == 1000


def test_a_curve_below_the_level_has_left_it_at_once():
    assert steps_to_leave(np.full(50, 0.1), np.arange(70, 120), LOG2) == 70


def test_smoothing_keeps_lanes_apart_and_is_quick():
    loss = np.random.default_rng(0).gamma(2, 1, (8, 6, 6000))
    started = time.perf_counter()
    smoothed = smooth(loss, STEP[:6000])
    assert time.perf_counter() - started < 1
    np.testing.assert_array_equal(smoothed[3, 2], smooth(loss[3, 2], STEP[:6000]))
    np.testing.assert_array_equal(smoothed[::-1], smooth(loss[::-1], STEP[:6000]))


def test_smoothing_has_no_lag_and_no_bias():
    line = 3 - STEP / 3000
    np.testing.assert_allclose(smooth(line, STEP)[2:5700], line[2:5700], atol=1e-9)
    noisy = 2 + 0.1 * np.random.default_rng(0).standard_normal(len(STEP))
    assert np.std(smooth(noisy, STEP)[2000:]) < 0.01
    assert np.mean(smooth(noisy, STEP)) == pytest.approx(2, abs=0.01)


def test_smoothing_outlives_a_spike():
    loss = 1 + 0.03 * np.random.default_rng(0).standard_normal(1000)
    spiked = loss.copy()
    spiked[500] = 20
    window = 51  # records around step 500
    assert np.max(np.abs(smooth(spiked, STEP[:1000]) - smooth(loss, STEP[:1000]))) < 0.2 * 19 / window
