"""Which pairs are correct and since when: by definition, and as recorded in training."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.analysis.modular import pairs
from jaxadd.runs import train
from jaxadd.tasks.modular.task import _packed, unpacked
from jaxadd.views.figures import render


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_pair_graduates_where_it_is_correct_for_good(correct):
    correct, steps = np.array(correct), 10 * np.arange(len(correct))
    for n, since in enumerate(pairs.graduation(correct, steps)):
        good = [step for e, step in enumerate(steps) if correct[e:, n].all()]
        assert (since == good[0]) if good else np.isnan(since)


def test_accuracy_of_a_residue_counts_its_pairs():
    correct = np.array([1, 0, 0, 1, 1, 1, 0, 0, 0], bool)  # Rows are a, columns b.
    found = pairs.by_residue(correct, np.array([0, 1, 0, 1, 3, 3, 3, 3, 0]))
    np.testing.assert_allclose(found["a"], [1 / 3, 1, 0])
    np.testing.assert_allclose(found["b"], [2 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(found["answer"], [1 / 3, 1 / 2, np.nan, 1 / 2])


@pytest.mark.parametrize("count", [1, 23, 24, 25, 100])
def test_packing_can_be_undone(count):
    bits = np.random.default_rng(count).random((3, count)) < 0.5
    words = np.stack([np.asarray(_packed(jnp.asarray(row))) for row in bits])
    assert words.dtype == np.float32
    np.testing.assert_array_equal(unpacked(words, count), bits)


def test_a_run_records_which_test_pairs_are_correct(tiny):
    config = replace(tiny, task=replace(tiny.task, record_pairs=True))
    run = train(config)
    recorded, test = run.metrics["evaluation/correct_pairs"], config.task.problems - config.task.train_size
    accuracy = run.metrics["test_accuracy"][:, run.metrics["evaluation/step"]]
    for lane in range(2):
        np.testing.assert_allclose(unpacked(recorded[lane], test).mean(axis=1), accuracy[lane], rtol=1e-6)
    plain = train(tiny)
    assert "evaluation/correct_pairs" not in plain.metrics
    np.testing.assert_array_equal(plain.metrics["train_loss"], run.metrics["train_loss"])
    (figure,) = (f for f in pairs.history(config.task, run.trained(), 1)[1] if f.name == "graduation")
    (picture,) = figure.pictures
    grid, data = picture.frames["step"][0].reshape(-1), run.network(seed=1).data.lane
    assert np.isnan(grid[np.asarray(data["train"])]).all()
    expected = pairs.graduation(unpacked(recorded[1], test), run.metrics["evaluation/step"])
    np.testing.assert_array_equal(grid[np.asarray(data["test"])], expected)
    render(figure)
