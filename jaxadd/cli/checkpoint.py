"""A torch checkpoint as a trained network: what the file holds, and the task that the user says it learned."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jaxadd import interop
from jaxadd.analysis.report import Trained
from jaxadd.errors import UserError
from jaxadd.interop import Checkpoint
from jaxadd.models import Network
from jaxadd.tasks import Task
from jaxadd.types import Metrics

Activation = Literal["relu", "gelu"]


def trained(path: Path, task: Task, seed: int | None = None, activation: Activation | None = None) -> Trained:
    """Return the network in a checkpoint, with the loss curves that the file holds.

    Args:
      path: of the file.
      task: what it was trained on.
      seed: names its split of the task's data; by default the task's own seed of the split if it has one, or else 0.
      activation: of the network; by default what the file says, or else relu.

    Raises:
      UserError: the file cannot be read, or its network is for another task.
    """
    checkpoint = interop.read(path)
    try:
        params = checkpoint.params_for(task.sizes)
    except UserError as error:
        raise UserError(
            f"{path}: {error}; describe the task that it was trained on, such as --task modular --task.p 113"
        ) from error
    facts = checkpoint.rest.get("config")
    facts = facts if isinstance(facts, dict) else {}
    config = dataclasses.replace(checkpoint.model, activation=activation or facts.get("activation", "relu"))
    if seed is None:
        seed = getattr(task, "split_seed", None) or 0
    metrics = recorded(checkpoint)
    params, step = jax.device_put(params), updates_made(checkpoint, metrics)
    return Trained(
        (Network(params, config.build(task.sizes), task, seed, step),), f"{path.name}: {task.title}", metrics
    )


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
    facts = checkpoint.rest.get("config")
    step = facts.get("step") if isinstance(facts, dict) else None
    return step if isinstance(step, int) else len(metrics.get("step", ()))
