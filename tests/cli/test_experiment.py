"""The driver of experiments: what a run, several runs and a sweep show and keep, and what is refused."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lines import assert_one_line

from jaxadd.cli import experiment
from jaxadd.cli.arguments import SweepConfig, Workers
from jaxadd.cli.experiment import Findings, Session, main, require
from jaxadd.config import RunConfig, Stop
from jaxadd.errors import UserError
from jaxadd.runs import load
from jaxadd.sweeps import Axis, Sweep

SMALL = ["--task.p", 7, "--task.train-fraction", 0.6, "--model.d-model", 16, "--model.heads", 2]
SMALL += ["--model.d-mlp", 32, "--eval-every", 5]


def test_a_run_is_made_shown_and_found_again(shell, tmp_path):
    status, out, error = shell("modular_addition", *SMALL, "--steps", 30)
    assert status == 0
    folder = next((tmp_path / "runs" / "modular_addition").iterdir())
    assert folder.name.startswith("quick,task.p=7,")
    for words in ("Expected:", "29 examples a step, 20 test", "parameters", "FLOP", "JAX", "mod 7: predicts "):
        assert words in out
    assert "error" not in error
    drawn = {path.name for path in (folder / "figures").iterdir()}
    assert drawn == {"curves.png", "norms.png", "errors.png"}
    status, _, error = shell("modular_addition", *SMALL, "--steps", 30)
    assert status == 0
    assert "is complete" in error


def test_another_config_under_the_same_name(shell):
    shell("modular_addition", *SMALL, "--steps", 5, "--name", "a")
    status, _, error = shell("modular_addition", *SMALL, "--steps", 6, "--name", "a")
    assert status == 2
    assert_one_line(error, "steps: 6 here, 5 there")


def test_bad_arguments_leave_no_folder(shell, tmp_path):
    for words in (["--task.p", "1"], ["slow"], ["--optimizer", "adagrad"], ["--name", "../x"]):
        status, out, error = shell("modular_addition", *words)
        assert (status, out) == (2, "")
        assert_one_line(error, "error: ")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(shell, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    status, _, error = shell("modular_addition", *SMALL, "--steps", 5)
    assert status == 2
    assert_one_line(error, "runs")


def test_a_folder_that_may_not_be_written(shell, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    status, _, error = shell("modular_addition", *SMALL, "--steps", 5)
    assert status == 2
    assert_one_line(error, "cannot be written to (permission denied)")
    assert "runs/modular_addition" in error


def test_errors_of_other_code_are_not_hidden(monkeypatch, shell):
    def broken(run):
        raise ValueError("cannot reshape")

    monkeypatch.setattr(experiment.terminal, "outcome", broken)
    with pytest.raises(ValueError, match="cannot reshape"):
        shell("modular_addition", *SMALL, "--steps", 1)


def test_a_debug_preset_prints_every_shape(shell, monkeypatch):
    """Before it trains, which test_loop.py does with a debug run: every operation is compiled on its own."""

    def begin(trainer, *_, **__):
        assert trainer.config.debug
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "train_in", begin)
    status, out, _ = shell("modular_addition", "debug", "--steps", 0)
    assert status == 130
    for words in ("batch      train.inputs", "blocks.0.attn.hook_pattern", "gradient", "[14, 2, 1, 3]"):
        assert words in out


def call(monkeypatch, presets, conduct, *words):
    """Run an experiment that consists of these presets and this function."""
    monkeypatch.setattr(sys, "argv", ["example.py", *map(str, words)])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    return main("What is asked.\n", presets, conduct)


def test_what_is_found_is_printed_and_kept(monkeypatch, tmp_path, capsys):
    seen = []

    def conduct(config, session):
        seen.append((config, session))
        return Findings({}, "a table")

    assert call(monkeypatch, {"quick": RunConfig()}, conduct, "--runs", tmp_path) == 0
    folder = tmp_path / "example" / "quick"
    assert seen == [(RunConfig(), Session(folder))]
    assert (folder / "report.txt").read_text() == "a table\n"
    assert capsys.readouterr().out == f"What is asked.\n\n\na table\n\nfolder      {folder}\n"


def test_an_interrupt_says_what_the_same_command_does(monkeypatch, tmp_path, capsys):
    def conduct(config, session):
        raise KeyboardInterrupt

    assert call(monkeypatch, {"quick": RunConfig()}, conduct, "--runs", tmp_path) == 130
    assert "interrupted; the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_several_runs_each_have_a_folder(tiny_one, tmp_path, capsys):
    session = Session(tmp_path)
    runs = session.train_all({name: replace(tiny_one, steps=steps) for name, steps in (("a", 2), ("b", 3))})
    assert [run.summary["lanes"][0]["steps"] for run in runs.values()] == [2, 3]
    assert load(tmp_path / "b").config == runs["b"].config
    assert "2 runs of 2 lanes together" in capsys.readouterr().out
    with pytest.raises(UserError, match="this experiment has no runs"):
        session.train_all({})


def test_a_process_that_leaves_lanes_to_others_has_no_rows(base, tmp_path, capsys):
    sweep = Sweep(base)
    assert Session(tmp_path, Workers(part="0/2")).sweep(sweep) is None
    assert "1 of 3 lanes are left to other processes" in capsys.readouterr().out
    rows = Session(tmp_path, Workers(part="1/2")).sweep(sweep)
    assert [row["lane"] for row in rows] == [0, 1, 2]
    with pytest.raises(UserError, match="choose one"):
        Session(tmp_path, Workers(part="0/2", coordinator="here:1")).sweep(sweep)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "2"], "need --coordinator"),
        (["--part", "0/1", "--coordinator", "nowhere"], "HOST:PORT"),
        (["--width", "0"], "width must be at least 1"),
        (["--axes", "optimizer.speed=1"], "no axis can be named optimizer.speed"),
        (["--debug"], "debug off"),
    ],
)
def test_bad_sweeps_leave_no_folder(monkeypatch, tmp_path, capsys, words, message):
    conduct = lambda config, session: session.sweep(config.sweep())
    presets = {"debug": SweepConfig(RunConfig(seeds=(0, 1)))}
    assert call(monkeypatch, presets, conduct, *words, "--runs", tmp_path / "runs") == 2
    assert_one_line(capsys.readouterr().err, message)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_what_the_figure_shows():
    stop, axes = Stop("test_loss", 1.0), (Axis("optimizer.lr", (0.1, 0.2)), Axis("task.p", (5, 7)))
    names = ["task.p", "optimizer.lr"]
    sweep = Sweep(RunConfig(stop=stop), axes)
    require(sweep, names, stop)
    for other, message in (
        (Sweep(RunConfig(stop=stop), axes[:1]), "needs exactly these axes, got optimizer.lr"),
        (Sweep(RunConfig(stop=stop)), "got none"),
        (Sweep(RunConfig(stop=stop), axes, "list"), "this experiment shows a grid, got --design list"),
        (Sweep(RunConfig(), axes), "--stop.metric test-loss --stop.threshold 1"),
    ):
        with pytest.raises(UserError, match=message):
            require(other, names, stop)
