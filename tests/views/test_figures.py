"""Figures draw what they are given, labelled."""

import matplotlib.image
import numpy as np
import pytest

from jaxadd.analysis.shelves import Shelf
from jaxadd.views import figures


def metrics(lanes=1, steps=50):
    step = np.arange(steps)
    values = np.exp(-step / 10.0) * (1 + np.arange(lanes)[:, None])
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "grad_norm", "update_norm", "weight_norm")
    record = {"step": step} | {name: values.copy() for name in names}
    record["test_loss"][:, step % 10 != 0] = np.nan
    record["update_norm"][:, 0] = 0
    return record


def texts(figure):
    return [t.get_text() for ax in figure.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label)]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("draw", [figures.curves, figures.norms])
def test_curves_are_labelled_and_whole(draw, lanes, tmp_path):
    figure = draw(metrics(lanes), "title")
    assert all(texts(figure))
    figure.savefig(tmp_path / "a.png")
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.01
    for ax in figure.axes:
        assert len(ax.collections) == (2 if draw is figures.curves else 1) * (lanes > 1)


def test_curves_show_measured_points_only():
    loss, _ = figures.curves(metrics(3), "title").axes
    train, test = loss.lines
    np.testing.assert_array_equal(test.get_xdata(), np.arange(0, 50, 10) + 1)
    np.testing.assert_allclose(test.get_ydata(), 2 * np.exp(-np.arange(0, 50, 10) / 10))
    assert len(train.get_xdata()) == 50
    linear, _ = figures.curves(metrics(), "title", log_steps=False).axes
    np.testing.assert_array_equal(linear.lines[1].get_xdata(), np.arange(0, 50, 10))


def test_a_lane_that_ended_keeps_its_last_value():
    record = metrics(3)
    record["train_loss"][0, 20:] = np.nan
    loss, _ = figures.curves(record, "title").axes
    kept = np.where(np.arange(50) < 20, record["train_loss"][0], record["train_loss"][0, 19])
    want = np.median(np.stack([kept, *record["train_loss"][1:]]), axis=0)
    np.testing.assert_allclose(loss.lines[0].get_ydata(), want)


def test_error_map_counts():
    wrong, trained = np.zeros((2, 4, 4), bool)
    trained[0] = True
    wrong[0, 0] = wrong[2, 3] = wrong[3, 3] = True
    figure = figures.error_map(wrong, trained, "title")
    said = [t.get_text() for t in figure.legends[0].get_texts()]
    assert said == ["test, right: 10", "train, right: 3", "test, wrong: 2", "train, wrong: 1"]
    assert all(texts(figure)[1:])


@pytest.mark.parametrize("count", [0, 3, 30])
def test_misread(count):
    images = np.random.default_rng(0).random((count, 64))
    figure = figures.misread(images, np.arange(count) % 10, (np.arange(count) + 1) % 10, "title")
    assert sum(len(ax.images) for ax in figure.axes) == min(count, 24)
    if count:
        assert figure.axes[0].get_title() == "0, read as 1"


def addition(lanes=2, steps=60, base=5, digits=(2, 1, 0)):
    """A made-up record of an addition run, evaluated every ten steps."""
    rng = np.random.default_rng(0)
    positions, step = len(digits), np.arange(steps)
    record = metrics(lanes, steps)
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


def test_digit_curves_name_floors_and_shelves():
    floors = [{"nothing known": 1.6, "sum": 1.5, "column": 0.6}, {"nothing known": 1.6}, {}]
    shelves = [[Shelf(0.61, 10, 30, True, "column")], [], [Shelf(0.2, 10, 30, True, "")]]
    figure = figures.digit_curves(addition(), (2, 1, 0), floors, shelves, "title")
    said = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert said[0] == ["nothing known 1.6", "sum 1.5", "column 0.6", "column\nsteps 10 to 30"]
    assert said[1] == ["nothing known 1.6"]
    assert said[2] == ["no floor\nsteps 10 to 30"]
    assert [ax.get_title() for ax in figure.axes] == ["A2", "A1", "A0"]


@pytest.mark.parametrize("lanes", [1, 3])
def test_addition_figures_are_drawn(lanes, tmp_path):
    run = addition(lanes)
    steps = {"a": np.array([[3.0, 9.0, np.inf]]), "b": np.array([[4.0, np.inf, np.inf]])}
    law = {"carry": {0: {2: [3, None], 3: None}, 1: {2: [4, 5], 3: [7, 8]}}}
    drawn = [
        figures.offsets(run, (2, 1, 0), "title"),
        figures.confusions(run, (2, 1, 0), "title", snapshots=4),
        figures.cascades(run, "title"),
        figures.arms({"a": run, "b": run}, steps, 0.1, "title"),
        figures.loss_grid({"a": run, "b": run}, "title"),
        figures.loss_split({"a": run, "b": run}, 0.69, "title"),
        figures.shelf_law(law, "title"),
    ]
    for i, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{i}.png")
        assert matplotlib.image.imread(tmp_path / f"{i}.png").std() > 0.01


def test_confusions_show_the_first_and_last_evaluation():
    run = addition(1, 600)
    figure = figures.confusions(run, (0,), "title", snapshots=4)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles[0] == "step 0"
    assert titles[-1] == "step 590"
    assert len(titles) == 4
