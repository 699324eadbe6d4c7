"""A task of one's own goes through everything without a line changed in the library."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import standin

from jaxadd import sweeps
from jaxadd.cli.main import main
from jaxadd.files import read_npz
from jaxadd.runs import load, replay, train
from jaxadd.sweeps import Axis, Sweep

pytestmark = pytest.mark.jax_api

QUIET = {"note": lambda _: None}


@pytest.fixture(scope="module")
def config(tiny):
    return replace(tiny, task=standin.SymmetricGroup())


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("standin") / "run"
    train(config, path, **QUIET)
    return path


def test_it_is_read_back_and_longer_by_resume(config, folder, monkeypatch, capsys):
    assert load(folder).config == config
    before = load(folder).metrics["train_loss"]
    assert main(["resume", str(folder), "--steps", "50"]) == 0
    after = load(folder).metrics["train_loss"]
    assert after.shape == (2, 51)
    np.testing.assert_array_equal(after[:, :40], before[:, :40])
    assert "errors" in capsys.readouterr().out


def test_it_is_replayed_exactly(folder):
    notes = []
    again = read_npz(replay(folder, 3, 12, note=notes.append) / "metrics.npz")
    np.testing.assert_array_equal(again["train_loss"], load(folder).metrics["train_loss"][:, 3:13])
    assert "bit for bit" in notes[-1]


def test_it_is_swept(config, tmp_path):
    sweep = Sweep(replace(config, steps=20), (Axis("optimizer.lr", (1e-3, 1e-2)),))
    rows = sweeps.run(sweep, tmp_path / "sweep", **QUIET)
    assert [row["status"] for row in rows] == ["finished"] * 4


def test_it_is_analysed_as_far_as_holds_for_any_network(folder, tmp_path, capsys):
    assert main(["analyse", str(folder), "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    numbers = json.loads((tmp_path / "analysis.json").read_text())
    network = load(folder).network()
    test = network.task.test_batch(network.data)
    correct = np.mean(np.asarray(network.answer(test.inputs)) == np.asarray(test.targets))
    assert numbers["test_accuracy"] == pytest.approx(correct)
    figures = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"curves", "attention", "circuits", "attribution", "lens"} <= figures
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_nothing_is_claimed_of_it(folder, capsys):
    assert main(["hypotheses", str(folder)]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert "standin" in sys.modules
