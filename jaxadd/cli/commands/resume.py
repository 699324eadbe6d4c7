"""Go on with a run that was killed, or make a complete one longer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from jaxadd import sweeps
from jaxadd.cli.experiment import show_run
from jaxadd.errors import UserError
from jaxadd.runs import open_run
from jaxadd.training.trainer import Trainer


@dataclass(frozen=True)
class Options:
    """Go on with a run that was killed, from its newest whole checkpoint; or make a complete one longer."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run folder, such as runs/modular_addition/quick"""
    steps: int | None = None
    """number of steps to go on to; the run's own by default"""


def run(options: Options) -> int:
    """Resume and show everything; returns the exit status."""
    stopped = open_run(options.run)
    if options.steps is not None and sweeps.is_batch(options.run):
        raise UserError(
            f"{options.run} belongs to a sweep, whose lanes have their steps in common; start a new sweep for more"
        )
    config = stopped.config if options.steps is None else replace(stopped.config, steps=options.steps)
    show_run(Trainer(config, stopped.machine.lanes_at_once), options.run, extend=options.steps is not None)
    return 0
