"""Replays: exact, dense, and honest where they are not."""

from dataclasses import replace

import numpy as np
import pytest

from jaxadd.config import Stop
from jaxadd.files import read_npz
from jaxadd.models import MLP
from jaxadd.runs import checkpoints, load, replay, train_in
from jaxadd.tasks import HandwrittenDigits
from jaxadd.training.trainer import Trainer

pytestmark = pytest.mark.jax_api

QUIET = {"note": lambda text: None}


def assert_met(again, recorded):
    """Assert that a replay has every value that the run recorded of its steps."""
    for name, values in recorded.items():
        axis = "evaluation/step" if name.startswith("evaluation/") else "step"
        if name != axis:
            theirs = values[:, np.isin(recorded[axis], again[axis])]
            ours = again[name][:, np.isin(again[axis], recorded[axis])]
            assert theirs.size or not values.size, name
            np.testing.assert_array_equal(ours[~np.isnan(theirs)], theirs[~np.isnan(theirs)], err_msg=name)


def test_replay_is_exact_and_dense(tiny, copy, complete):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    notes = []
    folder = replay(copy, 13, 27, snapshots=[13, 20, 27], note=notes.append)
    assert folder == copy / "replays" / "13-27"
    assert notes == ["running from step 10 to 13", "all 15 recorded train losses are reproduced bit for bit"]
    again, record = read_npz(folder / "metrics.npz"), load(complete).metrics
    np.testing.assert_array_equal(again["step"], np.arange(13, 28))
    assert_met(again, record)
    assert all(np.isfinite(values).all() for values in again.values()), "the test set is measured at every step"
    np.testing.assert_array_equal(again["evaluation/step"], np.arange(13, 28))
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == [f"{i:08d}.npz" for i in (13, 20, 27)]
    saved = checkpoints.load(complete / "checkpoints", 20, tiny)
    snapshot = read_npz(folder / "snapshots" / "00000020.npz")
    assert {f"params.{name}" for name in snapshot} == {name for name in saved if name.startswith("params.")}
    for name, value in snapshot.items():
        np.testing.assert_array_equal(saved[f"params.{name}"], value)
    assert all(path.read_bytes() == raw for path, raw in before.items()), "the run itself is untouched"


def test_replay_meets_the_stop_of_the_run(tiny, tmp_path):
    """Though the replay knows the test accuracy at every step, it ends where the run did, on its grid."""
    config = replace(
        tiny, task=HandwrittenDigits(batch_size=16), model=MLP(hidden=(8,)), stop=Stop("test_accuracy", 0.3)
    )
    record = train_in(Trainer(config), tmp_path / "a", **QUIET)
    ended = [lane["steps"] for lane in record.summary["lanes"]]
    assert 0 < max(ended) < 40
    notes = []
    folder = replay(tmp_path / "a", 1, 40, note=notes.append)
    again = read_npz(folder / "metrics.npz")
    assert again["step"][-1] == max(ended)
    assert_met(again, record.metrics)
    assert "bit for bit" in notes[-1]
    with pytest.raises(ValueError, match="is a replay of"):
        train_in(Trainer(config), folder, **QUIET)


def test_replay_tells_of_a_difference(copy):
    metrics = read_npz(copy / "metrics.npz")
    metrics["train_loss"][0, 15] += 1e-6
    np.savez(copy / "metrics.npz", **metrics)
    notes = []
    replay(copy, 12, 20, note=notes.append)
    assert "differ from the recorded ones from step 15 on" in notes[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((5, 4), "from one step to a later one within 0 to 40"),
        ((-1, 4), "0 to 40"),
        ((5, 41), "0 to 40"),
        ((5, 9, [10]), "snapshots must lie between 5 and 9"),
    ],
)
def test_replay_of_steps_that_are_not_there(copy, arguments, words):
    with pytest.raises(ValueError, match=words):
        replay(copy, *arguments, **QUIET)
    assert not (copy / "replays").exists()


def test_replay_is_not_overwritten(copy):
    (copy / "replays" / "1-3").mkdir(parents=True)
    (copy / "replays" / "1-3" / "metrics.npz").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        replay(copy, 1, 3, **QUIET)
    assert replay(copy, 1, 3, name="again", **QUIET).name == "again"


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "."])
def test_a_replay_stays_in_its_place(copy, name):
    with pytest.raises(ValueError, match="the name of one folder"):
        replay(copy, 1, 2, name=name, **QUIET)
