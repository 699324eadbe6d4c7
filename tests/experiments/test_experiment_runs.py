"""Experiments of one run: what they show, what they reach, and what they refuse."""

import json
import struct
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lines import assert_one_line

from experiments import modular_addition
from jaxadd.config import RunConfig
from jaxadd.lanes import take
from jaxadd.models import MLP
from jaxadd.runs import load
from jaxadd.tasks import HandwrittenDigits
from jaxadd.training.trainer import Trainer

ADDITION = ["--task.digits", 2, "--task.base", 3, "--model.d-model", 8, "--model.d-mlp", 16, "--model.heads", 2]


def test_presets_are_what_the_reference_says():
    mainline = modular_addition.PRESETS["mainline"]
    assert (mainline.task.p, mainline.task.train_fraction) == (113, 0.3)
    assert (mainline.optimizer.lr, mainline.optimizer.weight_decay, mainline.optimizer.b2) == (1e-3, 1.0, 0.98)
    assert modular_addition.PRESETS["debug"].debug


def test_digits_are_read(shell, tmp_path):
    clock = time.process_time()  # Not the time on the wall, in which the machine may have other work.
    status, out, _ = shell("handwritten_digits")
    assert status == 0
    assert time.process_time() - clock < 12
    folder = next(tmp_path.glob("runs/*/*"))
    summary = json.loads((folder / "summary.json").read_text())
    assert all(lane["final_test_accuracy"] >= 0.97 for lane in summary["lanes"])
    assert "read as a" in out
    assert {path.stem for path in (folder / "figures").iterdir()} == {"curves", "norms", "misread"}


def test_bad_idx_files(shell, tmp_path):
    status, _, error = shell("handwritten_digits", "mnist", "--task.folder", tmp_path)
    assert status == 2
    assert_one_line(error, "no file train-images-idx3-ubyte")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 10, 28, 28) + b"short")
    status, _, error = shell("handwritten_digits", "mnist", "--task.folder", tmp_path)
    assert status == 2
    assert_one_line(error, "should hold 7840 bytes of data by its header, and holds 5")
    assert not (tmp_path / "runs").exists()


def test_addition_is_trained_and_drawn(few, shell, tmp_path):
    words = [*ADDITION, "--task.test-examples", 32, "--steps", 40, "--eval-every", 10, "--name", "a"]
    status, out, error = shell("digit_addition", *words)
    assert status == 0, error
    folder = tmp_path / "runs" / "digit_addition" / "a"
    assert "predicts" in out
    assert "Expected" in out
    assert out.count("%") > 3
    text = (folder / "report.txt").read_text()
    assert text in out
    assert "xact match" in text
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"curves", "norms", "digits", "offsets", "confusion", "cascades", "classes"}
    np.testing.assert_array_equal(load(folder).metrics["evaluation/step"], range(0, 41, 10))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task.target", "single", "--task.digit", 6], "digit must be one of the 6 answer digits"),
        (["--task.base", 1], "base must be from 2"),
        (["--task.digits", 0], "digits must be from 1"),
        (["--task.digits", 1, "--task.finite", 100], "there are 100 different problems"),
        (["--task.mixture.cascade-length", 5], "a cascade of length 5 from column 0 needs columns 0 to 5"),
        (["--model.attention", "bidirectional"], "attention must be causal"),
        (["--task.batch-size", "None"], "fresh problems come in batches"),
    ],
)
def test_bad_addition(shell, tmp_path, words, message):
    status, _, error = shell("digit_addition", "sequential", *words)
    assert status == 2
    assert_one_line(error, message)
    assert not (tmp_path / "runs").exists()


@dataclass(frozen=True)
class Unmeasured(HandwrittenDigits):
    """A task that measures nothing, and says so with NaN, as addition does of a carry class without problems."""

    def measure(self, data, batch, logits, predict):
        return {"nothing": jnp.zeros(2) / 0}


def test_a_debug_run_may_measure_nothing_but_has_no_nan_elsewhere():
    trainer = Trainer(RunConfig(Unmeasured(batch_size=4), MLP(hidden=(4,)), debug=True))
    params, data = take(trainer.init().params, 0), trainer.lane_data(0)
    measured = trainer.step.evaluate(params, data.lane, data.shared)
    assert np.isnan(measured["nothing"]).all()
    assert np.isfinite(measured["test_loss"])
    broken = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), params)
    with pytest.raises(FloatingPointError):
        trainer.step.evaluate(broken, data.lane, data.shared)
