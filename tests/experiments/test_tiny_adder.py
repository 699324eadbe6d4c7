"""The presets of tiny adders, and how their suite is scored."""

import jax
import numpy as np
import pytest

from experiments import tiny_adder
from jaxadd.analysis.certificates import bounds
from jaxadd.models import Network
from jaxadd.optim.optimizers import LevenbergMarquardt
from jaxadd.tasks import Curriculum
from jaxadd.tasks.addition import board


@pytest.mark.parametrize("name", [name for name in tiny_adder.PRESETS if name != "debug"])
def test_a_preset_is_named_by_its_number_of_parameters(name):
    config = tiny_adder.PRESETS[name]
    shapes = config.base.model.build(config.base.task.sizes).shapes()
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == int(name[1:])


def test_a_network_is_scored_by_its_own_answers(monkeypatch):
    """Of the problems answered here, exactly those are counted whose every digit is correct."""
    problems = board.suite(30)
    network = Network({}, board.TASK.sizes, board.TASK)
    targets = np.asarray(board.TASK.batch(problems).targets)
    answers = targets.copy()
    answers[::4, 3] += 1  # One digit of every fourth.

    monkeypatch.setattr(Network, "__call__", lambda self, inputs: jax.nn.one_hot(answers[: len(inputs)], 10))
    assert tiny_adder.count_solved(network, problems) == 40 - 10


def test_the_smallest_adder_is_correct_and_its_first_and_last_digits_are_proven():
    network = tiny_adder.smallest()
    assert tiny_adder.count_solved(network, board.suite(2_000)[:2_002]) == 2_002
    found = bounds.Bounds(network)
    for digit in (0, 10):  # The nine between them take half a minute.
        part = found.examine((digit,))
        assert part["open"] == 0
        assert part["slack"] > 1


def test_networks_that_learned_are_refined_from_where_they_were():
    config = tiny_adder.PRESETS["p50"]
    refined = tiny_adder.refined(config, "folder", (3,))
    assert (refined.init_from, refined.seeds, refined.steps) == ("folder", (3,), config.refine_steps)
    assert refined.optimizer == LevenbergMarquardt(lr=tiny_adder._PART)
    assert refined.task.batch_size == config.refine_batch
    assert refined.task.curriculum == Curriculum()
    assert refined.model == config.base.model
