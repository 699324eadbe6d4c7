"""Contributions add up to the logits, those of a removed part go with it, and the lens ends in the logits."""

import functools
import itertools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn

from jaxadd.analysis import attribution
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.optim import losses, scores
from jaxadd.tasks import Addition, Modular
from jaxadd.types import Batch

TASKS = {
    "modular": Modular(p=7, train_fraction=0.6),
    "sequential": Addition(digits=3, base=5),
    "parallel": Addition(digits=2, target="parallel"),
    "single": Addition(digits=2, target="single", digit=1),
}
NETWORKS = {
    "mainline": Transformer(d_model=16, heads=2, d_mlp=32),
    "deep": Transformer(d_model=16, heads=2, d_mlp=32, layers=2, activation="gelu"),
    "attention": Transformer(d_model=16, heads=4, d_mlp=0, layers=2),
    "norm": Transformer(d_model=16, heads=2, d_mlp=32, layers=2, norm="layernorm"),
    "norm-attention": Transformer(d_model=16, heads=2, d_mlp=0, norm="layernorm"),
}
CASES = [
    ("modular", "mainline"),
    ("modular", "attention"),
    ("modular", "norm-attention"),
    ("sequential", "deep"),
    ("sequential", "norm"),
    ("parallel", "deep"),
]


@functools.cache
def case(task, network, seed=0):
    """Return a model whose parameters all take part, its parameters and 12 problems."""
    task = TASKS[task]
    model = NETWORKS[network].build(task.sizes)
    if isinstance(task, Modular):
        batch = task.batch(np.arange(12) * 4, {})
    else:
        batch = task.batch(task.draw(jax.random.key(2), 12))
    return model, drawn(model, seed), batch


def run(model, params, inputs, edits=None):
    """Return the logits, with some activations changed."""
    return jax.jit(lambda p, x: model.apply(p, x, edits=edits)[0])(params, inputs)


@functools.cache
def everything(task, network):
    """Compute the logits of a case and all that is attributed, in one compiled call."""
    model, params, batch = case(task, network)

    def compute(params, batch):
        problems = params, model, batch.inputs
        return {
            "logits": model.apply(params, batch.inputs)[0],
            "parts": attribution.attribution(*problems),
            "lens": attribution.logit_lens(*problems),
            "by_digit": attribution.attribution_by_digit(params, model, batch),
            "lens_by_digit": attribution.lens_by_digit(params, model, batch),
        } | ({"neurons": attribution.neurons_by_digit(params, model, batch)} if model.config.d_mlp else {})

    return jax.jit(compute)(params, batch)


def components(network):
    config, names = NETWORKS[network], ["embed", "pos_embed"]
    for i in range(config.layers):
        names += [f"L{i}H{h}" for h in range(config.heads)]
        names += [f"L{i}MLP", f"L{i}MLP_bias"] if config.d_mlp else []
    return names + (["ln_final_bias"] if config.norm == "layernorm" else [])


# --- direct logit attribution -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "network"), CASES)
def test_contributions_add_up_to_the_logits(task, network):
    result = everything(task, network)
    parts, logits = result["parts"], result["logits"]
    assert list(parts) == components(network)
    for name, part in parts.items():
        assert part.shape == logits.shape, name
        assert part.dtype == jnp.float32
        assert jnp.abs(part).max() > 0.01, name
    np.testing.assert_allclose(sum(parts.values()), logits, rtol=1e-4, atol=1e-4)


def test_a_faint_stream_is_scaled_as_the_network_scales_it():
    """Where the stream's variance is that of LayerNorm's epsilon, another epsilon would show."""
    model, params, batch = case("modular", "norm-attention")
    params = jax.tree.map(lambda w: w, params)
    for part, name in ((params["embed"], "W_E"), (params["pos_embed"], "W_pos"), (params["blocks.0"]["attn"], "W_O")):
        part[name] = 0.003 * part[name]
    logits = run(model, params, batch.inputs)
    parts = attribution.attribution(params, model, batch.inputs)
    lens = attribution.logit_lens(params, model, batch.inputs)
    for found in (sum(parts.values()), lens["blocks.0.hook_resid_post"]):
        np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)


def test_any_positions_may_be_scored():
    model, params, batch = case("sequential", "deep")
    reading = lambda positions: replace(model, sizes=replace(model.sizes, read=positions))
    every = reading(tuple(range(model.sizes.length)))
    everywhere = attribution.attribution(params, every, batch.inputs)
    np.testing.assert_allclose(sum(everywhere.values()), run(every, params, batch.inputs), rtol=1e-4, atol=1e-4)
    some = attribution.attribution(params, reading((1, 6)), batch.inputs)
    for name, part in some.items():
        np.testing.assert_allclose(part, everywhere[name][:, [1, 6]], rtol=1e-4, atol=1e-5, err_msg=name)


def test_removing_a_last_head_removes_its_contribution():
    """Nothing comes after the last layer's heads of an attention-only network, so there is no indirect effect."""
    model, params, batch = case("sequential", "attention")

    def masked(mask):
        edit = lambda z: z * mask[None, None, :, None]
        return model.apply(params, batch.inputs, edits={"blocks.1.attn.hook_z": edit})[0]

    kept = jax.jit(jax.vmap(masked))(1 - jnp.eye(4))
    parts = everything("sequential", "attention")["parts"]
    for head, without in enumerate(kept):
        removed = everything("sequential", "attention")["logits"] - without
        np.testing.assert_allclose(removed, parts[f"L1H{head}"], rtol=1e-4, atol=1e-4)


def test_removing_the_last_mlp_removes_its_contribution():
    model, params, batch = case("parallel", "deep")
    result = everything("parallel", "deep")
    parts, logits = result["parts"], result["logits"]
    without = run(model, params, batch.inputs, {"blocks.1.hook_mlp_out": jnp.zeros_like})
    np.testing.assert_allclose(logits - without, parts["L1MLP"] + parts["L1MLP_bias"], rtol=1e-4, atol=1e-4)


def test_a_changed_network_is_attributed_as_it_then_is():
    model, params, batch = case("sequential", "norm")
    attn = params["blocks.0"]["attn"]
    without = {**params["blocks.0"], "attn": {**attn, "W_O": attn["W_O"].at[1].set(0)}}
    changed = {**params, "blocks.0": without}
    parts, logits = attribution.attribution(changed, model, batch.inputs), run(model, changed, batch.inputs)
    np.testing.assert_allclose(parts["L0H1"], 0, atol=1e-6)
    np.testing.assert_allclose(sum(parts.values()), logits, rtol=1e-4, atol=1e-4)
    assert jnp.abs(logits - everything("sequential", "norm")["logits"]).max() > 0.01


def test_logit_difference_equals_a_loop():
    logits = np.asarray(jax.random.normal(jax.random.key(0), (6, 2, 5)))
    targets = np.arange(12).reshape(6, 2) % 5
    found = attribution.logit_difference(jnp.asarray(logits), jnp.asarray(targets))
    for b in range(6):
        for r in range(2):
            others = np.delete(logits[b, r], targets[b, r])
            assert found[b, r] == pytest.approx(logits[b, r, targets[b, r]] - others.mean(), rel=1e-4, abs=1e-6)
    with pytest.raises(AssertionError):
        attribution.logit_difference(jnp.asarray(logits), jnp.asarray(targets[:, :1]))


@pytest.mark.parametrize("network", ["deep", "norm", "attention"])
def test_contributions_to_the_correct_answer_by_digit(network):
    model, _, batch = case("sequential", network)
    found, logits = everything("sequential", network)["by_digit"], everything("sequential", network)["logits"]
    assert list(found) == components(network)
    whole = attribution.logit_difference(logits, batch.targets).mean(0)
    assert whole.shape == (len(model.sizes.read),)
    np.testing.assert_allclose(sum(found.values()), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "network"), [("single", "mainline"), ("sequential", "deep"), ("sequential", "norm")]
)
def test_neurons_add_up_to_their_mlp(task, network):
    model, _, _ = case(task, network)
    neurons, parts = everything(task, network)["neurons"], everything(task, network)["by_digit"]
    assert neurons.shape == (NETWORKS[network].layers, 32, len(model.sizes.read))
    for i, layer in enumerate(neurons):
        np.testing.assert_allclose(layer.sum(0), parts[f"L{i}MLP"], rtol=1e-4, atol=1e-4)


def test_removing_a_last_neuron_removes_its_contribution():
    model, params, batch = case("sequential", "mainline")
    neurons = everything("sequential", "mainline")["neurons"][0]
    neuron = int(jnp.argmax(jnp.abs(neurons).max(1)))
    zero = {"blocks.0.mlp.hook_post": lambda post: post.at[..., neuron].set(0)}
    difference = [
        attribution.logit_difference(run(model, params, batch.inputs, edits), batch.targets).mean(0)
        for edits in ({}, zero)
    ]
    np.testing.assert_allclose(difference[0] - difference[1], neurons[neuron], rtol=1e-3, atol=1e-4)
    asked = Batch(batch.inputs, (batch.targets + 1) % 5)
    assert jnp.abs(attribution.neurons_by_digit(params, model, asked)[0] - neurons).max() > 0.01


# --- logit lens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "network"), CASES)
def test_the_lens_ends_in_the_logits(task, network):
    lens, logits = everything(task, network)["lens"], everything(task, network)["logits"]
    config, points = NETWORKS[network], ["blocks.0.hook_resid_pre"]
    for i in range(config.layers):
        points += [f"blocks.{i}.hook_resid_mid"] * (config.d_mlp > 0) + [f"blocks.{i}.hook_resid_post"]
    assert list(lens) == points
    np.testing.assert_allclose(lens[points[-1]], logits, rtol=1e-4, atol=1e-4)
    for before, after in itertools.pairwise(points):
        assert lens[before].shape == logits.shape
        assert jnp.abs(lens[before] - lens[after]).max() > 0.01


@pytest.mark.parametrize("network", ["deep", "norm"])
def test_the_lens_in_between_is_the_network_without_what_follows(network):
    model, params, batch = case("sequential", network)
    lens = everything("sequential", network)["lens"]
    sublayers = [f"blocks.{i}.{hook}" for i in range(2) for hook in ("hook_attn_out", "hook_mlp_out")]

    def cut(kept):
        edits = {name: lambda x, i=i: x * kept[i] for i, name in enumerate(sublayers)}
        return model.apply(params, batch.inputs, edits=edits)[0]

    expected = jax.jit(jax.vmap(cut))(jnp.tri(5, 4, -1))  # Nothing, the first sublayer, the first two, ...
    assert len(lens) == len(expected)
    for (point, found), logits in zip(lens.items(), expected, strict=True):
        np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4, err_msg=point)


@jax.jit
def scored(logits, targets):
    return losses.cross_entropy(logits, targets).mean(0), scores.correct(logits, targets).mean(0)


def test_the_lens_by_digit_scores_every_point():
    model, _, batch = case("sequential", "norm")
    lens, by_digit = everything("sequential", "norm")["lens"], everything("sequential", "norm")["lens_by_digit"]
    assert list(by_digit) == list(lens)
    for name, logits in lens.items():
        loss, accuracy = scored(logits, batch.targets)
        np.testing.assert_allclose(by_digit[name].loss, loss, rtol=1e-4)
        np.testing.assert_allclose(by_digit[name].accuracy, accuracy, rtol=1e-5)
        assert by_digit[name].loss.shape == (len(model.sizes.read),)


# --- use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["norm"])
def test_lanes_equal_one_at_a_time(network):
    model, _, batch = case("parallel", network)
    lanes = [case("parallel", network, seed)[1] for seed in (0, 7)]

    def compute(params):
        problems, batched = (params, model, batch.inputs), (params, model, batch)
        return {
            "attribution": attribution.attribution(*problems),
            "attribution_by_digit": attribution.attribution_by_digit(*batched),
            "neurons_by_digit": attribution.neurons_by_digit(*batched),
            "logit_lens": attribution.logit_lens(*problems),
            "lens_by_digit": attribution.lens_by_digit(*batched),
        }

    together = jax.jit(jax.vmap(compute))(jax.tree.map(lambda *w: np.stack(w), *lanes))
    alone = jax.jit(compute)
    for lane, params in enumerate(lanes):
        for name, one in alone(params).items():
            lane_alone = take(together[name], lane)
            chex.assert_trees_all_close(lane_alone, one, rtol=1e-3, atol=1e-4)
    assert list(together["attribution"]) == components(network)


def test_neurons_of_a_network_without_any_are_refused():
    model, params, batch = case("sequential", "attention")
    with pytest.raises(UserError, match="no MLP"):
        attribution.neurons_by_digit(params, model, batch)
    model, params, batch = case("sequential", "deep")
    with pytest.raises(AssertionError):
        attribution.neurons_by_digit(params, model, Batch(batch.inputs, batch.targets[:, :1]))


def test_a_network_with_nan_has_no_attribution_and_no_correct_answer():
    model, params, batch = case("single", "mainline")
    broken = {**params, "unembed": {"W_U": params["unembed"]["W_U"].at[0, 0].set(jnp.nan)}}
    parts = attribution.attribution_by_digit(broken, model, batch)
    assert all(np.isnan(part).all() for part in parts.values())
    for score in attribution.lens_by_digit(broken, model, batch).values():
        assert np.isnan(score.loss).all()
        np.testing.assert_array_equal(score.accuracy, 0)
