"""Networks with the names of Nanda et al. and TransformerLens: what they compute, and what is no such network."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from checkpoints import SMALL, bits, file, lens, mainline, network, sized

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.models.plain import forward
from jaxadd.tasks import Addition, Modular
from jaxadd.types import Sizes


def _softmax(scores):
    scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _mainline_logits(state, tokens, layers):
    x = state["embed.W_E"].T[tokens] + state["pos_embed.W_pos"][: tokens.shape[1]]
    for i in range(layers):
        w = {name.split(".")[-1]: array for name, array in state.items() if name.startswith(f"blocks.{i}.")}
        q, k, v = (np.einsum("hkd,btd->bhtk", w[name], x) for name in ("W_Q", "W_K", "W_V"))
        pattern = _softmax(np.einsum("bhqk,bhtk->bhqt", q, k) / np.sqrt(q.shape[-1]))
        z = np.einsum("bhqt,bhtk->bqhk", pattern, v)
        x = x + np.einsum("df,bqf->bqd", w["W_O"], z.reshape(*z.shape[:2], -1))
        hidden = np.maximum(np.einsum("fd,btd->btf", w["W_in"], x) + w["b_in"], 0)
        x = x + np.einsum("df,btf->btd", w["W_out"], hidden) + w["b_out"]
    return x @ state["unembed.W_U"]


@pytest.mark.parametrize("layout", ["mainline", "transformer-lens"])
def test_a_network_computes_what_the_other_system_computes(layout):
    """For TransformerLens the definition is the plain forward pass here, whose names and axes are the same."""
    extra = {"attention_bias": True, "unembed_bias": True, "norm": "layernorm", "d_head": 4}
    config = Transformer(layers=2, d_model=6, heads=3, d_mlp=5, **(extra if layout == "transformer-lens" else {}))
    model = config.build(Sizes(length=4, classes=5, vocabulary=6, read=(0, 1, 2, 3)))
    params = network(config, length=4)
    tokens = np.random.default_rng(0).integers(6, size=(3, 4))
    if layout == "mainline":
        state = interop.to_mainline(params, model)
        theirs = _mainline_logits(state, tokens, 2)
    else:
        state = interop.to_transformer_lens(params, model)
        theirs = jax.jit(lambda params, tokens: forward(params, model, tokens))(params, tokens)
        assert {name: state[name].shape for name in state if ".0.attn." in name} == {
            **{f"blocks.0.attn.W_{x}": (3, 6, 4) for x in "QKV"},
            **{f"blocks.0.attn.b_{x}": (3, 4) for x in "QKV"},
            **{"blocks.0.attn.W_O": (3, 4, 6), "blocks.0.attn.b_O": (6,)},
            **{"blocks.0.attn.mask": (4, 4), "blocks.0.attn.IGNORE": ()},
        }
    found = interop.from_state_dict(state)
    assert (found.config, found.layout) == (config, layout)
    ours = jax.jit(model.apply)(found.params, tokens)[0]
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)
    assert bits(found.params) == bits(params)


def test_positions_that_a_task_never_reaches_are_left_out(tmp_path):
    """A 2-digit network of the mainline has 9 positions, and 8 of them are ever an input."""
    task, config = Addition(digits=2), Transformer(d_model=4, heads=2, d_mlp=3)
    long = network(config, length=9, vocabulary=12, classes=10)
    interop.write(tmp_path / "x.pth", long, sized(config, length=9, vocabulary=12, classes=10))
    found = interop.read(tmp_path / "x.pth")
    tokens = np.random.default_rng(0).integers(12, size=(5, 9))
    assert task.sizes.length == 8
    model = config.build(task.sizes)
    logits = jax.jit(model.apply)(found.params_for(task.sizes), tokens[:, :8])[0]
    state = mainline(config, length=9, vocabulary=12, classes=10)
    theirs = _mainline_logits(state, tokens, 1)[:, task.sizes.read]
    np.testing.assert_allclose(logits, theirs, rtol=2e-4, atol=2e-4)
    with pytest.raises(UserError, match="9 positions and the task has 11"):
        found.params_for(Addition(digits=3).sizes)
    with pytest.raises(UserError, match="12 tokens and the task has 114; 10 classes and the task has 114"):
        found.params_for(Modular(p=113).sizes)


def test_names_and_axes_of_the_mainline():
    state = mainline(Transformer(d_model=4, heads=2, d_mlp=3))
    assert {name: array.shape for name, array in state.items()} == {
        "embed.W_E": (4, 6),
        "pos_embed.W_pos": (3, 4),
        **{f"blocks.0.attn.W_{x}": (2, 2, 4) for x in "KQV"},
        "blocks.0.attn.W_O": (4, 4),
        "blocks.0.attn.mask": (3, 3),
        "blocks.0.mlp.W_in": (3, 4),
        "blocks.0.mlp.b_in": (3,),
        "blocks.0.mlp.W_out": (4, 3),
        "blocks.0.mlp.b_out": (4,),
        "unembed.W_U": (4, 5),
    }
    assert np.array_equal(state["blocks.0.attn.mask"], np.tril(np.ones((3, 3))))


def _change(name, change):
    def changed(state):
        state[name] = change(state[name])

    return changed


def _drop(name):
    return lambda state: state.pop(name)


def _add(name, array):
    return lambda state: state.update({name: array})


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("mainline", _drop("unembed.W_U"), r"lacks unembed\.W_U"),
        ("mainline", _drop("pos_embed.W_pos"), r"lacks pos_embed\.W_pos"),
        ("mainline", _drop("blocks.1.mlp.W_out"), r"lacks blocks\.1\.mlp\.W_out"),
        ("mainline", _drop("blocks.0.attn.W_O"), r"lacks blocks\.0\.attn\.W_O"),
        ("mainline", _add("blocks.3.attn.W_Q", np.ones(2)), r"numbered from 0 on, got 0, 1, 3"),
        ("mainline", _add("blocks.999999999999.attn.W_Q", np.ones(2)), r"numbered from 0 on"),
        (
            "mainline",
            _add("blocks.0.attn.b_Q", np.ones(2)),
            r"holds blocks\.0\.attn\.b_Q \(2,\), for .* no place",
        ),
        ("mainline", _add("blocks.0.mlp.W_gate", np.ones(2)), r"holds blocks\.0\.mlp\.W_gate"),
        ("mainline", _change("embed.W_E", np.transpose), r"d_model is 4 in .*W_pos and 6 in embed\.W_E"),
        ("mainline", _change("blocks.1.attn.W_K", lambda x: x[:1]), r"heads is 1 in blocks\.1\.attn\.W_K and 2 in"),
        ("mainline", _change("blocks.1.attn.W_K", lambda x: x[0]), r"axes \[heads, d_head, d_model\].* \(2, 4\)"),
        ("mainline", _change("blocks.0.attn.W_O", lambda x: x[:, :3]), r"should have shape \(4, 4\), got \(4, 3\)"),
        ("mainline", _change("blocks.0.mlp.b_in", lambda x: x[:2]), r"d_mlp is 2 in blocks\.0\.mlp\.b_in"),
        ("mainline", _change("blocks.0.attn.mask", np.zeros_like), r"mask is neither that of causal attention nor"),
        ("mainline", _change("blocks.0.attn.mask", lambda x: x[:2, :2]), r"positions is 2 in"),
        ("mainline", _change("embed.W_E", lambda x: x.astype(np.int64)), r"floating dtype, got int64"),
        ("mainline", _change("embed.W_E", lambda x: x.astype(np.float64) + 1e300), r"too large for float32"),
        ("mainline", _change("embed.W_E", lambda x: x[:, :0]), r"its shape is \(4, 0\)"),
        ("transformer-lens", _change("blocks.0.attn.IGNORE", np.zeros_like), r"attn\.IGNORE should be very negative"),
        (
            "mainline",
            _change("blocks.0.attn.mask", lambda x: x * np.nan),
            r"mask is neither that of causal attention",
        ),
        ("transformer-lens", _drop("blocks.1.ln2.w"), r"lacks blocks\.1\.ln2\.w"),
        ("transformer-lens", _add("blocks.0.attn.W_other", np.ones(2)), r"no place"),
    ],
)
def test_a_state_that_is_no_such_network_is_refused(tmp_path, layout, change, message):
    norm = "none" if layout == "mainline" else "layernorm"
    state = (mainline if layout == "mainline" else lens)(replace(SMALL, norm=norm))
    change(state)
    path = file(tmp_path, {"model": state})
    with pytest.raises(UserError, match=message) as caught:
        interop.read(path)
    assert str(caught.value).startswith(f"{path} cannot be read as a checkpoint: ")


def test_optional_names_may_be_missing():
    state = lens(SMALL)
    kept = {name: a for name, a in state.items() if "mlp" in name or name.split(".")[-1].startswith("W_")}
    assert len(kept) < len(state)
    found = interop.from_state_dict(kept)
    assert (found.config, bits(found.params)) == (SMALL, bits(network()))


def test_biases_are_kept_where_one_is_not_zero():
    config = replace(SMALL, attention_bias=True, unembed_bias=True)
    state = lens(config)
    assert interop.from_state_dict(state).config == config
    zeros = {name: a * 0 if name.endswith(("b_Q", "b_K", "b_V", "b_O", "b_U")) else a for name, a in state.items()}
    found = interop.from_state_dict(zeros)
    assert found.config == SMALL
    assert "b_Q" not in found.params["blocks.0"]["attn"]
    state = zeros | {"blocks.1.attn.b_K": state["blocks.1.attn.b_K"]}
    found = interop.from_state_dict(state)
    assert found.config == replace(SMALL, attention_bias=True)
    assert not np.any(found.params["blocks.0"]["attn"]["b_Q"])
    for fields, message in (
        ({"attention_bias": False}, r"attention_bias is False as given, and attn\.b_K is not zero"),
        ({"mlp_bias": False}, r"mlp_bias is False as given, and mlp\.b_in is not zero"),
    ):
        with pytest.raises(UserError, match=message):
            interop.from_state_dict(state, fields)


def test_masks_and_what_is_stated_say_what_attention_sees():
    state = mainline()
    assert interop.from_state_dict(state).config.attention == "causal"
    ones = {name: np.ones_like(a) if name.endswith("mask") else a for name, a in state.items()}
    assert interop.from_state_dict(ones).config.attention == "bidirectional"
    bare = {name: a for name, a in state.items() if not name.endswith("mask")}
    assert interop.from_state_dict(bare).config.attention == "causal"
    found = interop.from_state_dict(bare, {"attention": "bidirectional", "activation": "gelu"})
    assert found.config == replace(SMALL, attention="bidirectional", activation="gelu")


def test_what_is_given_wins_and_is_checked():
    state = lens(replace(SMALL, norm="rmsnorm"))
    given = {"norm_where": "post", "norm_epsilon": 1e-6, "activation": "silu"}
    found = interop.from_state_dict(state, given)
    assert found.config == replace(SMALL, norm="rmsnorm", **given)
    for fields, message in (
        ({"colour": 1}, "fields holds 'colour'; a field of the architecture is one of layers"),
        ({"norm": "batch"}, "the field norm cannot be 'batch'"),
        ({"heads": "two"}, "the field heads cannot be 'two'"),
        ({"rope_theta": 3}, "the field rope_theta has no effect in this network: it is for positions sin"),
        ({"heads": 3}, "heads"),
        ({"positions": "rope", "activation": "tanh"}, "activation 'tanh', and the model has relu"),
    ):
        with pytest.raises(UserError, match=message):
            interop.from_state_dict(state, fields)


def test_buffers_of_rotary_positions_show_them():
    config = replace(SMALL, positions="rope", norm="rmsnorm")
    tables = {"sin": np.sin([[0.0, 0], [1, 1]]), "cos": np.cos([[0.0, 0], [1, 1]])}
    state = lens(config) | {f"blocks.{i}.attn.rotary_{x}": table for i in range(2) for x, table in tables.items()}
    found = interop.from_state_dict(state)
    assert found.config == config
    assert found.notes == (
        "not stated, and assumed as in TransformerLens: activation relu, norm_epsilon 1e-05, rope_theta 10000",
    )
    known = {"rope_theta": 10_000.0, "activation": "relu", "norm_epsilon": 1e-5}
    assert not interop.from_state_dict(state, known).notes


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
def test_tables_of_rotary_positions_state_theta_and_pairs(pairs):
    config = replace(SMALL, d_model=8, positions="rope", rope_theta=100.0, rope_scale=0.5, rope_pairs=pairs)
    angles = config.angles(range(3))
    wide = np.concatenate([angles, angles], 1) if pairs == "half" else np.repeat(angles, 2, 1)
    tables = {"sin": np.sin(wide).astype(np.float32), "cos": np.cos(wide).astype(np.float32)}
    buffers = {f"blocks.{i}.attn.rotary_{name}": table for i in range(2) for name, table in tables.items()}
    weights = lens(replace(config, rope_scale=1.0))
    assert interop.from_state_dict(weights | buffers).config == config
    spoiled = {name: table * np.linspace(1, 2, 4) for name, table in buffers.items() if name.endswith("sin")}
    with pytest.raises(UserError, match="turn no pairs of coordinates by the same angle"):
        interop.from_state_dict(weights | buffers | spoiled)


def test_absent_tensors_of_transformer_lens_are_noted():
    state = lens(replace(SMALL, norm="layernorm", attention_bias=True))
    kept = {name: a for name, a in state.items() if not name.startswith("ln_final") and name != "blocks.1.attn.b_V"}
    found = interop.from_state_dict(kept)
    assert not found.config.final_norm
    assert not np.any(found.params["blocks.1"]["attn"]["b_V"])
    assert "read as a network without a final norm (no ln_final.w)" in found.notes
    assert "not in the file, and read as zeros: blocks.1.attn.b_V" in found.notes
    with pytest.raises(UserError, match=r"holds ln_final\.w \(4,\), for which"):
        interop.from_state_dict(lens(SMALL) | {"ln_final.w": np.zeros(4, np.float32)}, {"norm": "none"})


def test_grouped_heads_and_gates_of_transformer_lens():
    config = replace(SMALL, norm="rmsnorm", mlp="gated", mlp_bias=False, activation="silu", qk_norm=True)
    state, params = lens(config), network(config)
    grouped = dict(state)
    for i in range(2):
        for name in ("W_K", "W_V", "b_K", "b_V"):
            grouped[f"blocks.{i}.attn._{name}"] = grouped.pop(f"blocks.{i}.attn.{name}")[:1]
    found = interop.from_state_dict(grouped, {"activation": "silu"})
    assert found.config == config
    for name in ("W_K", "W_V"):
        expected = np.repeat(params["blocks.1"]["attn"][name][:1], 2, axis=0)
        assert bits(found.params["blocks.1"]["attn"][name]) == bits(expected)
    # Its b_in is added to the neurons after the gate.
    bias = np.asarray([1, 2, 3], np.float32)
    found = interop.from_state_dict(state | {"blocks.0.mlp.b_in": bias}, {"activation": "silu"})
    assert found.config == replace(config, mlp_bias=True)
    mlp = found.params["blocks.0"]["mlp"]
    np.testing.assert_allclose(mlp["b_out"], bias @ mlp["W_out"], rtol=1e-6)
    assert not np.any(mlp["b_in"])
    moved = "b_in of the gated MLP, which TransformerLens adds to the neurons, was moved into b_out"
    assert found.notes == (moved, "not stated, and assumed as in TransformerLens: norm_epsilon 1e-05")


@pytest.mark.parametrize(
    ("layout", "fields", "message"),
    [
        (
            "mainline",
            {"norm": "layernorm"},
            'norm layernorm, only none; try layout "transformer-lens"',
        ),
        ("mainline", {"attention_bias": True}, "cannot express attention_bias True"),
        ("mainline", {"attention_mix": 0.5}, "cannot express attention_mix 0.5"),
        ("mainline", {"positions": "rope"}, "cannot express positions rope"),
        ("mainline", {"mlp": "gated"}, "cannot express mlp gated"),
        ("mainline", {"mlp_bias": False}, "cannot express mlp_bias False"),
        ("transformer-lens", {"attention_mix": 0.0}, "cannot express attention_mix 0.0, only 1$"),
        ("transformer-lens", {"positions": "none"}, "cannot express positions none, only learned or rope or alibi"),
        ("transformer-lens", {"activation": "square"}, "cannot express activation square"),
        ("transformer-lens", {"mlp": "gated"}, "cannot express mlp_bias True, only False"),
        ("transformer-lens", {"norm": "rmsnorm", "norm_where": "post"}, "cannot express norm_where post"),
        ("transformer-lens", {"norm": "rmsnorm", "final_norm": False}, "cannot express final_norm False"),
        ("transformer-lens", {"norm": "layernorm", "norm_bias": False}, "cannot express norm_bias False"),
    ],
)
def test_a_field_that_a_layout_cannot_express_is_named(layout, fields, message):
    config = replace(SMALL, **fields)
    with pytest.raises(UserError, match=message):
        (mainline if layout == "mainline" else lens)(config)
