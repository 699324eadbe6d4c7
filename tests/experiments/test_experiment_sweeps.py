"""Experiments that are sweeps: what they draw, refuse and find."""

from dataclasses import replace

import pytest
from lines import assert_one_line

from experiments import frac_train, seed_sweep
from jaxadd import sweeps
from jaxadd.optim.optimizers import Lion
from jaxadd.training.trainer import Trainer

SMALL = ["--model.d-model", 16, "--model.heads", 2, "--model.d-mlp", 32]


@pytest.mark.parametrize(
    ("experiment", "words", "found", "figures"),
    [
        ("frac_train", SMALL, "published, one run", {"fractions"}),
        (
            "phase_diagram",
            ["--axes", "optimizer.lr=1e-3,1e-1", "optimizer.weight_decay=0,1", "task.train_fraction=0.6"],
            "comprehension",
            {"phases"},
        ),
        (
            "seed_sweep",
            ["--task", "addition", "--task.digits", 1, "--steps", 10],
            "first step of each threshold",
            {"curves", "survival"},
        ),
    ],
)
def test_sweeps_from_the_command_line(shell, tmp_path, experiment, words, found, figures):
    status, out, error = shell(experiment, "debug", *words, "--name", "it")
    assert status == 0, error
    folder = tmp_path / "runs" / experiment / "it"
    assert found in out
    assert found in (folder / "report.txt").read_text()
    drawn = {path.stem: path.stat().st_size for path in (folder / "figures").iterdir()}
    assert drawn.keys() == figures
    assert min(drawn.values()) > 1000


def test_a_sweep_that_is_complete_is_reported_again_without_training(shell, monkeypatch):
    status, out, error = shell("frac_train", "debug", *SMALL)
    assert status == 0, error
    monkeypatch.delattr(Trainer, "chunk")
    assert shell("frac_train", "debug", *SMALL)[:2] == (0, out)


def test_a_diagram_needs_a_grid(shell):
    words = ("--design", "list", "--axes", "optimizer.lr=1e-3,1e-2", "optimizer.weight_decay=0,1")
    status, _, error = shell("phase_diagram", "debug", *words, "task.train_fraction=0.5,0.7")
    assert status == 2
    assert_one_line(error, "this experiment shows a grid, got --design list")


@pytest.mark.parametrize(
    ("step", "steps", "censored", "inside"),
    [
        (150, [120, 200], None, "yes"),
        (111, [120, 200], None, "yes"),  # Reached between the evaluations at 110 and 120.
        (110, [120, 200], None, "no"),
        (201, [120, 200], None, "no"),
        (900, [120, None], None, "no"),  # The other diverged.
        (900, [120, None], 1000, "yes"),
        (1500, [120, None], 1000, "not known"),
        (100, [120, None], 1000, "no"),
        (900, [None, None], 1000, "no"),
        (1500, [None, None], 1000, "not known"),
        (1500, [None, None], None, "no"),
    ],
)
def test_a_published_step_beside_a_range(step, steps, censored, inside):
    assert frac_train.inside_range(step, steps, 10, censored) == inside


def test_only_the_published_setting_is_set_beside_the_published_runs():
    sweep = frac_train.PRESETS["published"].sweep()
    rows = [
        {frac_train.AXIS: lane.setting[frac_train.AXIS], "step_of_test_loss_1": 150, "status": "finished"}
        for structure in sweeps.structures(sweep)
        for lane in structure.lanes
    ]
    assert "7,583" in frac_train.compare(sweep, rows).text
    other = replace(sweep, base=replace(sweep.base, optimizer=Lion()))
    assert "7,583" not in frac_train.compare(other, rows).text


def test_settings_that_differ_little_are_distinguished():
    rows = [{"a": value, "b": 3} for value in (0.9995, 0.99951, 0.9995)]
    groups = seed_sweep.by_setting(rows, ["a", "b"])
    assert [len(group) for group in groups.values()] == [2, 1]
    assert list(groups) == ["a 0.99950000000000006, b 3", "a 0.99951000000000001, b 3"]
    assert list(seed_sweep.by_setting(rows[:1], ["a", "b"])) == ["a 0.9995, b 3"]
