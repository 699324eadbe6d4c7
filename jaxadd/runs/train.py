"""Training in memory or in a run folder, where a run of the same config is resumed."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.files import UNREADABLE, first_line, make_folder, read_npz, write_npz, write_text
from jaxadd.runs import checkpoints
from jaxadd.runs.folder import Files
from jaxadd.runs.initial import initial, start_params
from jaxadd.runs.run import Machine, Note, Run, load, open_run
from jaxadd.runs.summary import summarize
from jaxadd.serialization import check_importable, difference
from jaxadd.training.loop import Progress, Result, cut, fit
from jaxadd.training.step import DIVERGED, RUNNING, TrainState
from jaxadd.training.trainer import Trainer
from jaxadd.trees import flatten, nest
from jaxadd.types import Metrics

Watch = Callable[[Progress], None]
"""Called with a report after every chunk of steps."""


def train(
    config: RunConfig,
    folder: str | os.PathLike | None = None,
    *,
    watch: Watch | None = None,
    note: Note = print,
) -> Run:
    """Train a run, in a folder if one is given.

    Args:
      config: everything that determines the run.
      folder: run folder, created if it does not exist; a run of the same config in it is resumed.
      watch: called with a report after every chunk of steps.
      note: called with a sentence on anything the user should know: resumed, damaged checkpoint, diverged.

    Returns:
      the finished run.

    Raises:
      UserError: task and model do not fit each other, the folder holds something else, or a class of the config is
        defined where it cannot be imported from.
      OSError: the folder cannot be written. Everything saved before is whole.
    """
    if folder is not None:
        check_importable(config)
    trainer = Trainer(config)
    if folder is not None:
        return train_in(trainer, folder, watch=watch, note=note)
    result = fit(trainer, state=initial(trainer, note), watch=_noting_divergence(config, watch, note))
    return Run(
        config,
        Machine.this(trainer.slots.size),
        metrics=result.metrics,
        params=result.state.params,
        summary=summarize(trainer, result),
    )


def train_in(
    trainer: Trainer,
    folder: str | os.PathLike,
    *,
    extend: bool = False,
    keep: int = 0,
    watch: Watch | None = None,
    note: Note = print,
) -> Run:
    """Train in a run folder, from the start or from where a run of the same config ended.

    Args:
      trainer: trainer of the config.
      folder: run folder, created if it does not exist.
      extend: whether the config in the folder may have another number of steps, which is set to that of the trainer.
      keep: number of saved states to keep, the newest ones; 0 keeps all.
      watch: called with a report after every chunk of steps.
      note: called with a sentence on anything the user should know.

    Returns:
      the finished run.

    Raises:
      UserError: the folder holds another config or no run, another process trains in it, or a class of the config is
        defined where it cannot be imported from.
      OSError: the folder cannot be written. Everything saved before is whole.
    """
    files, config = Files(folder), trainer.config
    check_importable(config)
    files.refuse_other_files()
    with files.locked():
        _prepare(files, begin(trainer, files.folder), extend, note)
        if files.summary.is_file():
            try:
                run = load(files.folder)
            except UserError as error:
                note(str(error))
            else:
                note(f"{files.folder} is complete; nothing is left to train")
                return run
        state, metrics, seconds = _resume_point(trainer, files, note)
        files.summary.unlink(missing_ok=True)
        if state is None:
            state = initial(trainer, note)
            checkpoints.save(files.checkpoints, state, config)

        def save(result: Result) -> None:
            write_npz(files.metrics, result.metrics)
            checkpoints.save(files.checkpoints, result.state, config, seconds + result.run_seconds)
            checkpoints.prune(files.checkpoints, keep, checkpoints.updates_made(result.state))

        save_at = range(0, config.steps, config.checkpoint_every)
        watch = _noting_divergence(config, watch, note)
        result = fit(trainer, state=state, metrics=metrics, save_at=save_at, save=save, watch=watch)
        save(result)
        write_npz(files.params, flatten(result.state.params))
        summary = summarize(trainer, result._replace(run_seconds=seconds + result.run_seconds))
        write_text(files.summary, json.dumps(summary, indent=2) + "\n")
    return load(files.folder)


def begin(trainer: Trainer, folder: Path) -> Run:
    """Create the folder of a run unless it exists, and return the run as it would begin on this machine.

    Raises:
      UserError: `init_from` cannot be read or does not fit the config. No config is written then, so that the name
        stays free.
    """
    run = Run(trainer.config, Machine.this(trainer.slots.size), folder)
    if not Files(folder).config.exists():
        start_params(trainer)  # First: once there is a config, the folder is refused to any other.
        make_folder(folder)
        run.write_config()
    return run


def newest_checkpoint(files: Files, trainer: Trainer, at_most: int, note: Note) -> TrainState | None:
    """Return the newest whole checkpoint up to step `at_most`, or None; note those that are skipped."""
    for step in reversed(checkpoints.steps(files.checkpoints)):
        if step > at_most:
            continue
        try:
            return nest(checkpoints.load(files.checkpoints, step, trainer.config), trainer.abstract_state())
        except UNREADABLE as error:
            note(f"checkpoint {step} is damaged or of another run and is skipped: {first_line(error)}")
    return None


def recorded(files: Files) -> Metrics | None:
    """Return the metrics of a run; None where they are missing or damaged."""
    try:
        return read_npz(files.metrics)
    except PermissionError:
        raise
    except UNREADABLE:
        return None


def _resume_point(trainer: Trainer, files: Files, note: Note) -> tuple[TrainState | None, Metrics | None, float]:
    """Return the state to resume from, the metrics before it and the seconds spent; (None, None, 0) where none."""
    metrics = recorded(files)
    state = newest_checkpoint(files, trainer, len(metrics["step"]) if metrics else 0, note)
    if state is None:
        if metrics:
            raise UserError(
                f"{files.folder} has a record of {len(metrics['step'])} steps but no whole checkpoint to resume "
                "from, and training again would replace it; move its metrics.npz away, or choose another name"
            )
        return None, None, 0.0
    made = checkpoints.updates_made(state)
    if made or metrics:
        note(f"resuming from step {made:,} of {trainer.config.steps:,}")
    if metrics:
        # The row of a step is recorded after its checkpoint, but before it where that step ended the last lane.
        metrics = cut(metrics, made + int(not np.any(np.asarray(state.status) == RUNNING)))
    return state, metrics, checkpoints.seconds(files.checkpoints, made)


def _noting_divergence(config: RunConfig, watch: Watch | None, note: Note) -> Watch:
    noted: set[int] = set()

    def watching(progress: Progress) -> None:
        if watch:
            watch(progress)
        for lane in set(np.flatnonzero(progress.status == DIVERGED).tolist()) - noted:
            noted.add(lane)
            varied = "".join(f", {name} {values[lane]:g}" for name, values in config.vary)
            note(
                f"seed {config.seeds[lane]}{varied} diverged and is frozen: its loss or gradient was not finite "
                f"at step {progress.step[lane]:,}"
            )

    return watching


def _prepare(files: Files, run: Run, extend: bool, note: Note) -> None:
    """Check that the folder holds this config, or one to extend, and remove what a killed process left."""
    existing = open_run(files.folder)
    config = existing.config
    if extend and config.steps != run.config.steps:
        newest = max(existing.steps, default=None)
        if newest is None:
            raise UserError(f"{files.folder} has no checkpoint to resume from")
        if run.config.steps < newest:
            raise UserError(
                f"{files.folder} is already at step {newest:,}; it cannot be cut to {run.config.steps:,} steps"
            )
        config = replace(config, steps=run.config.steps)
    if changes := difference(run.config, config):
        raise UserError(f"{files.folder} holds a run of another config ({'; '.join(changes)}); choose another name")
    if any(existing.steps) and recorded(files) is None:
        raise UserError(
            f"{files.folder} has saved states up to step {max(existing.steps):,}, but its metrics.npz is missing or "
            "damaged and cannot be recomputed; put it back, move its checkpoints folder away to train again from "
            "step 0, or choose another name"
        )
    if config != existing.config:
        files.summary.unlink(missing_ok=True)
    machine = replace(existing.machine, lanes_at_once=run.machine.lanes_at_once)
    if (config, machine) != (existing.config, existing.machine):
        Run(config, machine, files.folder).write_config()
    if any(existing.steps):
        existing.note_changes(run.machine, note)
    make_folder(files.checkpoints)
    checkpoints.tidy(files.checkpoints)
    files.remove_unfinished()
