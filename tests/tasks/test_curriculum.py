"""Curricula: what problems a step draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.errors import UserError
from jaxadd.tasks import Addition, Curriculum, Mixture

TASK = Addition(
    digits=4,
    batch_size=400,
    mixture=Mixture(uniform=0, cascades=1, cascade_length=3, cascade_start=0),
    curriculum=Curriculum(lengths=(1, 3), until=(10, 20), fade_begin=30, fade_end=50),
)
DRAW = jax.jit(lambda step: TASK.train_batch(TASK.data((0,)), jax.random.key(0), step).inputs[:, :9])


def operands(step):
    """Return the operands of a step, `[B, 2, N]`, most significant digit first."""
    tokens = np.asarray(DRAW(jnp.int32(step)))
    return np.stack([tokens[:, :4], tokens[:, 5:]], axis=1)


@pytest.mark.parametrize(("step", "longest"), [(0, 1), (9, 1), (10, 3), (19, 3)])
def test_lengths_of_a_phase_are_drawn_up_to_its_longest(step, longest):
    drawn = operands(step)
    assert not drawn[:, :, : 4 - longest].any()
    # A forced cascade has no column in which both digits are 0, so a length shows.
    lengths = (drawn.sum(axis=1) > 0).sum(axis=1)
    assert set(lengths) == set(range(1, longest + 1))


def test_the_mixture_fades():
    cascades = lambda step: np.mean((operands(step).sum(axis=1)[:, :3] == 9).all(axis=1))
    assert cascades(20) == cascades(30) == 1
    assert 0.4 < cascades(40) < 0.6  # A tenth is four standard deviations of 400 draws.
    assert cascades(50) < 0.02


def test_a_batch_follows_from_the_step():
    np.testing.assert_array_equal(operands(15), operands(15))
    assert not np.array_equal(operands(15), operands(16))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lengths": (1,)}, "equally many"),
        ({"lengths": (0,), "until": (5,)}, "at least 1"),
        ({"lengths": (1, 2), "until": (5, 5)}, "ascending"),
        ({"fade_begin": 5, "fade_end": 5}, "below fade_end"),
        ({"fade_begin": 5}, "below fade_end"),
    ],
)
def test_bad_curricula(fields, words):
    with pytest.raises(UserError, match=words):
        Curriculum(**fields)


def test_a_curriculum_fits_its_task():
    with pytest.raises(UserError, match="longer than 2 digits"):
        Addition(digits=2, curriculum=Curriculum(lengths=(3,), until=(5,)))
    with pytest.raises(UserError, match="leave finite at None"):
        Addition(digits=2, finite=50, batch_size=None, curriculum=Curriculum(lengths=(1,), until=(5,)))
