"""`jaxadd spike`: what it finds inside a spike, and what it says where there is none."""

import shutil

import numpy as np
import pytest

from jaxadd.analysis import spikes
from jaxadd.config import RunConfig
from jaxadd.models import MLP
from jaxadd.optim.optimizers import SGD
from jaxadd.runs import train
from jaxadd.tasks import HandwrittenDigits


@pytest.fixture(scope="module")
def addition(adding, tmp_path_factory):
    return shutil.copytree(adding, tmp_path_factory.mktemp("spikes") / "addition")


@pytest.fixture
def planted(monkeypatch):
    """Whether so short a run has a spike is chance, so each lane is said to have one."""

    def find(loss, step, *, factor):
        assert np.isfinite(loss).all()
        assert loss.shape == step.shape
        at = np.searchsorted(step, [150, 152, 156])
        return [spikes.Spike(*map(int, step[at]), float(loss[at[0] - 1]), float(loss[at[1]]))]

    monkeypatch.setattr(spikes, "find", find)


def figures_in(folder):
    return {path.stem for path in (folder / "figures").iterdir()}


def test_the_largest_spike_is_replayed_exactly_and_described(addition, planted, shell):
    replayed = addition / "replays" / "spike-145-157"
    replayed.mkdir(parents=True)
    (replayed / "earlier").touch()  # What an earlier call left is replaced.
    status, out, error = shell("jaxadd", "spike", addition, "--margin", 5)
    assert status == 0, error
    assert "reproduced bit for bit" in error
    assert (replayed / "metrics.npz").is_file()
    assert not (replayed / "earlier").exists()
    (folder,) = (addition / "spikes").iterdir()
    text = (folder / "report.txt").read_text()
    for words in (
        "2 spikes (1 of seed 0, 1 of seed 1)",
        "sharpness: the optimiser is stable up to 760",  # (2 + 2 b1) / ((1 - b1) lr)
        "of the batch's loss",
        "gradient at the peak, times its median before: ",
        "put back",
        "rise of the test loss at the peak, by answer: A",
        "errors before and at the peak, by class: S0 ",
        "attention: that of L0H",
    ):
        assert words in text
    assert text in out
    assert figures_in(folder) == {"run", "inside", "parameters", "broken", "attention"}


def test_a_task_and_an_optimizer_with_less_to_say(planted, shell, tmp_path):
    """No classes, no attention, and no limit of stability: what there is is shown."""
    config = RunConfig(HandwrittenDigits(batch_size=8), MLP(hidden=(8,)), SGD(), steps=160, eval_every=80)
    train(config, tmp_path / "run", note=lambda _: None)
    status, out, error = shell("jaxadd", "spike", tmp_path / "run", "--margin", 3)
    assert status == 0, error
    assert "put back" in out
    assert not any(words in out for words in ("sharpness", "by answer", "by class", "attention"))
    assert figures_in(tmp_path / "run" / "spikes" / "152-seed0") == {"run", "inside", "parameters"}


def test_no_spike_and_no_such_seed_are_said(addition, shell):
    status, out, _ = shell("jaxadd", "spike", addition, "--factor", 1e9)
    assert status == 0
    assert "no spike: no train loss stays above 1e+09 times the median" in out
    for words, message in (
        (("--seed", 5), "it has 0, 1"),
        (("--factor", 1), "--factor must be above 1 and finite, got 1"),
        (("--factor", "nan"), "--factor must be above 1 and finite, got nan"),
        (("--margin", 0), "--margin must be at least 1, got 0"),
    ):
        status, _, error = shell("jaxadd", "spike", addition, *words)
        assert status == 2
        assert message in error
