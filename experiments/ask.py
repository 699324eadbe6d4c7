"""Ask a trained network for a sum: "12345+67890=" gets its own answer, digit by digit."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from jaxadd import cli, report, runs
from jaxadd.errors import UserError
from jaxadd.tasks import Addition
from jaxadd.train import Trainer


@dataclass(frozen=True)
class Ask:
    """Ask a trained network for a sum: "12345+67890=" gets its own answer, digit by digit."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a complete run of addition, such as runs/digit_addition/sequential"""
    problems: Annotated[tuple[str, ...], tyro.conf.Positional]
    """sums such as 12345+67890= or 12345+67890=080235, padded with zeros; an answer given must be right"""


def main(options: Ask) -> int:
    """Print each seed's answers; gives the exit status."""
    record = runs.load(options.run)
    config, task = record.origin.config, record.origin.config.task
    if not isinstance(task, Addition):
        raise UserError(f"{options.run} is a run of {type(task).__name__}, not of Addition")
    if not record.params:
        raise UserError(f"{options.run} is not complete; resume it first")
    operands, answers = (np.stack(part) for part in zip(*map(task.parse, options.problems), strict=True))
    true = np.asarray(task.features(operands).answer)
    if (answers != true).any():
        row = int(np.argmax((answers != true).any(axis=-1)))
        raise UserError(f"{options.problems[row]!r} is wrong: {task.text(operands[row], true[row])}")
    trainer = Trainer(config)
    batch = task.batch(operands)
    every = jax.vmap(lambda params: report.claim(trainer, params, batch.inputs))(report.final_params(trainer, record))
    for seed, claims in zip(config.seeds, np.asarray(every), strict=True):
        for i, claim in enumerate(claims):
            said = task.describe(np.asarray(batch.inputs[i]), np.asarray(batch.targets[i]), claim)
            right = (claim == batch.targets[i]).all()
            print(f"seed {seed}  " + (task.text(operands[i], true[i]) if right else said))
    return 0


if __name__ == "__main__":
    sys.exit(cli.command("experiments.ask", Ask, main))
