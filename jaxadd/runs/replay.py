"""Replays: a part of a run, repeated exactly, with every step recorded."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxadd.errors import UserError
from jaxadd.files import make_folder, write_npz
from jaxadd.runs import checkpoints
from jaxadd.runs.folder import REPLAY_OF, Files, check_name
from jaxadd.runs.initial import initial
from jaxadd.runs.run import Machine, Note, Run, open_run
from jaxadd.runs.train import Watch, newest_checkpoint, recorded
from jaxadd.training.loop import fit
from jaxadd.training.step import RUNNING, TrainState
from jaxadd.training.trainer import Trainer
from jaxadd.trees import flatten
from jaxadd.types import Metrics


def replay(
    folder: str | os.PathLike,
    start: int,
    stop: int,
    snapshots: Sequence[int] = (),
    *,
    name: str | None = None,
    replace: bool = False,
    see: Callable[[TrainState], None] | None = None,
    watch: Watch | None = None,
    note: Note = print,
) -> Path:
    """Repeat steps `start` to `stop` of a run from the nearest checkpoint, and record every step.

    Args:
      folder: run folder.
      start: first step recorded.
      stop: last step recorded, at most the steps of the run.
      snapshots: steps from `start` to `stop` at which to save the parameters.
      name: name of the new folder, "START-STOP" by default.
      replace: whether to replace an earlier replay of that name.
      see: called with the state before each of the steps; its buffers are donated to the step.
      watch: called with a report after every chunk.
      note: called with a sentence on anything the user should know.

    Returns:
      the new folder `<folder>/replays/<name>`: config.json, metrics.npz with train and test metrics at every step,
      and snapshots/<step>.npz with the parameters after that many updates.

    Raises:
      UserError: the steps are not within the run, every lane had ended before, or that replay exists already.
    """
    files, run = Files(folder), open_run(folder)
    config, lanes_at_once = run.config, run.machine.lanes_at_once
    if not 0 <= start <= stop <= config.steps:
        raise UserError(
            f"a replay goes from one step to a later one within 0 to {config.steps}, got {start} to {stop}"
        )
    if outside := [step for step in snapshots if not start <= step <= stop]:
        raise UserError(f"snapshots must lie between {start} and {stop}, got {outside}")
    target = files.replays / check_name(name or f"{start}-{stop}")
    if target.exists() and not replace:
        raise UserError(f"{target} exists already; remove it or choose another name")
    run.note_changes(Machine.this(lanes_at_once), note)
    trainer = Trainer(config, lanes_at_once)
    state = newest_checkpoint(files, trainer, start, note)
    state = initial(trainer) if state is None else state
    if checkpoints.updates_made(state) < start:
        note(f"running from step {checkpoints.updates_made(state)} to {start}")
        state = fit(trainer, state=state, until=start, watch=watch).state
    if not np.any(np.asarray(state.status) == RUNNING):
        raise UserError(f"no lane runs at step {start}: all had ended by step {checkpoints.updates_made(state)}")
    make_folder(target.parent)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.part.", suffix=".part"))
    try:
        written = Files(part)
        written.snapshots.mkdir()
        snapshot_steps = sorted(set(snapshots))
        visited: Sequence[int] = range(start, stop + 1) if see else snapshot_steps

        def visit(state: TrainState) -> None:
            step = checkpoints.updates_made(state)
            if step in snapshot_steps:
                write_npz(written.snapshot(step), flatten(state.params))
            if see:
                see(state)

        if visited and visited[0] == start:
            visit(state)
        save = lambda result: visit(result.state)
        result = fit(trainer, state=state, until=stop + 1, eval_every=1, save_at=visited, save=save, watch=watch)
        write_npz(written.metrics, result.metrics)
        entries = {REPLAY_OF: str(folder), "from": start, "to": stop, "snapshots": snapshot_steps}
        Run(config, run.machine, part).write_config(**entries)
        part.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    note(_compare(recorded(files), result.metrics, stop - start + 1))
    return target


def _compare(recorded: Metrics | None, replayed: Metrics, rows: int) -> str:
    """Return a sentence on whether a replay of `rows` steps has the train losses that the run recorded."""
    if recorded is None or not (steps := np.intersect1d(recorded["step"], replayed["step"])).size:
        return "the run has no record of these steps to compare with"
    if recorded["step"][-1] > (end := replayed["step"][-1]) and len(replayed["step"]) < rows:
        return f"the replay ended at step {end}, and the run did not: this is not an exact replay"
    expected, losses = (m["train_loss"][:, np.isin(m["step"], steps)] for m in (recorded, replayed))
    same = (expected == losses) | (np.isnan(expected) & np.isnan(losses))
    if same.all():
        return f"all {steps.size} recorded train losses are reproduced bit for bit"
    step = steps[np.flatnonzero(~same.all(axis=0))[0]]
    return f"train losses differ from the recorded ones from step {step} on: this is not an exact replay"
