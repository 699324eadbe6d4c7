"""Claims that take minutes to show: `pytest -m long`. The suite proves the same on a smaller scale."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd import sweeps
from jaxadd.config import RunConfig, Stop
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import checkpoints, load, open_run
from jaxadd.runs.folder import Files
from jaxadd.sweeps import Sweep
from jaxadd.tasks import Modular
from jaxadd.training.loop import fit
from jaxadd.training.step import METRICS
from jaxadd.training.trainer import Trainer

pytestmark = pytest.mark.long
QUIET = {"note": lambda _: None}


def test_twenty_kills_and_three_lanes_of_nan_leave_the_other_thirteen_bit_for_bit(tiny, tmp_path):
    """A sweep of four batches is killed at twenty random moments, and NaN is put into the lanes 1, 6 and 11."""
    sweep = Sweep(replace(tiny, steps=2_000, seeds=tuple(range(16)), eval_every=1, checkpoint_every=100))
    sweeps.run(sweep, tmp_path / "calm", width=4, **QUIET)
    words = (
        f"seed_sweep debug --steps 2000 --eval-every 1 --checkpoint-every 100 --width 4 --name it --runs {tmp_path}"
    )
    words += f" --stop.metric none --stop.threshold 0 --seeds {' '.join(map(str, range(16)))}"
    command = [sys.executable, "-m", *f"experiments.{words}".split()]
    cpu = os.environ | {"JAX_PLATFORMS": "cpu"}
    folder, rng, poison = tmp_path / "seed_sweep" / "it", random.Random(0), {0: 1, 4: 2, 8: 3}
    for _ in range(20):
        process = subprocess.Popen(command, env=cpu, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        enough = _saved(folder) + rng.randint(1, 4)
        while process.poll() is None and _saved(folder) < enough:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, "it has ended before it was killed often enough"
        process.send_signal(signal.SIGKILL)
        process.wait()
        for first in list(poison):
            files = Files(folder / "lanes" / f"{first:06d}-{first + 3:06d}")
            if len(checkpoints.steps(files.checkpoints)) > 1 and not files.summary.exists():
                _poison(files, poison.pop(first))
    assert not poison
    subprocess.run(command, env=cpu, check=True, capture_output=True)
    rows = sweeps.rows(folder, sweep)
    assert [row["lane"] for row in rows if row["status"] == "diverged"] == [1, 6, 11]
    assert {row["status"] for row in rows} == {"diverged", "finished"}
    for i, (ours, theirs) in enumerate(zip(_batches(folder), _batches(tmp_path / "calm"), strict=True)):
        for s in range(4):
            if rows[4 * i + s]["status"] == "finished":
                for name in METRICS:
                    np.testing.assert_array_equal(ours.metrics[name][s], theirs.metrics[name][s])
                chex.assert_trees_all_equal(*(take(run.params, s) for run in (ours, theirs)))


def _saved(folder):
    """Count the hundreds of steps that the batches have saved."""
    return sum(max(checkpoints.steps(saved), default=0) // 100 for saved in folder.glob("lanes/*/checkpoints"))


def _batches(folder):
    return [load(path) for path in sorted((folder / "lanes").iterdir())]


def _poison(files, lane):
    """Put NaN into the parameters of one lane at its newest saved state."""
    run = open_run(files.folder)
    state = run.state(Trainer(run.config).abstract_state())
    bad = jax.tree.map(lambda w: w.at[lane].set(jnp.nan), state.params)
    seconds = checkpoints.seconds(files.checkpoints, checkpoints.updates_made(state))
    checkpoints.save(files.checkpoints, state._replace(params=bad), run.config, seconds)


def test_lanes_side_by_side_generalise_when_lanes_in_turn_do(monkeypatch):
    """What accelerators run, vmap over lanes, against what CPUs do: the same early, and in distribution later."""
    config = RunConfig(
        task=Modular(p=31, train_fraction=0.5),
        model=Transformer(d_model=64, heads=4, d_mlp=128),
        optimizer=AdamW(lr=5e-3, weight_decay=2.0),
        steps=3_000,
        seeds=tuple(range(32)),
        eval_every=10,
        stop=Stop("test_accuracy", 0.99),
    )
    in_turn = fit(Trainer(config))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    at_once = fit(Trainer(config))
    early = slice(0, 15)  # From where on rounding grows at this rate.
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(at_once.metrics[name][:, early], in_turn.metrics[name][:, early], rtol=1e-4)
    a, b = (np.asarray(result.state.step) for result in (in_turn, at_once))
    for name, steps in (("in turn", a), ("side by side", b)):
        print(f"{name}: median {np.median(steps):.0f} ({steps.min()} to {steps.max()})")
    # The fraction of pairs in which a lane in turn is later: half if the distributions are the same, with a standard
    # error of √(65 / (12 · 32 · 32)) = 0.07 by the rank test.
    later = np.mean([(x > y) + (x == y) / 2 for x, y in itertools.product(a, b)])
    assert abs(later - 0.5) < 0.145
