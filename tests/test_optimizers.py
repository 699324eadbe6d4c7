"""Optimisers against their definitions, and their numbers as traced arguments."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.optimizers import SGD, Adam, AdamW


def run(optimizer, steps=25, w=(1.0, -2.0)):
    """Follow the gradient of sin(w) · (1 + step) and give the path of w."""

    def step(carry, i):
        w, state = carry
        updates, state = optimizer.transform().update(jnp.cos(w) * (1 + i), state, w)
        return (w + updates, state), w + updates

    w = jnp.asarray(w)
    return jax.lax.scan(step, (w, optimizer.transform().init(w)), jnp.arange(steps))[1]


def by_definition(kind, lr, b1=0.9, b2=0.98, eps=1e-8, decay=0.0, warmup=0, steps=25, w=(1.0, -2.0)):
    w, m, v = np.array(w), np.zeros(2), np.zeros(2)
    path = []
    for i in range(steps):
        g = np.cos(w) * (1 + i)
        rate = lr * (min(i / warmup, 1) if warmup else 1)
        if kind != "adamw":
            g = g + decay * w
        if kind == "sgd":
            m = b1 * m + g
            update = m
        else:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            update = (m / (1 - b1 ** (i + 1))) / (np.sqrt(v / (1 - b2 ** (i + 1))) + eps)
            if kind == "adamw":
                update = update + decay * w
        w = w - rate * update
        path.append(w)
    return np.array(path)


@pytest.mark.parametrize(
    ("optimizer", "want"),
    [
        (AdamW(lr=0.03, weight_decay=2.0), by_definition("adamw", 0.03, decay=2.0, warmup=10)),
        (AdamW(lr=0.03, weight_decay=0.0, warmup=0), by_definition("adamw", 0.03)),
        (Adam(lr=0.02, b2=0.98, l2=0.3, warmup=4), by_definition("adam", 0.02, decay=0.3, warmup=4)),
        (SGD(lr=0.01, momentum=0.7, l2=0.1), by_definition("sgd", 0.01, b1=0.7, decay=0.1)),
    ],
)
def test_path_is_that_of_the_definition(optimizer, want):
    np.testing.assert_allclose(run(optimizer), want, rtol=2e-4, atol=1e-5)


def test_first_update_of_a_warm_up_is_zero():
    path = run(AdamW(warmup=10), steps=2)
    np.testing.assert_array_equal(path[0], [1.0, -2.0])
    assert not np.array_equal(path[1], path[0])


def test_lanes_may_differ_in_every_number():
    configs = [AdamW(lr=0.01), AdamW(lr=0.05, b1=0.5, weight_decay=0.1, warmup=0.0)]
    stacked = jax.tree.map(lambda *numbers: jnp.asarray(numbers), *configs)
    together = jax.jit(jax.vmap(run))(stacked)
    for config, path in zip(configs, together, strict=True):
        np.testing.assert_allclose(path, run(config), rtol=1e-4, atol=1e-6)


def test_a_change_of_numbers_does_not_trace_again():
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(run, n=1))
    paths = [traced(AdamW(lr=lr)) for lr in (0.1, 0.2)]
    assert not np.allclose(*paths)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamW(lr=-1.0),
        lambda: AdamW(b2=1.0),
        lambda: Adam(eps=float("nan")),
        lambda: SGD(lr=float("inf")),
        lambda: AdamW(warmup=-1),
    ],
)
def test_numbers_out_of_range(make):
    with pytest.raises(ValueError, match="must be a number"):
        make()
