"""Learning-rate schedules, clipping and parameters without decay, by what they do to updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxadd.config import RunConfig, hyper
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.optim.filters import GlobalNormClip
from jaxadd.optim.optimizers import SGD, AdamW
from jaxadd.optim.schedules import Constant, Cosine, Linear

PARAMS = {"mlp": {"W_in": jnp.array([3.0, -4.0]), "b_in": jnp.array([2.0])}}


def updates(count, gradient=lambda params: params, **config):
    """Return the updates of a number of steps, as flat arrays `[count, 3]`."""
    transform = take(hyper(RunConfig(**config)), 0).transform()
    params, state, made = PARAMS, transform.init(PARAMS), []
    for _ in range(count):
        change, state = transform.update(gradient(params), state, params)
        params = optax.apply_updates(params, change)
        made.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(change)]))
    return np.stack(made)


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        (Constant(), [1, 1, 1, 1, 1, 1]),
        (Linear(steps=4, final=0.5), [1, 0.875, 0.75, 0.625, 0.5, 0.5]),
        (Linear(begin=2, steps=2), [1, 1, 1, 0.5, 0, 0]),
        (Cosine(steps=4, final=0.2), [1, 0.8828427, 0.6, 0.3171573, 0.2, 0.2]),
    ],
)
def test_the_update_is_multiplied(schedule, want):
    sgd = SGD(lr=0.5, momentum=0.0)
    made = updates(6, lambda _: jax.tree.map(jnp.ones_like, PARAMS), optimizer=sgd, schedule=schedule)
    np.testing.assert_allclose(made, np.outer(want, [-0.5] * 3), rtol=1e-5)


def test_lanes_may_differ_in_the_numbers_of_a_schedule():
    config = RunConfig(schedule=Cosine(), seeds=(0, 1), vary=(("schedule.steps", (2.0, 4.0)),))
    factors = jax.vmap(lambda schedule: schedule.factor(2))(hyper(config).schedule)
    np.testing.assert_allclose(factors, [0, 0.5], atol=1e-6)


def test_a_long_gradient_is_clipped_and_a_short_one_is_not():
    for limit, length in ((1.0, 1.0), (100.0, np.sqrt(29))):
        made = updates(1, optimizer=SGD(lr=1.0, momentum=0.0), clip=GlobalNormClip(limit))
        np.testing.assert_allclose(np.linalg.norm(made), length, rtol=1e-6)


def test_parameters_named_are_not_decayed():
    still = lambda params: jax.tree.map(jnp.zeros_like, params)
    made = updates(1, still, optimizer=AdamW(lr=0.1, weight_decay=1.0, warmup=0.0, no_decay=("b_in",)))
    np.testing.assert_allclose(made[0], [-0.3, 0.4, 0.0], rtol=1e-6)  # In the order of the names: W_in, b_in.


@pytest.mark.parametrize("make", [lambda: Linear(steps=0), lambda: Cosine(final=-1), lambda: GlobalNormClip(0.0)])
def test_numbers_out_of_range(make):
    with pytest.raises(UserError, match="must be a number at least"):
        make()
