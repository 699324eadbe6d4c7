"""Torch reads what is written, and what torch wrote is read."""

import importlib
import importlib.util
import warnings
from collections import OrderedDict

import jax
import numpy as np
import pytest
from checkpoints import bits, mainline, network, sized
from needs import need

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop import calls

MODEL = sized()


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        need("torch", importlib.util.find_spec("torch") is not None, "torch is not installed")
        return importlib.import_module("torch")


def test_torch_loads_what_is_written(torch, tmp_path):
    params, mu, nu = (network(seed=seed) for seed in range(3))
    rest = {"losses": [0.5, 1e-40], "config": {"lr": 1e-3, "name": "é", "big": 2**62}, "t": (1, None, True)}
    arrays = {str(dtype): np.arange(4).astype(dtype) for dtype in calls.STORAGES.values()}
    optimizer = interop.Adam(mu, nu, 9, {"lr": 0.25})
    for layout, convert in (("mainline", interop.to_mainline), ("transformer-lens", interop.to_transformer_lens)):
        path = tmp_path / "x.pth"
        interop.write(path, params, MODEL, optimizer=optimizer, rest=rest | {"arrays": arrays}, layout=layout)
        found = torch.load(path, weights_only=True)
        state = convert(params, MODEL)
        assert list(found["model"]) == list(state)
        assert bits({name: found["model"][name].numpy() for name in state}) == bits(state)
        assert {name: found[name] for name in rest} == rest
        assert {name: str(x.dtype) for name, x in found["arrays"].items()} == {n: f"torch.{n}" for n in arrays}
        assert all(x.tolist() == arrays[name].tolist() for name, x in found["arrays"].items())
        assert found["optimizer"]["param_groups"][0]["lr"] == 0.25
        assert found["optimizer"]["state"][0]["exp_avg"].tolist() == convert(mu, MODEL)["embed.W_E"].tolist()
        interop.write(path, params, MODEL, layout=layout, nested=False)
        assert list(torch.load(path, weights_only=True)) == list(state)


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_wrote_is_read(torch, tmp_path, protocol):
    params = network()
    state = mainline()
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
    state = mainline()
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
    assert bits(interop.to_mainline(found.params, MODEL)) == bits({n: w.detach().numpy() for n, w in content.items()})
    assert found.optimizer.updates == 3
    assert found.optimizer.settings["lr"] == 0.5
    np.testing.assert_allclose(found.optimizer.mu["blocks.1"]["attn"]["W_O"], 2 * (1 - 0.9**3), rtol=1e-5)
    np.testing.assert_allclose(found.optimizer.nu["unembed"]["W_U"], 4 * (1 - 0.98**3), rtol=1e-5)

    for settings_kept in (found.optimizer.settings, {}):
        optimizer = found.optimizer._replace(settings=settings_kept)
        interop.write(tmp_path / "y.pth", found.params, MODEL, optimizer=optimizer)
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
    exact = jax.tree.map(lambda x: np.round(x * 4) / 4, network())
    state = {name: torch.from_numpy(array) for name, array in interop.to_transformer_lens(exact, MODEL).items()}
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
    with pytest.raises(UserError, match="older checkpoint, load it with torch and save it again"):
        interop.read(tmp_path / "x.pth")
