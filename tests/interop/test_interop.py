"""Checkpoints from elsewhere: what is read is what was written, and no file does anything but be read."""

import functools
import importlib.util
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from needs import need

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop import archive, pickling, unpickling
from jaxadd.models import Transformer
from jaxadd.tasks import Addition, Modular
from jaxadd.types import Sizes

ROOT = Path(__file__).parent.parent
FLOAT = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"


@functools.cache
def _shapes(config, sizes):
    return jax.eval_shape(config.build(sizes).init, jax.random.key(0))


def network(config, length=3, vocabulary=6, classes=5, seed=0, wild=False):
    """Parameters of a network; wild ones are any 32 bits, NaN and infinity among them."""
    sizes = Sizes(length=length, classes=classes, vocabulary=vocabulary, read=(length - 1,))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if wild:
            return rng.integers(2**32, size=leaf.shape, dtype=np.uint32).view(np.float32)
        return rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(draw, _shapes(config, sizes))


SMALL = Transformer(layers=2, d_model=4, heads=2, d_mlp=3)


def bits(tree):
    return jax.tree.map(lambda x: (np.asarray(x).dtype, np.asarray(x).shape, np.asarray(x).tobytes()), tree)


@st.composite
def networks(draw):
    config = Transformer(
        layers=draw(st.integers(1, 3)),
        d_model=(heads := draw(st.integers(1, 3))) * draw(st.integers(1, 3)),
        heads=heads,
        d_mlp=draw(st.integers(0, 4)),
        norm=draw(st.sampled_from(["none", "layernorm"])),
    )
    sizes = [draw(st.integers(1, 5)) for _ in range(3)]
    return config, sizes, [network(config, *sizes, seed=seed, wild=True) for seed in range(3)]


quick = settings(
    max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# --- round trips ---------------------------------------------------------------------------------------------


@quick
@given(networks(), st.booleans(), st.booleans())
def test_what_is_written_is_read_bit_for_bit(tmp_path, drawn, with_optimizer, nested):
    config, sizes, (params, mu, nu) = drawn
    optimizer = interop.Adam(mu, nu, 7, {"lr": 0.5, "betas": (0.9, 0.98)}) if with_optimizer and nested else None
    rest = {"losses": [0.1, np.inf], "epoch": 3, "x": {"y": (None, True, "é", -(2**40), 2**64 - 1)}} if nested else {}
    for layout in ["transformer-lens"] + ["mainline"] * (config.norm == "none"):
        path = tmp_path / "x.pth"
        interop.write(path, params, optimizer=optimizer, rest=rest, layout=layout, nested=nested)
        found = interop.read(path)
        assert bits(found.params) == bits(params)
        assert (found.model, found.layout) == (config, layout)
        assert [found.length, found.vocabulary, found.classes] == sizes
        assert found.rest == rest
        if optimizer is None:
            assert found.optimizer is None
        else:
            assert bits(found.optimizer[:2]) == bits((mu, nu))
            assert found.optimizer.updates == 7
            assert found.optimizer.settings.items() >= optimizer.settings.items()


def test_arrays_beside_the_network_keep_their_dtype(tmp_path):
    rest = {
        str(dtype): np.arange(6).astype(dtype).reshape(2, 3)[:, ::2].T for dtype in unpickling.STORAGES.values()
    } | {"scalar": np.float64(0.1), "none": np.zeros((0, 2), np.float32), "point": np.asarray(3, np.int64)}
    interop.write(tmp_path / "x.pth", network(SMALL), rest=rest | {"jax": jax.numpy.arange(3)})
    found = interop.read(tmp_path / "x.pth").rest
    assert bits(found.pop("jax")) == bits(np.arange(3, dtype=np.int32))
    assert type(found["scalar"]) is float
    assert bits(found) == bits(rest)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in "ab":
        interop.write(tmp_path / name, network(SMALL), rest={"epoch": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    interop.write(path, network(SMALL))
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        interop.write(path, network(SMALL, seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_reader_restores_what_it_read_of_another_optimizer(tmp_path):
    raw = {"state": {}, "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": [0, 1]}]}
    interop.write(tmp_path / "x.pth", network(SMALL), rest={"optimizer": raw})
    found = interop.read(tmp_path / "x.pth")
    assert found.optimizer is None
    assert found.rest == {"optimizer": raw}


# --- what the layouts mean: the other systems' definitions, written out ---------------------------------------


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


def _lens_logits(state, tokens, layers):
    def norm(x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * state[f"{name}.w"] + state[f"{name}.b"]

    x = state["embed.W_E"][tokens] + state["pos_embed.W_pos"][: tokens.shape[1]]
    for i in range(layers):
        w = {
            name.split(".")[-1]: a
            for name, a in state.items()
            if name.startswith((f"blocks.{i}.attn", f"blocks.{i}.m"))
        }
        y = norm(x, f"blocks.{i}.ln1")
        q, k, v = (np.einsum("btd,hdk->bthk", y, w[f"W_{x}"]) + w[f"b_{x}"] for x in "QKV")
        scores = np.einsum("bqhk,bthk->bhqt", q, k) / np.sqrt(q.shape[-1])
        assert np.array_equal(w["mask"], np.tri(tokens.shape[1], dtype=bool))
        z = np.einsum("bhqt,bthk->bqhk", _softmax(scores), v)
        x = x + np.einsum("bqhk,hkd->bqd", z, w["W_O"]) + w["b_O"]
        y = norm(x, f"blocks.{i}.ln2")
        x = x + np.maximum(y @ w["W_in"] + w["b_in"], 0) @ w["W_out"] + w["b_out"]
    return norm(x, "ln_final") @ state["unembed.W_U"] + state["unembed.b_U"]


@pytest.mark.parametrize("layout", ["mainline", "transformer-lens"])
def test_a_network_computes_what_the_other_system_computes(layout):
    config = Transformer(layers=2, d_model=6, heads=3, d_mlp=5, norm="none" if layout == "mainline" else "layernorm")
    params = network(config, length=4)
    model = config.build(Sizes(length=4, classes=5, vocabulary=6, read=(0, 1, 2, 3)))
    tokens = np.random.default_rng(0).integers(6, size=(3, 4))
    if layout == "mainline":
        state = interop.to_mainline(params)
        theirs, back = _mainline_logits(state, tokens, 2), interop.from_mainline(state)
    else:
        state = interop.to_transformer_lens(params)
        theirs, back = _lens_logits(state, tokens, 2), interop.from_transformer_lens(state)
    np.testing.assert_allclose(model.apply(back, tokens)[0], theirs, rtol=2e-4, atol=2e-4)
    assert bits(back) == bits(params)


def test_positions_that_a_task_never_reaches_are_left_out(tmp_path):
    """A 2-digit network of the mainline has 9 positions, and 8 of them are ever an input."""
    task, config = Addition(digits=2), Transformer(d_model=4, heads=2, d_mlp=3)
    long = network(config, length=9, vocabulary=12, classes=10)
    interop.write(tmp_path / "x.pth", long)
    found = interop.read(tmp_path / "x.pth")
    tokens = np.random.default_rng(0).integers(12, size=(5, 9))
    assert task.sizes.length == 8
    logits, _ = config.build(task.sizes).apply(found.params_for(task.sizes), tokens[:, :8])
    theirs = _mainline_logits(interop.to_mainline(long), tokens, 1)[:, task.sizes.read]
    np.testing.assert_allclose(logits, theirs, rtol=2e-4, atol=2e-4)
    with pytest.raises(UserError, match="9 positions and the task has 11"):
        found.params_for(Addition(digits=3).sizes)
    with pytest.raises(UserError, match="12 tokens and the task has 114; 10 classes and the task has 114"):
        found.params_for(Modular(p=113).sizes)


def test_names_and_axes_of_the_mainline():
    state = interop.to_mainline(network(Transformer(d_model=4, heads=2, d_mlp=3), length=3, vocabulary=6, classes=5))
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


# --- torch -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        need("torch", importlib.util.find_spec("torch") is not None, "torch is not installed")
        return importlib.import_module("torch")


def test_torch_loads_what_is_written(torch, tmp_path):
    params, mu, nu = (network(SMALL, seed=seed) for seed in range(3))
    rest = {"losses": [0.5, 1e-40], "config": {"lr": 1e-3, "name": "é", "big": 2**62}, "t": (1, None, True)}
    arrays = {str(dtype): np.arange(4).astype(dtype) for dtype in unpickling.STORAGES.values()}
    optimizer = interop.Adam(mu, nu, 9, {"lr": 0.25})
    for layout, convert in (("mainline", interop.to_mainline), ("transformer-lens", interop.to_transformer_lens)):
        path = tmp_path / "x.pth"
        interop.write(path, params, optimizer=optimizer, rest=rest | {"arrays": arrays}, layout=layout)
        found = torch.load(path, weights_only=True)
        state = convert(params)
        assert list(found["model"]) == list(state)
        assert bits({name: found["model"][name].numpy() for name in state}) == bits(state)
        assert {name: found[name] for name in rest} == rest
        assert {name: str(x.dtype) for name, x in found["arrays"].items()} == {n: f"torch.{n}" for n in arrays}
        assert all(x.tolist() == arrays[name].tolist() for name, x in found["arrays"].items())
        assert found["optimizer"]["param_groups"][0]["lr"] == 0.25
        assert found["optimizer"]["state"][0]["exp_avg"].tolist() == convert(mu)["embed.W_E"].tolist()
        interop.write(path, params, layout=layout, nested=False)
        assert list(torch.load(path, weights_only=True)) == list(state)


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_wrote_is_read(torch, tmp_path, protocol):
    params = network(SMALL)
    state = interop.to_mainline(params)
    content = OrderedDict((name, torch.nn.Parameter(torch.from_numpy(array))) for name, array in state.items())
    content._metadata = {"": {"version": 1}}
    moments = {"scheduler": {"lr_lambdas": [None], "betas": (1, 2)}}
    losses = {"numpy": np.float64(0.1), "array": np.arange(4.0)[::2], "fortran": np.ones((2, 3), order="F")}
    facts = {
        "device": torch.device("cuda", 0),
        "dtype": torch.float32,
        "size": torch.Size([2]),
        "step": torch.tensor(4),
    }
    torch.save({"model": content, **moments, **losses, **facts}, tmp_path / "x.pth", pickle_protocol=protocol)
    found = interop.read(tmp_path / "x.pth")
    assert bits(found.params) == bits(params)
    rest = found.rest
    assert rest["scheduler"] == moments["scheduler"]
    assert (rest["numpy"], rest["array"].tolist(), rest["fortran"].tolist()) == (0.1, [0, 2], [[1] * 3] * 2)
    assert (rest["device"], rest["dtype"], rest["size"], rest["step"]) == ("cuda:0", "torch.float32", (2,), 4)


@pytest.mark.slow
def test_the_optimizer_of_torch_goes_both_ways(torch, tmp_path):
    """Three steps there are read here; what is written here goes on there. Slow: torch imports its compiler first."""
    state = interop.to_mainline(network(SMALL))
    module = torch.nn.Module()
    for name, array in state.items():
        if not name.endswith("mask"):
            module.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.from_numpy(array.copy())))

    def step(adam, weights, gradient):
        for weight in weights:
            weight.grad = torch.full_like(weight, gradient)
        adam.step()

    weights = list(module.parameters())
    adam = torch.optim.AdamW(weights, lr=0.5, betas=(0.9, 0.98))
    for _ in range(3):
        step(adam, weights, 2.0)
    learned = iter(weights)
    content = {name: torch.from_numpy(a) if name.endswith("mask") else next(learned) for name, a in state.items()}
    torch.save({"model": content, "optimizer": adam.state_dict()}, tmp_path / "x.pth")
    found = interop.read(tmp_path / "x.pth")
    assert bits(interop.to_mainline(found.params)) == bits({n: w.detach().numpy() for n, w in content.items()})
    assert found.optimizer.updates == 3
    assert found.optimizer.settings["lr"] == 0.5
    np.testing.assert_allclose(found.optimizer.mu["blocks.1"]["attn"]["W_O"], 2 * (1 - 0.9**3), rtol=1e-5)
    np.testing.assert_allclose(found.optimizer.nu["unembed"]["W_U"], 4 * (1 - 0.98**3), rtol=1e-5)

    for settings_kept in (found.optimizer.settings, {}):
        optimizer = found.optimizer._replace(settings=settings_kept)
        interop.write(tmp_path / "y.pth", found.params, optimizer=optimizer)
        again = torch.load(tmp_path / "y.pth", weights_only=True)
        copies = [torch.nn.Parameter(w) for name, w in again["model"].items() if not name.endswith("mask")]
        other = torch.optim.AdamW(copies)
        other.load_state_dict(again["optimizer"])
        step(other, copies, 2.0)
        assert other.param_groups[0]["lr"] == (0.5 if settings_kept else 1e-3)
        assert int(other.state[copies[0]]["step"]) == 4
        assert torch.allclose(other.state[copies[3]]["exp_avg"], torch.tensor(2 * (1 - 0.9**4)), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_views_and_a_state_dict_alone(torch, tmp_path, dtype):
    exact = jax.tree.map(lambda x: np.round(x * 4) / 4, network(SMALL))
    state = {name: torch.from_numpy(array) for name, array in interop.to_transformer_lens(exact).items()}
    shared = torch.arange(100.0)
    state["embed.W_E"] = shared[5:77].view(3, 4, 6)[1].T  # [6, 4], transposed, from the middle of a larger storage.
    state = {name: tensor.to(getattr(torch, dtype)) if "W" in name else tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "x.pth")
    found = interop.read(tmp_path / "x.pth")
    assert found.layout == "transformer-lens"
    assert found.params["embed"]["W_E"].tolist() == np.arange(29, 53).reshape(4, 6).T.tolist()
    assert bits(found.params["blocks.1"]) == bits(exact["blocks.1"])


def test_an_old_format_is_refused_with_the_way_out(torch, tmp_path):
    torch.save({"model": {"embed.W_E": torch.zeros(2)}}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"older checkpoint, load it with torch and save it again"):
        interop.read(tmp_path / "x.pth")


# --- layouts that are wrong ------------------------------------------------------------------------------------


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
        ("mainline", _add("blocks.0.attn.b_Q", np.ones(2)), r"holds blocks\.0\.attn\.b_Q, for which .* no place"),
        ("mainline", _add("blocks.0.mlp.W_gate", np.ones(2)), r"holds blocks\.0\.mlp\.W_gate"),
        ("mainline", _change("embed.W_E", np.transpose), r"d_model is 4 in .*W_pos and 6 in embed\.W_E"),
        ("mainline", _change("blocks.1.attn.W_K", lambda x: x[:1]), r"heads is 1 in blocks\.1\.attn\.W_K and 2 in"),
        ("mainline", _change("blocks.1.attn.W_K", lambda x: x[0]), r"axes \[heads, d_head, d_model\].* \(2, 4\)"),
        ("mainline", _change("blocks.0.attn.W_O", lambda x: x[:, :3]), r"should have shape \(4, 4\), got \(4, 3\)"),
        ("mainline", _change("blocks.0.mlp.b_in", lambda x: x[:2]), r"d_mlp is 2 in blocks\.0\.mlp\.b_in"),
        ("mainline", _change("blocks.0.attn.mask", np.ones_like), r"mask is not that of causal"),
        ("mainline", _change("blocks.0.attn.mask", lambda x: x[:2, :2]), r"positions is 2 in"),
        ("mainline", _change("embed.W_E", lambda x: x.astype(np.int64)), r"floating dtype, got int64"),
        ("mainline", _change("embed.W_E", lambda x: x.astype(np.float64) + 1e300), r"too large for float32"),
        ("mainline", _change("embed.W_E", lambda x: x[:, :0]), r"its shape is \(4, 0\)"),
        ("transformer-lens", _change("blocks.1.attn.b_V", np.ones_like), r"b_V is not zero, and this model has no"),
        ("transformer-lens", _change("unembed.b_U", lambda x: x * np.nan), r"b_U is not zero"),
        ("transformer-lens", _drop("blocks.1.ln2.w"), r"lacks blocks\.1\.ln2\.w"),
        ("transformer-lens", _add("blocks.0.attn.rotary_sin", np.ones(2)), r"no place"),
    ],
)
def test_a_state_that_is_no_such_network_is_refused(tmp_path, layout, change, message):
    config = Transformer(layers=2, d_model=4, heads=2, d_mlp=3, norm="none" if layout == "mainline" else "layernorm")
    convert = interop.to_mainline if layout == "mainline" else interop.to_transformer_lens
    state = convert(network(config))
    change(state)
    path = _file(tmp_path, {"model": state})
    with pytest.raises(UserError, match=message) as caught:
        interop.read(path)
    assert str(caught.value).startswith(f"{path} cannot be read as a checkpoint: ")


def test_heads_that_do_not_fill_the_stream_are_refused():
    state = interop.to_transformer_lens(network(SMALL))
    for name in [name for name in state if name.endswith(("W_O", "b_Q", "b_K", "b_V"))]:
        state[name] = state[name][:, :1]
    for name in [name for name in state if name.endswith(("W_Q", "W_K", "W_V"))]:
        state[name] = state[name][..., :1]
    with pytest.raises(UserError, match="d_head should be d_model, got 2 × 1 and 4"):
        interop.from_transformer_lens(state)


def test_optional_names_may_be_missing(tmp_path):
    state = interop.to_transformer_lens(network(SMALL))
    plain = {name: array for name, array in state.items() if not name.split(".")[-1].startswith(("b_", "mask", "IG"))}
    plain |= {name: state[name] for name in state if "mlp" in name}
    assert bits(interop.from_transformer_lens(plain)) == bits(network(SMALL))


def test_one_state_dict_is_chosen(tmp_path):
    states = {f"at {seed}": interop.to_mainline(network(SMALL, seed=seed)) for seed in (1, 2)}
    path = _file(tmp_path, states)
    with pytest.raises(
        UserError, match=r"one state dict with embed.W_E, and it has 'at 1', 'at 2'; choose one by key"
    ):
        interop.read(path)
    with pytest.raises(UserError, match=r"under 'at 3'"):
        interop.read(path, key="at 3")
    found = interop.read(path, key="at 2")
    assert bits(found.params) == bits(network(SMALL, seed=2))
    assert list(found.rest) == ["at 1"]
    with pytest.raises(UserError, match="it has none"):
        interop.read(_file(tmp_path, {"epoch": 3}))
    with pytest.raises(UserError, match="holds a list"):
        interop.read(_file(tmp_path, [1]))
    with pytest.raises(UserError, match="no tensor"):
        interop.read(_file(tmp_path, {"model": states["at 1"] | {"unembed.W_U": [1.0]}}))


def test_the_mainline_has_no_layer_norm():
    with pytest.raises(UserError, match='layout "transformer-lens"'):
        interop.to_mainline(network(Transformer(d_model=2, heads=1, d_mlp=2, norm="layernorm")))


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
        ({"optimizer": interop.Adam({}, {}, 0)}, "blocks should be numbered"),
        (
            {"optimizer": interop.Adam(*[network(Transformer(d_model=4, heads=2, d_mlp=3))] * 2, 0)},
            "names and shapes",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        interop.write(tmp_path / "x.pth", network(SMALL), **options)
    assert not list(tmp_path.iterdir())


def test_a_cycle_is_not_written(tmp_path):
    cycle = []
    cycle.append(cycle)
    with pytest.raises(UserError, match="levels deep"):
        interop.write(tmp_path / "x.pth", network(SMALL), rest={"x": cycle})


# --- optimisers that are wrong -----------------------------------------------------------------------------------


def _torch_adam(params):
    state = [array for name, array in interop.to_mainline(params).items() if not name.endswith("mask")]
    entries = {i: {"step": 5, "exp_avg": array, "exp_avg_sq": array} for i, array in enumerate(state)}
    return {"state": entries, "param_groups": [{"lr": 1.0, "params": list(range(len(state)))}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["param_groups"][0]["params"].pop(), "has 18 parameters, and its model 19"),
        (lambda o: o["state"].pop(3), r"no state for blocks\.0\.attn\.W_Q"),
        (lambda o: o["state"][4].update(step=6), "some parameters more often"),
        (lambda o: o["state"][4].update(step=1.5), "whole number"),
        (lambda o: o["state"][4].update(step=float("nan")), "whole number"),
        (lambda o: o["state"][0].update(exp_avg=np.zeros(3, np.float32)), r"exp_avg of embed\.W_E should have shape"),
        (lambda o: o["state"][0].update(exp_avg_sq=3.0), r"exp_avg_sq of embed\.W_E should have shape"),
    ],
)
def test_an_optimizer_of_another_network_is_refused(tmp_path, change, message):
    raw = _torch_adam(network(SMALL))
    path = _file(tmp_path, {"model": interop.to_mainline(network(SMALL)), "optimizer": raw})
    assert bits(interop.read(path).optimizer.mu) == bits(network(SMALL))
    change(raw)
    with pytest.raises(UserError, match=message):
        interop.read(_file(tmp_path, {"model": interop.to_mainline(network(SMALL)), "optimizer": raw}))


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o["state"].clear(),
        lambda o: o["state"][2].update(max_exp_avg_sq=np.zeros(1)),
        lambda o: o["param_groups"].append({"params": []}),
        lambda o: o.pop("param_groups"),
    ],
)
def test_an_optimizer_of_another_kind_is_left_as_it_is(tmp_path, change):
    raw = _torch_adam(network(SMALL))
    change(raw)
    found = interop.read(_file(tmp_path, {"model": interop.to_mainline(network(SMALL)), "optimizer": raw}))
    assert found.optimizer is None
    assert found.rest["optimizer"].keys() == raw.keys()


# --- hostile files -------------------------------------------------------------------------------------------------


def _zipped(path, pickled, storages=(), **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", pickled)
        for i, storage in enumerate(storages):
            file.writestr(f"archive/data/{i}", storage)
    return path


def _file(folder, content):
    data, storages = pickling.dump(content)
    return _zipped(folder / "made.pth", data, [storage.tobytes() for storage in storages])


def _string(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _tensor(offset=b"K\0", size=b"K\x01\x85", stride=b"K\x01\x85", count=b"K\x04", name="0", kind=FLOAT, tail=b""):
    reference = b"(" + _string("storage") + kind + _string(name) + _string("cpu") + count + b"tQ"
    return REBUILD + b"(" + reference + offset + size + stride + b"\x89" + ORDERED + b")R" + tail + b"tR"


class _Call:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


class _Built:
    """Pickled as an OrderedDict whose state, were it set, would replace its attributes."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return OrderedDict, (), self.state


def _calls(canary):
    """Pickles that would make the file `canary` if anything in them ran."""
    code, made = f"open({str(canary)!r}, 'w').write('x')", str(canary)
    objects = {
        "system": _Call(os.system, (f"touch {canary}",)),
        "eval": _Call(eval, (code,)),
        "exec": _Call(exec, (code,)),
        "open": _Call(open, (made, "w")),
        "mkdir": _Call(os.mkdir, (made,)),
        "popen": _Call(subprocess.Popen, (["touch", made],)),
        "getattr": _Call(getattr, (OrderedDict, "fromkeys")),
        "method": _Call(Path(made).touch, ()),
        "inside": {"model": [{"x": (1, _Call(exec, (code,)))}]},
        "state": _Built({"__class__": _Call(exec, (code,))}),
        "ordered dict of calls": _Call(OrderedDict, ([("a", _Call(exec, (code,)))],)),
        "a class": os.system,
        "instance": UserError("x"),
        "array of objects": np.array([_Call(exec, (code,)), 1], dtype=object),
    }
    for name, value in objects.items():
        for protocol in (2, 3, 4, 5):
            yield f"{name} {protocol}", pickle.dumps(value, protocol)
    text = _string(code)
    calls = {
        "inst": b"(" + text + b"ibuiltins\nexec\n.",
        "obj": b"(cbuiltins\nexec\n" + text + b"o.",
        "newobj": b"cbuiltins\nexec\n" + text + b"\x85\x81.",
        "newobj_ex": b"\x80\x04cbuiltins\nexec\n" + text + b"\x85}\x92.",
        "ext1": b"\x82\x01.",
        "ext2": b"\x83\x01\x00.",
        "ext4": b"\x84\x01\x00\x00\x00.",
        "persid text": b"P" + code.encode() + b"\n.",
        "dotted": _string("collections") + _string("OrderedDict.__init__.__globals__") + b"\x93.",
        "dotted allowed": _string("collections.OrderedDict") + _string("__init__") + b"\x93.",
        "dotted torch": _string("torch._utils") + _string("_rebuild_tensor_v2.__globals__") + b"\x93.",
        "nested module": _string("torch.serialization.os") + _string("system") + b"\x93.",
        "global of no name": b"}}\x93.",
        "global of spaces": b"cbuiltins exec\nx\n.",
        "called string": text + text + b"\x85R.",
        "called dict": b"}" + text + b"\x85R.",
        "called tensor": _tensor() + text + b"\x85R.",
        "ordered dict called": ORDERED + b"]" + text + b"a\x85R.",
        "built string": text + b"}" + text + text + b"sb.",
        "built function": REBUILD + b"}" + _string("__code__") + text + b"sb.",
        "built storage": FLOAT + b"}" + _string("__class__") + text + b"sb.",
        "built tensor": _tensor() + b"}" + _string("__class__") + text + b"sb.",
        "pair state": ORDERED + b")R}}" + _string("__class__") + text + b"s\x86b.",
        "codec": b"c_codecs\nencode\n" + text + _string("rot13") + b"\x86R.",
        "codec of zip": b"c_codecs\nencode\n" + text + _string("zip") + b"\x86R.",
        "decode": b"c_codecs\ndecode\n" + text + _string("unicode_escape") + b"\x86R.",
        "dtype of objects": b"cnumpy\ndtype\n" + _string("O8") + b"\x89\x88\x87R.",
        "dtype of records": b"cnumpy\ndtype\n" + _string("f4,O") + b"\x89\x88\x87R.",
        "numpy load": b"cnumpy\nload\n" + _string(made) + b"\x85R.",
        "rebuild": b"cnumpy.core.multiarray\n_reconstruct\ncbuiltins\nlist\nK\0\x85C\x01b\x87R.",
        "append to a name": ORDERED + text + b"a.",
        "items of a name": ORDERED + text + text + b"s.",
        "persistent string": text + b"Q.",
        "persistent module": b"(" + _string("module") + FLOAT + _string("0") + _string("cpu") + b"K\x04tQ.",
        "persistent list": b"]" + text + b"aQ.",
        "storage of a call": _tensor(kind=ORDERED),
        "storage by path": _tensor(name="../../etc/passwd") + b".",
        "storage of a string": _tensor(kind=_string("torch.FloatStorage")) + b".",
        "storage elsewhere": _tensor(kind=b"ctorch.cuda\nFloatStorage\n") + b".",
        "hooks": REBUILD + _string("x") * 6 + b"(" + _string("x") * 6 + b"tR.",
        "metadata": _tensor(tail=b"}" + _string("neg") + b"\x88s") + b".",
        "name as data": FLOAT + b".",
        "storage as data": b"(" + _string("storage") + FLOAT + _string("0") + _string("cpu") + b"K\x04tQ.",
        "dtype as data": b"cnumpy\ndtype\n" + _string("f8") + b"\x89\x88\x87R.",
    }
    yield from calls.items()


def test_no_pickle_runs_anything(tmp_path):
    """Reads them in a process whose audit hook dies of what running code needs, and looks for what it would leave."""
    canary, folder = tmp_path / "canary", tmp_path / "hostile"
    folder.mkdir()
    names = []
    for i, (name, data) in enumerate(_calls(canary)):
        names.append(name)
        _zipped(folder / f"{i}.pth", data, [bytes(16)])
    script = """
import os, sys
from pathlib import Path
from jaxadd import interop
from jaxadd.errors import UserError

folder, count = Path(sys.argv[1]), int(sys.argv[2])
def audit(event, arguments):
    forbidden = ("pickle.", "exec", "compile", "import", "os.", "subprocess.", "ctypes", "marshal", "socket")
    wrote = event == "open" and arguments[1] not in ("r", "rb")
    if event.startswith(forbidden) or wrote:
        print("RAN", event, arguments, flush=True)
        os._exit(1)
try:  # Whatever reading imports lazily.
    interop.read(folder / "0.pth")
except UserError:
    pass
sys.addaudithook(audit)
for i in range(count):
    try:
        interop.read(folder / f"{i}.pth")
    except UserError as error:
        print("refused", i, error)
    else:
        print("READ", i)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(len(names))], cwd=ROOT, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert [line.split()[:2] for line in lines] == [["refused", str(i)] for i in range(len(names))]
    assert not canary.exists()
    said = dict(zip(names, lines, strict=True))
    assert "posix.system" in said["system 2"]
    assert "_rebuild_tensor_v2.__globals__" in said["dotted torch"]
    assert "operation INST" in said["inst"]


def test_the_canary_would_have_shown(tmp_path):
    """Where pickles are trusted they do run, so the test above can fail."""
    for name, data in _calls(tmp_path / "canary"):
        if name == "mkdir 4":
            pickle.loads(data)
    assert (tmp_path / "canary").exists()


def _long(number):
    return b"\x8a\x08" + struct.pack("<q", number)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_tensor(size=b"K\x05\x85"), "larger than its storage"),
        (_tensor(offset=b"K\x04"), "larger than its storage"),
        (_tensor(offset=b"J\xff\xff\xff\xff"), "impossible shape"),
        (_tensor(stride=b"J\xff\xff\xff\xff\x85", size=b"K\x02\x85"), "impossible shape"),
        (_tensor(size=b"J\xff\xff\xff\xff\x85"), "impossible shape"),
        (_tensor(stride=b"K\0\x85", size=b"J\xff\xff\xff\x7f\x85"), "larger than its storage"),
        (_tensor(size=b"(" + _long(2**40) * 3 + b"t", stride=b"(" + b"K\0" * 3 + b"t"), "larger than its storage"),
        (_tensor(size=b"(" + _long(2**62) * 4 + b"t", stride=b"(" + _long(2**62) * 4 + b"t"), "larger than its"),
        (_tensor(size=b"K\x02\x85", stride=_long(2**63 - 1) + b"\x85"), "larger than its storage"),
        (_tensor(size=b"(" + _long(2**62) * 4 + b"K\0t", stride=b"(" + b"K\x01" * 5 + b"t"), "damaged"),
        (_tensor(size=b"(" + b"K\x01" * 9 + b"t", stride=b"(" + b"K\x01" * 9 + b"t"), "impossible shape"),
        (_tensor(size=b"K\x01K\x01\x86"), "impossible shape"),
        (_tensor(size=b"\x88\x85"), "impossible shape"),
        (_tensor(size=b"G" + bytes(8) + b"\x85"), "impossible shape"),
        (_tensor(offset=b"N"), "impossible shape"),
        (_tensor(count=b"K\x05"), "16 bytes, which are not 5 numbers"),
        (_tensor(count=_long(2**62)), "which are not"),
        (_tensor(count=b"J\xff\xff\xff\xff"), "which are not"),
        (_tensor(name="1"), "lacks the storage '1'"),
        (b"]" + _tensor() + b"a" + _tensor(kind=b"ctorch\nIntStorage\n") + b"a", "both float32 and int32"),
        (b"\x8b\x09\0\0\0" + bytes(8) + b"\x01", "64 bits"),
        (b"\x8b\xff\xff\xff\x7f", "damaged"),
        (b"\x8e" + b"\xff" * 8, "damaged"),
        (b"\x8d" + b"\xff" * 7 + b"\x7f", "damaged"),
        (b"h\x05", "damaged"),
        (b"t", "damaged"),
        (b"(", "ends in the middle"),
        (b"K\x01", None),
        (b"", "damaged|ends in the middle"),
    ],
)
def test_impossible_tensors_and_numbers_are_refused(tmp_path, tensor, message):
    path = _zipped(tmp_path / "x.pth", b"\x80\x02" + tensor + b".", [bytes(16)])
    with pytest.raises(UserError, match=message or "should hold a state dict"):
        interop.read(path)


def test_a_view_of_everything_in_a_storage_is_read(tmp_path):
    """The bounds above are the right ones: the last number is still inside."""
    numbers = np.arange(4, dtype=np.float32)
    within = _tensor(offset=b"K\x01", size=b"K\x02K\x01\x86", stride=b"K\x02" + _long(2**62) + b"\x86")
    value = unpickling.load(b"\x80\x02" + within + b".", lambda *_: numbers)
    assert value.tolist() == [[1], [3]]


def test_sharing_that_doubles_at_every_level_is_refused_at_once():
    """2⁴⁰ parts in 200 bytes."""
    laughs = b"(" + b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40)) + b"t."
    with pytest.raises(UserError, match="more than 2000000 parts"):
        unpickling.load(laughs, None)


@pytest.mark.parametrize(
    "data",
    [
        b"]q\0h\0a.",
        b"}q\0K\x01h\0s.",
        b")" + b"\x85" * 51 + b".",
        b")" + b"\x85" * 50_000 + b".",
        b"]" * 50_000 + b"a" * 49_999 + b".",
        b"(" + b")" + b"\x85" * 30 + b"q\0" + b"\x85" * 10 + b"h\0" + b"\x85" * 30 + b"t.",  # Deep where met again.
    ],
)
def test_cycles_and_depth_are_refused(data):
    with pytest.raises(UserError, match="levels deep"):
        unpickling.load(data, None)


def test_depth_is_allowed_up_to_the_limit():
    value = unpickling.load(b")" + b"\x85" * 49 + b".", None)
    for _ in range(49):
        (value,) = value
    assert value == ()


def test_a_deep_key_is_never_hashed():
    with pytest.raises(UserError, match="key of a dictionary"):
        unpickling.load(b"})" + b"\x85" * 100_000 + b"Ns.", None)


def test_the_number_of_operations_is_limited(monkeypatch):
    monkeypatch.setattr(unpickling, "MAX_OPERATIONS", 100)
    assert unpickling.load(b"](" + b"N" * 50 + b"e.", None) == [None] * 50
    with pytest.raises(UserError, match="more than 100 operations"):
        unpickling.load(b"](" + b"N" * 100 + b"e.", None)


# --- hostile containers ------------------------------------------------------------------------------------------


def _refused(path, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        interop.read(path, **options)
    assert str(path) in str(caught.value)


def test_containers_that_torch_does_not_write_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    _refused(path, "there is no file")
    _refused(tmp_path, "there is no file")
    os.mkfifo(tmp_path / "fifo")
    _refused(tmp_path / "fifo", "there is no file")
    for content in (b"", b"hello", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        _refused(path, "not the zip that torch.save writes")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    _refused(path, "it is damaged")
    _refused(_zipped(path, b"\x80\x02}.", [bytes(10**7)], compression=zipfile.ZIP_DEFLATED), "is compressed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as file:
            for _ in range(2):
                file.writestr("archive/data.pkl", b"\x80\x02}.")
    _refused(path, "same name")
    for names in (["x"], ["a/data.pkl", "b/data.pkl"]):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"\x80\x02}.")
        _refused(path, f"this file has {len(names) if len(names) > 1 else 0}")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr("a/byteorder", b"middle")
    _refused(path, "byte order")
    monkeypatch.setattr(archive, "MAX_PICKLE_BYTES", 10)
    _refused(_zipped(path, b"\x80\x02}" + bytes(20)), "data.pkl has 23 bytes")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    _refused(_zipped(path, b"\x80\x02}.", [b"x"] * 3), "more than 3 entries")


def test_entries_that_overlap_are_refused(tmp_path):
    """Fifield's bomb: many entries of the directory share the same bytes."""
    path = _zipped(tmp_path / "x.pth", b"\x80\x02}.", [bytes(1000)])
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    last = content.rindex(b"PK\x01\x02")
    entries = [content[start:last]]
    entries += [content[last:end].replace(b"data/0", b"data/%d" % i) for i in range(9)]
    directory = b"".join(entries)
    finish = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 10, 10, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + finish)
    _refused(path, "have more bytes|it is damaged")


def test_sizes_are_limited(tmp_path):
    path = tmp_path / "x.pth"
    interop.write(path, network(SMALL))
    size = path.stat().st_size
    _refused(path, f"has {size} bytes, and max_bytes is 1000", max_bytes=1000)
    interop.read(path, max_bytes=size)
    # Many names for one storage: small as a file, large as parameters.
    state = interop.to_mainline(network(Transformer(layers=1, d_model=64, heads=1, d_mlp=0), vocabulary=64))
    block = {name: array for name, array in state.items() if name.startswith("blocks.0.")}
    for i in range(1, 200):
        state |= {name.replace("blocks.0", f"blocks.{i}"): array for name, array in block.items()}
    data, storages = pickling.dump(state)
    unique = [i for i, storage in enumerate(storages)]
    kept = storages[:8]
    for i in unique[8:]:
        twin = next(str(j) for j, storage in enumerate(kept) if storage.shape == storages[i].shape)
        data = data.replace(_string(str(i)) + _string("cpu"), _string(twin) + _string("cpu"))
    _zipped(path, data, [storage.tobytes() for storage in kept])
    assert path.stat().st_size < 500_000
    _refused(path, "parameters are more than 1000000 bytes", max_bytes=1_000_000)
    assert interop.read(path).model.layers == 200


def test_memory_is_bounded(tmp_path):
    """Bombs are refused, not met with a dead process, in an address space of 128 MiB beside what JAX takes.

    The number of operations is a tenth of what it is, to be quick, and so is the space that they may take.
    """
    bombs = {
        "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
        "dicts": b"\x80\x02(" + b"}" * 300_000 + b"t.",
        "tuples": b"\x80\x02)" + b"\x85" * 300_000 + b".",
        "memos": b"\x80\x04}" + b"\x94" * 300_000 + b".",
        "marks": b"\x80\x02" + b"(" * 300_000 + b".",
        "long": b"\x80\x02\x8b" + struct.pack("<i", 2**23) + b"\x7f" * 2**23 + b".",
        "huge": b"\x80\x02" + _tensor(size=_long(2**60) + b"\x85", stride=b"K\0\x85") + b".",
        "empty": b"\x80\x02" + _tensor(size=_long(2**60) + b"K\0\x86", stride=b"K\0K\0\x86") + b".",
    }
    for name, data in bombs.items():
        _zipped(tmp_path / f"{name}.pth", data, [bytes(16)])
    script = """
import resource, sys
from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop import unpickling
unpickling.MAX_OPERATIONS = 200_000
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27,) * 2)
for path in sys.argv[1:]:
    try:
        interop.read(path)
    except UserError as error:
        print(error)
"""
    paths = [str(tmp_path / f"{name}.pth") for name in bombs]
    done = subprocess.run([sys.executable, "-c", script, *paths], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(lines) == len(bombs), done.stdout
    assert not any("not enough memory" in line for line in lines), done.stdout


# --- damaged files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """The smallest network that has everything, as the bytes of a file."""
    path = tmp_path_factory.mktemp("tiny") / "x.pth"
    params = network(Transformer(d_model=2, heads=1, d_mlp=1), length=2, vocabulary=2, classes=2)
    optimizer = interop.Adam(params, params, 3)
    interop.write(path, params, optimizer=optimizer, rest={"losses": [0.5], "epoch": 1})
    return path.read_bytes()


def _survives(path):
    """Read a damaged file; what is not refused must be a checkpoint."""
    try:
        found = interop.read(path)
    except UserError:
        return False
    assert isinstance(found, interop.Checkpoint)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found.params))
    return True


def test_a_truncated_file_is_refused(tmp_path, tiny_file):
    path = tmp_path / "x.pth"
    path.write_bytes(tiny_file)
    assert _survives(path)
    for end in range(0, len(tiny_file), 41):
        path.write_bytes(tiny_file[:end])
        assert not _survives(path), end


def _mutated(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randrange(1, 8)]
            case 3:
                start = rng.randrange(len(data))
                data[at:at] = data[start : start + rng.randrange(1, 16)]
    return bytes(data)


def _contents(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def fuzz(data, path, seed, rounds):
    """Mutate a file's bytes, and in turn its pickle, put back into a sound container; count what was read."""
    rng, contents = random.Random(seed), _contents(data)
    read = 0
    for i in range(rounds):
        if i % 2:
            path.write_bytes(_mutated(data, rng))
        else:
            with zipfile.ZipFile(path, "w") as file:
                for name, content in contents.items():
                    file.writestr(name, _mutated(content, rng) if name.endswith("data.pkl") else content)
        read += _survives(path)
    return read


def test_random_damage_is_refused_or_harmless(tmp_path, tiny_file):
    assert fuzz(tiny_file, tmp_path / "x.pth", seed=0, rounds=600) < 400


def test_no_weight_of_a_changed_file_passes_unseen(tmp_path, tiny_file):
    """A flipped bit in a storage is found by its checksum."""
    start = tiny_file.index(network(Transformer(d_model=2, heads=1, d_mlp=1), 2, 2, 2)["embed"]["W_E"].T.tobytes())
    path = tmp_path / "x.pth"
    path.write_bytes(tiny_file[:start] + bytes([tiny_file[start] ^ 1]) + tiny_file[start + 1 :])
    _refused(path, "damaged")


def test_numbers_in_either_byte_order_are_read(tmp_path, tiny_file):
    contents = _contents(tiny_file)
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            if "/data/" in name:
                content = np.frombuffer(content, np.uint32).byteswap().tobytes()
            file.writestr(name, b"big" if name.endswith("byteorder") else content)
    (tmp_path / "y.pth").write_bytes(tiny_file)
    assert bits(interop.read(path).params) == bits(interop.read(tmp_path / "y.pth").params)


def test_a_name_in_a_file_cannot_write_on_the_terminal(tmp_path):
    path = _file(tmp_path, {"model": interop.to_mainline(network(SMALL)) | {"\x1b[2J\n" * 1000: np.ones(1)}})
    with pytest.raises(UserError) as caught:
        interop.read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
