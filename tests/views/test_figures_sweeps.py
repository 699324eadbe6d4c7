"""Figures of sweeps draw the numbers that they are given."""

import numpy as np

from jaxadd.sweeps.outcomes import kaplan_meier
from jaxadd.views import figures


def test_bands_are_quantiles_and_a_lane_that_ended_keeps_its_last_value():
    step = np.arange(101)
    lanes = [(step[: 101 - 10 * i], np.full(101 - 10 * i, float(i))) for i in range(5)]
    figure = figures.lane_bands({"test": lanes}, {"test": lanes}, "title")
    for ax in figure.axes[:2]:
        (middle,) = ax.lines
        assert middle.get_xdata()[[0, -1]].tolist() == [0, 100]
        np.testing.assert_array_equal(middle.get_ydata(), 2.0)
        wide, narrow = (np.unique(band.get_paths()[0].vertices[:, 1]) for band in ax.collections)
        np.testing.assert_allclose(wide[[0, -1]], np.quantile(range(5), [0.05, 0.95]))
        np.testing.assert_allclose(narrow[[0, -1]], np.quantile(range(5), [0.25, 0.75]))


def test_phases_without_any_lane_that_generalised_have_no_scale_of_steps():
    outcomes = np.zeros((1, 2, 2, 4))
    outcomes[..., 2] = 1
    axes = ((1, 2), (3, 4), ("x", "y"))
    assert len(figures.phase_diagram(np.full((1, 2, 2), np.inf), outcomes, *axes, "title").axes) == 2
    assert len(figures.phase_diagram(np.full((1, 2, 2), 70.0), outcomes, *axes, "title").axes) == 3


def test_phases_have_a_column_of_panels_for_each_value_of_the_third_axis():
    outcomes, steps = np.full((2, 2, 2, 4), 0.25), np.stack([np.full((2, 2), 70.0), np.full((2, 2), 30.0)])
    figure = figures.phase_diagram(steps, outcomes, (1, 2), (3, 4), ("x", "y"), "title", ("fraction", (0.5, 0.7)))
    figure.draw_without_rendering()
    assert [ax.get_title() for ax in figure.axes[:2]] == ["fraction 0.5", "fraction 0.7"]
    for ax, step in zip(figure.axes, (70, 30), strict=False):
        assert (ax.images[0].get_array() == step).all()


def test_every_setting_is_drawn_however_many_there_are():
    step = np.arange(1, 20)
    curves = {f"setting {i}": [(step, 1.0 / (step + i))] for i in range(30)}
    figure = figures.lane_bands(curves, curves, "title")
    assert [len(ax.lines) for ax in figure.axes[:2]] == [30, 30]


def test_survival_falls_at_the_steps_and_has_ticks_where_lanes_are_censored():
    curve = kaplan_meier([10, None, 20], [10, 15, 20])
    (ax,) = figures.survival({"all": curve}, "title", "1 nat test loss").axes
    falls, ticks = ax.lines
    assert falls.get_xdata().tolist() == [0, 10, 20, 20]
    np.testing.assert_allclose(falls.get_ydata(), [1, 2 / 3, 0, 0])
    assert (ticks.get_xdata().tolist(), ticks.get_ydata().tolist()) == ([15], [curve.fraction[1]])
    assert "1 nat test loss" in ax.get_ylabel()


def test_fractions_show_every_seed_their_median_and_what_was_published():
    (ax,) = figures.fractions([0.3, 0.5], [[900, None, None], [30, 10, 20]], {0.3: 700}, "title").axes
    seeds_low, seeds_high, middle, published = ax.lines
    assert seeds_low.get_ydata().tolist() == [900]
    assert sorted(seeds_high.get_ydata()) == [10, 20, 30]
    np.testing.assert_array_equal(middle.get_ydata(), [np.nan, 20])
    assert (published.get_xdata().tolist(), published.get_ydata().tolist()) == ([0.3], [700])


def test_time_by_lanes_stands_beside_as_many_in_turn():
    (ax,) = figures.time_by_lanes([1, 8], [0.01, 0.02], "title").axes
    in_turn, at_once = ax.lines
    np.testing.assert_allclose(in_turn.get_ydata(), [10, 80])
    np.testing.assert_allclose(at_once.get_ydata(), [10, 20])
