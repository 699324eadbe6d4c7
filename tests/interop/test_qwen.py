"""Networks with the names of Qwen and AdderBoard: what they compute, ties, and what is missing or left over."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import bits, file, network, refused, sized

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.models.plain import forward

CONFIG = Transformer(
    layers=2, d_model=6, heads=2, d_head=4, d_mlp=5, mlp="gated", activation="silu", norm="rmsnorm", mlp_bias=False,
    norm_epsilon=1e-6, qk_norm=True, positions="rope", rope_theta=3.0,
)  # fmt: skip
SIZES = {"length": 4, "vocabulary": 7, "classes": 7}
FIELDS = {"rope_theta": 3.0}


def qwen(config=CONFIG, kv_heads=2, prefix="model."):
    """The state dict of a network with tied embedding, and the network."""
    params = network(config, **SIZES)
    params["unembed"]["W_U"] = params["embed"]["W_E"].T
    state = {"embed_tokens.weight": params["embed"]["W_E"], "norm.weight": params["ln_final"]["w"]}
    for i in range(config.layers):
        block, at = params[f"blocks.{i}"], f"layers.{i}."
        attn, mlp = block["attn"], block["mlp"]
        group = config.heads // kv_heads
        for name, heads in (("Q", config.heads), ("K", kv_heads), ("V", kv_heads)):
            if heads < config.heads:
                attn[f"W_{name}"] = np.repeat(attn[f"W_{name}"][::group], group, axis=0)
            w = attn[f"W_{name}"][:: config.heads // heads]
            state[f"{at}self_attn.{name.lower()}_proj.weight"] = w.transpose(0, 2, 1).reshape(-1, config.d_model)
        state[f"{at}self_attn.o_proj.weight"] = attn["W_O"].reshape(-1, config.d_model).T
        for name in ("q_norm", "k_norm"):
            state[f"{at}self_attn.{name}.weight"] = attn[name]["w"]
        for name, ours in (("gate", "W_gate"), ("up", "W_in"), ("down", "W_out")):
            state[f"{at}mlp.{name}_proj.weight"] = mlp[ours].T
        state[f"{at}input_layernorm.weight"] = block["ln1"]["w"]
        state[f"{at}post_attention_layernorm.weight"] = block["ln2"]["w"]
    return {f"{prefix}{name}": array for name, array in state.items()}, params


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_matrices_are_transposed_and_grouped_heads_repeated(kv_heads):
    state, params = qwen(kv_heads=kv_heads)
    found = interop.from_state_dict(state, FIELDS)
    assert found.config == CONFIG
    assert bits(found.params) == bits(params)
    assert (found.length, found.vocabulary, found.classes, found.layout) == (None, 7, 7, "qwen")
    tokens = np.random.default_rng(0).integers(7, size=(3, 4))
    model = sized(CONFIG, **SIZES)
    compute = jax.jit(lambda ours, theirs: (model.apply(ours, tokens)[0], forward(theirs, model, tokens)[:, -1:]))
    np.testing.assert_allclose(*compute(found.params_for(model.sizes), params), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("numbers", [[], [1.0, 2.0]])
def test_the_parameters_of_an_arc_are_single_numbers(tmp_path, numbers):
    state, _ = qwen(prefix="")
    del state["embed_tokens.weight"]
    arc = {"arc_A": np.asarray(numbers), "arc_start": np.ones(1), "arc_stride": np.ones(())}
    refused(file(tmp_path, state | arc), r"should be single numbers, got arc_A \(", fields={"heads": 2})


def test_what_a_config_states_is_used_and_what_it_does_not_is_said(tmp_path):
    state, _ = qwen()
    assert interop.read(file(tmp_path, {"state": state})).notes == (
        "not stated, and assumed as in the networks of AdderBoard: activation silu, norm_epsilon 1e-06, rope_theta 3",
    )
    newer = {"rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}}
    assert (
        interop.read(file(tmp_path, {"state": state, "config": newer}), fields={"heads": 2}).config.rope_theta == 50
    )
    config = {"rope_theta": 500.0, "rms_norm_eps": 1e-5, "hidden_act": "gelu", "num_attention_heads": 2}
    found = interop.read(file(tmp_path, {"state": state, "config": config}))
    assert found.config == replace(CONFIG, rope_theta=500.0, norm_epsilon=1e-5, activation="gelu")
    assert not found.notes


def test_a_head_of_its_own_and_biases_are_read():
    state, _ = qwen(prefix="")
    extra = {"lm_head.weight": np.ones((7, 6), np.float32), "lm_head.bias": np.ones(7, np.float32)}
    extra |= {f"layers.{i}.self_attn.q_proj.bias": np.full(8, i + 1, np.float32) for i in range(2)}
    found = interop.from_state_dict({f"model.{n}": a for n, a in state.items()} | extra, FIELDS)
    assert found.config == replace(CONFIG, attention_bias=True, unembed_bias=True)
    assert found.params["blocks.1"]["attn"]["b_Q"].tolist() == [[2] * 4] * 2
    assert not np.any(found.params["blocks.1"]["attn"]["b_K"])
    assert (found.params["unembed"]["W_U"] == 1).all()


def test_without_norms_of_heads_their_number_must_be_stated():
    state = {name: array for name, array in qwen()[0].items() if "q_norm" not in name and "k_norm" not in name}
    with pytest.raises(UserError, match="how many heads the 8 rows of q_proj are; state the field heads"):
        interop.from_state_dict(state, FIELDS)
    assert interop.from_state_dict(state, FIELDS | {"heads": 2}).config == replace(CONFIG, qk_norm=False)
    with pytest.raises(UserError, match="not whole heads: heads 3, d_head 2"):
        interop.from_state_dict(state, FIELDS | {"heads": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layers.1.mlp.down_proj.weight"), r"lacks layers\.1\.mlp\.down_proj\.weight \(6, 5\)"),
        (lambda s: s.pop("layers.0.mlp.up_proj.weight"), r"lacks layers\.0\.mlp\.up_proj\.weight \(5, 6\)"),
        (lambda s: s.pop("layers.0.self_attn.q_proj.weight"), r"lacks layers\.0\.self_attn\.q_proj\.weight"),
        (lambda s: s.pop("layers.0.self_attn.v_proj.weight"), r"lacks layers\.0\.self_attn\.v_proj\.weight"),
        (lambda s: s.pop("embed_tokens.weight"), r"lacks embed_tokens\.weight"),
        (
            lambda s: s.update({"layers.1.mlp.up_proj.weight": np.ones((4, 6))}),
            r"up_proj\.weight \(4, 6\) should have shape \(5, 6\)",
        ),
        (lambda s: s.update({"layers.1.self_attn.k_proj.weight": np.ones((4, 6))}), r"k_proj.* shape \(8, 6\)"),
        (lambda s: s.update({"layers.0.extra.weight": np.ones(3)}), r"holds layers\.0\.extra\.weight \(3,\), for"),
        (lambda s: s.update({"layers.4.mlp.x": np.ones(3)}), "numbered from 0 on, got 0, 1, 4"),
        (
            lambda s: s.update({"embed_tokens.weight": np.ones(3)}),
            r"2 axes, none of them empty, and its shape is \(3,\)",
        ),
        (lambda s: s.update({"wte.weight": np.ones(3)}), "holds both"),
    ],
)
def test_what_is_missing_or_left_over_is_named(tmp_path, change, message):
    state, _ = qwen(prefix="")
    change(state)
    refused(file(tmp_path, state), message, fields=FIELDS)


def test_an_arc_and_ties_are_computed():
    state, params = qwen(replace(CONFIG, layers=1), prefix="")
    arc = {name.replace("layers.0.", "block."): a for name, a in state.items() if "embed" not in name}
    arc["final_norm.weight"] = arc.pop("norm.weight")
    del arc["block.self_attn.v_proj.weight"], arc["block.self_attn.o_proj.weight"]
    arc |= {"arc_A": np.float32(2), "arc_start": np.float32(0.5), "arc_stride": np.float32(0.25)}
    found = interop.from_state_dict(arc, FIELDS)
    assert found.config == replace(CONFIG, layers=1, rope_pairs="interleaved")
    angle = 0.5 + 0.25 * np.arange(10)
    np.testing.assert_allclose(
        found.params["embed"]["W_E"][:, :2].T, [2 * np.cos(angle), 2 * np.sin(angle)], rtol=1e-5
    )
    assert not np.any(found.params["embed"]["W_E"][:, 2:])
    attn = found.params["blocks.0"]["attn"]
    assert bits(attn["W_V"]) == bits(attn["W_K"]) == bits(params["blocks.0"]["attn"]["W_K"])
    np.testing.assert_array_equal(attn["W_O"], attn["W_Q"].swapaxes(1, 2))
    np.testing.assert_array_equal(found.params["unembed"]["W_U"], found.params["embed"]["W_E"].T)


def test_absent_tensors_are_noted():
    """What is absent makes another architecture, which a reader should know of."""
    state, _ = qwen(prefix="")
    kept = {name: a for name, a in state.items() if "gate_proj" not in name and name != "norm.weight"}
    found = interop.from_state_dict(kept, FIELDS)
    assert (found.config.mlp, found.config.final_norm) == ("plain", False)
    expected = "read as a network without a final norm (no norm.weight) and without a gate in the MLP (no gate_proj"
    assert any(note.startswith(expected) for note in found.notes)
    assert not any("without" in note for note in interop.from_state_dict(state, FIELDS).notes)
    biases = {"layers.0.self_attn.q_proj.bias": np.ones(8), "layers.1.self_attn.k_proj.bias": np.ones(8)}
    (note,) = (note for note in interop.from_state_dict(state | biases, FIELDS).notes if "zeros" in note)
    assert note.startswith("not in the file, and read as zeros: layers.0.self_attn.k_proj.bias, ")


@pytest.mark.parametrize("name", ["self_attn.q_norm", "self_attn.k_norm", "input_layernorm"])
def test_a_norm_without_its_partner_is_lacking(name):
    state, _ = qwen(prefix="")
    del state[f"layers.0.{name}.weight"]
    with pytest.raises(UserError, match=rf"it lacks layers\.0\.{name}\.weight"):
        interop.from_state_dict(state, FIELDS)


def test_tied_embeddings_are_as_stated(tmp_path):
    state, params = qwen(prefix="")
    own = state | {"lm_head.weight": params["embed"]["W_E"] * 2}
    for tensors, tied, note in (
        (own, True, "its config states tie_word_embeddings, and lm_head.weight is another matrix; read as not tied"),
        (state, False, "its config states tie_word_embeddings false, and it lacks lm_head.weight; read as tied"),
        (own, False, None),
        (state, True, None),
    ):
        found = interop.read(file(tmp_path, {"model": tensors, "config": {"tie_word_embeddings": tied}}))
        unembedding = tensors.get("lm_head.weight", params["embed"]["W_E"])
        assert bits(found.params["unembed"]["W_U"]) == bits(np.ascontiguousarray(unembedding.T))
        assert [line for line in found.notes if "tie" in line] == ([note] if note else [])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize(("theta", "scale"), [(500.0, 1.0), (10_000.0, 0.25)])
def test_frequencies_beside_the_weights_state_theta_and_scale(tmp_path, dtype, theta, scale):
    state, _ = qwen(prefix="")
    angles = (scale * theta ** (-np.arange(2) / 2)).astype(dtype)
    buffers = {f"layers.{i}.self_attn.rotary_emb.inv_freq": angles for i in range(2)}
    found = interop.from_state_dict(state | buffers)
    assert (found.config.rope_theta, found.config.rope_scale) == (theta, scale)
    assert not any("rope_theta" in note for note in found.notes)
    same = {"model": state | buffers, "config": {"rope_theta": theta * 1.00001}}
    assert interop.read(file(tmp_path, same)).config.rope_theta == theta * 1.00001
    other = same | {"config": {"rope_theta": 3.0}}
    refused(file(tmp_path, other), f"states rope_theta 3.0, and its tensors are those .* rope_theta {theta}")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 0.5], [1.0, 0.25], "its blocks rotate by different angles"),
        ([1.0, 1e-300], [1.0, 1e-300], "its rotary angles are not rope_scale"),
        ([1.0, 0.5, 0.1], [1.0, 0.5, 0.1], "its rotary angles are not rope_scale"),
        ([1.0, np.nan], [1.0, np.nan], "its rotary angles should be positive numbers|by different angles"),
        ([], [], "its rotary angles should be positive numbers"),
    ],
)
def test_angles_that_this_model_does_not_have_are_refused(tmp_path, first, second, message):
    state, params = qwen(prefix="")
    buffers = {f"layers.{i}.rotary_emb.inv_freq": np.asarray(x) for i, x in enumerate((first, second))}
    path = file(tmp_path, state | buffers)
    refused(path, message)
    known = {"rope_theta": 3.0, "rope_scale": 1.0}
    assert bits(interop.read(path, fields=known).params) == bits(params)


def test_another_number_of_key_heads_than_stated_is_noted(tmp_path):
    state, params = qwen(kv_heads=1)
    for stated, said in ((1, False), (None, False), (2, True)):
        config = {"num_key_value_heads": stated, "num_attention_heads": 2}
        found = interop.read(file(tmp_path, {"model": state, "config": config}), fields=FIELDS)
        assert bits(found.params) == bits(params)
        assert any(note.startswith("its config states 2 heads of keys and values") for note in found.notes) == said


def test_several_networks_in_one_dict_are_named(tmp_path):
    state, _ = qwen(prefix="")
    both = {f"{prefix}.{name}": array for prefix in ("first", "second") for name, array in state.items()}
    refused(file(tmp_path, both), "it holds several networks, under first, second; save the state dict of one")
    refused(file(tmp_path, state), "the file is a state dict, and has none under 'model'; leave key out", key="model")
