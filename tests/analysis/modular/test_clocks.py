"""Clock and Pizza are told apart where the answer is known by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn

from jaxadd.analysis.modular import clocks, declarations, progress
from jaxadd.analysis.modular.problem import whole_problem
from jaxadd.models import Transformer
from jaxadd.tasks import Modular

P = 5
TASK = Modular(p=P, train_fraction=0.4)
PROBLEM = whole_problem(TASK, {name: pairs[0] for name, pairs in TASK.data([0]).lane.items()})
MODEL = Transformer(d_model=8, heads=2, d_mlp=16).build(TASK.sizes)


def large(seed=0):
    return drawn(MODEL, seed, 0.7)


def logits_from(correct, answers, p):
    """Put the correct logits `[P²]` among zeros."""
    logits = np.zeros((p * p, p), np.float32)
    logits[np.arange(p * p), answers] = correct
    return logits


@pytest.mark.parametrize(("p", "sign"), [(13, 1), (13, -1), (8, 1), (2, 1)])
def test_distance_irrelevance_of_sums_and_distances(p, sign):
    a, b = np.divmod(np.arange(p * p), p)
    answers, distance = (a + sign * b) % p, (a - sign * b) % p
    by_sum, by_distance = np.random.default_rng(0).normal(size=(2, p))
    compiled = jax.jit(lambda logits: clocks.distance_irrelevance(logits, answers))
    irrelevance = lambda correct: float(compiled(logits_from(correct, answers, p)))
    assert irrelevance(by_distance[distance]) < 1e-3
    if p % 2:  # Sum and distance are then independent.
        np.testing.assert_allclose(irrelevance(by_sum[answers]), 1, rtol=1e-5)
        spread = np.std(by_sum) / np.hypot(np.std(by_sum), np.std(by_distance))
        np.testing.assert_allclose(irrelevance(by_sum[answers] + by_distance[distance]), spread, rtol=1e-4)
    correct = np.random.default_rng(1).normal(size=p * p)
    plain = np.mean([np.std(correct[distance == d]) for d in range(p)]) / np.std(correct)
    np.testing.assert_allclose(irrelevance(correct), plain, rtol=1e-4)


def test_a_clock_is_irrelevant_of_distance_and_a_pizza_is_not():
    p = 13
    a, b = np.divmod(np.arange(p * p), p)
    answers, w = (a + b) % p, 2 * np.pi * 3 / p
    clock = np.cos(w * (a + b)[:, None] - w * np.arange(p))
    pizza = np.abs(np.cos(w * (a - b) / 2))[:, None] * clock
    bias = 0.05 * np.cos(np.arange(p))  # Without one, all correct logits of a clock are equal.
    assert clocks.distance_irrelevance(jnp.asarray(clock + bias), answers) > 0.99
    assert clocks.distance_irrelevance(jnp.asarray(pizza + bias), answers) < 0.2
    assert np.isnan(clocks.distance_irrelevance(jnp.ones((p * p, p)), answers))


@jax.jit
def plain_gradients(params):
    """Differentiate every logit by the three embeddings, pair by pair: `[P², P, 3, D]`."""

    def logits(embedded, tokens):
        return MODEL.apply(params, tokens[None], edits={"hook_embed": lambda _: embedded[None]})[0][0, 0, :P]

    return jax.lax.map(lambda tokens: jax.jacobian(logits)(params["embed"]["W_E"][tokens], tokens), PROBLEM.inputs)


def plain_symmetricity(params, pairs):
    gradients = np.asarray(plain_gradients(params), np.float64)[pairs]
    unit = gradients / np.linalg.norm(gradients, axis=-1, keepdims=True)
    return np.mean(np.sum(unit[..., 0, :] * unit[..., 1, :], axis=-1))


def test_gradient_symmetricity_is_its_plain_definition():
    params = large()
    everything = clocks.gradient_symmetricity(params, MODEL, PROBLEM.inputs)
    np.testing.assert_allclose(everything, plain_symmetricity(params, np.arange(P * P)), rtol=1e-4)
    some = np.array([3, 8, 8, 11, 20, 23, 24])
    found = clocks.gradient_symmetricity(params, MODEL, PROBLEM.inputs, some)
    np.testing.assert_allclose(found, plain_symmetricity(params, some), rtol=1e-4)
    assert abs(found) < 0.99


def test_gradients_are_symmetric_where_only_the_sum_of_embeddings_matters():
    """With W_Q = 0 attention is even, so the network sees E_a + E_b."""
    params = large()
    attention = {**params["blocks.0"]["attn"], "W_Q": 0 * params["blocks.0"]["attn"]["W_Q"]}
    blind = {**params, "blocks.0": {**params["blocks.0"], "attn": attention}}
    np.testing.assert_allclose(clocks.gradient_symmetricity(blind, MODEL, PROBLEM.inputs), 1, rtol=1e-5)
    dead = {**params, "unembed": {"W_U": 0 * params["unembed"]["W_U"]}}
    assert clocks.gradient_symmetricity(dead, MODEL, PROBLEM.inputs) == 0


@pytest.mark.parametrize("p", [13, 12])
def test_circles_are_circular(p):
    n = np.arange(p)
    columns = [f(2 * np.pi * k * n / p) * size for k, size in ((2, 3.0), (5, 1.0)) for f in (np.cos, np.sin)]
    circles = np.stack([*columns, np.full(p, 7.0)], axis=1).astype(np.float32)
    turned = circles @ np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].astype(np.float32)
    np.testing.assert_allclose(clocks.circularity(jnp.asarray(turned)), 1, atol=1e-4)


def test_circularity_is_its_plain_definition():
    p = 12
    embedding = np.random.default_rng(0).normal(size=(p, 20)).astype(np.float32)
    embedding[:, 0] += 9 * (-1.0) ** np.arange(p)  # The first direction is the alternating wave.
    centred = embedding.astype(np.float64) - embedding.mean(0)
    components = np.linalg.svd(centred)[0][:, :4]
    power = np.abs(np.fft.rfft(components, axis=0)) ** 2 * 2 / p
    power[-1] /= 2
    np.testing.assert_allclose(clocks.circularity(jnp.asarray(embedding)), power[1:].max(0).mean(), rtol=1e-3)
    assert power[1:].max(0).mean() < 0.9


def test_measures_of_several_states_at_once():
    states = jax.tree.map(lambda *w: jnp.stack(w), large(0), large(1))
    measure = jax.jit(jax.vmap(lambda params: progress.clock_measures(params, MODEL, PROBLEM)))
    found = measure(states)
    assert found.keys() == {measure.name for measure in declarations.CLOCKS}
    alone = clocks.gradient_symmetricity(large(1), MODEL, PROBLEM.inputs)
    np.testing.assert_allclose(found["gradient_symmetricity"][1], alone, rtol=1e-4)
    logits = jax.jit(MODEL.apply)(large(1), PROBLEM.inputs)[0][:, 0, :P]
    expected = clocks.distance_irrelevance(logits, PROBLEM.answers)
    np.testing.assert_allclose(found["distance_irrelevance"][1], expected, rtol=1e-4)
    np.testing.assert_allclose(found["circularity"][1], clocks.circularity(large(1)["embed"]["W_E"][:P]), rtol=1e-4)


def test_a_network_with_nan_is_neither_clock_nor_pizza():
    params = large()
    params["embed"] = {"W_E": params["embed"]["W_E"].at[1, 0].set(jnp.nan)}
    for name, value in progress.clock_measures(params, MODEL, PROBLEM).items():
        assert np.isnan(value), name
