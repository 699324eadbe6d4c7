"""Let a trained network solve problems of your own."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import jax.numpy as jnp
import numpy as np
import tyro

from jaxadd.cli.arguments import kebab
from jaxadd.errors import UserError
from jaxadd.runs import load
from jaxadd.tasks import Addition, Group, Task
from jaxadd.types import Batch


@dataclass(frozen=True)
class Options:
    """Let a trained network solve problems: "12345+67890=" of addition, "(1 2)*(2 3)" in a group."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run folder of a network that learned addition or a group, such as runs/digit_addition/sequential"""
    problems: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROBLEM ...")]
    """sums such as 12345+67890= or 12345+67890=080235, padded with zeros; an answer that is given must be correct;
    products of a group such as '(1 2)*(2 3)' or 'r^2 s * r'"""
    step: int | None = None
    """saved step of the network; by default the end of the run"""


class Problems(NamedTuple):
    """Problems that a person wrote: as examples, and with their correct answers as text."""

    batch: Batch
    solved: Sequence[str]


def run(options: Options) -> int:
    """Print the answers of every seed; returns the exit status."""
    trained = load(options.run)
    task = trained.config.task
    problems = read(task, options.problems)
    inputs, targets = np.asarray(problems.batch.inputs), np.asarray(problems.batch.targets)
    for network in trained.networks(options.step):
        for i, answer in enumerate(np.asarray(network.answer(inputs))):
            correct = (answer == targets[i]).all()
            words = problems.solved[i] if correct else task.describe(inputs[i], targets[i], answer)
            print(f"seed {network.seed}  {words}")
    return 0


@functools.singledispatch
def read(task: Task, texts: Sequence[str]) -> Problems:
    """Read problems of a task as a person writes them; raises UserError where a text is none, or its answer is not
    correct. A task whose problems can be written registers itself here.
    """
    kind = kebab(type(task).__name__)
    raise UserError(f"ask needs a run of addition or of a group; this one was trained on the task {kind}")


@read.register
def _(task: Addition, texts: Sequence[str]) -> Problems:
    if not texts:
        raise UserError(f"name at least one problem, such as {task.example}")
    operands, answers = (np.stack(part) for part in zip(*map(task.parse, texts), strict=True))
    correct = np.asarray(task.features(operands).answer)
    for text, digits, answer, total in zip(texts, operands, answers, correct, strict=True):
        if (answer != total).any():
            raise UserError(f"{text!r} is incorrect: {task.text(digits, total)}")
    solved = [task.text(*pair) for pair in zip(operands, correct, strict=True)]
    return Problems(task.batch(jnp.asarray(operands)), solved)


@read.register
def _(task: Group, texts: Sequence[str]) -> Problems:
    if not texts:
        raise UserError(f"name at least one problem, such as '{' * '.join(task.group.elements[-2:])}'")
    pairs = np.stack([task.parse(text) for text in texts])
    batch = task.batch(jnp.asarray(task.numbers(pairs)), task.tables())
    answers = [task.group.elements[c] for c in np.asarray(batch.targets)[:, 0]]
    return Problems(batch, [f"{task.formula(*pair)} = {answer}" for pair, answer in zip(pairs, answers, strict=True)])
