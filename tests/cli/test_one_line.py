"""A full disk and an interrupt end a program in one line on standard error, and what was saved before is whole.

In a process of its own, as what else is printed comes from threads, from destructors and from the end of the process.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from needs import ROOT, need

from jaxadd.runs import checkpoints, open_run, train_in
from jaxadd.training.trainer import Trainer

SMALL = ["--task.p", "7", "--task.train-fraction", "0.6", "--model.d-model", "16", "--model.heads", "2"]
SMALL += ["--model.d-mlp", "32", "--eval-every", "5", "--name", "it"]
RUN = ["-m", "experiments.modular_addition", *SMALL, "--checkpoint-every", "5"]
SWEEP = ["-m", "experiments.seed_sweep", "debug", "--name", "it", "--stop.metric", "none", "--stop.threshold", "0"]
SWEEP += ["--keep", "0", "--checkpoint-every", "2", "--width", "4"]


@pytest.fixture
def disk(tmp_path):
    """A disk with room for a few checkpoints, which a test as root mounts."""
    folder = tmp_path / "disk"
    folder.mkdir()
    need("mount", hasattr(os, "getuid") and os.getuid() == 0 and shutil.which("mount"), "only root can mount a tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    need("mount", done.returncode == 0, f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def lines(error):
    """Return what is on standard error beside the progress bar."""
    return [line for line in error.replace("\r", "\n").split("\n") if line.strip() and "% |" not in line]


def start(*command):
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def end(process):
    """Return the exit status and the lines on standard error."""
    _, error = process.communicate(timeout=300)
    return process.returncode, lines(error)


def assert_it_goes_on(folder):
    """Assert that the newest checkpoint of a run loads, and that the run goes on from there to its end."""
    stopped, notes = open_run(folder), []
    made = max(checkpoints.steps(folder / "checkpoints"))
    assert made > 0
    run = train_in(Trainer(stopped.config, stopped.machine.lanes_at_once), folder, note=notes.append)
    assert notes == [f"resuming from step {made} of {stopped.config.steps}"]
    assert run.metrics["step"][-1] == stopped.config.steps


@pytest.mark.slow
def test_a_full_disk_ends_a_run_and_its_resumption_in_one_line(disk, tmp_path):
    status, said = end(start(*RUN, "--steps", 40, "--runs", disk))
    folder = disk / "modular_addition" / "it"
    saved = checkpoints.steps(folder / "checkpoints")
    assert status == 2
    assert [line.partition(" could")[0] for line in said] == [
        f"error: checkpoint {folder / 'checkpoints'}/{saved[-1] + 5:08d}"
    ]
    assert said[0].endswith("(no space left on the device); earlier ones are whole")

    status, again = end(start("-m", "jaxadd", "resume", folder))
    assert status == 2
    assert again == [f"note: resuming from step {saved[-1]} of 40", *said]
    assert checkpoints.steps(folder / "checkpoints") == saved
    assert_it_goes_on(shutil.copytree(folder, tmp_path / "room"))


@pytest.mark.slow
def test_a_full_disk_ends_a_sweep_in_one_line(disk, tmp_path):
    status, said = end(start(*SWEEP, "--steps", 40, "--runs", disk))
    assert status == 2
    assert len(said) == 1, said
    assert said[0].startswith("error: checkpoint ")
    assert said[0].endswith("(no space left on the device); earlier ones are whole")
    (batch,) = (disk / "seed_sweep" / "it" / "lanes").iterdir()
    assert_it_goes_on(shutil.copytree(batch, tmp_path / "room"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "of"),
    [(RUN, "modular_addition/it"), (SWEEP, "seed_sweep/it/lanes/000000-000003")],
    ids=["run", "sweep"],
)
def test_an_interrupt_ends_it_in_one_line(command, of, tmp_path):
    process, folder = start(*command, "--steps", 2_000, "--runs", tmp_path), tmp_path / of
    while process.poll() is None and not max(checkpoints.steps(folder / "checkpoints"), default=0):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, ["interrupted; the same command goes on from the last checkpoint"])
    steps = checkpoints.steps(folder / "checkpoints")
    assert checkpoints.load(folder / "checkpoints", steps[-1], open_run(folder).config)["step"].max() == steps[-1]


@pytest.mark.slow
def test_an_interrupt_while_it_is_imported_ends_it_in_one_line(tmp_path):
    process = start("-X", "importtime", *RUN, "--runs", tmp_path)
    for line in process.stderr:
        if "jax._src" in line:
            break
    process.send_signal(signal.SIGINT)
    status, said = end(process)
    assert status == 130
    assert [line for line in said if not line.startswith("import time:")] == [
        "interrupted before anything was started"
    ]
    assert not list(tmp_path.iterdir())


SWALLOWED = """
import contextlib, gc, os, signal, time
from jaxadd.cli import guard
guard._PATIENCE = 0.1
where = {where!r}
class Held:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def act():
    if where == "ignored":
        Held()
    elif where == "swallowed":
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
    else:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("an extension could not be initialised") from None
    time.sleep(60)
    return 0
raise SystemExit(guard.guard(act, "; more"))
"""


@pytest.mark.parametrize("where", ["ignored", "swallowed", "turned into another error"])
def test_an_interrupt_is_not_lost(where):
    assert end(start("-c", SWALLOWED.format(where=where))) == (130, ["interrupted; more"])
