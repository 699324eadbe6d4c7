"""Contributions add up to the logits, what is removed takes its own along, and the lens ends in the logits."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.analysis import attribution
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.optim import digits, losses
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
    "norm": Transformer(d_model=16, heads=2, d_mlp=32, layers=2, layer_norm="pre"),
    "norm-attention": Transformer(d_model=16, heads=2, d_mlp=0, layer_norm="pre"),
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
    """Give a model whose parameters all take part, its parameters, 12 problems and the positions read."""
    task = TASKS[task]
    model = NETWORKS[network].build(task.sizes)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        return jnp.asarray(1 + 0.2 * noise if path[-1].key == "w" else 0.3 * noise)

    params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0)))
    if isinstance(task, Modular):
        batch = task.batch(jnp.arange(12) * 4, {})
    else:
        batch = task.batch(task.draw(jax.random.key(2), 12))
    return model, params, batch, task.sizes.read


def run(model, params, inputs, edits=None, read=None):
    """Give the logits, with some activations changed."""
    return jax.jit(lambda p, x: model.apply(p, x, edits=edits, read=read)[0])(params, inputs)


@functools.cache
def unchanged(task, network):
    """Give the logits of a case."""
    model, params, batch, _ = case(task, network)
    return run(model, params, batch.inputs)


def components(network):
    config, names = NETWORKS[network], ["embed", "pos_embed"]
    for i in range(config.layers):
        names += [f"L{i}H{h}" for h in range(config.heads)]
        names += [f"L{i}MLP", f"L{i}MLP_bias"] if config.d_mlp else []
    return names + (["ln_final_bias"] if config.layer_norm == "pre" else [])


# --- direct logit attribution -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "network"), CASES)
def test_contributions_add_up_to_the_logits(task, network):
    model, params, batch, read = case(task, network)
    logits = unchanged(task, network)
    parts = attribution.attribution(params, model.apply, batch.inputs, read)
    assert list(parts) == components(network)
    for name, part in parts.items():
        assert part.shape == logits.shape, name
        assert part.dtype == jnp.float32
        assert jnp.abs(part).max() > 0.01, name
    np.testing.assert_allclose(sum(parts.values()), logits, rtol=1e-4, atol=1e-4)


def test_a_faint_stream_is_scaled_as_the_network_scales_it():
    """Where the stream's variance is that of LayerNorm's epsilon, another epsilon would show."""
    model, params, batch, read = case("modular", "norm-attention")
    params = jax.tree.map(lambda w: w, params)
    for part, name in ((params["embed"], "W_E"), (params["pos_embed"], "W_pos"), (params["blocks.0"]["attn"], "W_O")):
        part[name] = 0.003 * part[name]
    logits = run(model, params, batch.inputs)
    parts = attribution.attribution(params, model.apply, batch.inputs, read)
    lens = attribution.logit_lens(params, model.apply, batch.inputs, read)
    for found in (sum(parts.values()), lens["blocks.0.hook_resid_post"]):
        np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)


def test_any_positions_may_be_read_and_traced():
    model, params, batch, _ = case("sequential", "deep")
    every = jnp.arange(batch.inputs.shape[1])
    everywhere = attribution.attribution(params, model.apply, batch.inputs, every)
    np.testing.assert_allclose(
        sum(everywhere.values()), run(model, params, batch.inputs, read=every), rtol=1e-4, atol=1e-4
    )
    some = attribution.attribution(params, model.apply, batch.inputs, (1, 6))
    for name, part in some.items():
        np.testing.assert_allclose(part, everywhere[name][:, [1, 6]], rtol=1e-4, atol=1e-5, err_msg=name)


def test_removing_a_last_head_removes_its_contribution():
    """Nothing comes after the last layer's heads of an attention-only network, so there is no indirect effect."""
    model, params, batch, read = case("sequential", "attention")

    def masked(mask):
        return model.apply(params, batch.inputs, edits={"blocks.1.attn.hook_z": lambda z: z * mask[:, None]})[0]

    kept = jax.jit(jax.vmap(masked))(1 - jnp.eye(4))
    parts = attribution.attribution(params, model.apply, batch.inputs, read)
    for head, without in enumerate(kept):
        removed = unchanged("sequential", "attention") - without
        np.testing.assert_allclose(removed, parts[f"L1H{head}"], rtol=1e-4, atol=1e-4)


def test_removing_the_last_mlp_removes_its_contribution():
    model, params, batch, read = case("parallel", "deep")
    logits = unchanged("parallel", "deep")
    without = run(model, params, batch.inputs, {"blocks.1.hook_mlp_out": jnp.zeros_like})
    parts = attribution.attribution(params, model.apply, batch.inputs, read)
    np.testing.assert_allclose(logits - without, parts["L1MLP"] + parts["L1MLP_bias"], rtol=1e-4, atol=1e-4)


def test_a_changed_network_is_attributed_as_it_then_is():
    model, params, batch, read = case("sequential", "norm")
    edits = {"blocks.0.attn.hook_z": lambda z: z.at[:, :, 1].set(0)}
    apply, changed = functools.partial(model.apply, edits=edits), run(model, params, batch.inputs, edits)
    parts = attribution.attribution(params, apply, batch.inputs, read)
    np.testing.assert_allclose(parts["L0H1"], 0, atol=1e-6)
    np.testing.assert_allclose(sum(parts.values()), changed, rtol=1e-4, atol=1e-4)
    assert jnp.abs(changed - unchanged("sequential", "norm")).max() > 0.01


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
def test_contributions_to_the_right_answer_by_digit(network):
    model, params, batch, read = case("sequential", network)
    found = attribution.attribution_by_digit(params, model.apply, batch, read)
    assert list(found) == components(network)
    logits = unchanged("sequential", network)
    whole = attribution.logit_difference(logits, batch.targets).mean(0)
    assert whole.shape == (len(read),)
    np.testing.assert_allclose(sum(found.values()), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "network"), [("single", "mainline"), ("sequential", "deep"), ("sequential", "norm")]
)
def test_neurons_add_up_to_their_mlp(task, network):
    model, params, batch, read = case(task, network)
    neurons = attribution.neurons_by_digit(params, model.apply, batch, read)
    parts = attribution.attribution_by_digit(params, model.apply, batch, read)
    assert neurons.shape == (NETWORKS[network].layers, 32, len(read))
    for i, layer in enumerate(neurons):
        np.testing.assert_allclose(layer.sum(0), parts[f"L{i}MLP"], rtol=1e-4, atol=1e-4)


def test_removing_a_last_neuron_removes_its_contribution():
    model, params, batch, read = case("sequential", "mainline")
    neurons = attribution.neurons_by_digit(params, model.apply, batch, read)[0]
    neuron = int(jnp.argmax(jnp.abs(neurons).max(1)))
    zero = {"blocks.0.mlp.hook_post": lambda post: post.at[..., neuron].set(0)}
    difference = [
        attribution.logit_difference(run(model, params, batch.inputs, edits), batch.targets).mean(0)
        for edits in ({}, zero)
    ]
    np.testing.assert_allclose(difference[0] - difference[1], neurons[neuron], rtol=1e-3, atol=1e-4)
    asked = Batch(batch.inputs, (batch.targets + 1) % 5)
    assert jnp.abs(attribution.neurons_by_digit(params, model.apply, asked, read)[0] - neurons).max() > 0.01


# --- logit lens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "network"), CASES)
def test_the_lens_ends_in_the_logits(task, network):
    model, params, batch, read = case(task, network)
    logits = unchanged(task, network)
    lens = attribution.logit_lens(params, model.apply, batch.inputs, read)
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
    model, params, batch, read = case("sequential", network)
    lens = attribution.logit_lens(params, model.apply, batch.inputs, read)
    sublayers = [f"blocks.{i}.{hook}" for i in range(2) for hook in ("hook_attn_out", "hook_mlp_out")]

    def cut(kept):
        edits = {name: lambda x, i=i: x * kept[i] for i, name in enumerate(sublayers)}
        return model.apply(params, batch.inputs, edits=edits)[0]

    expected = jax.jit(jax.vmap(cut))(jnp.tri(5, 4, -1))  # Nothing, the first sublayer, the first two, ...
    assert len(lens) == len(expected)
    for (point, found), logits in zip(lens.items(), expected, strict=True):
        np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4, err_msg=point)


def test_the_lens_by_digit_scores_every_point():
    model, params, batch, read = case("sequential", "norm")
    lens = attribution.logit_lens(params, model.apply, batch.inputs, read)
    scores = attribution.lens_by_digit(params, model.apply, batch, read)
    assert list(scores) == list(lens)
    for name, logits in lens.items():
        np.testing.assert_allclose(scores[name].loss, losses.cross_entropy(logits, batch.targets).mean(0), rtol=1e-4)
        np.testing.assert_allclose(scores[name].accuracy, digits.correct(logits, batch.targets).mean(0), rtol=1e-5)
        assert scores[name].loss.shape == (len(read),)


# --- use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["deep", "norm"])
def test_lanes_equal_one_at_a_time(network):
    model, _, batch, read = case("parallel", network)
    lanes = [case("parallel", network, seed)[1] for seed in (0, 7)]

    def everything(params):
        problems, batched = (params, model.apply, batch.inputs, read), (params, model.apply, batch, read)
        return {
            "attribution": attribution.attribution(*problems),
            "attribution_by_digit": attribution.attribution_by_digit(*batched),
            "neurons_by_digit": attribution.neurons_by_digit(*batched),
            "logit_lens": attribution.logit_lens(*problems),
            "lens_by_digit": attribution.lens_by_digit(*batched),
        }

    together = jax.jit(jax.vmap(everything))(jax.tree.map(lambda *w: np.stack(w), *lanes))
    for lane, params in enumerate(lanes):
        for name, one in jax.jit(everything)(params).items():
            own = take(together[name], lane)
            chex.assert_trees_all_close(own, one, rtol=1e-3, atol=1e-4)
    assert list(together["attribution"]) == components(network)


def test_neurons_of_a_network_without_any_are_refused():
    model, params, batch, read = case("sequential", "attention")
    with pytest.raises(UserError, match="no MLP"):
        attribution.neurons_by_digit(params, model.apply, batch, read)
    model, params, batch, read = case("sequential", "deep")
    with pytest.raises(AssertionError):
        attribution.neurons_by_digit(params, model.apply, Batch(batch.inputs, batch.targets[:, :1]), read)
