"""RunConfig: thresholds, the numbers in which lanes differ, and what is compiled."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxadd.config import RunConfig, Stop, hyper, structure, traced
from jaxadd.errors import UserError
from jaxadd.optim import scores
from jaxadd.optim.losses import LabelSmoothing


@pytest.mark.parametrize("count", [41, 121, 1967])
def test_an_accuracy_of_1_is_reached_when_all_examples_are_correct_and_not_before(count):
    stop = Stop("test_accuracy", 1.0)
    accuracy = jax.jit(scores.fraction)
    assert stop.reached(accuracy(np.ones(count, bool)), count)
    assert not stop.reached(accuracy(np.arange(count) > 0), count)


@pytest.mark.parametrize("count", [1, 29, 41, 100, 1967, 8939])
def test_a_threshold_of_accuracy_is_a_number_of_correct_examples(count):
    """The smallest whole number that is at least threshold · count, for fractions as they are computed."""
    fraction = jax.jit(lambda correct: scores.fraction(np.arange(count) < correct))
    for thousandths in (10, 300, 500, 900, 990, 999, 1000):  # Whole numbers, which do not round.
        near = count * thousandths // 1000
        for correct in range(max(near - 1, 0), min(near + 2, count) + 1):
            needed = correct * 1000 >= thousandths * count
            assert Stop("train_accuracy", thousandths / 1000).reached(np.asarray(fraction(correct)), count) == needed


def test_99_of_100_examples_reach_an_accuracy_of_99_per_cent_and_98_do_not():
    stop = Stop("test_accuracy", 0.99)
    values = np.array([98 / 100, 99 / 100, 1, np.nan], np.float32)
    assert stop.reached(values, 100).tolist() == [False, True, True, False]


def test_a_loss_reaches_its_threshold_from_above_and_nan_never_does():
    values = np.array([0.2, 0.1, 0.05, np.nan, np.inf], np.float32)
    assert Stop("train_loss", 0.1000001).reached(values, 7).tolist() == [False, True, True, False, False]


def test_numbers_are_arrays_by_lane_and_all_else_is_structure():
    config = RunConfig(seeds=(0, 1), vary=(("optimizer.lr", (0.1, 0.2)),), loss=LabelSmoothing(0.3), steps=7)
    numbers = hyper(config)
    np.testing.assert_allclose(numbers.optimizer.lr, [0.1, 0.2])
    np.testing.assert_allclose(numbers.loss.amount, [0.3, 0.3])
    np.testing.assert_allclose(numbers.init_scale, [1, 1])
    assert traced(config).keys() >= {"init_scale", "optimizer.lr", "optimizer.warmup", "loss.amount"}
    other = RunConfig(seeds=(4, 5, 6), optimizer=replace(config.optimizer, b1=0.5), loss=LabelSmoothing(0.1))
    assert structure(config) == structure(other)
    assert structure(config) != structure(replace(config, loss=RunConfig().loss))
    assert structure(config) != structure(replace(config, eval_every=3))


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ((("steps", (1.0, 2.0)),), "lanes cannot differ in steps; they can in init_scale, optimizer.lr"),
        ((("optimizer.lr", (0.1,)),), "with one value for each seed"),
        ((("init_scale", (1.0, 2.0)), ("init_scale", (1.0, 2.0))), "every number once"),
        ((("optimizer.lr", (0.1, -1.0)),), "AdamW.lr must be a number at least 0, got -1"),
        ((("init_scale", (1.0, 0.0)),), "init_scale must be above 0"),
    ],
)
def test_lanes_that_cannot_differ_so_are_refused(vary, words):
    with pytest.raises(UserError, match=words):
        RunConfig(seeds=(0, 1), vary=vary)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stop": ("test_acc", 0.9)}, "metric must be one of none"),
        ({"stop": ("test_accuracy", 0.0)}, "stop.threshold must be above 0 and at most 1"),
        ({"stop": ("test_loss", float("nan"))}, "stop.threshold"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"eval_every": 0}, "eval_every"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"seeds": (-1,)}, "from 0"),
    ],
)
def test_a_config_out_of_range_is_refused(fields, words):
    with pytest.raises(UserError, match=words):
        RunConfig(**{name: Stop(*value) if name == "stop" else value for name, value in fields.items()})
