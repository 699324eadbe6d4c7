"""Checkpoints written and read: what is read is what was written, bit for bit."""

import os
from dataclasses import replace

import jax
import numpy as np
import pytest
from checkpoints import SMALL, bits, file, mainline, network, quick, sized
from hypothesis import given
from hypothesis import strategies as st

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop import calls
from jaxadd.models import Transformer
from jaxadd.models.weights import Weights
from jaxadd.trees import named_leaves

MODEL = sized()


@st.composite
def architectures(draw):
    """An architecture that TransformerLens can express."""
    heads, norm, gated = draw(st.integers(1, 3)), draw(st.sampled_from(["none", "layernorm", "rmsnorm"])), False
    d_mlp = draw(st.integers(0, 4))
    extra = {}
    if draw(st.booleans()):
        gated = d_mlp > 0 and draw(st.booleans())
        extra = {
            "mlp": "gated" if gated else "plain",
            "activation": draw(st.sampled_from(["relu", "silu"])),
            "mlp_bias": not gated,
            "norm_where": draw(st.sampled_from(["pre", "both"])),
            "norm_epsilon": 1e-6,
            "qk_norm": draw(st.booleans()),
            "attention": draw(st.sampled_from(["causal", "bidirectional"])),
            "attention_bias": draw(st.booleans()),
            "unembed_bias": draw(st.booleans()),
            "positions": draw(st.sampled_from(["learned", "rope", "alibi"])),
            "rope_theta": 3.0,
            "rope_pairs": draw(st.sampled_from(["half", "interleaved"])),
        }
    d_head = draw(st.sampled_from([2, 4])) if extra.get("positions") == "rope" else None
    config = Transformer(
        layers=draw(st.integers(1, 3)),
        d_model=heads * draw(st.integers(1, 3)),
        heads=heads,
        d_head=d_head,
        d_mlp=d_mlp,
        norm=norm,
        **extra,
    )
    sizes = {name: draw(st.integers(1, 5)) for name in ("length", "vocabulary", "classes")}
    return config, sizes


@quick
@given(architectures(), st.booleans())
def test_what_is_written_is_read_bit_for_bit(tmp_path, drawn, with_optimizer):
    config, sizes = drawn
    params, mu, nu = (network(config, **sizes, seed=seed, wild=True) for seed in range(3))
    with_optimizer = with_optimizer and config.mlp == "plain"
    optimizer = interop.Adam(mu, nu, 7, {"lr": 0.5, "betas": (0.9, 0.98)}) if with_optimizer else None
    rest = {"losses": [0.1, np.inf], "epoch": 3, "x": {"y": (None, True, "é", -(2**40), 2**64 - 1)}}
    plain = Transformer(config.layers, config.d_model, config.heads, d_mlp=config.d_mlp) == config
    for layout in ["transformer-lens"] + ["mainline"] * plain:
        path = tmp_path / "x.pth"
        interop.write(path, params, sized(config, **sizes), optimizer=optimizer, rest=rest, layout=layout)
        found = interop.read(path)
        assert bits(found.params) == bits(params)
        wild = sum(np.sum(~np.isfinite(array)) for _, array in named_leaves(params))
        notes = (f"{wild} of its weights are NaN or infinite",) if wild else ()
        assert (found.config, found.layout, found.notes) == (config, layout, notes)
        length = sizes["length"] if config.positions == "learned" else None
        assert (found.length, found.vocabulary, found.classes) == (length, sizes["vocabulary"], sizes["classes"])
        assert found.rest == rest
        if optimizer is None:
            assert found.optimizer is None
        else:
            assert bits(found.optimizer[:2]) == bits((mu, nu))
            assert found.optimizer.updates == 7
            assert found.optimizer.settings.items() >= optimizer.settings.items()


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, norm="layernorm", norm_where="both", attention_bias=True, unembed_bias=True),
        replace(SMALL, norm="rmsnorm", qk_norm=True, mlp="gated", mlp_bias=False),
        replace(SMALL, d_head=3, d_mlp=0),
    ],
)
def test_a_state_dict_alone_shows_its_architecture(tmp_path, config):
    params = network(config)
    interop.write(tmp_path / "x.pth", params, sized(config), layout="transformer-lens", nested=False)
    found = interop.read(tmp_path / "x.pth")
    assert bits(found.params) == bits(params)
    assert (found.config, found.rest) == (config, {})


def test_tied_weights_are_written_as_matrices(tmp_path):
    config = replace(SMALL, weights=Weights(unembed="embed", value="key"), kv_heads=1, positions="sinusoidal")
    model = sized(config)
    params = network(config)
    interop.write(tmp_path / "x.pth", params, model, layout="transformer-lens")
    found = interop.read(tmp_path / "x.pth")
    assert found.config == config.untied()
    assert bits(found.params) == bits(jax.device_get(jax.jit(model.matrices)(params)))
    with pytest.raises(UserError, match="tied weights has no moments"):
        interop.write(tmp_path / "x.pth", params, model, optimizer=interop.Adam(params, params, 1))


def test_arrays_beside_the_network_keep_their_dtype(tmp_path):
    rest = {str(dtype): np.arange(6).astype(dtype).reshape(2, 3)[:, ::2].T for dtype in calls.STORAGES.values()} | {
        "scalar": np.float64(0.1),
        "none": np.zeros((0, 2), np.float32),
        "point": np.asarray(3, np.int64),
    }
    interop.write(tmp_path / "x.pth", network(), MODEL, rest=rest | {"jax": jax.numpy.arange(3)})
    found = interop.read(tmp_path / "x.pth").rest
    assert bits(found.pop("jax")) == bits(np.arange(3, dtype=np.int32))
    assert type(found["scalar"]) is float
    assert bits(found) == bits(rest)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in "ab":
        interop.write(tmp_path / name, network(), MODEL, rest={"epoch": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    interop.write(path, network(), MODEL)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        interop.write(path, network(seed=1), MODEL)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_reader_restores_what_it_read_of_another_optimizer(tmp_path):
    raw = {"state": {}, "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": [0, 1]}]}
    interop.write(tmp_path / "x.pth", network(), MODEL, rest={"optimizer": raw})
    found = interop.read(tmp_path / "x.pth")
    assert found.optimizer is None
    assert found.rest == {"optimizer": raw}


def test_one_state_dict_is_chosen(tmp_path):
    states = {f"at {seed}": mainline(seed=seed) for seed in (1, 2)}
    path = file(tmp_path, states)
    with pytest.raises(UserError, match=r"one state dict, and it has 'at 1', 'at 2'; choose one by key"):
        interop.read(path)
    with pytest.raises(UserError, match=r"under 'at 3'"):
        interop.read(path, key="at 3")
    found = interop.read(path, key="at 2")
    assert bits(found.params) == bits(network(seed=2))
    assert list(found.rest) == ["at 1"]
    with pytest.raises(UserError, match="holds a dict without any"):
        interop.read(file(tmp_path, {"epoch": 3}))
    with pytest.raises(UserError, match="holds a list without any"):
        interop.read(file(tmp_path, [1]))
    with pytest.raises(UserError, match="no tensor"):
        interop.read(file(tmp_path, {"model": states["at 1"] | {"unembed.W_U": [1.0]}}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "onnx"}, "layout must be one of mainline, transformer-lens, got 'onnx'"),
        ({"nested": False, "rest": {"epoch": 1}}, "alone has no room"),
        ({"rest": {"model": 1}}, "rest holds model"),
        ({"rest": {"x": object()}}, "can be written, got <class 'object'>"),
        ({"rest": {"x": b"bytes"}}, "can be written, got <class 'bytes'>"),
        ({"rest": {"x": 2**70}}, "64 bits"),
        ({"rest": {(1, 2): 3}}, "key of a dictionary"),
        ({"rest": {"x": np.zeros(2, np.complex64)}}, "got complex64"),
        ({"optimizer": interop.Adam({}, {}, 0)}, "are not those of the model"),
        (
            {"optimizer": interop.Adam(*[network(Transformer(d_model=4, heads=2, d_mlp=3))] * 2, 0)},
            "names and shapes",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        interop.write(tmp_path / "x.pth", network(), MODEL, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_no_file_of_torch_has_the_name_of_another_kind(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name} has the name of one of \w+; name it \.pth"):
        interop.write(tmp_path / name, network(), MODEL)


def test_a_cycle_is_not_written(tmp_path):
    cycle = []
    cycle.append(cycle)
    with pytest.raises(UserError, match="levels deep"):
        interop.write(tmp_path / "x.pth", network(), MODEL, rest={"x": cycle})
