"""Figures of commands and experiments draw what they are given, labelled, and every text can be read."""

import math

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legible import check_legible, words

from jaxadd.views import colours, figures
from jaxadd.views.figures import style

RNG = np.random.default_rng(0)
DIGITS = ("A3", "A2", "A1", "A0")
TOKENS = ("a2", "a1", "a0", "+", "b2", "b1", "b0", "=", "A3", "A2", "A1")


def pictures(figure):
    return [np.ma.filled(image.get_array(), np.nan) for ax in figure.axes for image in ax.images]


def claims(lanes, count=4):
    score = np.linspace(1, 0.2, count)
    verdicts = ["holds", "in part", "fails", "does not matter"]
    return {
        f"claim {i}: this head carries the sum of column {i} and nothing else that any answer digit needs": (
            score[i] - np.linspace(0, 0.05, lanes),
            score[i] - 0.1,
            score[i],
            verdicts[i % 4],
        )
        for i in range(count)
    }


def addition(lanes=2, steps=60, base=5, digits=(2, 1, 0)):
    """A made-up record of an addition run, evaluated every ten steps."""
    rng = np.random.default_rng(0)
    positions, step = len(digits), np.arange(steps)
    record = {"step": step, "train_accuracy": 1 - np.exp(-step / 20) * np.ones((lanes, 1))}
    record["test_accuracy"] = np.where(step % 10, np.nan, record["train_accuracy"])
    record["train_position_loss"] = np.exp(-step / 20)[None, :, None] * rng.uniform(1, 1.1, (lanes, steps, positions))
    record["evaluation/step"] = step[::10]
    evaluations = lanes, len(step[::10])
    record["evaluation/offset"] = rng.dirichlet(np.ones(base), (*evaluations, positions))
    record["evaluation/confusion"] = rng.dirichlet(np.ones(base), (*evaluations, positions, base))
    record["evaluation/confusion"][:, :, 0, 2:] = np.nan
    record["evaluation/accuracy_by_cascade"] = rng.uniform(size=(*evaluations, 2))
    for name in ("digit_loss", "leak", "carry_loss"):
        record[f"evaluation/{name}"] = rng.uniform(size=(*evaluations, positions))
    return record


LEGIBLE = {
    "attention_change": lambda: figures.attention_change(
        RNG.random((2, 2, 4, 11)), RNG.random((2, 2, 4, 11)), DIGITS, TOKENS, "title"
    ),
    "attention_change, one": lambda: figures.attention_change(
        np.ones((1, 1, 1, 3)), np.ones((1, 1, 1, 3)), "=", "ab=", "title"
    ),
    "hypotheses": lambda: figures.hypotheses(
        claims(3, 12), {"holds": 0.9, "in part": 0.5, "fails": -np.inf}, "title"
    ),
    "hypotheses, one": lambda: figures.hypotheses(claims(1, 1), {"holds": 0.9}, "title"),
    "spike": lambda: figures.spike(
        np.arange(40, 90),
        {d: RNG.random(50) for d in ("loss", *DIGITS)},
        {f"W_{i}": RNG.random(50) for i in "QKVO"},
        "t",
    ),
    "spike, one": lambda: figures.spike(np.array([3]), {"loss": np.ones(1)}, {"all": np.ones(1)}, "title"),
}


@pytest.mark.parametrize("name", LEGIBLE)
def test_every_text_can_be_read(name):
    check_legible(LEGIBLE[name]())


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e6, 1e6))
def test_brief_numbers_are_short_and_right_to_a_digit(value):
    text = style.brief(value)
    assert len(text.lstrip("-")) <= 6
    digit = 10.0 ** math.floor(math.log10(abs(value))) if value else 0
    assert abs(float(text) - value) <= 0.5001 * digit


@pytest.mark.parametrize("lanes", [1, 3])
def test_figures_of_studies_are_drawn(lanes, tmp_path):
    run = addition(lanes)
    steps = {"a": np.array([[3.0, 9.0, np.inf]]), "b": np.array([[4.0, np.inf, np.inf]])}
    law = {"carry": {0: {2: [3, None], 3: None}, 1: {2: [4, 5], 3: [7, 8]}}}
    drawn = [
        figures.arms({"a": run, "b": run}, steps, 0.1, "title"),
        figures.loss_grid({"a": run, "b": run}, "title"),
        figures.loss_split({"a": run, "b": run}, 0.69, "title"),
        figures.plateau_law(law, "title"),
    ]
    for i, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{i}.png")
        assert matplotlib.image.imread(tmp_path / f"{i}.png").std() > 0.01


def test_attention_change_shows_the_difference_on_a_scale_around_zero():
    before, after = RNG.random((2, 2, 2, 4, 11))
    figure = figures.attention_change(before, after, DIGITS, TOKENS, "title")
    rows = np.reshape(pictures(figure), (4, 3, 4, 11))
    np.testing.assert_array_equal(rows[:, 2], (after - before).reshape(4, 4, 11))
    np.testing.assert_array_equal(rows[:, 1], after.reshape(4, 4, 11))
    norm = figure.axes[2].images[0].norm
    assert norm.vmax == -norm.vmin == np.abs(after - before).max()
    assert style.diverging()(norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.02)


def test_hypotheses_draw_a_dot_for_each_lane_coloured_by_the_verdict():
    scores = {
        "true": (np.array([0.99, 0.95]), 0.93, 1.0, "holds"),
        "false": (np.array([-5.0, 0.2]), np.array([-7.0, 0.1]), np.array([-2.0, 0.3]), "fails"),
        "idle": (np.array([np.nan, np.nan]), np.nan, np.nan, "does not matter"),
    }
    figure = figures.hypotheses(scores, {"holds": 0.9, "in part": 0.5, "fails": -np.inf}, "title")
    dots = [(list(d.get_xdata()), d.get_color()) for d in figure.axes[0].lines if d.get_marker() == "o"]
    holds, fails = style.PALETTE[3], colours.TEST
    assert dots[:2] == [([0.99, 0.95], holds), ([0.2], fails)]
    assert dots[2][1] == style.FLOOR
    edge = [d for d in figure.axes[0].lines if d.get_marker() == "<"]
    assert [list(d.get_xdata()) for d in edge] == [[figure.axes[0].get_xlim()[0]]]
    written = words(figure)
    assert "holds: 0.97 [0.93, 1.00]" in written
    assert "fails: -2.40 [-7.00, 0.30]" in written
    assert "does not matter: no score" in written
    assert "holds: from 0.9" in written
    check_legible(figure)


def test_spike_marks_the_highest_loss_and_shows_norms_over_their_median():
    step, loss = np.arange(100, 107), np.array([1.0, 1, np.nan, 9, 3, 1, 1])
    norms = {"W_E": np.array([2.0, 2, 2, 20, 0, 2, 2]), "W_U": np.zeros(7)}
    figure = figures.spike(step, {"loss": loss, "A0": loss / 2}, norms, "title")
    above, below = figure.axes[:2]
    assert above.get_title() == "loss, highest at step 103"
    change = np.ma.filled(below.collections[0].get_array(), np.nan)
    np.testing.assert_allclose(change, [[0, 0, 0, 1, np.nan, 0, 0], [np.nan] * 7])
    assert [t.get_text() for t in below.get_yticklabels()] == ["W_E  2.00", "W_U  0"]
