"""Submit a sweep to a Slurm cluster as a job array, each task its own part; or run the same tasks here."""

import contextlib
import importlib
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxadd.errors import UserError

# It would configure logging anew, which closes the streams of other libraries.
os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
submitit: Any = None
with contextlib.suppress(ModuleNotFoundError):  # It is an extra; `run` says so.
    submitit = importlib.import_module("submitit")


@dataclass(frozen=True)
class Options:
    """Submit a sweep to a Slurm cluster as a job array, each task its own part; or run the same tasks here.

    `jaxadd submit 8 "MODULE mainline --count 1000 --name thousand" --partition gpu --gpus 1`: every task runs
    `python -m MODULE …` with its own --part I/8, in this folder, which the nodes must share. A task that reaches its
    time limit, or is preempted, is queued again and goes on from its last checkpoint; after any other end the same
    command does. The last to end draws the figures. Needs submitit, the extra `slurm`.
    """

    parts: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="PARTS")]
    """number of tasks of the array"""
    command: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="COMMAND")]
    """module and arguments of an experiment that is a sweep, in quotes"""
    cluster: Literal["slurm", "local"] = "slurm"
    """slurm: submit to the cluster; local: run as processes of this machine, to try it"""
    hours: float = 4.0
    """time limit of a task"""
    gpus: int = 0
    """GPUs of a task"""
    cpus: int = 4
    """CPU cores of a task"""
    memory: int = 16
    """memory of a task, GB"""
    partition: str | None = None
    """partition of the cluster; by default the cluster's own choice"""
    at_once: int = 64
    """the most tasks that run at the same time"""
    logs: Path = Path("runs/submitted")
    """folder for what the tasks print"""
    wait: bool = False
    """wait until all tasks have ended"""

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        slurm = () if self.cluster == "slurm" else ("cpus", "memory", "partition", "at_once")
        return dict.fromkeys(slurm, "--cluster slurm")


@dataclass(frozen=True)
class Part:
    """One task of the array; submitit pickles it, calls it on the node, and asks it how to go on after a time-out."""

    command: tuple[str, ...]

    def __call__(self) -> None:
        """Run the command."""
        subprocess.check_call(self.command)

    def checkpoint(self) -> Any:
        """Go on by the same command."""
        return submitit.helpers.DelayedSubmission(self)


def run(options: Options) -> int:
    """Submit, and print the jobs; returns the exit status."""
    if submitit is None:
        raise UserError("submitit is not installed; install jaxadd with the extra slurm (`uv run --extra slurm …`)")
    if options.parts < 1:
        raise UserError(f"an array has at least one task, got {options.parts}")
    if not 0 < options.hours < math.inf:
        raise UserError(f"--hours must be above 0 and finite, got {options.hours:g}")
    module, *arguments = checked(options.command, options.parts)
    parts = [
        Part((sys.executable, "-m", module, *arguments, "--part", f"{i}/{options.parts}"))
        for i in range(options.parts)
    ]
    if options.cluster == "slurm" and shutil.which("srun") is None:
        raise UserError("this machine has no Slurm; --cluster local runs the tasks here")
    jobs = _executor(options).submit_array(parts)
    for job, part in zip(jobs, parts, strict=True):
        print(f"{job.job_id}  python {shlex.join(part.command[1:])}")
    return _wait(jobs, options.cluster) if options.wait else 0


def checked(command: str, parts: int) -> list[str]:
    """Return the words of a command, beginning with the module of a sweep.

    Errors in them are reported now, not by every task when its turn comes.

    Args:
      command: "MODULE …", or "python -m MODULE …".
      parts: into which the lanes are divided.

    Raises:
      UserError: the words cannot be read, the module is no sweep, an argument is invalid, or there are fewer lanes
        than parts.
    """
    from jaxadd.cli.arguments import parse  # Not above: a task imports this module, and JAX in the command only.
    from jaxadd.sweeps import structures
    from jaxadd.sweeps.design import lanes_of_part

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"the command cannot be read: {error}") from error
    words = words[2:] if words[:2] == ["python", "-m"] else words
    module, *arguments = words or [""]
    if given := {"--part", "--coordinator"} & {argument.partition("=")[0] for argument in arguments}:
        raise UserError(f"each task gets its own --part; leave {' and '.join(sorted(given))} out of the command")
    experiment = _experiment(module)
    read, _ = parse(module, experiment.__doc__ or "", experiment.PRESETS, arguments)
    lanes_of_part(structures(read.config.sweep()), 0, parts)
    return words


def _experiment(name: str) -> Any:
    """Return the module of an experiment whose presets are sweeps."""
    from jaxadd.cli.arguments import SweepConfig

    try:
        module = importlib.import_module(name) if name else None
    except ImportError as error:
        raise UserError(
            f"the command begins with the module of a sweep, and {name} cannot be imported: {error}"
        ) from error
    presets = getattr(module, "PRESETS", None)
    if not isinstance(presets, dict) or not all(isinstance(preset, SweepConfig) for preset in presets.values()):
        raise UserError(
            "the command begins with the module of a sweep, an experiment whose presets are SweepConfig; "
            f"{name or 'nothing'} is none"
        )
    return module


def _executor(options: Options) -> Any:
    executor = submitit.AutoExecutor(folder=options.logs, cluster=options.cluster)
    settings: dict[str, Any] = {"timeout_min": round(60 * options.hours), "cpus_per_task": options.cpus}
    settings |= {"mem_gb": options.memory} | ({"gpus_per_node": options.gpus} if options.gpus else {})
    if options.cluster == "slurm":
        settings |= {"slurm_array_parallelism": options.at_once}
        settings |= {"slurm_partition": options.partition} if options.partition else {}
    executor.update_parameters(name="jaxadd", **settings)
    return executor


def _wait(jobs: Sequence[Any], cluster: str) -> int:
    """Wait for all tasks; returns the exit status, or raises UserError where tasks failed."""
    try:
        failed = [job for job in jobs if job.exception() is not None]
    except KeyboardInterrupt:
        if cluster == "slurm":
            print(f"no longer waiting; the tasks go on, and scancel {jobs[0].job_id.partition('_')[0]} ends them")
        else:
            for job in jobs:
                job.cancel()
            print("the tasks were ended; the same command goes on")
        return 130
    if failed:
        why = "; ".join(f"{job.job_id}: {last_error(job.paths.stderr)}" for job in failed)
        raise UserError(f"{len(failed)} tasks failed ({why}); fix what is named, and the same command goes on")
    return 0


def last_error(log: Path) -> str:
    """Return why a task failed, from what it printed, or where to look."""
    lines = log.read_text().splitlines() if log.is_file() else []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"see {log}"
