"""A network whose numbers are not finite is never counted as correct, from training to what is printed and drawn."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jaxadd.cli.commands import analyse
from jaxadd.files import read_npz, write_npz
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import train
from jaxadd.runs.summary import THRESHOLDS, step_of
from jaxadd.tasks import Addition

TASK = Addition(digits=2, base=3, test_examples=40, cascade_examples=8, batch_size=8)
QUIET = {"note": lambda text: None}
BROKEN = {
    "everything is NaN": ("embed.W_E", ..., np.nan),
    "everything is infinite": ("embed.W_E", ..., np.inf),
    "one class is NaN": ("unembed.W_U", (..., 2), np.nan),
    "one class is infinite": ("unembed.W_U", (..., 2), np.inf),
    "one class is minus infinite": ("unembed.W_U", (..., 2), -np.inf),
}


@pytest.fixture(scope="module")
def configs(tiny_one):
    """A run of modular arithmetic and one of addition, evaluated at every step."""
    modular = replace(tiny_one, eval_every=1)
    return {"modular": modular, "addition": replace(modular, task=TASK)}


@pytest.fixture(scope="module")
def runs(configs, tmp_path_factory):
    """The folders of both runs, which know their train examples."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in configs.items():
        train(config, folder / name, **QUIET)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("name", ["modular", "addition"])
def test_a_saved_run_that_is_not_finite_is_analysed_as_wrong(name, how, runs, tmp_path, shell, monkeypatch):
    folder = shutil.copytree(runs / name, tmp_path / name)
    shutil.rmtree(folder / "checkpoints")  # Only the network itself is analysed.
    (folder / "checkpoints").mkdir()
    params = read_npz(folder / "params.npz")
    parameter, where, value = BROKEN[how]
    params[parameter][where] = value
    write_npz(folder / "params.npz", params)
    drawn = []
    monkeypatch.setattr(analyse, "rendered", lambda figures: drawn.extend(figures) or {})  # They are drawn elsewhere.
    status, out, _ = shell("jaxadd", "analyse", folder)
    assert status == 0
    numbers = json.loads((folder / "analysis" / "analysis.json").read_text())
    accuracies = {key: x for key, x in numbers.items() if "accuracy" in key}
    assert {"test_accuracy", *(["train_accuracy"] if name == "modular" else ["accuracy_by_cascade.1"])} <= set(
        accuracies
    )
    assert accuracies["test_accuracy"] == 0
    assert set(accuracies.values()) <= {0, None}  # None of a class that has no problems.
    assert numbers["test_loss"] is None
    assert "100 %" not in out
    if name == "modular":
        (errors,) = next(figure.pictures for figure in drawn if figure.name == "errors")
        kinds = np.concatenate([frame.ravel() for frame in errors.frames.values()])
        assert {errors.categories[int(kind)] for kind in kinds} == {"train, error", "test, error"}
    else:
        assert "not defined (the loss is not finite)" in out
        status, out, _ = shell("jaxadd", "ask", folder, "12+01=")
        assert status == 0
        assert out.startswith("seed 0  12+01: predicts nothing, the answer is 020 (error in A2, A1, A0;")


@pytest.mark.parametrize("name", ["modular", "addition"])
def test_a_learning_rate_that_makes_it_diverge_leaves_no_accuracy(name, configs):
    run = train(replace(configs[name], optimizer=AdamW(lr=1e30, warmup=0)), **QUIET)
    (lane,) = run.summary["lanes"]
    assert lane["status"] == "diverged"
    assert lane["final_train_loss"] is lane["final_test_loss"] is None
    assert lane["final_train_accuracy"] == lane["final_test_accuracy"] == 0
    assert [lane[step_of(stop)] for stop in THRESHOLDS] == [None] * len(THRESHOLDS)
    for metric, values in run.metrics.items():
        if "accuracy" in metric:
            last = values[0, -1]
            assert np.all(np.isnan(last) | (last == 0)), metric
