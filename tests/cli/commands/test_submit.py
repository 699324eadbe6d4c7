"""`jaxadd submit`: any sweep, checked before it is queued; what a task says of its end."""

import sys
from types import SimpleNamespace

import pytest
from lines import assert_one_line

from jaxadd.cli.commands import submit

SWEEP = "experiments.seed_sweep debug --name it"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((2, "experiments.modular_addition"), "experiments.modular_addition is none"),
        ((2, "experiments.time_to_generalise debug"), "presets are SweepConfig"),
        ((2, "json"), "json is none"),
        ((2, ""), "nothing is none"),
        ((2, "no_such_module"), "no_such_module cannot be imported"),
        ((2, f"{SWEEP} --part 0/2"), "leave --part out of the command"),
        ((2, f"{SWEEP} --coordinator=here:1"), "leave --coordinator out of the command"),
        ((2, "experiments.seed_sweep slow"), "no preset is named 'slow'"),
        ((2, f"{SWEEP} --axes optimizer.speed=1"), "no axis can be named optimizer.speed"),
        ((2, "experiments.seed_sweep 'debug"), "No closing quotation"),
        ((9, SWEEP), "9 processes cannot share 4 lanes"),
        ((0, SWEEP), "an array has at least one task, got 0"),
        (
            (2, SWEEP, "--cluster", "local", "--partition", "gpu"),
            "--partition would have no effect here: it is for --cluster slurm",
        ),
        ((2, SWEEP, "--hours", "nan"), "--hours must be above 0 and finite, got nan"),
    ],
)
def test_what_cannot_be_submitted_is_said_at_once(shell, words, message):
    status, out, error = shell("jaxadd", "submit", *words)
    assert (status, out) == (2, "")
    assert_one_line(error, message)


def test_a_machine_without_slurm(shell, monkeypatch):
    monkeypatch.setattr(submit.shutil, "which", lambda name: None)
    status, _, error = shell("jaxadd", "submit", 2, SWEEP)
    assert status == 2
    assert_one_line(error, "this machine has no Slurm; --cluster local runs the tasks here")
    monkeypatch.setattr(submit, "submitit", None)
    assert_one_line(shell("jaxadd", "submit", 2, SWEEP)[2], "submitit is not installed")


@pytest.mark.parametrize("command", [SWEEP, f"python -m {SWEEP}"])
def test_every_task_has_its_part(shell, monkeypatch, command):
    submitted = {}

    class Executor:
        def __init__(self, folder, cluster):
            submitted["cluster"] = cluster

        def update_parameters(self, **settings):
            submitted["settings"] = settings

        def submit_array(self, parts):
            submitted["parts"] = parts
            return [SimpleNamespace(job_id=f"7_{i}") for i in range(len(parts))]

    monkeypatch.setattr(submit, "submitit", SimpleNamespace(AutoExecutor=Executor))
    monkeypatch.setattr(submit.shutil, "which", lambda name: name)
    status, out, error = shell("jaxadd", "submit", 2, command, "--hours", 0.5, "--gpus", 1, "--partition", "big")
    assert status == 0, error
    words = ["-m", *SWEEP.split()]
    assert [part.command for part in submitted["parts"]] == [
        (sys.executable, *words, "--part", "0/2"),
        (sys.executable, *words, "--part", "1/2"),
    ]
    assert submitted["cluster"] == "slurm"
    settings = submitted["settings"]
    assert (settings["timeout_min"], settings["gpus_per_node"], settings["slurm_partition"]) == (30, 1, "big")
    assert settings["slurm_array_parallelism"] == 64
    assert out.splitlines()[0] == f"7_0  python -m {SWEEP} --part 0/2"


def test_the_reason_of_a_failed_task_is_found_in_its_log(tmp_path):
    log = tmp_path / "log.err"
    assert submit.last_error(log) == f"see {log}"
    log.write_text("error: the disk is full\nTraceback\n  File\nCalledProcessError\n")
    assert submit.last_error(log) == "the disk is full"
    job = SimpleNamespace(job_id="7_0", exception=lambda: RuntimeError(), paths=SimpleNamespace(stderr=log))
    with pytest.raises(ValueError, match=r"1 tasks failed \(7_0: the disk is full\); fix what is named"):
        submit._wait([job], "slurm")


def test_a_task_that_is_out_of_time_is_queued_again():
    part = submit.Part(("true",))
    part()
    assert part.checkpoint().function == part
