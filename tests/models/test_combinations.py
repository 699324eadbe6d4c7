"""Every combination of the transformer's fields: both forward passes, ties, attribution, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from combinations import transformers
from hypothesis import HealthCheck, given, settings
from networks import drawn

from jaxadd.analysis import attribution, circuits
from jaxadd.errors import UserError
from jaxadd.models import Transformer, plain, structure
from jaxadd.models.weights import Weights
from jaxadd.tasks import Modular
from jaxadd.types import Sizes

pytestmark = pytest.mark.jax_api

EACH_COMPILES = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PLACES = (1, 0, 2, 1, 2)
X = jax.random.randint(jax.random.key(7), (40, 5), 0, 7)


def assert_close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("classes", [4, 6])  # With 4 of width 8, the MLP is read out early.
@EACH_COMPILES
@given(config=transformers())
def test_both_forward_passes_agree(classes, config):
    sizes = Sizes(length=5, classes=classes, vocabulary=7, read=(2, 4), places=PLACES)
    model = config.build(sizes)

    @jax.jit
    def compute(params):
        looked_at, seen = model.apply(params, X, names=model.names)
        return model.apply(params, X)[0], looked_at, plain.forward(params, model, X)[:, jnp.asarray(sizes.read)], seen

    logits, looked_at, want, seen = compute(drawn(model))
    assert_close(logits, want)
    assert_close(looked_at, want)
    assert seen.keys() == set(model.names)


@settings(max_examples=40, deadline=None)
@given(config=transformers())
def test_matrices_are_those_of_the_untied_network(config):
    model = config.build(Sizes(length=5, classes=6, vocabulary=7, places=PLACES))
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = lambda tree: jax.tree.map(lambda w: (w.shape, w.dtype), tree)
    matrices = jax.eval_shape(lambda key: model.matrices(model.init(key)), key)
    assert shapes(matrices) == shapes(jax.eval_shape(model.untied.init, key))
    assert model.untied.untied == model.untied


def test_every_activation_has_the_axes_that_analysis_expects():
    config = Transformer(
        d_model=8, heads=2, d_mlp=6, norm="rmsnorm", norm_where="both", positions="rope", mlp="gated"
    )
    model = config.build(Sizes(length=5, classes=6, vocabulary=7))
    _, seen = jax.eval_shape(lambda w: model.apply(w, X, names=model.names), drawn(model))
    assert {name: 1 + len(structure.activation_axes(model, name)) for name in seen} == {
        n: x.ndim for n, x in seen.items()
    }


@EACH_COMPILES
@given(config=transformers(norm_where="pre"))
def test_contributions_add_up_to_the_logits(config):
    model = config.build(Sizes(length=5, classes=6, vocabulary=7, read=(2, 4), places=PLACES))
    matrices = jax.jit(model.matrices)(drawn(model))

    @jax.jit
    def compute(matrices):
        parts = attribution.attribution(matrices, model.untied, X)
        lens = attribution.logit_lens(matrices, model.untied, X)
        last = lens[f"blocks.{config.layers - 1}.hook_resid_post"]
        return model.untied.apply(matrices, X)[0], sum(parts.values()), last

    want, total, last = map(np.asarray, compute(matrices))
    assert_close(total, want)
    assert_close(last, want)


TIES = {
    "embed": (Weights(unembed="embed"), lambda w: (w["unembed"]["W_U"], w["embed"]["W_E"][:6].T)),
    "key": (Weights(value="key"), lambda w: (w["blocks.1"]["attn"]["W_V"], w["blocks.1"]["attn"]["W_K"])),
    "query": (
        Weights(output="query"),
        lambda w: (w["blocks.1"]["attn"]["W_O"], w["blocks.1"]["attn"]["W_Q"].swapaxes(1, 2)),
    ),
    "norms": (Weights(norms="shared"), lambda w: (w["blocks.1"]["ln2"]["w"], w["ln_final"]["w"])),
    "layers": (Weights(layers="shared"), lambda w: (w["blocks.1"]["mlp"]["W_in"], w["blocks.0"]["mlp"]["W_in"])),
}


@pytest.mark.parametrize("name", TIES)
def test_what_is_tied_is_equal(name):
    weights, pair = TIES[name]
    model = Transformer(layers=2, d_model=8, heads=2, d_mlp=6, norm="rmsnorm", weights=weights).build(
        Sizes(length=5, classes=6, vocabulary=7)
    )
    np.testing.assert_array_equal(*pair(jax.jit(model.matrices)(drawn(model))))


def test_query_heads_share_keys_and_values_in_groups():
    model = Transformer(d_model=8, heads=4, kv_heads=2, d_mlp=0).build(Sizes(5, 6, 7))
    attn = jax.jit(model.matrices)(drawn(model))["blocks.0"]["attn"]
    for name in ("W_K", "W_V"):
        w = np.asarray(attn[name])
        assert [[np.array_equal(w[i], w[j]) for j in range(4)] for i in range(4)] == [
            [i // 2 == j // 2 for j in range(4)] for i in range(4)
        ]


def test_factors_are_drawn_apart_with_the_variance_of_a_full_matrix():
    weights = Weights(attention_rank=8, mlp_rank=8)
    model = Transformer(d_model=64, heads=1, d_mlp=64, mlp="gated", weights=weights).build(Sizes(5, 6, 7))
    params = jax.jit(model.init)(jax.random.key(0))
    block, free = model.matrices(params)["blocks.0"], params["blocks.0"]
    for part, names in (("attn", ("W_Q", "W_K", "W_V", "W_O")), ("mlp", ("W_gate", "W_in", "W_out"))):
        for name in names:  # 8 · 64 numbers in each factor: the variance is within a fifth.
            assert 0.8 / 64 < np.var(block[part][name]) < 1.25 / 64
    assert not np.array_equal(free["attn"]["W_Q_left"][0], free["mlp"]["W_gate_left"])


def test_ranks_are_those_asked_for():
    weights = Weights(attention_rank=1, mlp_rank=2)
    model = Transformer(d_model=8, heads=2, d_mlp=6, weights=weights).build(Sizes(5, 6, 7))
    block = jax.jit(model.matrices)(drawn(model))["blocks.0"]
    assert [np.linalg.matrix_rank(block["attn"][f"W_{name}"]).tolist() for name in "QKVO"] == [[1, 1]] * 4
    assert [np.linalg.matrix_rank(block["mlp"][name]) for name in ("W_in", "W_out")] == [2, 2]


def test_an_arc_lies_on_a_circle_in_equal_steps():
    model = Transformer(d_model=3, heads=1, d_head=2, d_mlp=0, weights=Weights(embed="arc")).build(Sizes(5, 6, 7))
    params = jax.jit(model.init)(jax.random.key(0))
    assert set(params["embed"]) == {"radius", "start", "stride"}
    points = np.asarray(model.matrices(params)["embed"]["W_E"])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 2.5, rtol=1e-6)
    np.testing.assert_array_equal(points[:, 2], 0)
    chord = 2 * 2.5 * np.sin(2.6 / 7 / 2)
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=0), axis=1), chord, rtol=1e-5)


BLIND = {
    "positions": Transformer(d_model=9, heads=2, d_head=4, d_mlp=0, weights=Weights(scores="positions")),
    "distance": Transformer(
        kv_heads=1, layers=2, d_model=9, heads=2, d_head=4, d_mlp=0, norm="rmsnorm", positions="rope", rope_theta=5.0,
        weights=Weights(scores="distance", value_rank=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BLIND)
def test_attention_may_ignore_tokens(name):
    model = BLIND[name].build(Sizes(length=5, classes=6, vocabulary=7, read=(3, 4)))
    params, patterns = drawn(model, scale=1.0), [f"blocks.{i}.attn.hook_pattern" for i in range(BLIND[name].layers)]
    _, seen = jax.jit(lambda w, x: model.apply(w, x, names=patterns))(params, X)
    for pattern in map(np.asarray, seen.values()):
        np.testing.assert_array_equal(pattern, pattern[:1].repeat(len(X), 0))
        assert np.ptp(pattern[0, 0, -1]) > 0.05  # It does depend on positions.
    if name == "distance":  # On their distance alone: rows are the same but for what they cannot see.
        ratio = pattern[0, :, 1, 1:4] / pattern[0, :, 0, :3]
        np.testing.assert_allclose(ratio, ratio[:, :1].repeat(3, 1), rtol=1e-4)
        attention = jax.jit(model.matrices)(params)["blocks.0"]["attn"]
        assert [np.linalg.matrix_rank(v @ o) for v, o in zip(attention["W_V"], attention["W_O"], strict=True)] == [
            1,
            1,
        ]


@pytest.mark.parametrize(
    ("fields", "distances"),
    [({}, (0, -1, -2)), ({"position_index": "place", "rope_pairs": "interleaved"}, (0, 1, -1))],
)
def test_heads_begin_with_attention_to_one_distance_each(fields, distances):
    model = Transformer(
        d_model=6, heads=3, d_head=16, d_mlp=0, positions="rope", rope_theta=4.0, rope_scale=3.0,
        weights=Weights(scores="distance"), **fields,
    ).build(Sizes(length=8, classes=6, vocabulary=7, read=(7,), places=(0, 1, 2, 3, 4, 5, 6, 3)))  # fmt: skip
    name = "blocks.0.attn.hook_pattern"
    params = jax.jit(model.init)(jax.random.key(0))
    _, seen = jax.jit(lambda w, x: model.apply(w, x, names=[name]))(params, np.zeros((1, 8), np.int32))
    last = np.asarray(seen[name])[0, :, 0]
    numbers = np.asarray(model.config.numbered(model.sizes))
    for head, distance in enumerate(distances):
        assert last[head, numbers == numbers[-1] + distance].sum() > 0.9


def test_the_smallest_adder_has_34_parameters():
    weights = Weights(embed="arc", unembed="embed", scores="distance", value_rank=1, norms="final")
    model = Transformer(
        d_model=3, heads=1, d_head=4, d_mlp=2, norm="rmsnorm", mlp="gated", mlp_bias=False, positions="rope",
        weights=weights,
    ).build(Sizes(5, 6, 7))  # fmt: skip
    assert sum(leaf.size for leaf in jax.tree.leaves(model.shapes())) == 34
    block = jax.jit(model.matrices)(drawn(model))["blocks.0"]
    assert all((np.asarray(block[name]["w"]) == 1).all() for name in ("ln1", "ln2"))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rope", "alibi"])
def test_tokens_of_one_place_are_exchangeable(positions):
    """Where every position sees every other, tokens of one place may be swapped, and tokens of two places not."""
    model = Transformer(
        d_model=8, heads=2, d_mlp=6, positions=positions, position_index="place", attention="bidirectional"
    ).build(Sizes(length=5, classes=6, vocabulary=7, read=(4,), places=PLACES))
    params, x = drawn(model), np.asarray([[1, 2, 3, 4, 5]] * 3)
    x[1], x[2] = x[0, [3, 1, 2, 0, 4]], x[0, [1, 0, 2, 3, 4]]  # Places 1 and 1, then 1 and 0.
    logits = np.asarray(jax.jit(lambda w, x: model.apply(w, x)[0])(params, x))
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(logits[2], logits[0], rtol=1e-4, atol=1e-5)


def test_dropout_is_a_function_of_its_key():
    model = Transformer(d_model=16, heads=2, d_mlp=24, dropout=0.25).build(Sizes(5, 6, 7, read=(4,)))
    params = drawn(model)
    run = jax.jit(lambda key=None: model.apply(params, X, ["blocks.0.hook_mlp_out"], dropout_key=key))
    (logits, seen), (again, _), (other, _) = (run(jax.random.key(i)) for i in (1, 1, 2))
    without, kept = run()
    np.testing.assert_array_equal(logits, again)
    assert not np.allclose(logits, other)
    assert not np.allclose(logits, without)
    dropped = np.asarray(seen["blocks.0.hook_mlp_out"]) == 0
    assert 0.2 < dropped.mean() < 0.3  # Of 640 entries: four standard deviations are 0.07.
    assert not (np.asarray(kept["blocks.0.hook_mlp_out"]) == 0).any()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"positions": "rope"}, "rotary positions"),
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"attention_bias": True}, "biases of queries and keys"),
    ],
)
def test_a_qk_circuit_that_is_not_bilinear_is_refused(fields, what):
    model = Transformer(d_model=8, heads=2, d_mlp=6, **fields).build(Modular(p=7).sizes)
    params = drawn(model)
    for circuit in (lambda: circuits.qk(params, model, 0), lambda: circuits.composition(params, model)):
        with pytest.raises(UserError, match=f"is not defined with {what}"):
            circuit()


@pytest.mark.parametrize("where", ["post", "both"])
def test_attribution_through_norms_of_the_output_is_refused(where):
    model = Transformer(d_model=8, heads=2, d_mlp=6, norm="rmsnorm", norm_where=where).build(Sizes(5, 6, 7))
    params = drawn(model)
    for compute in (lambda: attribution.attribution(params, model, X), lambda: structure.folded(params, model)):
        with pytest.raises(UserError, match=f"norms on the output of attention and MLP \\({where}\\)"):
            compute()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Transformer(heads=4, kv_heads=3), "divisible by kv_heads"),
        (lambda: Transformer(d_head=3, positions="rope"), "must be even"),
        (lambda: Transformer(dropout=1.0), "below 1"),
        (lambda: Transformer(attention_mix=1.5), "from 0 to 1"),
        (lambda: Transformer(norm_epsilon=0.0), "above 0"),
        (lambda: Transformer(d_model=8, weights=Weights(attention_rank=9)), "at most 2"),
        (lambda: Weights(mlp_rank=-1), "at least 0"),
        (lambda: Transformer(layers=2, weights=Weights(scores="positions")), "scores positions needs layers 1"),
        (lambda: Transformer(weights=Weights(scores="distance")), "scores distance needs positions rope"),
        (lambda: Transformer(weights=Weights(scores="positions", value="key")), "scores positions needs value free"),
        (lambda: Transformer(weights=Weights(value_rank=1, value="key")), "a value_rank needs value free"),
        (lambda: Transformer(d_model=8, weights=Weights(value_rank=3)), "at most 2"),
        (
            lambda: Transformer(norm="rmsnorm", final_norm=False, weights=Weights(norms="final")),
            "needs final_norm True",
        ),
        (lambda: Weights(embed="circle"), "free, arc"),
        (lambda: Transformer(weights=Weights(unembed="embed")).build(Sizes(5, 9, 7)), "9 classes and 7 tokens"),
        (lambda: Transformer(position_index="place").build(Sizes(5, 6, 7)), "whose input has places"),
    ],
)
def test_bad_configs(make, words):
    with pytest.raises(UserError, match=words):
        make()
