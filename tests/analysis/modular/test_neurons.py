"""Single neurons: frequency, phases and concentration of planted ones, and when neurons settle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn, quadratic

from jaxadd.analysis import fourier
from jaxadd.analysis.modular import neurons
from jaxadd.analysis.modular.problem import whole_problem
from jaxadd.errors import UserError
from jaxadd.models import PairMLP, Transformer
from jaxadd.tasks import Modular


def task_of(operation="add", p=13, equals="none"):
    return Modular(p=p, operation=operation, train_fraction=0.5, equals=equals)


def problem_of(task):
    return whole_problem(task, {name: pairs[0] for name, pairs in task.data([0]).lane.items()})


@pytest.mark.parametrize(("operation", "p"), [("add", 13), ("subtract", 12), ("multiply", 13), ("divide", 15)])
def test_phases_of_planted_neurons_are_read_back(operation, p):
    task, generator = task_of(operation, p), np.random.default_rng(0)
    keys = generator.integers(1, 3, 20)
    phases = generator.uniform(-np.pi, np.pi, (20, 2))
    model, params = quadratic(task, keys, phases)
    found = neurons.neurons(params, model, problem_of(task))
    apart = lambda x, y: np.abs(np.angle(np.exp(1j * (np.asarray(x) - y))))
    assert apart(found.input_phases[:, 0], phases[:, 0]).max() < 1e-4
    assert apart(found.input_phases[:, 1], task.rule.sign * phases[:, 1]).max() < 1e-4
    assert apart(found.output_phase, phases.sum(axis=1)).max() < 1e-4
    assert np.abs(found.phase_error(task.rule.sign)).max() < 1e-4
    assert np.median(np.abs(found.phase_error(-task.rule.sign))) > 0.3
    np.testing.assert_allclose(found.concentration, 1, atol=1e-5)
    if operation == "add":
        np.testing.assert_array_equal(found.frequency, keys)
        np.testing.assert_allclose(found.explained, 0.8, atol=1e-4)


def test_concentration_is_that_of_its_definition():
    read = np.random.default_rng(0).normal(size=(2, 23, 400)).astype(np.float32)
    power = np.abs(np.fft.rfft(read, axis=1)[:, 1:]) ** 2
    plain = np.mean(np.sum(power**2, axis=1) / np.sum(power, axis=1) ** 2, axis=0)
    found = np.asarray(neurons.concentration(jnp.asarray(read), (23,)))
    np.testing.assert_allclose(found, plain, rtol=1e-4)
    assert 0.15 < found.mean() < 0.18  # He et al.: 0.167 at the start
    assert neurons.concentration(jnp.zeros((2, 5, 1)), (5,)) == 0


def test_a_dead_neuron_has_no_frequency_and_norms_on_the_output_no_phase():
    task = task_of(p=7)
    model = PairMLP(neurons=4, d_embed=6).build(task.sizes)
    params = drawn(model)
    params["W_in"] = params["W_in"].at[:, 0].set(0)
    found = neurons.neurons(params, model, problem_of(task))
    assert found.frequency[0] == 0 < np.min(found.frequency[1:])
    with_equals = task_of(p=7, equals="class")
    normed = Transformer(d_model=8, heads=2, d_mlp=6, norm="layernorm", norm_where="post").build(with_equals.sizes)
    found = neurons.neurons(drawn(normed), normed, problem_of(with_equals))
    assert np.isnan(found.output_phase).all()
    assert np.isfinite(found.input_phases).all()
    bare = Transformer(d_model=8, heads=2, d_mlp=0).build(with_equals.sizes)
    with pytest.raises(UserError, match="no MLP"):
        neurons.neurons(drawn(bare), bare, problem_of(with_equals))


def test_neurons_of_a_transformer_are_those_of_its_activations():
    task = task_of(p=7, equals="class")
    model = Transformer(d_model=8, heads=2, d_mlp=6).build(task.sizes)
    params, problem = drawn(model), problem_of(task)
    names = ("blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post")
    _, cache = jax.jit(model.apply, static_argnames="names")(params, problem.inputs, names=names)
    found = neurons.neurons(params, model, problem)
    clusters = fourier.clusters(fourier.neuron_fractions(cache[names[1]][:, 0]), 0.0)
    np.testing.assert_array_equal(found.frequency, clusters.frequency)
    read = np.asarray(cache[names[0]][:, 0]).reshape(7, 7, 6).mean(axis=1)
    coefficient = np.fft.fft(read, axis=0)[np.asarray(found.frequency), np.arange(6)]
    np.testing.assert_allclose(found.input_phases[:, 0], np.angle(coefficient), atol=1e-3)


def test_a_neuron_commits_where_it_keeps_its_last_frequency():
    frequency = np.array([[1, 2, 3, 0, 5], [2, 2, 4, 1, 5], [2, 3, 3, 1, 0], [2, 2, 3, 1, 0]])
    found = neurons.commitment(frequency, np.array([0, 10, 20, 40]))
    np.testing.assert_array_equal(found, [10, 40, 20, 10, np.nan])
