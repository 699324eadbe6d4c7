"""Circuits equal what the network does, and composition scores equal plain norms and worked examples."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import drawn

from jaxadd.analysis import circuits
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.models import MLP, Transformer, structure
from jaxadd.tasks import Addition, Modular
from jaxadd.types import Sizes

pytestmark = pytest.mark.jax_api

P, D, H, K = 7, 16, 2, 8
TASKS = {"modular": Modular(p=P, train_fraction=0.6), "addition": Addition(digits=2)}


def network(task="modular", seed=0, norm_bias=True, **fields):
    """Build a network all of whose parameters take part, LayerNorm's biases only where `norm_bias`."""
    sizes = TASKS[task].sizes if isinstance(task, str) else task
    model = Transformer(**{"d_model": D, "heads": H, "d_mlp": 32, **fields}).build(sizes)
    return model, drawn(model, seed, norm_bias=norm_bias), sizes


def run(model, params, inputs, names=(), edits=None, read=None):
    return jax.jit(lambda p, x: model.apply(p, x, names, edits, read))(params, inputs)


def tokens(sizes, batch=5, seed=3):
    return jax.random.randint(jax.random.key(seed), (batch, sizes.length), 0, sizes.vocabulary)


def matrices(params, layer=0):
    """Return W_OV and W_QK of every head and the MLP's weights, all float64, by the plain products."""
    block = jax.tree.map(lambda w: np.asarray(w, np.float64), params[f"blocks.{layer}"])
    attn = block["attn"]
    return attn["W_V"] @ attn["W_O"], attn["W_Q"] @ attn["W_K"].swapaxes(1, 2), block.get("mlp")


# --- against the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_scores_of_the_first_layer_are_sums_of_qk(task):
    model, params, sizes = network(task, layers=2)
    x, length = tokens(sizes), sizes.length
    name = "blocks.0.attn.hook_attn_scores"
    _, seen = run(model, params, x, names=[name], read=tuple(range(length)))
    place = params["pos_embed"]["W_pos"]
    tt, tp, pt, pp = (np.asarray(circuits.qk(params, model, 0, a, b)) for a in (None, place) for b in (None, place))
    assert [t.shape[1:] for t in (tt, tp, pt, pp)] == [
        (a, b) for a in (sizes.vocabulary, length) for b in (sizes.vocabulary, length)
    ]
    x, found = np.asarray(x), np.asarray(seen[name])
    for r in range(length):
        for t in range(r + 1):
            q, k = x[:, r], x[:, t]
            expected = tt[:, q, k] + tp[:, q, t] + pt[:, r, k] + pp[:, r, t, None]
            np.testing.assert_allclose(found[:, :, r, t].T, expected, rtol=1e-4, atol=1e-4)


def test_readoff_is_what_equals_scores_every_token():
    model, params, _ = network()
    x = jnp.stack([jnp.arange(P), jnp.arange(P), jnp.full(P, P)], axis=1)
    _, seen = run(model, params, x, names=["blocks.0.attn.hook_attn_scores"])
    place = params["pos_embed"]["W_pos"]
    query = (params["embed"]["W_E"][P] + place[2])[None]
    by_token, by_place = (
        circuits.attention_readoff(params, model, 0, P, 2),
        circuits.qk(params, model, 0, query, place),
    )
    found = seen["blocks.0.attn.hook_attn_scores"][:, :, 0]  # [P, H, T]
    np.testing.assert_allclose(found[..., 0].T, by_token[:, :P] + by_place[..., 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[..., 2].T, by_token[:, [P] * P] + by_place[..., 2], rtol=1e-4, atol=1e-4)


def test_with_one_token_every_head_writes_its_ov_circuit():
    sizes = Sizes(length=1, classes=6, vocabulary=9)
    model, params, _ = network(sizes, d_mlp=0)
    x = jnp.arange(9)[:, None]
    logits, _ = run(model, params, x)
    without, _ = run(model, params, x, edits={"blocks.0.attn.hook_z": jnp.zeros_like})
    token, place = params["embed"]["W_E"], params["pos_embed"]["W_pos"]
    written = circuits.ov(params, model, 0) + circuits.ov(params, model, 0, place)
    np.testing.assert_allclose(logits[:, 0] - without[:, 0], written.sum(0), rtol=1e-4, atol=1e-4)
    for h in range(H):
        alone = {"blocks.0.attn.hook_z": lambda z, h=h: jnp.zeros_like(z).at[:, :, h].set(z[:, :, h])}
        one, _ = run(model, params, x, edits=alone)
        np.testing.assert_allclose(one[:, 0] - without[:, 0], written[h], rtol=1e-4, atol=1e-4)
        direct = (token + place) @ circuits.ov_matrix(params, model, 0)[h] @ params["unembed"]["W_U"]
        np.testing.assert_allclose(written[h], direct, rtol=1e-4, atol=1e-4)


def test_attention_to_one_token_moves_neurons_by_w_neur_and_logits_by_w_l():
    """With its pattern set to one position, a head writes its OV circuit there; each neuron writes its row of W_L."""
    model, params, sizes = network()
    x = tokens(sizes, 6).at[:, 1].set(jnp.arange(6))
    look = {"blocks.0.attn.hook_pattern": lambda p: jnp.zeros_like(p).at[:, 1, :, 1].set(1)}
    names = ["blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post"]
    logits, on = run(model, params, x, names, look)
    off = run(model, params, x, names, {"blocks.0.attn.hook_pattern": jnp.zeros_like})[1]
    moved = on[names[0]] - off[names[0]]
    from_place = circuits.ov(params, model, 0, params["pos_embed"]["W_pos"], params["blocks.0"]["mlp"]["W_in"])
    expected = circuits.embedding_to_neuron(params, model, 0)[1, :6] + from_place[1, 1][None]
    np.testing.assert_allclose(moved[:, 0], expected, rtol=1e-4, atol=1e-4)
    neuron = int(jnp.argmax(on[names[1]].min(0)[0]))
    edits = {**look, names[1]: lambda post: post.at[..., neuron].set(0)}
    without, _ = run(model, params, x, edits=edits)
    effect = on[names[1]][..., neuron, None] * circuits.neuron_to_logit(params, model, 0)[neuron][None, None]
    assert jnp.abs(effect).max() > 0.1
    np.testing.assert_allclose(logits - without, effect, rtol=1e-4, atol=1e-4)


def test_folded_circuits_are_those_of_the_network_but_for_the_scale():
    model, params, sizes = network("addition", layers=2, norm="layernorm", norm_bias=False)
    params = {**params, "pos_embed": jax.tree.map(jnp.zeros_like, params["pos_embed"])}
    x, every = tokens(sizes), tuple(range(sizes.length))
    names = ["blocks.0.attn.hook_attn_scores", "blocks.1.hook_resid_mid", "blocks.1.mlp.hook_pre"]
    _, seen = run(model, params, x, names, read=every)
    sigma = jnp.sqrt(jnp.var(params["embed"]["W_E"], axis=1) + 1e-5)
    scores = circuits.qk(params, model, 0) / jnp.outer(sigma, sigma)[None]
    # From the last position, to every position.
    expected = scores[:, x[:, -1:], x].swapaxes(0, 1)
    np.testing.assert_allclose(seen[names[0]][:, :, -1], expected, rtol=1e-4, atol=1e-4)
    folded = structure.folded(params, model)
    assert not {"ln_final", "ln1"} & {*folded, *folded["blocks.0"]}
    for part in ("attn", "mlp"):
        chex.assert_trees_all_equal_shapes(folded["blocks.1"][part], params["blocks.1"][part])
    mid = seen[names[1]]
    scale = jax.lax.rsqrt(jnp.var(mid, axis=-1, keepdims=True) + 1e-5)
    mlp = folded["blocks.1"]["mlp"]
    np.testing.assert_allclose(
        seen[names[2]], scale * (mid @ mlp["W_in"]) + mlp["b_in"][None, None], rtol=1e-4, atol=1e-4
    )
    # A constant added to a stream changes nothing that is read through a LayerNorm.
    np.testing.assert_allclose(circuits.ov(params, model, 1, jnp.ones((1, D))), 0, atol=1e-5)
    np.testing.assert_allclose(circuits.qk(params, model, 1, jnp.ones((1, D))), 0, atol=1e-5)


def test_without_layer_norm_nothing_is_folded():
    model, params, _ = network()
    assert structure.folded(params, model) is params


# --- composition --------------------------------------------------------------------------------------------------


def plain_score(a, b):
    return np.linalg.norm(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize("d_mlp", [0, 32, 9])
def test_composition_equals_the_plain_norms(d_mlp):
    model, params, _ = network("addition", layers=3, d_mlp=d_mlp)
    writers, readers = circuits.composition_labels(model)
    score = circuits.composition(params, model).score
    assert score.shape == (len(writers), len(readers))
    assert len(set(writers)) == len(writers)
    assert len(set(readers)) == len(readers)
    known = 0
    for i, wrote in enumerate(writers):
        for j, seen in enumerate(readers):
            a, b = int(wrote[1]), int(seen[1])
            if not (a < b or (a == b and "H" in wrote and "MLP" in seen)):
                assert np.isnan(score[i, j]), (wrote, seen)
                continue
            (ov, _, mlp), (ov2, qk2, mlp2) = matrices(params, a), matrices(params, b)
            write = mlp["W_out"] if "MLP" in wrote else ov[int(wrote[3])]
            if "MLP" in seen:
                read = mlp2["W_in"]
            else:
                h, kind = int(seen[3]), seen[-1]
                read = {"Q": qk2[h], "K": qk2[h].T, "V": ov2[h]}[kind]
            assert score[i, j] == pytest.approx(plain_score(write, read), rel=1e-4), (wrote, seen)
            known += 1
    assert known == (3 * 2 * 6 if not d_mlp else 3 * 2 + 3 * (2 * 6 + 2 + 6 + 1))


def planted(write, read):
    """Two layers of one head: the first writes along the coordinates `write`, the second reads along `read`."""
    to, of = np.zeros((2, 1, D, D), np.float32)
    to[0, range(len(write)), write] = 1
    of[0, read, range(len(read))] = 1
    all_of = np.eye(D, dtype=np.float32)[None]
    first = {"W_Q": all_of, "W_K": all_of, "W_V": all_of, "W_O": to}
    second = {"W_Q": of, "W_K": of, "W_V": of, "W_O": all_of}
    model, params, _ = network(layers=2, heads=1, d_mlp=0)
    return {**params, "blocks.0": {"attn": first}, "blocks.1": {"attn": second}}, model


@pytest.mark.parametrize(
    ("write", "read", "expected"),
    [
        ([3], [3], 1.0),
        ([3, 4], [3, 4], math.sqrt(1 / 2)),
        ([3, 4, 5, 6], [3, 4, 5, 6], 1 / 2),
        ([0, 1, 2, 3], [3], 1 / 2),
        ([0, 1, 2], [3, 4, 5, 6], 0.0),
    ],
)
def test_composition_of_known_subspaces(write, read, expected):
    found = circuits.composition(*planted(write, read))
    np.testing.assert_allclose(found.score[0, 3:], expected, atol=1e-6)
    assert np.isnan(found.score[:, :3]).all()
    assert np.isnan(found.score[1]).all()
    assert (found.deviation[0, 3:] > 0).all() == (expected > 1 / math.sqrt(D))


def test_composition_of_a_part_that_is_zero_is_unknown():
    params, model = planted([1], [1])
    params["blocks.0"]["attn"]["W_O"] = jnp.zeros((1, D, D))
    assert np.isnan(circuits.composition(params, model).score).all()


def test_independent_parts_score_by_chance():
    """Over many random networks, score² has mean 1 / D, and the deviation has mean 0 and variance 1."""
    many = [network("addition", seed, layers=3) for seed in range(60)]
    model = many[0][0]
    stacked = jax.tree.map(lambda *w: np.stack(w), *(params for _, params, _ in many))
    found = jax.vmap(lambda params: circuits.composition(params, model))(stacked)
    known = ~np.isnan(found.score)
    square, deviation = found.score[known] ** 2, found.deviation[known]
    assert np.mean(square) == pytest.approx(1 / D, rel=0.02)
    assert np.mean(deviation) == pytest.approx(0, abs=0.05)
    assert np.std(deviation) == pytest.approx(1, rel=0.05)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_composition_does_not_depend_on_size_or_basis(seed, factor):
    model, params, _ = network(layers=2)
    rotation = jnp.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0], jnp.float32)
    turned = {}
    for i in range(2):
        attn, mlp = params[f"blocks.{i}"]["attn"], params[f"blocks.{i}"]["mlp"]
        turned[f"blocks.{i}"] = {
            "attn": {n: factor * (w @ rotation if n == "W_O" else rotation.T @ w) for n, w in attn.items()},
            "mlp": {**mlp, "W_in": rotation.T @ mlp["W_in"], "W_out": factor * mlp["W_out"] @ rotation},
        }
    found, expected = circuits.composition({**params, **turned}, model), circuits.composition(params, model)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-3)
    np.testing.assert_allclose(found.deviation, expected.deviation, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("d_mlp", [0, 32])
def test_what_is_composable_has_a_score_and_nothing_else_has(d_mlp):
    model, params, _ = network("addition", layers=2, d_mlp=d_mlp)
    np.testing.assert_array_equal(np.isfinite(circuits.composition(params, model).score), circuits.composable(model))


def test_mean_attention_is_that_of_the_scored_positions_in_every_layer():
    model, params, sizes = network("addition", layers=2)
    x = tokens(sizes)
    names = [f"blocks.{i}.attn.hook_pattern" for i in range(2)]
    _, cache = run(model, params, x, names, read=tuple(range(sizes.length)))
    expected = np.stack([np.mean(cache[name], axis=0)[:, sizes.read] for name in names])
    np.testing.assert_allclose(circuits.mean_attention(params, model, x), expected, rtol=1e-4, atol=1e-6)


# --- use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "layernorm"])
def test_lanes_equal_one_at_a_time(norm):
    model = network("addition", layers=2, norm=norm)[0]
    lanes = [network("addition", seed=s, layers=2, norm=norm)[1] for s in range(2)]

    def everything(params):
        return {
            "qk": circuits.qk(params, model, 1),
            "ov": circuits.ov(params, model, 0),
            "ov_matrix": circuits.ov_matrix(params, model, 1),
            "attention_readoff": circuits.attention_readoff(params, model, 0, 11, 5),
            "neuron_to_logit": circuits.neuron_to_logit(params, model, 1),
            "embedding_to_neuron": circuits.embedding_to_neuron(params, model, 0),
            "composition": circuits.composition(params, model),
        }

    together = jax.jit(jax.vmap(everything))(jax.tree.map(lambda *w: np.stack(w), *lanes))
    for lane, params in enumerate(lanes):
        for name, one in everything(params).items():
            chex.assert_trees_all_close(take(together[name], lane), one, rtol=1e-3, atol=1e-4)


def test_shapes_of_an_addition_network():
    model, params, sizes = network("addition", layers=2)
    v, c = sizes.vocabulary, sizes.classes
    assert circuits.qk(params, model, 1).shape == (H, v, v)
    assert circuits.ov(params, model, 1).shape == (H, v, c)
    assert circuits.embedding_to_neuron(params, model, 1).shape == (H, v, 32)
    assert circuits.neuron_to_logit(params, model, 1).shape == (32, c)
    assert circuits.ov_matrix(params, model, 1).shape == (H, D, D)
    assert circuits.attention_readoff(params, model, 0, v - 1, 5).shape == (H, v)


def test_what_is_not_there_is_refused_in_words():
    model, params, _ = network(d_mlp=0)
    with pytest.raises(UserError, match=r"layer must be from 0 to 0, .* got 1"):
        circuits.qk(params, model, 1)
    with pytest.raises(UserError, match=r"layer must be from 0 to 0, .* got -1"):
        circuits.ov(params, model, -1)
    for function in (circuits.neuron_to_logit, circuits.embedding_to_neuron):
        with pytest.raises(UserError, match="no MLP"):
            function(params, model, 0)
    with pytest.raises(UserError, match=f"token must be from 0 to {P}, got {P + 1}"):
        circuits.attention_readoff(params, model, 0, P + 1, 2)
    with pytest.raises(UserError, match="position must be from 0 to 2, got 3"):
        circuits.attention_readoff(params, model, 0, P, 3)
    with pytest.raises(AssertionError):
        circuits.qk(params, model, 0, jnp.ones((3, D + 1)))
    with pytest.raises(AssertionError):
        circuits.ov(params, model, 0, readout=jnp.ones((D + 1, 2)))
    classifier = MLP(hidden=(4,)).build(Sizes(length=3, classes=2))
    with pytest.raises(UserError, match="defined for a Transformer, got MLP"):
        circuits.composition(classifier.init(jax.random.key(0)), classifier)
    with pytest.raises(UserError, match="defined for a Transformer, got MLP"):
        circuits.composition_labels(classifier)
