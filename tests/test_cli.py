"""The command line: presets, flags, errors in one line, and what a person sees."""

import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from experiments import modular_addition
from jaxadd.cli import experiment
from jaxadd.cli.commands import replay, resume
from jaxadd.files import replacing
from jaxadd.runs import train
from jaxadd.training.trainer import Trainer

SMALL = [
    "--task.p",
    "7",
    "--task.train-fraction",
    "0.6",
    "--model.d-model",
    "16",
    "--model.heads",
    "2",
    "--model.d-mlp",
    "32",
    "--eval-every",
    "5",
]


def assert_one_line(error, words):
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task.p", "1"], "p must be a modulus from 2"),
        (["--task.operation", "divide"], "add"),
        (["--task.train-fraction", "0"], "leaves 0 to train on"),
        (["--task.train-fraction", "1"], "leaves 12769 to train on"),
        (["--model.heads", "3"], "d_model must be divisible by heads"),
        (["--steps", "-4"], "steps must be at least 0 and below 2**31 - 1, got -4"),
        (["--steps", "many"], "--steps"),
        (["--steps", "3000000000"], "below 2**31 - 1"),
        (["--name", "../x"], "without slashes"),
        (["--stop.metric", "test_accuracy", "--stop.threshold", "99"], "at most 1"),
        (["--optimizer", "adagrad"], "--optimizer must be one of adamw, adam, sgd, lion, muon, got adagrad"),
        (["--optimizer"], "got nothing"),
        (["--optimizer", "lion", "--optimizer", "sgd"], "--optimizer is given twice"),
        (["--optimizer.lr", "-1"], "AdamW.lr must be a number at least 0"),
        (["--task.batch-size", "0"], "batch_size must be from 1"),
        (["--seeds", "1", "1"], "seeds"),
        (["--nonsense", "3"], "--nonsense"),
        (["slow"], "no preset is named 'slow'; there are quick, mainline, debug"),
    ],
)
def test_bad_arguments(shell, tmp_path, words, said):
    status, out, error = shell("modular_addition", *words)
    assert status == 2
    assert out == ""
    assert_one_line(error, said)
    assert not list(tmp_path.iterdir()), "no run folder half made"


def test_bad_idx_files(shell, tmp_path):
    status, _, error = shell("handwritten_digits", "mnist", "--task.folder", tmp_path)
    assert status == 2
    assert_one_line(error, "no file train-images-idx3-ubyte")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 10, 28, 28) + b"short")
    status, _, error = shell("handwritten_digits", "mnist", "--task.folder", tmp_path)
    assert status == 2
    assert_one_line(error, "should hold 7840 bytes of data by its header, holds 5")
    assert not (tmp_path / "runs").exists()


def test_a_run_is_made_shown_and_found_again(shell, tmp_path):
    status, out, error = shell("modular_addition", *SMALL, "--steps", 30)
    assert status == 0
    folder = next((tmp_path / "runs" / "modular_addition").iterdir())
    assert folder.name.startswith("quick,task.p=7,")
    for said in ("29 examples a step, 20 test", "parameters", "FLOP", "JAX", "mod 7: claims"):
        assert said in out
    assert "error" not in error
    drawn = {path.name for path in (folder / "figures").iterdir()}
    assert drawn == {"curves.png", "norms.png", "errors.png"}
    status, _, error = shell("modular_addition", *SMALL, "--steps", 30)
    assert status == 0
    assert "is complete" in error


def test_resume_and_replay_from_the_command_line(shell, tmp_path):
    shell("modular_addition", *SMALL, "--steps", 20, "--name", "a")
    folder = tmp_path / "runs" / "modular_addition" / "a"
    (folder / "summary.json").unlink()
    status, _, error = shell("resume", folder)
    assert status == 0
    assert "going on from step 20 of 20" in error
    status, _, _ = shell("resume", folder, "--steps", 30)
    assert status == 0
    assert train.load(folder).summary["lanes"][0]["steps"] == 30
    status, _, error = shell("replay", folder, "--from", 5, "--to", 12, "--snapshots", "5", "8:12:2")
    assert status == 0
    assert "8 recorded train losses are reproduced bit for bit" in error
    new = folder / "replays" / "5-12"
    assert [p.name for p in sorted((new / "snapshots").iterdir())] == [f"{i:08d}.npz" for i in (5, 8, 10, 12)]
    assert (new / "figures" / "curves.png").is_file()
    for words, said in (
        [("--from", 5, "--to", 99), "0 to 30"],
        [("--from", 1, "--to", 2, "--snapshots", "x"), "got 'x'"],
    ):
        status, _, error = shell("replay", folder, *words)
        assert status == 2
        assert_one_line(error.splitlines()[-1] + "\n", said)


def test_another_config_under_the_same_name(shell):
    shell("modular_addition", *SMALL, "--steps", 5, "--name", "a")
    status, _, error = shell("modular_addition", *SMALL, "--steps", 6, "--name", "a")
    assert status == 2
    assert_one_line(error.splitlines()[-1] + "\n", "steps: 6 here, 5 there")


def test_a_folder_that_cannot_be_made(shell, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    status, _, error = shell("modular_addition", *SMALL, "--steps", 5)
    assert status == 2
    assert_one_line(error.splitlines()[-1] + "\n", "runs")


def test_errors_of_other_code_are_not_hidden(monkeypatch, shell):
    def broken(trainer, record):
        np.zeros(3).reshape(2)

    monkeypatch.setattr(experiment.report, "outcome", broken)
    with pytest.raises(ValueError, match="cannot reshape"):
        shell("modular_addition", *SMALL, "--steps", 1)


def test_help_is_short_lines_and_names_everything(shell):
    status, out, _ = shell("modular_addition", "--help")
    assert status == 0
    for said in ("mainline", "--optimizer adamw | adam | sgd", "--task.p INT", "--seeds", "--runs", "grok"):
        assert said in out


@pytest.mark.slow
def test_debug_preset_prints_every_shape(shell):
    status, out, _ = shell("modular_addition", "debug", "--steps", 0)
    assert status == 0
    for said in ("batch      train.inputs", "blocks.0.attn.hook_pattern", "gradient", "[14, 2, 1, 3]"):
        assert said in out


def test_digits_are_read(shell, tmp_path):
    status, out, _ = shell("handwritten_digits", "--seeds", 0, 1, 2)
    assert status == 0
    summary = json.loads(next(tmp_path.glob("runs/*/*/summary.json")).read_text())
    assert all(lane["final_test_accuracy"] >= 0.97 for lane in summary["lanes"])
    assert summary["run_seconds"] < 20
    assert "read as a" in out


def test_presets_are_what_the_reference_says():
    mainline = modular_addition.PRESETS["mainline"]
    assert (mainline.task.p, mainline.task.train_fraction) == (113, 0.3)
    assert (mainline.optimizer.lr, mainline.optimizer.weight_decay, mainline.optimizer.b2) == (1e-3, 1.0, 0.98)
    assert modular_addition.PRESETS["debug"].debug


@pytest.mark.parametrize(("text", "steps"), [("7", [7]), ("3:5", [3, 4, 5]), ("0:10:4", [0, 4, 8])])
def test_steps_in_words(text, steps):
    assert replay.parse_steps(text) == steps


@pytest.mark.parametrize("text", ["x", "9:3", "1:9:0", "1:2:3:4", ""])
def test_steps_that_are_none(text):
    with pytest.raises(ValueError, match="--snapshots takes steps such as"):
        replay.parse_steps(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "0"], "--count must be from 1 to 1,000,000, got 0"),
        (["--count", "2", "--seeds", "5", "6"], "--count and --seeds both name the seeds"),
        (["--count", "100000000000"], "got 100,000,000,000"),
        (["--axes", "optimizer.speed=1"], "no axis can be named optimizer.speed"),
        (["--processes", "2"], "need --coordinator"),
        (["--part", "0/1", "--coordinator", "nowhere"], "HOST:PORT"),
        (["--width", "0"], "width must be at least 1"),
        (["--debug"], "debug off"),
    ],
)
def test_bad_sweeps(shell, tmp_path, words, said):
    status, _, error = shell("seed_sweep", "debug", *words)
    assert status == 2
    assert_one_line(error, said)
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_is_full_is_told_of_with_the_place(tmp_path):
    def write():
        with replacing(tmp_path / "sweep.csv") as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"sweep\.csv could not be written: No space left on device"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_place_that_may_not_be_written(shell, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    status, _, error = shell("modular_addition", *SMALL, "--steps", 5)
    assert status == 2
    assert_one_line(error.splitlines()[-1] + "\n", "Permission denied: 'runs/modular_addition")


def test_resume_of_a_run_made_by_the_library(shell, tmp_path, tiny):
    train.train(Trainer(tiny), tmp_path / "mine", note=lambda text: None)
    status, out, _ = shell("resume", tmp_path / "mine", "--steps", 45)
    assert status == 0
    assert "{curves,norms}.png" in out
    assert resume.find_conclude("no_such_module")(None, None) == experiment.Findings({})


ADDITION = [
    "--task.digits",
    "2",
    "--task.base",
    "3",
    "--model.d-model",
    "8",
    "--model.d-mlp",
    "16",
    "--model.heads",
    "2",
]


def test_addition_is_trained_and_drawn(shell, tmp_path):
    words = [*ADDITION, "--task.test-examples", "32", "--steps", "40", "--eval-every", "10", "--name", "a"]
    status, out, error = shell("digit_addition", *words)
    assert status == 0, error
    folder = tmp_path / "runs" / "digit_addition" / "a"
    assert "claims" in out
    assert "Expected" in out
    assert out.count("%") > 3
    assert (folder / "findings.txt").read_text() in out
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"curves", "norms", "digits", "offsets", "confusion", "cascades"}
    evaluated = train.load(folder).metrics
    np.testing.assert_array_equal(evaluated["evaluation/step"], range(0, 41, 10))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task.target", "single", "--task.digit", "6"], "digit must be one of the 6 answer digits"),
        (["--task.base", "1"], "base must be from 2"),
        (["--task.digits", "0"], "digits must be from 1"),
        (["--task.digits", "1", "--task.finite", "100"], "there are 100 different ones"),
        (["--task.mixture.cascade-length", "5"], "a cascade of length 5 from column 0 needs columns 0 to 5"),
        (["--model.attention", "bidirectional"], "attention must be causal"),
        (["--task.batch-size", "None"], "fresh problems come in batches"),
    ],
)
def test_bad_addition(shell, tmp_path, words, said):
    status, _, error = shell("digit_addition", "sequential", *words)
    assert status == 2
    assert_one_line(error, said)
    assert not (tmp_path / "runs").exists()


def test_a_study_compares_its_arms_and_goes_on(shell, tmp_path):
    words = ["--digits", "1", "--base", "3", "--d-model", "8", "--heads", "2", "--steps", "60", "--eval-every", "20"]
    words += ["--batch-size", "32", "--seeds", "0", "1", "--name", "a"]
    status, out, error = shell("sequential_vs_parallel", *words)
    assert status == 0, error
    folder = tmp_path / "runs" / "sequential_vs_parallel" / "a"
    assert (folder / "figures" / "targets.png").is_file()
    arms = sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file())
    assert arms == ["parallel-lsd", "parallel-msd", "sequential-lsd", "sequential-msd"]
    again = shell("sequential_vs_parallel", *words)
    assert again[0] == 0
    assert again[1] == out, "nothing is trained again, and the same is concluded"
    status, out, error = shell("resume", folder / "parallel-msd", "--steps", "80")
    assert status == 0, error
    assert (folder / "parallel-msd" / "figures" / "digits.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "words", "said"),
    [
        ("shelf_law", ["--bases", "2", "3", "5", "--widths", "--digits", "1", "--d-model", "8"], "base^"),
        ("single_digit", [], "researcher"),
    ],
)
def test_other_studies(shell, tmp_path, study, words, said):
    status, out, error = shell(study, "debug", *words, "--name", "a")
    assert status == 0, error
    assert said in out
    assert list((tmp_path / "runs" / study / "a" / "figures").glob("*.png"))
