"""Go on with a run that was killed, from its newest whole checkpoint; or make a complete one longer."""

import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from jaxadd import cli, runs
from jaxadd.errors import UserError
from jaxadd.sweeps import results
from jaxadd.train import Trainer


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was killed, from its newest whole checkpoint; or make a complete one longer."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """the run folder, such as runs/modular_addition/quick"""
    steps: int | None = None
    """go on to this many steps instead of the run's own number"""


def main(options: Resume) -> int:
    """Resume and report; gives the exit status."""
    origin = runs.read_origin(options.run)
    if options.steps is not None and results.is_wave(options.run):
        raise UserError(f"{options.run} is a wave of a sweep, which has its steps in common; sweep anew for more")
    config = origin.config if options.steps is None else replace(origin.config, steps=options.steps)
    extend = options.steps is not None
    trainer = Trainer(config, origin.places)
    return cli.run(origin.experiment, trainer, options.run, find_conclude(origin.experiment), extend=extend)


def find_conclude(experiment: str) -> cli.Conclude:
    """Find what an experiment concludes from its runs; from a run made by library calls, nothing."""
    if experiment and importlib.util.find_spec(f"experiments.{experiment}"):
        return importlib.import_module(f"experiments.{experiment}").conclude
    return lambda trainer, record: cli.Findings({})


if __name__ == "__main__":
    sys.exit(cli.command("experiments.resume", Resume, main))
