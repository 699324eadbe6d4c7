"""The MLP on two tokens, by its definition, and the published network that groks in fifty steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import drawn

from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import PairMLP
from jaxadd.optim.losses import MeanSquaredError
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import train
from jaxadd.tasks import Modular
from jaxadd.types import Sizes

pytestmark = pytest.mark.jax_api

SIZES = Sizes(length=2, classes=5, vocabulary=7, read=(1,))
TOKENS = jax.random.randint(jax.random.key(0), (20, 2), 0, 7)
CONFIGS = st.builds(
    PairMLP,
    embedding=st.sampled_from(["learned", "one-hot"]),
    tables=st.sampled_from(["two", "one"]),
    combine=st.sampled_from(["concatenate", "sum"]),
    d_embed=st.just(6),
    neurons=st.just(8),
    activation=st.sampled_from(["relu", "square"]),
    bias=st.booleans(),
)


def definition(config, params, tokens):
    """Compute the logits in NumPy."""
    w = {name: np.asarray(x) for name, x in params.items()}
    a, b = (np.eye(7)[np.asarray(tokens[:, i])] for i in range(2))
    if config.embedding == "learned":
        a, b = a @ w["W_a"], b @ w["W_a" if config.tables == "one" else "W_b"]
    x = np.concatenate([a, b], axis=1) if config.combine == "concatenate" else a + b
    pre = x @ w["W_in"] + w.get("b_in", 0)
    return (np.maximum(pre, 0) if config.activation == "relu" else pre**2) @ w["W_U"] + w.get("b_U", 0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=CONFIGS)
def test_logits_are_those_of_the_definition(config):
    model = config.build(SIZES)
    params = drawn(model)
    compute = jax.jit(
        lambda params: (model.apply(params, TOKENS)[0], *model.apply(params, TOKENS, names=model.names))
    )
    logits, looked_at, seen = compute(params)
    want = definition(config, params, TOKENS)[:, None]
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(looked_at, want, rtol=1e-4, atol=1e-5)
    assert seen.keys() == set(model.names)


@pytest.mark.parametrize(("seeds", "steps"), [((0,), 50), pytest.param((0, 1, 2, 3, 4), 100, marks=pytest.mark.long)])
def test_the_quadratic_network_generalises_in_fifty_steps(seeds, steps):
    """Gromov 2023; the figures are those of five runs of independent code."""
    config = RunConfig(
        task=Modular(p=97, train_fraction=0.5, equals="none"),
        model=PairMLP(embedding="one-hot", neurons=500, activation="square", init_std=0.5 / 1000 ** (1 / 3)),
        optimizer=AdamW(lr=1e-2, weight_decay=5.0, warmup=0.0),
        loss=MeanSquaredError(),
        steps=steps,
        seeds=seeds,
    )
    run = train(config)
    assert (run.metrics["test_accuracy"][:, 30] < 0.99).all()
    assert (run.metrics["test_accuracy"][:, 50] >= 0.99).all()
    for network in run.networks() if steps == 100 else ():
        batch = config.task.train_batch(network.data, jax.random.key(0), jnp.int32(0))
        error = jnp.mean((network(batch.inputs) - jax.nn.one_hot(batch.targets, 97)) ** 2)
        assert 7.8e-4 < error < 8.6e-4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PairMLP(neurons=0), "neurons must be at least 1"),
        (lambda: PairMLP(init_std=0.0), "init_std must be above 0"),
        (lambda: PairMLP(combine="product"), "concatenate, sum"),
        (lambda: PairMLP().build(Modular(p=7).sizes), "3 tokens; Modular and Group need equals none"),
        (lambda: PairMLP().build(Sizes(length=2, classes=3)), "real-valued"),
    ],
)
def test_bad_configs(make, words):
    with pytest.raises(UserError, match=words):
        make()
