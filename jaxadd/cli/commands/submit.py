"""Submit a sweep to a Slurm cluster as a job array, each task its own part; or run the same tasks here."""

import importlib
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxadd.cli import experiment
from jaxadd.cli.arguments import SweepArguments, parse
from jaxadd.errors import UserError
from jaxadd.sweeps import structures
from jaxadd.sweeps.design import share

try:
    import submitit
except ModuleNotFoundError:  # An extra of its own, whose want is told of when it is needed.
    submitit = None

SWEEPS = ("experiments.seed_sweep", "experiments.frac_train", "experiments.phase_diagram")


@dataclass(frozen=True)
class Submit:
    """Submit a sweep to a Slurm cluster as a job array, each task its own part; or run the same tasks here.

    `submit 8 "experiments.seed_sweep mainline --count 1000 --name thousand" --partition gpu --gpus 1`: every task
    runs that command with its own --part I/8, in this folder, which the nodes must share. A task that meets its time
    limit, or is preempted, is queued again and goes on from its last checkpoint; after any other end the same command
    does. The last to end draws the figures. Needs submitit (`uv run --extra slurm …`).
    """

    parts: Annotated[int, tyro.conf.Positional]
    """tasks of the array"""
    command: Annotated[str, tyro.conf.Positional]
    """module and arguments of a sweep, in quotes"""
    cluster: Literal["slurm", "local"] = "slurm"
    """local: as processes of this machine, to try it"""
    hours: float = 4.0
    """time limit of a task"""
    gpus: int = 0
    """of a task"""
    cpus: int = 4
    """of a task"""
    memory: int = 16
    """of a task, GB"""
    partition: str | None = None
    """of the cluster"""
    at_once: int = 64
    """tasks running at the same time"""
    logs: Path = Path("runs/submitted")
    """folder for what the tasks print"""
    wait: bool = False
    """stay until all have ended"""


@dataclass(frozen=True)
class Task:
    """One task of the array; submitit pickles it, calls it on the node, and asks it how to go on after a time-out."""

    command: tuple[str, ...]

    def __call__(self) -> None:
        """Run the command."""
        subprocess.check_call(self.command)

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Go on by the same command."""
        return submitit.helpers.DelayedSubmission(self)


def main(options: Submit) -> int:
    """Submit, and tell the jobs; gives the exit status."""
    if submitit is None:
        raise UserError("submitit is not installed; add --extra slurm to uv run")
    try:
        module, *arguments = shlex.split(options.command) or [""]
    except ValueError as error:
        raise UserError(f"the command cannot be read: {error}") from error
    if module not in SWEEPS:
        raise UserError(f"the command begins with the module of a sweep, {', '.join(SWEEPS)}; got {module!r}")
    if given := {"--part", "--coordinator"} & {argument.partition("=")[0] for argument in arguments}:
        raise UserError(f"each task gets a --part from here; leave {' and '.join(sorted(given))} out of the command")
    if options.parts < 1:
        raise UserError(f"an array has at least one task, got {options.parts}")
    # What is wrong with its words is told now, not by every task when its turn has come.
    swept = importlib.import_module(module)
    told, _ = parse(module, swept.__doc__, swept.PRESETS, arguments, SweepArguments)
    share(structures(told.config.sweep()), 0, options.parts)
    tasks = [
        Task((sys.executable, "-m", module, *arguments, "--part", f"{i}/{options.parts}"))
        for i in range(options.parts)
    ]
    if options.cluster == "slurm" and shutil.which("srun") is None:
        raise UserError("this machine has no Slurm; --cluster local runs the tasks here")
    executor = submitit.AutoExecutor(folder=options.logs, cluster=options.cluster)
    asked = {"timeout_min": round(60 * options.hours), "cpus_per_task": options.cpus, "mem_gb": options.memory}
    asked |= {"gpus_per_node": options.gpus} if options.gpus else {}
    if options.cluster == "slurm":
        asked |= {"slurm_array_parallelism": options.at_once}
        asked |= {"slurm_partition": options.partition} if options.partition else {}
    executor.update_parameters(name="jaxadd", **asked)
    jobs = executor.submit_array(tasks)
    for job, task in zip(jobs, tasks, strict=True):
        print(f"{job.job_id}  python {shlex.join(task.command[1:])}")
    if not options.wait:
        return 0
    try:
        failed = [job for job in jobs if job.exception() is not None]
    except KeyboardInterrupt:
        if options.cluster == "slurm":
            print(f"no longer waiting; the tasks go on, and scancel {jobs[0].job_id.partition('_')[0]} ends them")
        else:
            for job in jobs:
                job.cancel()
            print("the tasks were ended; the same command goes on")
        return 130
    if failed:
        why = "; ".join(f"{job.job_id}: {_last_error(job.paths.stderr)}" for job in failed)
        raise UserError(f"{len(failed)} tasks failed ({why}); mend it, and the same command goes on")
    return 0


def _last_error(log: Path) -> str:
    """Give what a task said of why it failed, or where to look."""
    lines = log.read_text().splitlines() if log.is_file() else []
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else f"see {log}"


if __name__ == "__main__":
    sys.exit(experiment.command("experiments.submit", Submit, main))
