"""`jaxadd export`: what is written is what was trained, bit for bit, with the optimiser if asked for."""

from dataclasses import replace

import chex
import jax
import numpy as np
import optax
import pytest
from lines import assert_one_line

from jaxadd import interop
from jaxadd.cli.checkpoint import trained
from jaxadd.cli.commands.export import adam_settings
from jaxadd.lanes import take
from jaxadd.models import Weights
from jaxadd.optim.optimizers import Adam, Lion
from jaxadd.runs import load, train
from jaxadd.tasks import Modular
from jaxadd.training.trainer import Trainer


def test_an_export_is_read_back_with_its_optimizer(complete, tiny, shell, tmp_path):
    path = tmp_path / "network.pth"
    status, out, error = shell("jaxadd", "export", complete, path, "--seed", 1, "--step", 20, "--optimizer")
    assert status == 0, error
    assert out == f"{path}: step 20, mainline layout, with Adam\n"
    state = take(load(complete).state(Trainer(tiny).abstract_state(), 20), 1)
    checkpoint = interop.read(path)
    chex.assert_trees_all_equal(checkpoint.params, jax.device_get(state.params))
    assert (checkpoint.optimizer.updates, checkpoint.optimizer.settings["lr"]) == (20, 1e-2)
    chex.assert_trees_all_equal(checkpoint.optimizer.nu, jax.device_get(optax.tree.get(state.opt_state, "nu")))
    assert checkpoint.rest["config"]["activation"] == "relu"
    status, out, _ = shell("jaxadd", "export", complete, path, "--layout", "transformer-lens")
    assert (status, out) == (0, f"{path}: step 40, transformer-lens layout\n")


def test_the_operation_travels_with_the_network(tiny_one, shell, tmp_path):
    run, path = tmp_path / "run", tmp_path / "network.pth"
    train(replace(tiny_one, task=replace(tiny_one.task, operation="subtract"), steps=2), run)
    assert shell("jaxadd", "export", run, path)[0] == 0
    notes = []
    network = trained(path, Modular(), note=notes.append).networks[0]
    assert (network.task.question, network.split_known) == ("a - b mod 7", True)
    assert notes == ["network.pth: its config states a - b mod 7"]
    assert trained(path, Modular(p=7), typed=["--task.operation"]).networks[0].task.question == "a + b mod 7"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.pth", "--step", 15), "was not saved"),
        (("a.pth", "--seed", 9), "has no seed 9"),
        (("nowhere/a.pth",), "there is no folder nowhere to write a.pth in"),
    ],
)
def test_what_cannot_be_written_is_said(complete, shell, words, message):
    status, _, error = shell("jaxadd", "export", complete, *words)
    assert status == 2
    assert_one_line(error, message)


def test_networks_and_optimizers_that_a_checkpoint_does_not_hold(tiny_one, reading, shell, tmp_path):
    lion = tmp_path / "lion"
    train(replace(tiny_one, optimizer=Lion(), steps=1), lion, note=lambda _: None)
    for run, words, message in (
        (lion, ["--optimizer"], "the state of Adam or AdamW, and this run was trained by Lion"),
        (reading, [], "trained a network of MLP"),
    ):
        status, _, error = shell("jaxadd", "export", run, "network.pth", *words)
        assert status == 2
        assert_one_line(error, message)
        assert not (tmp_path / "network.pth").exists()


def test_a_tied_network_is_written_with_all_its_matrices(tiny_one, shell, tmp_path):
    tied = replace(tiny_one.model, weights=Weights(unembed="embed", value="key"))
    run = train(replace(tiny_one, model=tied, steps=2), tmp_path / "tied", note=lambda _: None)
    status, _, error = shell("jaxadd", "export", "tied", "network.pth")
    assert status == 0, error
    params = interop.read(tmp_path / "network.pth").params
    chex.assert_trees_all_equal(params, jax.device_get(run.network().params))
    np.testing.assert_array_equal(params["unembed"]["W_U"], params["embed"]["W_E"].T)
    status, _, error = shell("jaxadd", "export", "tied", "network.pth", "--optimizer")
    assert status == 2
    assert_one_line(error, "needs a network whose matrices are all trained")


def test_adam_keeps_its_decay_of_the_gradient():
    settings = adam_settings(Adam(lr=0.5, l2=0.25))
    assert (settings["lr"], settings["weight_decay"], settings["betas"]) == (0.5, 0.25, (0.9, 0.999))
