"""The finite spaces of problems that a network can be certified on, by task."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxadd.errors import UserError
from jaxadd.models import Network
from jaxadd.tasks import Addition, Task
from jaxadd.tasks.listed import Listed


@dataclass(frozen=True)
class Space:
    """All problems of a task, numbered from 0.

    Attributes:
      description: what the problems are, plain data; two tasks with equal descriptions have equal problems.
      size: the number of problems.
      batch: for int64 numbers `[B]` of problems, their inputs, int32 `[B, T]`, and answers, int32 `[B, R]`.
    """

    description: dict[str, Any]
    size: int
    batch: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@functools.singledispatch
def space(task: Task, network: Network) -> Space:
    """Return the space of the task of a network; a task whose problems can be listed registers itself here.

    Raises:
      UserError: the task has no finite space of problems.
    """
    raise UserError(
        "certify covers tasks with a finite space of problems: modular arithmetic, groups and addition; "
        f"{task.question} has none"
    )


@space.register
def _(task: Listed, network: Network) -> Space:
    shared = network.data.shared

    def batch(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = task.batch(np.asarray(numbers, np.int32), shared)
        return np.asarray(inputs), np.asarray(targets)

    answers = np.asarray(task.batch(np.arange(task.problems, dtype=np.int32), shared).targets, "<i4")
    described = {
        "task": type(task).__name__,
        "question": task.question,
        "equals": task.equals,
        "answers": hashlib.sha256(answers.tobytes()).hexdigest(),
    }
    return Space(described, task.problems, batch)


@space.register
def _(task: Addition, network: Network) -> Space:
    def batch(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = task.batch(problems(task, numbers))
        return np.asarray(inputs), np.asarray(targets)

    names = ("digits", "base", "operands", "operation", "target", "answer_order", "operand_order", "separators")
    described = {"task": "Addition", **{name: getattr(task, name) for name in names}}
    if task.target == "single":
        described["digit"] = task.digit
    return Space(described, task.space, batch)


def problems(task: Addition, numbers: np.ndarray) -> np.ndarray:
    """Return the problems with some numbers, int32 digits `[B, M, N]`, units first, for int64 `[B]` below 2**63."""
    powers = np.asarray([task.base**i for i in range(task.operands * task.digits)])
    digits = numbers[:, None] // powers % task.base
    return digits.reshape(-1, task.operands, task.digits).astype(np.int32)
