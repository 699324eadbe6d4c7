"""Figures draw what they are given, labelled."""

import matplotlib.image
import numpy as np
import pytest

from jaxadd import figures


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
