"""Loss spikes: found where they were planted, and looked into exactly."""

import sys

import numpy as np
import pytest

from jaxadd.analysis import spikes
from jaxadd.cli import experiment
from jaxadd.cli.commands import spike
from jaxadd.config import RunConfig
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import train
from jaxadd.tasks import Addition, Modular
from jaxadd.training.trainer import Trainer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs whose learning rates are too high for calm."""
    model = Transformer(d_model=16, heads=2, d_mlp=32)
    configs = {
        "addition": RunConfig(
            Addition(digits=2, batch_size=64, test_examples=64, cascade_examples=8),
            model,
            AdamW(lr=5e-2, weight_decay=0.0),
            steps=200,
            seeds=(0, 1),
            eval_every=100,
            checkpoint_every=100,
        ),
        "modular": RunConfig(
            Modular(p=7, train_fraction=0.6), model, AdamW(lr=0.1), steps=300, eval_every=50, checkpoint_every=100
        ),
    }
    folders = {}
    for name, config in configs.items():
        folders[name] = tmp_path_factory.mktemp("spikes") / name
        train.train(Trainer(config), folders[name], note=lambda _: None)
    return folders


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["-", *map(str, arguments)])
    return experiment.command("experiments.spike", spike.Options, spike.main)


@pytest.mark.parametrize("name", ["addition", "modular"])
def test_the_command_looks_into_the_largest_and_meets_every_loss_again(folders, name, monkeypatch, capsys):
    folder = folders[name]

    def planted(loss, step, *, factor):
        """Whether so short a run has a spike is chance, so this one is said to have one."""
        assert np.isfinite(loss).all()
        assert loss.shape == step.shape
        at = np.searchsorted(step, [150, 152, 156])
        return [spikes.Spike(*map(int, step[at]), float(loss[at[0] - 1]), float(loss[at[1]]))]

    monkeypatch.setattr(spikes, "find", planted)
    for _ in range(2):  # What it left the first time is replaced.
        assert call(monkeypatch, folder, "--margin", 5) == 0
    said = capsys.readouterr()
    assert "reproduced bit for bit" in said.err
    assert "sharpness:" in said.out
    assert "put back" in said.out
    (result,) = (folder / "spikes").iterdir()
    assert ("digits, rise" in (result / "findings.txt").read_text()) == (name == "addition")
    expected = {"run", "inside", "parameters", "attention"} | ({"broken"} if name == "addition" else set())
    assert {p.stem for p in (result / "figures").iterdir()} == expected


def test_no_spike_and_no_such_seed_are_said(folders, monkeypatch, capsys):
    assert call(monkeypatch, folders["addition"], "--factor", 1e9) == 0
    assert "no spike" in capsys.readouterr().out
    assert call(monkeypatch, folders["addition"], "--seed", 5) == 2
    assert "it has 0, 1" in capsys.readouterr().err
