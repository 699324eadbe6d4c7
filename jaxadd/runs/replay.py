"""Replays: a part of a run once more, exactly, with every step recorded."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxadd.errors import UserError
from jaxadd.files import write_npz
from jaxadd.runs import checkpoints
from jaxadd.runs.folder import REPLAY_OF, Files, check_name
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
    """Run steps `start` to `stop` of a run again from the nearest checkpoint, and record every one densely.

    Args:
      folder: the run.
      start: the first step recorded.
      stop: the last step recorded, at most the run's steps.
      snapshots: steps between them at which to keep the parameters.
      name: of the new folder, "START-STOP" by default.
      replace: an earlier replay of that name is replaced.
      see: called with the state before each of the steps, whose buffers the next one takes.
      watch: called after every chunk.
      note: called with a sentence on anything the user should know.

    Returns:
      the new folder `<folder>/replays/<name>`: config.json, metrics.npz with train and test metrics at
      every step, and snapshots/<step>.npz with the parameters after that many updates.

    Raises:
      ValueError: the steps are not within the run, or that replay exists already.
    """
    files, run = Files(folder), open_run(folder)
    config, lanes_at_once = run.config, run.machine.lanes_at_once
    if not 0 <= start <= stop <= config.steps:
        raise UserError(
            f"a replay goes from one step of the run to a later one, 0 to {config.steps}; got {start} to {stop}"
        )
    if outside := [step for step in snapshots if not start <= step <= stop]:
        raise UserError(f"snapshots must lie between {start} and {stop}, got {outside}")
    target = files.replays / check_name(name or f"{start}-{stop}")
    if target.exists() and not replace:
        raise UserError(f"{target} exists already; remove it or choose another name")
    run.note_changes(Machine.this(lanes_at_once), note)
    trainer = Trainer(config, lanes_at_once)
    state = newest_checkpoint(files, trainer, start, note)
    state = trainer.init() if state is None else state
    if checkpoints.updates_made(state) < start:
        note(f"running from step {checkpoints.updates_made(state)} to {start}")
        state = fit(trainer, state=state, until=start, watch=watch).state
    if not np.any(np.asarray(state.status) == RUNNING):
        raise UserError(
            f"nothing runs at step {start}: every lane had ended by step {checkpoints.updates_made(state)}"
        )
    target.parent.mkdir(exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        written = Files(part)
        written.snapshots.mkdir()

        wanted = sorted(set(snapshots))
        visited = range(start, stop + 1) if see else wanted

        def visit(state: TrainState) -> None:
            step = checkpoints.updates_made(state)
            if step in wanted:
                write_npz(written.snapshot(step), flatten(state.params))
            if see:
                see(state)

        if visited and visited[0] == start:
            visit(state)
        see_saved = lambda so_far: visit(so_far.state)
        result = fit(trainer, state=state, until=stop + 1, eval_every=1, save_at=visited, save=see_saved, watch=watch)
        write_npz(written.metrics, result.metrics)
        about = {REPLAY_OF: str(folder), "from": start, "to": stop, "snapshots": wanted}
        Run(config, run.machine, part).write_config(**about)
        part.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    note(_compare(recorded(files), result.metrics, stop - start + 1))
    return target


def _compare(recorded: Metrics | None, again: Metrics, asked: int) -> str:
    shared = np.zeros(0, int) if recorded is None else np.intersect1d(recorded["step"], again["step"])
    if shared.size and recorded["step"][-1] > again["step"][-1] and len(again["step"]) < asked:
        return f"the replay ended at step {again['step'][-1]}, where the run went on: this is not an exact replay"
    if not shared.size:
        return "the run has no record of these steps to compare with"
    theirs = recorded["train_loss"][:, np.searchsorted(recorded["step"], shared)]
    ours = again["train_loss"][:, np.searchsorted(again["step"], shared)]
    same = (theirs == ours) | (np.isnan(theirs) & np.isnan(ours))
    if same.all():
        return f"all {shared.size} recorded train losses were met again, bit for bit"
    step = shared[np.flatnonzero(~same.all(axis=0))[0]]
    return f"train losses differ from the recorded ones from step {step} on: this is not an exact replay"
