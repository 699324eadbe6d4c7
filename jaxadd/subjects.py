"""What is analysed: one trained network with its task, from a run folder, a step of it, or a torch checkpoint."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd import checkpoints, interop, report, runs
from jaxadd.errors import UserError
from jaxadd.fit import Metrics, cut
from jaxadd.model import Model, Params, Transformer
from jaxadd.tasks import Addition, Modular
from jaxadd.train import Trainer


class Subject(NamedTuple):
    """One or several trained networks and all that is known of their task.

    Attributes:
      task: what they were trained on.
      model: its pure functions.
      params: with a leading S axis.
      lane: the task's data of each lane, with a leading S axis.
      seeds: of the lanes.
      title: for figures.
      steps: `[E]`, the steps whose states are known; empty for a checkpoint from elsewhere.
      history: parameters at these steps, with leading axes `[S, E]`; None where there are none.
      metrics: what was recorded in training, as in `fit.Result`; empty for a checkpoint from elsewhere.
    """

    task: Modular | Addition
    model: Model
    params: Params
    lane: Any
    seeds: tuple[int, ...]
    title: str
    steps: np.ndarray
    history: Params | None
    metrics: Metrics


def from_run(
    folder: str | os.PathLike, step: int | None = None, *, history: bool = False, note: Callable[[str], None] = print
) -> Subject:
    """Read a run, at its end or at a saved step.

    Args:
      folder: the run folder.
      step: of a checkpoint; the end by default, or the newest checkpoint of a run that is not complete.
      history: read all saved states as well.
      note: called with a sentence on what was passed over.

    Raises:
      ValueError: no such step was saved, or the run's network is no transformer.
    """
    record = runs.load(folder)
    config = record.origin.config
    if not isinstance(config.model, Transformer):
        raise UserError(f"{folder} trained an {type(config.model).__name__}; analysis is for transformers")
    trainer = Trainer(config)
    saved = checkpoints.steps(Path(folder) / "checkpoints")
    wanted = (saved[-1] if saved else None) if step is None and not record.params else step
    if wanted is None and not record.params:
        raise UserError(f"{folder} has neither a checkpoint nor final parameters")
    params = report.final_params(trainer, record) if wanted is None else runs.state(folder, trainer, wanted).params
    title = report.title(config) + ("" if wanted is None else f", step {wanted:,}")
    found = {s: state.params for s, state in runs.states(folder, trainer, note)} if history else {}
    until = [s for s in found if wanted is None or s <= wanted]
    past = jax.tree.map(lambda *w: jnp.stack(w, axis=1), *(found[s] for s in until)) if until else None
    steps, metrics = np.asarray(until, int), record.metrics if wanted is None else cut(record.metrics, wanted + 1)
    return Subject(config.task, trainer.model, params, trainer.data.lane, config.seeds, title, steps, past, metrics)


def from_checkpoint(
    path: str | os.PathLike, task: Modular | Addition, seed: int = 0, activation: str = "relu"
) -> Subject:
    """Read a torch checkpoint of a task; raises ValueError where their sizes do not fit each other."""
    found = interop.read(path, activation=activation)
    sizes = task.sizes
    try:
        own = found.params_for(sizes)
    except UserError as error:
        raise UserError(f"{path}: {error}; set its flags, such as --p or --digits, to what it learned") from error
    params = jax.tree.map(lambda w: jnp.asarray(w)[None], own)
    lane = task.data((seed,)).lane
    title = f"{Path(path).name}: {task.title}"
    return Subject(task, found.model.build(sizes), params, lane, (seed,), title, np.zeros(0, int), None, {})
