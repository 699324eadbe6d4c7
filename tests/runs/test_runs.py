"""The run folder: whole after every kill, exact after every resumption."""

import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxadd.config import RunConfig, Stop
from jaxadd.files import read_npz
from jaxadd.optim.optimizers import SGD, AdamW
from jaxadd.runs import checkpoints, load, open_run, train_in
from jaxadd.serialization import from_json, to_json
from jaxadd.training.loop import fit
from jaxadd.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
QUIET = {"note": lambda text: None}


def steps_of(folder):
    return checkpoints.steps(folder / "checkpoints")


def unfinish(folder, keep):
    """Bring a finished run to the state in which a kill after checkpoint `keep` would have left it."""
    for name in ("summary.json", "params.npz"):
        (folder / name).unlink()
    for step in steps_of(folder):
        if step > keep:
            shutil.rmtree(folder / "checkpoints" / f"{step:08d}")


def assert_same_run(a, b):
    for name in ("metrics.npz", "params.npz"):
        ours, theirs = read_npz(a / name), read_npz(b / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_folder_is_readable_with_numpy_and_json_alone(tiny, complete):
    about = json.loads((complete / "config.json").read_text())
    assert about["config"]["task"]["p"] == 7
    assert about["machine"]["jax"] == jax.__version__
    assert from_json(about["config"], RunConfig) == tiny
    with np.load(complete / "metrics.npz") as metrics:
        assert metrics["step"].shape == (41,)
        assert metrics["train_loss"].shape == metrics["test_accuracy"].shape == (2, 41)
    with np.load(complete / "params.npz") as params:
        assert params["blocks.0.attn.W_Q"].shape == (2, 2, 16, 8)
    summary = json.loads((complete / "summary.json").read_text())
    assert [lane["seed"] for lane in summary["lanes"]] == [0, 1]
    assert all(lane["status"] == "finished" and lane["steps"] == 40 for lane in summary["lanes"])
    assert steps_of(complete) == [0, 10, 20, 30, 40]


def test_summary_tells_the_steps_to_thresholds(complete):
    record = load(complete)
    for s, lane in enumerate(record.summary["lanes"]):
        reached = np.flatnonzero(record.metrics["train_accuracy"][s] >= 0.99)
        assert lane["step_of_train_accuracy_0.99"] == (int(reached[0]) if reached.size else None)
        assert lane["final_test_loss"] == pytest.approx(record.metrics["test_loss"][s, -1])


@pytest.mark.parametrize("keep", [0, 20, 40])
def test_resumed_run_equals_the_uninterrupted_one(tiny, complete, copy, keep):
    unfinish(copy, keep)
    notes = []
    train_in(Trainer(tiny), copy, note=notes.append)
    assert notes == [f"resuming from step {keep} of 40"]
    assert_same_run(copy, complete)


def test_a_complete_run_is_left_alone(tiny, copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    notes = []
    record = train_in(Trainer(tiny), copy, note=notes.append)
    assert "is complete" in notes[0]
    assert record.summary["lanes"][1]["steps"] == 40
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}


def test_extended_run_equals_a_longer_one(tiny, complete, tmp_path):
    short = replace(tiny, steps=23)
    train_in(Trainer(short), tmp_path / "a", **QUIET)
    train_in(Trainer(tiny), tmp_path / "a", extend=True, **QUIET)
    assert_same_run(tmp_path / "a", complete)
    assert open_run(tmp_path / "a").config == tiny
    with pytest.raises(ValueError, match="already at step 40; it cannot be cut to 23"):
        train_in(Trainer(short), tmp_path / "a", extend=True, **QUIET)


def truncate(path, config):
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def flip(path, config):
    for large in sorted((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)[-3:]:
        raw = bytearray(large.read_bytes())
        raw[len(raw) // 2] ^= 0x55
        large.write_bytes(raw)


def empty(path, config):
    shutil.rmtree(path)
    path.mkdir()


def swap(path, config):
    """Put a checkpoint of a run with another learning rate in its place: the same arrays by name and shape."""
    other = path.parent.parent / "other"
    train_in(Trainer(replace(config, optimizer=AdamW(lr=0.5), steps=30)), other, **QUIET)
    shutil.rmtree(path)
    (other / "checkpoints" / path.name).rename(path)


def rename(path, config):
    """Let it pose as the checkpoint of another step."""
    shutil.rmtree(path)
    shutil.copytree(path.with_name("00000010"), path)


@pytest.mark.parametrize("damage", [truncate, flip, empty, swap, rename])
def test_falls_back_to_the_newest_whole_checkpoint(tiny, complete, copy, damage):
    unfinish(copy, 30)
    damage(copy / "checkpoints" / "00000030", tiny)
    notes = []
    train_in(Trainer(tiny), copy, note=notes.append)
    assert notes[0].startswith("checkpoint 30 is damaged or of another run and is skipped: ")
    assert notes[1] == "resuming from step 20 of 40"
    assert_same_run(copy, complete)


@pytest.mark.parametrize("ruin", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:300])])
@pytest.mark.parametrize("finished", [True, False])
def test_saved_states_without_a_record_are_not_replaced(tiny, copy, ruin, finished):
    if not finished:
        unfinish(copy, 30)
    ruin(copy / "metrics.npz")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for config, extend in ((tiny, False), (replace(tiny, steps=50), True)):
        with pytest.raises(
            ValueError, match=r"metrics.npz is missing or damaged and cannot be recomputed; put it back"
        ):
            train_in(Trainer(config), copy, extend=extend, **QUIET)
    with pytest.raises(ValueError, match=r"metrics.npz is missing or damaged .*; it cannot be recomputed"):
        load(copy)
    (copy / ".lock").unlink(missing_ok=True)
    before.pop(copy / ".lock", None)
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_a_record_without_checkpoints_is_not_replaced(tiny, copy):
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "metrics.npz").read_bytes()
    with pytest.raises(ValueError, match="has no checkpoint to resume from"):
        train_in(Trainer(replace(tiny, steps=50)), copy, extend=True, **QUIET)
    (copy / "summary.json").unlink()
    with pytest.raises(ValueError, match="a record of 41 steps but no whole checkpoint"):
        train_in(Trainer(tiny), copy, **QUIET)
    assert (copy / "metrics.npz").read_bytes() == before
    (copy / "params.npz").unlink()
    (copy / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match="a record of 41 steps but no whole checkpoint"):
        train_in(Trainer(tiny), copy, **QUIET)
    assert (copy / "summary.json").exists()


def test_a_complete_run_whose_record_is_damaged_is_mended(tiny, complete, copy):
    (copy / "params.npz").write_bytes(b"PK")
    notes = []
    train_in(Trainer(tiny), copy, note=notes.append)
    assert "is missing or damaged" in notes[0]
    assert_same_run(copy, complete)


def test_what_is_no_checkpoint_is_no_saved_state(tiny, complete, copy):
    unfinish(copy, 20)
    states = copy / "checkpoints"
    (states / "00000030").write_text("a file")
    shutil.copytree(states / "00000010", states / "700")
    assert open_run(copy).steps == (0, 10, 20)
    train_in(Trainer(tiny), copy, **QUIET)
    assert_same_run(copy, complete)
    assert not list(states.glob(".*"))
    (states / "00000700").mkdir()
    with pytest.raises(
        ValueError, match=r"step 700 of .* is damaged .*; choose another saved step \(0, 10, 20, 30, 40\)"
    ):
        open_run(copy).params_at(700)
    (states / "00000020" / "manifest.json").write_text("null")
    with pytest.raises(ValueError, match=r"step 20 of .*its manifest holds no JSON object"):
        open_run(copy).params_at(20)


def test_leftovers_of_a_kill_are_removed(tiny, copy):
    unfinish(copy, 20)
    (copy / ".metrics.npz.part").write_text("half")
    (copy / "checkpoints" / ".00000030.part.orbax-checkpoint-tmp").mkdir()
    train_in(Trainer(tiny), copy, **QUIET)
    assert not list(copy.rglob("*.part"))
    assert not list((copy / "checkpoints").glob(".*"))


def test_a_checkpoint_whose_replacement_was_cut_short_is_put_back(tiny, complete, copy):
    """Killed between the moment when the old one is set aside, and when the new one takes its name."""
    unfinish(copy, 20)
    states = copy / "checkpoints"
    (states / "00000020").rename(states / ".00000020.old")
    (states / ".00000010.old").mkdir()  # Killed a moment later, when the new one was there.
    notes = []
    train_in(Trainer(tiny), copy, note=notes.append)
    assert notes == ["resuming from step 20 of 40"]
    assert not list(states.glob(".*"))
    assert_same_run(copy, complete)


def test_a_run_that_goes_on_from_an_earlier_state_keeps_its_new_ones(tiny, copy):
    (copy / "summary.json").unlink()
    for step in (20, 30, 40):
        truncate(copy / "checkpoints" / f"{step:08d}", tiny)
    kept = []
    train_in(Trainer(tiny), copy, keep=2, watch=lambda _: kept.append(steps_of(copy)), **QUIET)
    assert [10, 20] in kept
    assert steps_of(copy) == [30, 40]


def test_another_config_is_refused_with_the_difference(tiny, copy):
    with pytest.raises(ValueError, match=r"another config \(optimizer.lr: 0.02 here, 0.01 there\)"):
        train_in(Trainer(replace(tiny, optimizer=replace(tiny.optimizer, lr=0.02))), copy, **QUIET)


def test_a_folder_of_something_else_is_refused(tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ValueError, match="holds files but no run"):
        train_in(Trainer(tiny), tmp_path, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is not a run folder"):
        load(tmp_path)


def test_what_is_no_run_folder_says_what_it_is_and_which_are_below_it(tmp_path):
    (tmp_path / "x.pth").write_text("")
    with pytest.raises(ValueError, match=r"x.pth is a file, not a run folder$"):
        open_run(tmp_path / "x.pth")
    for name in ("a", "b/c", "b/d", "e/f/g"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"runs is not a run folder; run folders below it are .*/a, .*/b/c, .*/b/d, …$"
    ):
        open_run(tmp_path / "runs")
    with pytest.raises(ValueError, match=r"e is not a run folder; run folders below it are [^,]*/e/f/g$"):
        open_run(tmp_path / "runs" / "e")


@pytest.mark.parametrize(
    "text", ["[1, 2]", "null", "3", '{"config": 3}', '{"config": {}}', "machine", "steps", "folder"]
)
def test_a_config_that_cannot_be_read(tiny, copy, text):
    path, data = copy / "config.json", json.loads((copy / "config.json").read_text())
    said = "holds no JSON object" if "{" not in text else "of a run: its entry 'config' is damaged"
    if text == "machine":
        text, said = json.dumps(data | {"machine": []}), "of a run: its entry 'machine' is damaged"
    elif text == "steps":
        data["config"]["steps"] = "x"
        text, said = json.dumps(data), "of a run: a value is of another type than it should be"
    path.write_text(text)
    if text == "folder":
        path.unlink()
        path.mkdir()
        said = "is a folder, and should be a file"
    with pytest.raises(ValueError, match=f"config.json .*{said}$"):
        train_in(Trainer(tiny), copy, **QUIET)


def test_two_processes_on_one_folder(tiny, copy):
    hold = "from filelock import FileLock; import sys\nwith FileLock(sys.argv[1]): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(copy / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is working on"):
            train_in(Trainer(tiny), copy, **QUIET)
        other.communicate("\n")
    train_in(Trainer(tiny), copy, **QUIET)


def test_another_machine_is_told_of(tiny, copy):
    unfinish(copy, 20)
    about = json.loads((copy / "config.json").read_text())
    about["machine"]["jax"] = "0.0.1"
    (copy / "config.json").write_text(json.dumps(about))
    notes = []
    train_in(Trainer(tiny), copy, note=notes.append)
    assert "may differ in rounding" in notes[0]
    assert "jax 0.0.1 then" in notes[0]


@pytest.mark.parametrize(
    ("limit", "words"), [(1_000, "large"), (8_000, "checkpoint .*00000030 could not be written")]
)
def test_a_full_disk_loses_nothing_that_was_saved(tiny, complete, copy, limit, words):
    """A limit of file size stands for the full disk: it strikes the metrics, or the checkpoint after them."""
    unfinish(copy, 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    trainer = Trainer(tiny)
    fit(trainer, until=1)  # Compiled before the disk is full.
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        with pytest.raises(OSError, match=words):
            train_in(trainer, copy, **QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    gc.collect()  # What Orbax left shows here, not in a later test.
    assert steps_of(copy) == [0, 10, 20]
    assert not [path for path in copy.rglob("*.part*")]
    notes = []
    train_in(trainer, copy, note=notes.append)
    assert notes == ["resuming from step 20 of 40"]
    assert_same_run(copy, complete)


def test_divergence_is_told(tiny, tmp_path):
    notes = []
    record = train_in(Trainer(replace(tiny, optimizer=SGD(lr=1e9))), tmp_path / "a", note=notes.append)
    assert [lane["status"] for lane in record.summary["lanes"]] == ["diverged", "diverged"]
    assert sorted(note.partition(" at ")[0] for note in notes) == [
        f"seed {s} diverged and is frozen: its loss or gradient was not finite" for s in (0, 1)
    ]


def test_stopped_run_is_complete_and_reopens(tiny, tmp_path):
    config = replace(tiny, stop=Stop("train_accuracy", 0.5))
    record = train_in(Trainer(config), tmp_path / "a", **QUIET)
    steps = [lane["steps"] for lane in record.summary["lanes"]]
    assert all(lane["status"] == "stopped at its threshold" for lane in record.summary["lanes"])
    assert record.metrics["step"][-1] == max(steps) < 40
    # A kill between the last checkpoint and the summary.
    kept = shutil.copytree(tmp_path / "a", tmp_path / "b")
    (kept / "summary.json").unlink()
    train_in(Trainer(config), kept, **QUIET)
    assert_same_run(kept, tmp_path / "a")
    assert json.loads((kept / "summary.json").read_text())["lanes"] == record.summary["lanes"]


CHILD = """
import json
import sys
from jaxadd.config import RunConfig
from jaxadd.runs import train
from jaxadd.serialization import from_json
train(from_json(json.loads(sys.argv[1]), RunConfig), sys.argv[2], note=lambda text: None)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tiny, tmp_path):
    # A checkpoint at every step: most kills fall into a save. Three times 18 steps are made, or a few more.
    config = replace(tiny, steps=120, checkpoint_every=1)
    train_in(Trainer(replace(config, checkpoint_every=1000)), tmp_path / "whole", **QUIET)
    rng = random.Random(0)
    command = [sys.executable, "-c", CHILD, json.dumps(to_json(config)), str(tmp_path / "killed")]
    for _ in range(3):
        with subprocess.Popen(command, cwd=ROOT) as child:
            # Wait for it to make progress, so that the number of kills is bounded, then strike; or for its end.
            wanted = len(steps_of(tmp_path / "killed")) + 18
            while child.poll() is None and len(steps_of(tmp_path / "killed")) < wanted:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.05))
            assert child.poll() is None, "it ended before it was killed"
            child.kill()
    train_in(Trainer(config), tmp_path / "killed", **QUIET)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_time_goes_on_where_a_run_was_ended(tiny, copy):
    unfinish(copy, 20)
    place = copy / "checkpoints" / "00000020" / "manifest.json"
    manifest = json.loads(place.read_text())
    place.write_text(json.dumps(manifest | {"seconds": 1000.0}))
    summary = train_in(Trainer(tiny), copy, **QUIET).summary
    assert 1000 < summary["run_seconds"] < 1100
    assert summary["lane_steps_per_second"] == pytest.approx(2 * 40 / summary["run_seconds"], abs=0.01)


def test_an_interrupt_while_a_state_is_saved_waits_for_the_end_of_it(tiny, tmp_path):
    """The state is whole, and the run goes on from there."""
    from orbax.checkpoint import v1 as ocp

    save, trainer = ocp.save_checkpointables, Trainer(tiny)

    def interrupted(*arguments):
        if "00000010" in str(arguments[0]):
            signal.raise_signal(signal.SIGINT)
        return save(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ocp, "save_checkpointables", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_in(trainer, tmp_path / "it", **QUIET)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    notes = []
    train_in(trainer, tmp_path / "it", note=notes.append)
    assert notes == ["resuming from step 10 of 40"]
