"""Let a trained network solve problems of your own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jaxadd.errors import UserError
from jaxadd.runs import load
from jaxadd.tasks import Addition


@dataclass(frozen=True)
class Options:
    """Let a trained network add: "12345+67890=" gets its own answer, digit by digit."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run folder of an addition network, such as runs/digit_addition/sequential"""
    problems: Annotated[tuple[str, ...], tyro.conf.Positional]
    """sums such as 12345+67890= or 12345+67890=080235, padded with zeros; an answer that is given must be correct"""
    step: int | None = None
    """saved step of the network; by default the end of the run"""


def run(options: Options) -> int:
    """Print the answers of every seed; returns the exit status."""
    trained = load(options.run)
    task = trained.config.task
    if not isinstance(task, Addition):
        raise UserError(f"{options.run} is a run of {type(task).__name__}; `jaxadd ask` is for Addition")
    if not options.problems:
        raise UserError(f"name at least one problem, such as {task.example}")
    operands, answers = (np.stack(part) for part in zip(*map(task.parse, options.problems), strict=True))
    true = np.asarray(task.features(operands).answer)
    if (answers != true).any():
        row = int(np.argmax((answers != true).any(axis=-1)))
        raise UserError(f"{options.problems[row]!r} is incorrect: {task.text(operands[row], true[row])}")
    batch = task.batch(operands)
    inputs, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
    for network in trained.networks(options.step):
        for i, answer in enumerate(np.asarray(network.answer(batch.inputs))):
            correct = (answer == targets[i]).all()
            said = task.text(operands[i], true[i]) if correct else task.describe(inputs[i], targets[i], answer)
            print(f"seed {network.seed}  {said}")
    return 0
