"""Sweeps: what they consist of, that their lanes are runs, and that nothing is lost."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxadd import sweeps
from jaxadd.config import Stop
from jaxadd.files import read_npz, write_npz
from jaxadd.runs import checkpoints, load, open_run, train_in
from jaxadd.runs.summary import step_of
from jaxadd.serialization import to_json
from jaxadd.sweeps import Axis, Sweep, processes, results
from jaxadd.training import costs
from jaxadd.training.loop import fit
from jaxadd.training.step import METRICS
from jaxadd.training.trainer import Trainer
from jaxadd.trees import named_leaves

QUIET = {"note": lambda _: None}


@pytest.fixture(scope="module")
def sweep(base):
    """Three lanes of twelve diverge at once."""
    return Sweep(base, (Axis("task.train_fraction", (0.5, 0.6)), Axis("optimizer.lr", (1e-2, 1e30))))


@pytest.fixture(scope="module")
def swept(sweep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    sweeps.run(sweep, folder, **QUIET)
    return folder


def test_a_lane_equals_the_run_of_its_seed_and_numbers(base, swept):
    curves = sweeps.lane_curves(swept, "train_loss")["train_loss"]
    alone = fit(Trainer(replace(base, seeds=(1,))))
    np.testing.assert_array_equal(curves[7][0], alone.metrics["step"])
    np.testing.assert_allclose(curves[7][1], alone.metrics["train_loss"][0], rtol=1e-4)


def test_the_table_has_a_row_for_each_lane(sweep, swept):
    with (swept / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["lane"]) for row in rows] == list(range(12))
    assert [row["status"] for row in rows] == (["finished"] * 3 + ["diverged"] * 3) * 2
    assert [row["optimizer.lr"] for row in rows[2:4]] == ["0.01", "1e+30"]
    record = load(next((swept / "lanes").glob("000006-*")))
    assert float(rows[8]["final_test_loss"]) == pytest.approx(record.summary["lanes"][2]["final_test_loss"])
    assert sum(float(row["seconds"]) for row in rows[6:]) == pytest.approx(record.summary["run_seconds"], abs=0.01)


def lanes_of(folder):
    """Read all that was recorded of each lane."""
    found = {}
    for path in sorted((folder / "lanes").iterdir()):
        record, first = load(path), int(path.name[:6])
        for s in range(len(record.config.seeds)):
            end = record.summary["lanes"][s]["steps"] + 1  # Others of its wave may have gone on for longer.
            own = {name: record.metrics[name][s, :end] for name in METRICS}
            found[first + s] = own | {name: np.asarray(w)[s] for name, w in named_leaves(record.params)}
    return found


def second_half(folder):
    """Read the lanes of the second structure, that of the base itself, counted from 0."""
    return {lane - 6: found for lane, found in lanes_of(folder).items() if lane >= 6}


def assert_same_lanes(a, b, exactly=True):
    assert a.keys() == b.keys()
    for lane in a:
        for name in a[lane]:
            if exactly:
                np.testing.assert_array_equal(a[lane][name], b[lane][name], err_msg=f"{lane} {name}")
            else:
                np.testing.assert_allclose(a[lane][name], b[lane][name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_lanes_that_diverge_leave_the_others_as_they_are(base, swept, tmp_path):
    calm = Sweep(base, (Axis("task.train_fraction", (0.5, 0.6)), Axis("optimizer.lr", (1e-2, 2e-2))))
    sweeps.run(calm, tmp_path / "calm", **QUIET)
    mine, theirs = lanes_of(tmp_path / "calm"), lanes_of(swept)
    keep = [0, 1, 2, 6, 7, 8]
    assert_same_lanes({i: mine[i] for i in keep}, {i: theirs[i] for i in keep})


def test_width_and_parts_do_not_matter_and_finished_waves_are_left_alone(sweep, swept, tmp_path):
    folder, sweep = tmp_path / "parts", replace(sweep, axes=sweep.axes[1:])
    rows = sweeps.run(sweep, folder, part=(1, 2), width=2, **QUIET)
    assert [row["status"] == "waiting" for row in rows] == [True] * 3 + [False] * 3
    before = {path: path.stat().st_mtime_ns for path in (folder / "lanes").rglob("*") if path.is_file()}
    rows = sweeps.run(sweep, folder, **QUIET)
    assert not {"waiting", "unfinished"} & {row["status"] for row in rows}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert_same_lanes(lanes_of(folder), second_half(swept), exactly=False)


def test_a_wave_that_was_begun_is_ended_whole_by_whoever_holds_its_first_lane(sweep, swept, tmp_path):
    shutil.copytree(swept, tmp_path / "it")
    (first, _) = sorted((tmp_path / "it" / "lanes").iterdir())
    (first / "summary.json").unlink()
    rows = sweeps.run(sweep, tmp_path / "it", part=(1, 3), **QUIET)
    assert [row["status"] for row in rows[:6]] == ["unfinished"] * 6
    rows = sweeps.run(sweep, tmp_path / "it", part=(0, 3), **QUIET)
    assert not {"waiting", "unfinished"} & {row["status"] for row in rows}
    assert len(list((tmp_path / "it" / "lanes").iterdir())) == 2
    assert_same_lanes(lanes_of(tmp_path / "it"), lanes_of(swept))


def test_memory_chooses_the_width(base, sweep, monkeypatch, tmp_path):
    notes, trainer = [], Trainer(replace(base, seeds=tuple(range(6))))
    room = costs.device_memory(trainer)
    assert room > costs.device_memory(Trainer(replace(base, seeds=(0, 1))))
    monkeypatch.setattr(costs, "free_on_device", lambda: room)  # Of which a part is used.
    sweeps.run(replace(sweep, axes=sweep.axes[1:]), tmp_path / "narrow", note=notes.append)
    assert "6 lanes at once need" in notes[0]
    names = sorted(path.name for path in (tmp_path / "narrow" / "lanes").iterdir())
    assert names == ["000000-000002", "000003-000005"]


def refuse(monkeypatch, owner, name, most):
    """Let a function of a trainer fail for want of memory where more than so many lanes are trained at once."""
    function = getattr(owner, name)

    def refusing(trainer, *arguments):
        if trainer.slots.size > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return function(trainer, *arguments)

    monkeypatch.setattr(owner, name, refusing)


def test_out_of_memory_in_training_becomes_a_smaller_width(sweep, swept, monkeypatch, tmp_path):
    """In the first chunk, when the folder is there already."""
    notes = []
    refuse(monkeypatch, Trainer, "chunk", 3)
    sweeps.run(sweep, tmp_path / "tight", note=notes.append)
    said = [text for text in notes if "out of memory" in text]
    assert said == ["out of memory with 6 lanes at once; training 3 at once"] * 2, "once for each structure"
    assert_same_lanes(lanes_of(tmp_path / "tight"), lanes_of(swept), exactly=False)


def test_out_of_memory_in_looking_how_much_is_needed_becomes_a_smaller_width(sweep, swept, monkeypatch, tmp_path):
    notes = []
    refuse(monkeypatch, costs, "device_memory", 3)
    sweeps.run(replace(sweep, axes=sweep.axes[1:]), tmp_path / "tight", note=notes.append)
    said = [text for text in notes if "out of memory" in text]
    assert said == ["out of memory with 6 lanes at once; training 3 at once"]
    assert len(list((tmp_path / "tight" / "lanes").iterdir())) == 2
    assert_same_lanes(lanes_of(tmp_path / "tight"), second_half(swept), exactly=False)


def test_out_of_memory_in_a_wave_that_was_begun_takes_nothing_that_was_trained(sweep, swept, monkeypatch, tmp_path):
    shutil.copytree(swept, tmp_path / "it")
    (first, _) = sorted((tmp_path / "it" / "lanes").iterdir())
    (first / "summary.json").unlink()
    shutil.rmtree(first / "checkpoints" / "00000020")
    notes = []
    refuse(monkeypatch, Trainer, "chunk", 3)
    sweeps.run(sweep, tmp_path / "it", note=notes.append)
    assert "resuming from step 10 of 20" in notes
    assert any("lanes at once 6 then, 3 now" in text for text in notes)
    assert_same_lanes(lanes_of(tmp_path / "it"), lanes_of(swept), exactly=False)


def test_a_single_lane_that_does_not_fit_is_told_of(sweep, monkeypatch, tmp_path):
    refuse(monkeypatch, Trainer, "chunk", 0)
    with pytest.raises(ValueError, match="out of memory with a single lane; choose a smaller model"):
        sweeps.run(sweep, tmp_path / "it", **QUIET)


def test_lanes_that_wait_share_a_wave_where_lanes_are_side_by_side(sweep, swept, monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sweeps.run(replace(sweep, axes=sweep.axes[1:]), tmp_path / "turns", width=1, **QUIET)
    names = sorted(path.name for path in (tmp_path / "turns" / "lanes").iterdir())
    assert names == ["000000-000002", "000003-000005"]
    assert {open_run(tmp_path / "turns" / "lanes" / name).machine.lanes_at_once for name in names} == {1}
    assert_same_lanes(lanes_of(tmp_path / "turns"), second_half(swept), exactly=False)


def test_a_sweep_that_was_killed_as_it_began_goes_on(sweep, swept, tmp_path):
    (tmp_path / ".sweep.json.part").write_text("{")
    sweeps.run(sweep, tmp_path, part=(11, 12), **QUIET)
    assert results.load(tmp_path) == sweep


def test_only_the_newest_states_are_kept_unless_all_are_asked_for(base, tmp_path):
    for keep, want in ((2, [10, 20]), (0, [0, 10, 20])):
        sweeps.run(Sweep(replace(base, seeds=(0,))), tmp_path / str(keep), keep=keep, **QUIET)
        (wave,) = (tmp_path / str(keep) / "lanes").iterdir()
        assert checkpoints.steps(wave / "checkpoints") == want


def test_infinite_losses_are_left_out_of_curves(swept, tmp_path):
    shutil.copytree(swept, tmp_path / "it")
    path = sorted((tmp_path / "it" / "lanes").iterdir())[0] / "metrics.npz"
    metrics = read_npz(path)
    metrics["train_loss"][1, 7:] = np.inf
    write_npz(path, metrics)
    curves = sweeps.lane_curves(tmp_path / "it", "train_loss")["train_loss"]
    assert curves[1][0].max() == 6
    assert np.isfinite(curves[1][1]).all()


def test_a_lane_that_diverged_stays_among_those_that_never_arrive(sweep, swept):
    curve = sweeps.survival(sweeps.rows(swept, sweep), step_of(Stop("train_loss", 0.1)), sweep.base.steps)
    assert curve.fraction[-1] >= 0.5
    np.testing.assert_array_equal(curve.censored, [20] * len(curve.censored))


@pytest.mark.parametrize("damage", ["lost", "half"])
def test_a_sweep_whose_json_is_damaged_is_known_by_its_waves(sweep, swept, tmp_path, damage):
    folder, notes = shutil.copytree(swept, tmp_path / "it"), []
    path = folder / "sweep.json"
    whole = path.read_text()
    path.unlink() if damage == "lost" else path.write_text(whole[:100])
    other = replace(sweep, base=replace(sweep.base, optimizer=replace(sweep.base.optimizer, b1=0.8)))
    with pytest.raises(ValueError, match=r"is not a batch of this sweep \(optimizer\.b1: 0\.8 here, 0\.9 there\)"):
        sweeps.run(other, folder, note=notes.append)
    assert path.exists() == (damage == "half")
    rows = sweeps.run(sweep, folder, note=notes.append)
    assert "it is written again" in notes[-1]
    assert path.read_text() == whole
    assert not {"waiting", "unfinished"} & {row["status"] for row in rows}


def test_a_wave_whose_config_is_damaged_is_told_of(sweep, swept, tmp_path):
    folder = shutil.copytree(swept, tmp_path / "it")
    (folder / "lanes" / "000000-000005" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged: it is not JSON .*; move .*000000-000005 away"):
        sweeps.run(sweep, folder, **QUIET)


def test_another_sweep_under_the_same_name_is_refused(sweep, swept, tmp_path):
    with pytest.raises(ValueError, match=r"holds another sweep, which differs in optimizer\.lr"):
        sweeps.run(replace(sweep, base=replace(sweep.base, optimizer=replace(sweep.base.optimizer, lr=5.0))), swept)
    with pytest.raises(ValueError, match="axes or design"):
        sweeps.run(replace(sweep, axes=sweep.axes[:1]), swept)
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ValueError, match="is not a sweep"):
        sweeps.run(sweep, tmp_path)
    with pytest.raises(ValueError, match="13 processes cannot share 12 lanes"):
        sweeps.run(sweep, tmp_path / "new", part=(0, 13))
    assert results.load(swept) == sweep


@pytest.mark.parametrize(
    ("place", "count", "index", "said"),
    [
        (None, 2, 0, "need --coordinator"),
        ("here", 2, 0, "must be HOST:PORT, got 'here'"),
        ("here:1234", 0, 0, "--processes must be at least 1, got 0"),
        ("here:1234", 2, 2, "--process must be from 0 to 1, got 2"),
        ("here:1234", 13, 2, "13 processes cannot share 12 lanes"),
    ],
)
def test_processes_that_cannot_meet(sweep, tmp_path, place, count, index, said):
    with pytest.raises(ValueError, match=said):
        processes.join(place, count, index, sweep, tmp_path)


def test_a_record_that_is_damaged_is_told_of_and_trained_again(sweep, swept, tmp_path):
    shutil.copytree(swept, tmp_path / "it")
    (first, _) = sorted((tmp_path / "it" / "lanes").iterdir())
    (first / "metrics.npz").write_bytes((first / "metrics.npz").read_bytes()[:2_000])
    with pytest.raises(
        ValueError,
        match=r"metrics.npz is missing or damaged .*move .*/checkpoints away, and `jaxadd resume .*000005`",
    ):
        sweeps.lane_curves(tmp_path / "it", "test_loss")
    shutil.rmtree(first / "checkpoints")
    train_in(Trainer(load(swept / "lanes" / first.name).config), first, **QUIET)
    assert_same_lanes(lanes_of(tmp_path / "it"), lanes_of(swept))


def test_a_wave_that_is_not_what_the_sweep_makes_of_its_lanes_is_refused(sweep, swept, tmp_path):
    """Made longer on its own, changed by hand, copied over another, or without its config."""

    def changed(name, change, said):
        folder = shutil.copytree(swept, tmp_path / name)
        first, last = sorted((folder / "lanes").iterdir())
        change(first, last)
        table = (folder / "sweep.csv").read_bytes()
        with pytest.raises(ValueError, match=rf"{said}.*move it away, and the same command trains its lanes again"):
            sweeps.run(sweep, folder, **QUIET)
        assert (folder / "sweep.csv").read_bytes() == table

    def longer(first, last):
        config = open_run(first).config
        train_in(Trainer(replace(config, steps=21)), first, extend=True, **QUIET)

    def edited(first, last):
        (first / "config.json").write_text((first / "config.json").read_text().replace('"b1": 0.9', '"b1": 0.8'))

    def swapped(first, last):
        shutil.rmtree(first)
        shutil.copytree(last, first)

    changed("longer", longer, r"000000-000005 is not a batch of this sweep \(steps: 20 here, 21 there\)")
    changed("edited", edited, r"optimizer\.b1: 0\.9 here, 0\.8 there")
    changed("swapped", swapped, r"task\.train_fraction: 0\.5 here, 0\.6 there")
    changed("lost", lambda first, last: (first / "config.json").unlink(), "000000-000005 has lost its config.json")
    changed("twice", lambda first, last: shutil.copytree(last, last.with_name("000008-000009")), "another batch")
    changed(
        "foreign",
        lambda first, last: last.rename(last.with_name("000006-000012")),
        "has lanes that this sweep does not have",
    )


@pytest.mark.parametrize("text", ["3", "2/2", "a/b", "-1/2", "1/"])
def test_parts_that_are_none(text):
    assert processes.part_of("0/3") == (0, 3)
    with pytest.raises(ValueError, match="written as I/N"):
        processes.part_of(text)


@pytest.fixture(scope="module")
def narrow(base):
    """Two lanes of six diverge at once. All have one structure, as every process compiles each structure."""
    return Sweep(replace(base, seeds=(0, 1)), (Axis("optimizer.lr", (1e-2, 1e30, 2e-2)),))


@pytest.fixture(scope="module")
def narrow_swept(narrow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "narrow"
    sweeps.run(narrow, folder, **QUIET)
    return folder


# The sweep of the fixture `narrow`, as a person starts it.
COMMAND = [
    *(sys.executable, "-m", "experiments.seed_sweep", "debug", "--name", "it", "--stop.metric", "none", "--axes"),
    *("optimizer.lr=1e-2,1e30,2e-2", "--seeds", "0", "1", "--steps", "20"),
    *("--stop.threshold", "0", "--checkpoint-every", "10"),
]


def environment(devices=1):
    """Return the environment of a child; with one device the flags are as here, so that it compiles nothing again."""
    flags = os.environ.get("XLA_FLAGS", "")
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


@pytest.mark.slow
def test_killed_in_each_wave_it_ends_as_if_it_had_not_been(narrow, tmp_path):
    """Twenty kills at random moments are in test_long.py."""
    longer = replace(narrow, base=replace(narrow.base, steps=200, checkpoint_every=10))
    sweeps.run(longer, tmp_path / "calm", width=3, **QUIET)
    folder = tmp_path / "seed_sweep" / "it"
    command = [*COMMAND, "--steps", "200", "--width", "3", "--runs", tmp_path]
    for wave in ("000000-000002", "000003-000005"):
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while (
            process.poll() is None and max(checkpoints.steps(folder / "lanes" / wave / "checkpoints"), default=0) < 30
        ):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "lanes" / wave / "summary.json").exists()
    sweeps.run(longer, folder, width=3, **QUIET)  # As the same command does, without starting Python once more.
    assert_same_lanes(lanes_of(folder), lanes_of(tmp_path / "calm"))


@pytest.mark.slow
def test_a_job_array_does_all_parts(narrow, narrow_swept, shell, monkeypatch, tmp_path):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)  # The tasks inherit it.
    words = " ".join(map(str, [*COMMAND[2:], "--runs", tmp_path]))
    array = ["submit", 2, words, "--cluster", "local", "--wait", "--logs", tmp_path / "logs"]
    status, out, error = shell("jaxadd", *array)
    assert status == 0, error
    assert out.count("--part") == 2
    folder = tmp_path / "seed_sweep" / "it"
    assert results.load(folder) == narrow
    assert_same_lanes(lanes_of(folder), lanes_of(narrow_swept), exactly=False)
    assert "optimizer.lr 1e+30" in (folder / "report.txt").read_text()


@pytest.mark.slow
def test_two_processes_of_two_devices_give_what_one_device_gives(narrow, narrow_swept, tmp_path):
    place = f"127.0.0.1:{open_port()}"
    several = [*COMMAND, "--runs", tmp_path, "--coordinator", place, "--processes", "2"]
    pair = [subprocess.Popen([*several, "--process", str(i)], env=environment(2)) for i in range(2)]
    assert [process.wait(timeout=300) for process in pair] == [0, 0]
    folder = tmp_path / "seed_sweep" / "it"
    assert_same_lanes(lanes_of(folder), lanes_of(narrow_swept), exactly=False)
    assert len(list((folder / "lanes").iterdir())) == 2
    # One that was killed is started again alone, and waits for nobody.
    assert processes.join(place, 2, 1, narrow, folder) == (1, 2)
    assert (folder / "figures" / "survival.png").stat().st_size > 1000


def open_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_processes_that_disagree_are_told(sweep, tmp_path):
    place, other = f"127.0.0.1:{open_port()}", replace(sweep, base=replace(sweep.base, steps=21))
    with ThreadPoolExecutor() as pool:
        several = [pool.submit(processes.join, place, 2, i, told, tmp_path) for i, told in enumerate((sweep, other))]
    for joined in several:
        with pytest.raises(ValueError, match="have different sweeps or folders: 1 differ from process 0"):
            joined.result()


DEVICES = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jaxadd.config import RunConfig
from jaxadd.serialization import from_json
from jaxadd.training import trainer as module
from jaxadd.training.loop import fit
from jaxadd.training.trainer import Trainer

def keep(name, result):
    np.savez(name, **{name: x for name, x in result.metrics.items() if x.ndim == 2})

eleven, sixteen = (from_json(json.loads(text), RunConfig) for text in sys.argv[1:3])
trainer = Trainer(eleven)
result = fit(trainer)
keep(sys.argv[3], result)
(program,) = module._PROGRAMS.values()
rows = trainer.slots.rows()
print(json.dumps([len(result.state.step.devices()), list(result.state.step.shape), rows, program.as_text()]))
# As on accelerators: side by side, eight at once, and gone on with from the middle.
jax.default_backend = lambda: "gpu"
for config, name in ((eleven, sys.argv[4]), (sixteen, sys.argv[5])):
    kept = []
    take = lambda so_far: kept.append(jax.tree.map(jnp.copy, (so_far.state, so_far.metrics)))
    trainer = Trainer(config, 8)
    whole = fit(trainer, save_at=[13], save=take)
    ((state, metrics),) = kept
    again = fit(trainer, state=jax.device_get(state._replace(key=None))._replace(key=state.key), metrics=metrics)
    assert all(np.array_equal(x, again.metrics[name], equal_nan=True) for name, x in whole.metrics.items())
    keep(name, again)
    assert trainer.slots.rows() == 8
assert len(module._PROGRAMS) == 2, "eleven lanes at once; eight of eleven and eight of sixteen share one"
"""


@pytest.mark.slow
def test_eight_devices_without_a_collective_give_what_one_gives_and_padding_does_not_show(tiny, tmp_path):
    """Eleven lanes on eight devices have five idle places; eleven and sixteen lanes take turns at eight places."""
    eleven, sixteen = (
        replace(tiny, steps=20, seeds=tuple(range(count)), stop=Stop("train_loss", 1.8)) for count in (11, 16)
    )
    places = [tmp_path / f"{name}.npz" for name in ("whole", "eleven", "sixteen")]
    told = [json.dumps(to_json(config)) for config in (eleven, sixteen)]
    done = subprocess.run(
        [sys.executable, "-c", DEVICES, *told, *places],
        env=environment(8),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    devices, shape, rows, hlo = json.loads(done.stdout)
    assert (devices, shape, rows) == (8, [11], 16)
    assert "while" in hlo
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective", "reduce-scatter", "send", "recv"):
        assert f" {collective}" not in hlo
    one = fit(Trainer(sixteen)).metrics
    for place, count in zip(places, (11, 11, 16), strict=True):
        with np.load(place) as several:
            whole = int(np.isfinite(one["train_loss"][:count]).any(axis=0).sum())  # Until the last lane stops.
            for name in several:
                lanes, steps = several[name].shape
                assert (lanes, steps) == (count, whole)
                np.testing.assert_allclose(
                    several[name], one[name][:lanes, :steps], rtol=1e-4, atol=1e-5, err_msg=f"{place} {name}"
                )


def test_processes_at_the_same_part_are_kept_from_training_a_lane_twice(sweep, swept, monkeypatch, tmp_path):
    """Another process begins while this one is still looking how many lanes fit."""
    memory, folder = costs.device_memory, tmp_path / "it"

    def meanwhile(trainer):
        first = next((swept / "lanes").glob("000000-*"))
        shutil.copytree(first, folder / "lanes" / "000000-000004", dirs_exist_ok=True)
        return memory(trainer)

    monkeypatch.setattr(costs, "device_memory", meanwhile)
    with pytest.raises(ValueError, match="another process trains lanes 0 to 4"):
        sweeps.run(sweep, folder, **QUIET)
