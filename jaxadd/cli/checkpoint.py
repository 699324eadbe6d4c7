"""A checkpoint file as a trained network: what the file holds, and the task that the user says it learned."""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxadd import interop
from jaxadd.analysis.group import cayley
from jaxadd.analysis.report import Trained
from jaxadd.errors import UserError
from jaxadd.interop import Checkpoint
from jaxadd.models import Network
from jaxadd.tasks import Group, Modular, Task
from jaxadd.tasks.group.finite import violation
from jaxadd.tasks.group.task import of_table
from jaxadd.tasks.listed import Listed
from jaxadd.types import Metrics

_MOST = 1024  # classes of a network whose own answers are read for its task


def is_file(source: Path, step: int | None, *, given: bool, words: str) -> bool:
    """Return whether what a command was given is a checkpoint, and not a run folder.

    Args:
      source: file or folder.
      step: saved step that is asked for, which only a run has.
      given: whether there are flags that only a checkpoint has.
      words: which these are, such as "--key is for checkpoint files".

    Raises:
      UserError: there is no such file or folder, or a flag does not go with it.
    """
    if source.is_file():
        if step is not None:
            raise UserError(f"{source} is a checkpoint, the state of one step; leave --step out")
        return True
    if not source.exists():
        raise UserError(f"there is no {source}; name a run folder or a checkpoint file")
    if given:
        raise UserError(f"{words}; {source} is a run, which has its own")
    return False


def trained(
    path: Path,
    task: Task,
    seed: int | None = None,
    *,
    key: str | None = None,
    fields: Mapping[str, Any] | None = None,
    typed: Collection[str] = (),
    note: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Return the network in a checkpoint, with the loss curves that the file holds.

    Args:
      path: of the file.
      task: what it was trained on. Where that is `Modular()`, the default, or `Group()`, it is inferred from the
        sizes of the network and from its answers.
      seed: names its split of the task's data; by default the task's own seed of the split if it has one, or else 0.
      key: where the state dict is in the file; by default it is searched for.
      fields: fields of the architecture that the file does not state.
      typed: flags that the user typed, such as "--task.train-fraction"; with them a default counts as stated.
      note: receives a line on each thing that was skipped, assumed or inferred.

    Raises:
      UserError: the file cannot be read, or its network is for another task.
    """
    checkpoint = interop.read(path, key=key, fields=fields)
    for line in checkpoint.notes:
        note(f"{path.name}: {line}")
    try:
        guess, line = _task_of(checkpoint, task, typed)
        params = checkpoint.params_for(guess.sizes)
        task, stated = guess, seed is not None or _states_split(guess, typed)
        if not stated:
            task, stated = _with_facts(guess, checkpoint, typed)
        if isinstance(task, Listed) and isinstance(guess, Listed) and task.question != guess.question:
            line = f"its config states {task.question}"
        if line:
            note(f"{path.name}: {line}")
    except UserError as error:
        raise UserError(
            f"{path}: {error}; describe the task that it was trained on, such as --task modular --task.p 113, "
            "--task group --task.name S5 or --task addition --task.digits 10 --task.separators zeros; a network of "
            "AdderBoard needs no --task"
        ) from error
    seed_known = seed is not None or (isinstance(task, Listed) and stated)
    if seed is None:
        seed = getattr(task, "split_seed", None) or 0
    metrics = recorded(checkpoint)
    params, step = jax.device_put(params), updates_made(checkpoint, metrics)
    network = Network(params, checkpoint.config.build(task.sizes), task, seed, step, stated)
    return Trained((network,), f"{path.name}: {network.title}", metrics, seed_known=seed_known)


_SPLIT = ("train_fraction", "split", "split_seed", "label_noise")
"""The fields of a task whose problems are listed that say which of them are trained on, and with which labels."""
_OPERATION = "operation"


def _states_split(task: Task, typed: Collection[str]) -> bool:
    """Return whether the user says which problems a network was trained on; needless where a task lists none."""
    if not isinstance(task, Listed):
        return True
    flags = {f"--task.{name.replace('_', '-')}" for name in _SPLIT}
    default = type(task)()
    return bool(flags & set(typed)) or any(getattr(task, name) != getattr(default, name) for name in _SPLIT)


def task_facts(task: Task, seed: int) -> dict[str, Any]:
    """Return what a file's config has to hold so that operation and split of its network are known.

    It is nothing where problems are not listed; see `_with_facts`.
    """
    if not isinstance(task, Listed):
        return {}
    facts = {name: getattr(task, name) for name in (*_SPLIT, _OPERATION) if hasattr(task, name)}
    return facts | ({"split_seed": seed} if task.split_seed is None else {})


def _config_in(checkpoint: Checkpoint) -> Mapping[Any, Any]:
    """Return the config inside a file; empty where there is none."""
    config = checkpoint.rest.get("config")
    return config if isinstance(config, dict) else {}


def _with_facts(task: Task, checkpoint: Checkpoint, typed: Collection[str]) -> tuple[Task, bool]:
    """Return a task with the `task_facts` in a file's config, and whether it states the split; what is typed wins."""
    facts = _config_in(checkpoint)
    if not facts.keys() >= set(_SPLIT) or not isinstance(facts["split_seed"], int):
        return task, False
    try:
        known = {name: facts[name] for name in _SPLIT}
        if _OPERATION in facts and hasattr(task, _OPERATION) and f"--task.{_OPERATION}" not in typed:
            known[_OPERATION] = facts[_OPERATION]
        return dataclasses.replace(task, **known), True  # type: ignore[type-var]
    except (TypeError, ValueError) as error:  # A UserError is a ValueError.
        raise UserError(f"the operation or split that its config states is not possible: {error}") from error


def inferred(checkpoint: Checkpoint) -> Modular | None:
    """Return the addition mod P that the sizes of a network are those of; None where there is none."""
    length, vocabulary, classes = checkpoint.length, checkpoint.vocabulary, checkpoint.classes
    if any(config.get("diff_vocab") for config in (checkpoint.beside, _config_in(checkpoint))):
        return None  # Zhong et al.: the second operand has tokens of its own.
    if (length, vocabulary) == (2, classes) and classes > 1:
        return Modular(p=classes, equals="none")
    if length in (None, 3) and vocabulary == classes + 1 and classes > 1:
        return Modular(p=classes, equals="token")
    if length == 3 and vocabulary == classes and classes > 2:
        return Modular(p=classes - 1)
    return None


def _task_of(checkpoint: Checkpoint, task: Task, typed: Collection[str]) -> tuple[Task, str]:
    """Return the task of a network, and what was inferred, in a line; "" where nothing was.

    A default task is inferred from the kind of network where no flag of a task was typed, from its sizes, and from
    its own answers where they are the table of a group. A group that is given by its name has the network's order of
    elements.
    """
    named = any(flag.startswith("--task") for flag in typed)
    if task == Modular() and {"--task.p", "--task.operation"} & set(typed):
        return task, ""  # What is typed counts, though it is the default.
    if task == Modular() and not named and checkpoint.task is not None:
        return checkpoint.task, f"inferred {checkpoint.task.title}, as of all networks of this kind and size"
    guess = inferred(checkpoint) if task in (Modular(), Group()) else None
    if guess is not None:
        group = (
            None if named and isinstance(task, Modular) else _learned(checkpoint, Group(equals=guess.equals), guess)
        )
        if group is not None:
            line = f"inferred {_read_as(group.question, checkpoint, guess)}, and from its own answers"
            return group, f"{line}, which are the table of a group"
        if isinstance(task, Modular):
            return guess, f"inferred {_read_as(guess.question, checkpoint, guess)}" if guess != task else ""
    if isinstance(task, Group) and not (task.table or task.file) and task.operation == "product":
        group = _learned(checkpoint, task, None)
        if group is not None and group.group.name == task.group.name:
            return group, f"its tokens are the elements of {group.group.name} in an order inferred from its answers"
    return task, ""


def _learned(checkpoint: Checkpoint, task: Group, guess: Modular | None) -> Group | None:
    """Return a task with the group whose table a network's answers are, where this is another than is known.

    Args:
      checkpoint: with the network.
      task: all but the table.
      guess: the addition mod P that the sizes are those of, and that the answers may be; None to compare with `task`.
    """
    sizes = (guess or task).sizes
    if (checkpoint.vocabulary, checkpoint.classes) != (sizes.vocabulary, sizes.classes) or sizes.classes > _MOST:
        return None
    params, model = checkpoint.params_for(sizes), checkpoint.config.build(sizes)
    table = cayley.learned(params, model)
    numbers = np.arange(len(table))
    known = (numbers[:, None] + numbers) % len(table) if guess else task.group.table
    if np.mean(table == known) > 0.5 or violation(table) is not None:
        return None
    return of_table(table, task)


def _read_as(formula: str, checkpoint: Checkpoint, task: Modular) -> str:
    inputs = {"none": "inputs a, b", "token": "inputs a, b, = and no class for =", "class": "inputs a, b, ="}
    positions = "" if checkpoint.length is None else f"{checkpoint.length} positions, "
    return (
        f"{formula}, {inputs[task.equals]}, from {positions}{checkpoint.vocabulary} tokens and "
        f"{checkpoint.classes} classes"
    )


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """Return fields of the architecture by name, given as NAME=VALUE; raises UserError for anything else."""
    fields: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"--fields takes NAME=VALUE, such as rope_theta=3, got {word!r}")
        try:
            fields[name] = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
        except ValueError:
            fields[name] = text
    return fields


def recorded(checkpoint: Checkpoint) -> Metrics:
    """Return the losses of every step, as Nanda et al. keep them in a checkpoint; empty where there are none."""
    metrics: Metrics = {}
    for part in ("train", "test"):
        try:
            losses = np.asarray(checkpoint.rest.get(f"{part}_losses", ()), np.float64)
        except (TypeError, ValueError):
            continue  # Something else of that name.
        if losses.ndim == 1 and losses.size > 1 and losses.size == len(metrics.get("step", losses)):
            metrics |= {"step": np.arange(losses.size), f"{part}_loss": losses[None]}
    return metrics


def updates_made(checkpoint: Checkpoint, metrics: Metrics) -> int:
    """Return the number of updates that made a checkpoint's network, as far as the file says; 0 where it does not."""
    if checkpoint.optimizer is not None:
        return checkpoint.optimizer.updates
    step = _config_in(checkpoint).get("step")
    return step if isinstance(step, int) else len(metrics.get("step", ()))
