"""The state of an optimiser beside a network: read where it fits, left out with a note where it does not."""

import re

import numpy as np
import pytest
from checkpoints import ASSUMED, bits, file, mainline, network

from jaxadd import interop


def _torch_adam():
    state = [array for name, array in mainline().items() if not name.endswith("mask")]
    entries = {i: {"step": 5, "exp_avg": array, "exp_avg_sq": array} for i, array in enumerate(state)}
    return {"state": entries, "param_groups": [{"lr": 1.0, "params": list(range(len(state)))}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["param_groups"][0]["params"].pop(), "has 18 parameters, and the model 19"),
        (lambda o: o["state"].pop(3), r"no state for blocks\.0\.attn\.W_Q"),
        (lambda o: o["state"][4].update(step=6), "some parameters more often"),
        (lambda o: o["state"][4].update(step=1.5), "whole number"),
        (lambda o: o["state"][4].update(step=float("nan")), "whole number"),
        (lambda o: o["state"][0].update(exp_avg=np.zeros(3, np.float32)), r"exp_avg of embed\.W_E should have shape"),
        (lambda o: o["state"][0].update(exp_avg_sq=3.0), r"exp_avg_sq of embed\.W_E should have shape"),
    ],
)
def test_an_optimizer_of_another_network_is_left_out_with_a_note(tmp_path, change, message):
    raw = _torch_adam()
    path = file(tmp_path, {"model": mainline(), "optimizer": raw})
    assert bits(interop.read(path).optimizer.mu) == bits(network())
    change(raw)
    found = interop.read(file(tmp_path, {"model": mainline(), "optimizer": raw}))
    assert bits(found.params) == bits(network())
    assert found.optimizer is None
    assert "optimizer" in found.rest
    assert found.notes[:-1] == (ASSUMED,)
    assert re.fullmatch(f"its optimizer does not fit the network and was left out: .*{message}.*", found.notes[-1])


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
    raw = _torch_adam()
    change(raw)
    found = interop.read(file(tmp_path, {"model": mainline(), "optimizer": raw}))
    assert found.optimizer is None
    assert found.rest["optimizer"].keys() == raw.keys()
