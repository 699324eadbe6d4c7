"""Progress measures equal their plain definitions, know a clock, and map over the states of a run."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import drawn

from jaxadd.analysis import fourier, measures
from jaxadd.analysis.measures import Measure
from jaxadd.analysis.modular import declarations, progress
from jaxadd.analysis.modular.problem import whole_problem
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.tasks import Addition, Modular
from jaxadd.types import Sizes

P = 7
SPLITS = ("all", "train", "test")
SMALL = Transformer(d_model=16, heads=2, d_mlp=32)


def lane(task, seed=0):
    return {name: pairs[0] for name, pairs in task.data([seed]).lane.items()}


TASK = Modular(p=P, train_fraction=0.4)
PROBLEM = whole_problem(TASK, lane(TASK))
MODEL = SMALL.build(TASK.sizes)
KEYS = fourier.mask([1, 3], P)


def flat(found):
    return measures.flat(declarations.MEASURES, found, PROBLEM.axes)


def large(seed=0, scale=1.0):
    """Draw parameters large enough for logits to differ."""
    return drawn(MODEL, seed, 0.27 * scale)


def applied(model, params, problem, names=()):
    return jax.jit(model.apply, static_argnames="names")(params, problem.inputs, names=tuple(names))


def plain_loss(logits, answers):
    logits = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(logits).sum(1)) - np.take_along_axis(logits, answers[:, None], 1)[:, 0]


def plain_losses(logits, problem, keys, sign):
    """Compute all losses over the numbers by the definitions, float64: u_k u_kᵀ L and unit cubes."""
    a, b, _ = np.asarray(problem.inputs, int).T
    answers = np.asarray(problem.answers)
    c, waves, cubes = np.arange(P), {}, {}
    for k in range(1, P // 2 + 1):
        w = 2 * np.pi * k / P
        unit = [f(w * (a + sign * b)) * np.sqrt(2) / P for f in (np.cos, np.sin)]
        waves[k] = sum(np.outer(u, u @ logits) for u in unit)
        cube = np.cos(w * (a[:, None] + sign * b[:, None] - c))
        cube /= np.linalg.norm(cube)
        cubes[k] = np.sum(cube * logits) * cube
    found = {"full_loss": logits}
    for end, parts in (("", waves), ("_3d", cubes)):
        kept = sum(parts[k] for k in fourier.frequencies(keys))
        found[f"restricted_loss{end}"] = kept if end else kept + (logits - kept).mean(0)
        found[f"excluded_loss{end}"] = logits - kept
    rows = {"all": slice(None), "train": np.asarray(problem.train), "test": np.asarray(problem.test)}
    found = {f"{n}_{s}": plain_loss(x, answers)[rows[s]].mean() for n, x in found.items() for s in SPLITS}
    found["excluded_loss_k"] = [plain_loss(logits - waves[k], answers)[rows["train"]].mean() for k in waves]
    return found


@pytest.mark.parametrize("operation", ["add", "subtract"])
def test_losses_are_their_plain_definitions(operation):
    task = Modular(p=P, train_fraction=0.4, operation=operation)
    problem, params = whole_problem(task, lane(task)), large()
    logits = np.asarray(applied(MODEL, params, problem)[0][:, 0], np.float64)
    found = progress.measures(params, MODEL, problem, KEYS)
    for name, loss in plain_losses(logits[:, :P], problem, KEYS, 1 if operation == "add" else -1).items():
        np.testing.assert_allclose(found[name], loss, rtol=1e-4, err_msg=name)
    answers, rows = np.asarray(problem.answers), {"all": slice(None), "train": problem.train, "test": problem.test}
    for split, row in rows.items():
        np.testing.assert_allclose(found[f"{split}_loss"], plain_loss(logits, answers)[row].mean(), rtol=1e-4)
        np.testing.assert_allclose(found[f"{split}_accuracy"], np.mean((logits.argmax(1) == answers)[row]), rtol=1e-5)
        assert found[f"{split}_loss"] > found[f"full_loss_{split}"]  # one class more


def test_the_other_measures_are_their_plain_definitions():
    params = large(1)
    names = ["blocks.0.attn.hook_pattern", "blocks.0.mlp.hook_post"]
    logits, seen = applied(MODEL, params, PROBLEM, names)
    logits, (pattern, post) = np.asarray(logits[:, 0, :P]), map(np.asarray, (seen[n] for n in names))
    found = progress.measures(params, MODEL, PROBLEM, KEYS)
    cosines = np.asarray(fourier.cosine_similarities(logits, PROBLEM.answers))
    np.testing.assert_allclose(found["logit_cosine_k"], cosines, atol=1e-5)
    # The best fit of both key cubes, by least squares on the centred logits.
    centred = logits - logits.mean(1, keepdims=True)
    d = np.asarray(PROBLEM.answers)[:, None] - np.arange(P)
    design = np.stack([np.cos(2 * np.pi * k * d / P).reshape(-1) for k in (1, 3)], 1)
    rest = np.linalg.lstsq(design, centred.reshape(-1), rcond=None)[1][0]
    np.testing.assert_allclose(found["logit_variance_explained"], 1 - rest / np.sum(centred**2), atol=1e-5)

    np.testing.assert_allclose(found["attention_to_equals"], [pattern[:, :, 0, 2].mean(0)], rtol=1e-5)
    explained = np.asarray(fourier.neuron_fractions(post[:, 0])).max(1)
    np.testing.assert_allclose(found["neuron_variance_explained"], explained.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["neurons_explained"], np.mean(explained > 0.85), rtol=1e-5)
    basis, w_e = fourier.basis(P), np.asarray(params["embed"]["W_E"])[:P]
    w_l = np.asarray(params["blocks.0"]["mlp"]["W_out"] @ params["unembed"]["W_U"])[:, :P]
    np.testing.assert_allclose(found["gini_W_E"], plain_gini(np.linalg.norm(basis @ w_e, axis=1)), rtol=1e-4)
    np.testing.assert_allclose(found["gini_W_L"], plain_gini(np.linalg.norm(w_l @ basis.T, axis=0)), rtol=1e-4)
    np.testing.assert_allclose(found["embedding_norm_k"], fourier.norms(w_e), rtol=1e-5)
    squares = found["sum_of_squares_of"]
    assert len(squares) == len(jax.tree.leaves(params))
    np.testing.assert_allclose(
        squares["blocks.0.mlp.W_in"], np.sum(params["blocks.0"]["mlp"]["W_in"] ** 2), rtol=1e-6
    )
    np.testing.assert_allclose(found["sum_of_squares"], sum(squares.values()), rtol=1e-6)


def plain_gini(x):
    """Half the relative mean difference of all pairs."""
    return np.abs(x[:, None] - x).mean() / (2 * x.mean())


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0.01, 100), min_size=6, max_size=6))
def test_gini_is_half_the_relative_mean_difference(sizes):
    np.testing.assert_allclose(declarations.gini(jnp.array(sizes)), plain_gini(np.array(sizes)), atol=1e-5)


# --- a clock ----------------------------------------------------------------------------------------------


class ClockModel(NamedTuple):
    """Stands in for a Model of a transformer without neurons."""

    sizes: Sizes
    config: Transformer = Transformer(d_model=1, heads=1, d_mlp=0)

    def apply(self, params, inputs, names=()):
        p = self.sizes.classes - 1
        alpha = params["embed"]["W_E"][: p // 2 + 1, 0]
        wave = fourier.basis(p)[1::2].T @ (
            alpha[1:] / fourier.basis(p)[1::2, 0]
        )  # Its largest entry is the sum of α.
        offset = (inputs[:, :1] + inputs[:, 1:2] - jnp.arange(p)[None]) % p
        logits = jnp.pad(wave[offset], [(0, 0), (0, 1)], constant_values=-1e4)
        return logits[:, None], dict.fromkeys(names, jnp.full((len(inputs), 1, 1, 3), 1 / 3))


@pytest.mark.parametrize("p", [2, 3, 13, 210])
def test_a_clock_is_restricted_to_its_keys_and_knows_nothing_without(p):
    keys = sorted({p // 2, 1, p // 5 + 1})  # The largest frequency belongs to them.
    task = Modular(p=p, train_fraction=0.3 if p < 99 else 0.01)
    alpha = np.zeros((p + 1, 1), np.float32)
    alpha[keys, 0] = 1 + np.arange(len(keys))
    params = {"embed": {"W_E": jnp.asarray(alpha)}}
    found = progress.measures(params, ClockModel(task.sizes), whole_problem(task, lane(task)), fourier.mask(keys, p))
    assert 0.01 < found["full_loss_all"] < 0.9 * np.log(p)
    for split in SPLITS:
        np.testing.assert_allclose(found[f"{split}_loss"], found[f"full_loss_{split}"], rtol=1e-6)
        for end in ("", "_3d"):
            np.testing.assert_allclose(found[f"restricted_loss{end}_{split}"], found["full_loss_all"], rtol=1e-4)
            np.testing.assert_allclose(found[f"excluded_loss{end}_{split}"], np.log(p), rtol=1e-5)
    np.testing.assert_allclose(found["logit_variance_explained"], 1, rtol=1e-5)
    assert [k + 1 for k in np.flatnonzero(found["logit_cosine_k"] > 0.005)] == keys
    assert found["all_accuracy"] == 1
    without = np.asarray(found["excluded_loss_k"])
    others = np.setdiff1d(np.arange(1, p // 2 + 1), keys) - 1
    np.testing.assert_allclose(without[others], found["full_loss_train"], rtol=1e-4)
    assert all(without[k - 1] > 1.02 * found["full_loss_train"] for k in keys)
    np.testing.assert_allclose(found["attention_to_equals"], [[1 / 3]], rtol=1e-6)


# --- over models and states -------------------------------------------------------------------------------


def test_every_measure_is_declared_once_and_reaches_json():
    found = progress.measures(large(), MODEL, PROBLEM, KEYS)
    names = [measure.name for measure in declarations.MEASURES]
    assert sorted(found) == sorted(names)
    assert len(set(names)) == len(names)
    assert all(measure.definition and measure.unit for measure in declarations.MEASURES)
    entries = flat(found)
    assert all(type(value) is float for value in entries.values())
    assert entries["excluded_loss_3"] == found["excluded_loss_k"][2]
    assert entries["embedding_norm_0"] == found["embedding_norm_k"][0]
    assert entries["attention_to_equals.L0H1"] == found["attention_to_equals"][0, 1]
    assert entries["sum_of_squares.embed.W_E"] == found["sum_of_squares_of"]["embed.W_E"]
    assert entries["train_loss"] == found["train_loss"]
    assert len(entries) == sum(value.size for value in jax.tree.leaves(found))
    declared = measures.explained(declarations.MEASURES, entries, found, PROBLEM.axes)
    assert declared.keys() == entries.keys()
    assert declared["excluded_loss_3"].name == "excluded_loss_k"


def test_a_network_with_nan_has_no_measures_and_no_correct_answer():
    params = large()
    params["unembed"] = {"W_U": params["unembed"]["W_U"].at[0, 0].set(jnp.nan)}
    entries = flat(progress.measures(params, MODEL, PROBLEM, KEYS))
    fine = ("gini_W_E", "embedding_norm_", "neuron", "attention_to_equals", "sum_of_squares.")
    for name, value in entries.items():
        if name.endswith("_accuracy") or name.startswith(tuple(f"{split}_accuracy" for split in SPLITS)):
            assert value == 0, name
        elif not name.startswith(fine):
            assert np.isnan(value), name
    params = large()
    params["embed"] = {"W_E": params["embed"]["W_E"].at[0, 0].set(jnp.inf)}
    entries = flat(progress.measures(params, MODEL, PROBLEM, KEYS))
    assert all(np.isnan(entries[name]) for name in ("neurons_explained", "neuron_variance_explained", "gini_W_E"))


def test_attention_only_and_deeper_models():
    """Without an MLP its measures are left out; attention is measured in every block."""
    model = Transformer(layers=2, d_model=16, heads=2, d_mlp=0, norm="layernorm").build(TASK.sizes)
    params = drawn(model)
    found = progress.measures(params, model, PROBLEM, KEYS)
    missing = {measure.name for measure in declarations.MEASURES} - found.keys()
    assert missing == {"gini_W_L", "neuron_variance_explained", "neurons_explained"}
    names = [f"blocks.{i}.attn.hook_pattern" for i in range(2)]
    _, seen = applied(model, params, PROBLEM, names)
    plain = [np.mean(seen[names[0]][:, :, 2, 2], 0), np.mean(seen[names[1]][:, :, 0, 2], 0)]
    np.testing.assert_allclose(found["attention_to_equals"], plain, rtol=1e-5)


def test_all_states_in_one_call_equal_each_alone():
    traces = []

    def train_loss(state):
        traces.append(1)
        return next(m for m in declarations.MEASURES if m.name == "train_loss").compute(state)

    counted = (*declarations.MEASURES, Measure("counted", "", "nats", train_loss))
    states = [large(seed, 1 + seed / 4) for seed in range(3)]
    stacked = jax.tree.map(lambda *w: jnp.stack(w), *states)
    together = progress.over_states(stacked, MODEL, PROBLEM, KEYS, declarations=counted)
    assert len(traces) == 1
    np.testing.assert_array_equal(together["counted"], together["train_loss"])
    for i, state in enumerate(states):
        alone = progress.measures(state, MODEL, PROBLEM, KEYS)
        assert together.keys() - alone.keys() == {"counted"}
        one = jax.tree.map(lambda x: x[i], {name: together[name] for name in alone})  # noqa: B023
        chex.assert_trees_all_close(one, alone, rtol=1e-4, atol=1e-5)
    assert np.ptp(together["train_loss"]) > 0.1


def test_table_lists_all_pairs_in_order():
    np.testing.assert_array_equal(PROBLEM.inputs[P * 3 + 5], [3, 5, P])
    assert PROBLEM.answers[P * 3 + 5] == 1
    assert len(PROBLEM.inputs) == P * P
    np.testing.assert_array_equal(np.sort(np.append(PROBLEM.train, PROBLEM.test)), np.arange(P * P))
    assert len(PROBLEM.train) == TASK.train_size


@pytest.mark.parametrize("task", [Modular(p=P, operation="a2+ab+b2"), Modular(p=P, operands=3), Addition(digits=2)])
def test_only_sums_have_these_measures(task):
    with pytest.raises(UserError, match="operation is add, subtract, multiply or divide, got"):
        whole_problem(task, {})
