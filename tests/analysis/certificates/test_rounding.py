"""The float64 pass is the plain one, and float32 results of both passes stay within what is allowed for them."""

import jax
import numpy as np
import pytest
from networks import drawn

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.check_after import After, _Interval
from jaxadd.analysis.certificates.rounding import Rounded, Slope
from jaxadd.models import PairMLP, Transformer, plain
from jaxadd.tasks import Addition, Modular

TASK = Addition(digits=2, base=4, answer_order="lsd")
ARCHITECTURES = {
    "plain": {},
    "two layers": {"layers": 2},
    "gated": {"mlp": "gated", "activation": "silu", "norm": "rmsnorm", "positions": "rope", "qk_norm": True},
    "post": {"norm": "layernorm", "norm_where": "post", "attention_mix": 0.4, "activation": "gelu"},
    "both": {"norm": "layernorm", "norm_where": "both", "positions": "alibi", "position_index": "place"},
    "square": {"positions": "rope", "position_index": "place", "rope_pairs": "interleaved", "activation": "square"},
    "biases": {"attention_bias": True, "unembed_bias": True},
    "no MLP": {"d_mlp": 0, "positions": "none"},
    "sine": {"activation": "sin", "norm": "rmsnorm", "final_norm": False},
}


plain_logits = jax.jit(plain.forward, static_argnames="model")
fast_logits = jax.jit(lambda params, model, tokens: model.apply(params, tokens)[0], static_argnames="model")


def exact_logits(params, model, tokens):
    """Compute the logits at the scored positions by the plain pass in float64."""
    with jax.enable_x64(True):
        double = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
        return np.asarray(plain_logits(double, model, tokens))[:, list(model.sizes.read)]


@pytest.mark.parametrize("fields", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_float32_stays_within_its_allowance(fields):
    model = Transformer(**{"d_model": 8, "heads": 2, "d_mlp": 12, **fields}).build(TASK.sizes).untied
    params = drawn(model)
    tokens = np.asarray(TASK.batch(TASK.draw(jax.random.key(0), 32)).inputs)
    found = forward.logits(params, model, tokens)
    read = list(TASK.sizes.read)
    exact = exact_logits(params, model, tokens)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(found.value, exact, atol=1e-12)
    for single in (
        np.asarray(plain_logits(params, model, tokens))[:, read],
        fast_logits(params, model, tokens),
    ):
        assert (np.abs(np.asarray(single) - exact) <= found.error).all()
    # float32 errs by something, which shows that the comparison is with float32.
    assert np.abs(np.asarray(single) - exact).max() > 1e-8


def test_errors_of_weights_do_not_move_the_exact_logits():
    # Scores of 10⁵ leave weights uncertain, and the inputs of neurons with them, on both sides of 0.
    model = Transformer(d_model=8, heads=2, d_mlp=6, positions="none").build(TASK.sizes)
    params = jax.tree.map(np.array, drawn(model, 3, 0.7))
    params["blocks.0"]["attn"]["W_Q"] *= np.float32(1e5)
    tokens = np.asarray(TASK.batch(TASK.draw(jax.random.key(0), 32)).inputs)
    exact = exact_logits(params, model, tokens)
    np.testing.assert_allclose(forward.logits(params, model, tokens).value, exact, rtol=1e-6, atol=1e-6)


def test_weights_of_uncertain_scores_may_be_anything():
    # 200 below the largest score, with errors of 300: e⁻²⁰⁰ may be 1.
    found = rounding.softmax(Rounded(np.array([0.0, -200.0]), np.full(2, 300.0)), np.ones(2, bool))
    assert (found.error >= 1 - found.value - 1e-9).all()
    unknown = rounding.softmax(Rounded(np.zeros(2), np.array([0.0, np.inf])), np.ones(2, bool))
    assert np.isinf(unknown.error).all()


@pytest.mark.parametrize("size", [1e-19, 1e19])
def test_a_norm_whose_squares_float32_cannot_hold_has_no_bound(size):
    assert np.isinf(rounding.scaled(rounding.exact(np.full(4, size)), None, 1e-38).error).all()


AFTER = {
    "gate": {"mlp": "gated", "activation": "silu", "norm": "rmsnorm"},
    "relu gate": {"mlp": "gated", "activation": "relu", "norm": "rmsnorm", "norm_where": "post"},
    "gelu": {"activation": "gelu", "norm": "layernorm", "norm_where": "both"},
    "sine": {"activation": "sin", "norm": "layernorm"},
    "square gate": {"mlp": "gated", "activation": "square", "norm": "layernorm", "final_norm": False},
    "absolute": {"activation": "abs", "norm": "rmsnorm", "norm_where": "both"},
}


@pytest.mark.parametrize("fields", AFTER.values(), ids=AFTER)
def test_what_follows_attention_is_within_its_slopes_of_the_linear_function(fields):
    """The mean value theorem, for both implementations of intervals: |F(x) - F(c) - S (x - c)| <= R |x - c|."""
    width, rng = 4, np.random.default_rng(0)
    config = Transformer(**{"d_model": width, "heads": 2, "d_mlp": 6, "norm_epsilon": 1e-2, **fields})
    params = forward.float64(drawn(config.build(TASK.sizes), 1, 0.8))
    stream, middle = rng.normal(size=width), rng.normal(size=(6, width))
    radius = np.asarray([1e-4, 0.01, 0.1, 0.5, 1, 3])[:, None] * rng.uniform(size=middle.shape)
    one = np.broadcast_to(np.eye(width), (6, width, width))

    def after(out):
        x = forward.attended(config, params["blocks.0"], rounding.exact(np.broadcast_to(stream, middle.shape)), out)
        return forward.before_unembedding(config, params, x)

    found = after(Rounded(middle, np.zeros_like(middle), radius, Slope(one, np.zeros_like(one))))
    again = After(config, params, TASK.base)._last(stream, _Interval(middle, radius, one, np.zeros_like(one)))
    centre = after(rounding.exact(middle)).value
    slopes = [found.slope, Slope(again.slope.swapaxes(1, 2), again.slope_radius.swapaxes(1, 2))]
    for _ in range(20):
        step = radius * rng.choice([-1, 1, rng.uniform()], middle.shape)
        moved = after(rounding.exact(middle + step)).value
        assert (np.abs(moved - found.value) <= found.radius + 1e-9).all()
        assert (np.abs(moved - again.centre) <= again.radius + 1e-9).all()
        for slope in slopes:
            off = np.abs(moved - centre - np.einsum("cs,csn->cn", step, slope.value))
            most = np.einsum("cs,csn->cn", np.abs(step), slope.radius)
            assert (off <= most + 1e-9).all()
    for slope in slopes:  # In a small box a function is nearly linear, and bounds of its slope have to say so.
        assert 0 < slope.radius[0].max() < 0.1 * np.abs(slope.value[0]).max()


def test_a_pair_mlp_stays_within_its_allowance():
    task = Modular(p=11, equals="none")
    for config in (
        PairMLP(d_embed=6, neurons=10, bias=True),
        PairMLP(embedding="one-hot", activation="square", neurons=10),
        PairMLP(tables="one", combine="sum", d_embed=6, neurons=10),
    ):
        model = config.build(task.sizes)
        params = drawn(model)
        tokens = np.asarray(task.batch(np.arange(121), {}).inputs)
        found = forward.logits(params, model, tokens)
        single = np.asarray(model.apply(params, tokens)[0])
        error = np.abs(single - found.value)
        assert (error <= found.error).all()
        assert found.error.max() < 1e-3


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "square", "abs", "sin", "identity"])
def test_activations_of_intervals_hold_every_value(name):
    rng = np.random.default_rng(0)
    centre, radius = rng.normal(0, 2, 50), rng.uniform(0, 2, 50)
    found = rounding.activation(Rounded(centre, np.full(50, 1e-3), radius), name)
    for part in np.linspace(-1, 1, 41):
        point = rounding.activation(rounding.exact(centre + part * radius), name)
        assert (found.low <= point.value + 1e-12).all()
        assert (point.value - 1e-12 <= found.high).all()
        for shift in (-1e-3, 1e-3):
            moved = rounding.activation(rounding.exact(centre + part * radius + shift), name).value
            assert (np.abs(moved - point.value) <= found.error + 1e-12).all()


def test_scaled_intervals_hold_every_value():
    rng = np.random.default_rng(1)
    centre, radius = rng.normal(size=(40, 3)), rng.uniform(0, 1, (40, 3))
    found = rounding.scaled(Rounded(centre, np.full((40, 3), 1e-3), radius), None, 1e-3)
    for _ in range(100):
        x = centre + rng.uniform(-1, 1, (40, 3)) * radius
        y = rounding.scaled(rounding.exact(x), None, 1e-3).value
        assert (found.low <= y + 1e-12).all()
        assert (y - 1e-12 <= found.high).all()
        moved = rounding.scaled(rounding.exact(x + rng.uniform(-1, 1, (40, 3)) * 1e-3), None, 1e-3).value
        assert (np.abs(moved - y) <= found.error).all()


def test_a_result_that_may_overflow_has_no_bound():
    huge = rounding.exact(np.full(3, 1e30))
    assert np.isinf(rounding.product(huge, huge).error).all()
