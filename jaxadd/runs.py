"""The run folder: write, read, resume.

    <folder>/config.json    the whole config; versions, device and precision it ran with
             metrics.npz    step [T], every other array [S, T]
             params.npz     final parameters by path, leading S
             summary.json   headline numbers
             checkpoints/   resumable states, one folder per step
             replays/       dense re-runs of a part, each a folder like this one, see `replays`
             figures/

Every file is written beside its place and renamed into it, and metrics are written before the checkpoint
that goes with them. So whenever a process is killed or a disk is full, the newest whole checkpoint and the
metrics up to it are there, and going on from them repeats the lost steps exactly.
"""

import contextlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from filelock import FileLock, Timeout

from jaxadd import checkpoints
from jaxadd import config as configs
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.files import UNREADABLE, first_line, read_npz, write_npz, write_text
from jaxadd.fit import Metrics, Progress, Result, cut, fit
from jaxadd.summaries import summarise
from jaxadd.train import DIVERGED, RUNNING, Trainer, TrainState
from jaxadd.trees import flatten

Note = Callable[[str], None]


class Origin(NamedTuple):
    """What made a run.

    Attributes:
      experiment: the name of the module in `experiments`, or "" for a run made by library calls.
      config: the config it runs with.
      places: lanes trained at once.
      environment: the versions and the device it began with.
    """

    experiment: str
    config: RunConfig
    places: int
    environment: dict[str, str]


class Record(NamedTuple):
    """What a run folder holds.

    Attributes:
      origin: what made the run.
      metrics: as in `fit.Result`.
      params: final parameters by path, leading S; empty while the run is not complete.
      summary: headline numbers; empty while the run is not complete.
    """

    origin: Origin
    metrics: Metrics
    params: dict[str, np.ndarray]
    summary: dict[str, Any]


def load(folder: str | os.PathLike) -> Record:
    """Read a run folder; raises ValueError where it is none or its files are damaged."""
    folder = Path(folder)
    origin = read_origin(folder)
    try:
        metrics = read_npz(folder / "metrics.npz")
        if not (folder / "summary.json").is_file():
            return Record(origin, metrics, {}, {})
        params, summary = read_npz(folder / "params.npz"), json.loads((folder / "summary.json").read_text())
    except UNREADABLE as error:
        raise UserError(
            f"the record in {folder} is missing or damaged ({first_line(error)}); experiments.resume repairs it"
        ) from error
    return Record(origin, metrics, params, summary)


def states(folder: str | os.PathLike, trainer: Trainer, note: Note = print) -> Iterator[tuple[int, TrainState]]:
    """Read the saved states of a run one by one, with their steps; damaged ones are told of and passed over."""
    for step in checkpoints.steps(Path(folder) / "checkpoints"):
        state = newest_checkpoint(Path(folder), trainer, step, note)
        if state is not None and checkpoints.updates_made(state) == step:
            yield step, state


def state(folder: str | os.PathLike, trainer: Trainer, step: int | None = None) -> TrainState:
    """Read one saved state, the newest by default; raises ValueError where it was not saved, or is not whole."""
    places = Path(folder) / "checkpoints"
    saved = checkpoints.steps(places)
    if not saved:
        raise UserError(f"{folder} has no saved states")
    step = saved[-1] if step is None else step
    if step not in saved:
        shown = [f"{s:,}" for s in saved]
        few = ", ".join(shown if len(shown) <= 8 else [*shown[:4], "…", *shown[-3:]])
        raise UserError(f"step {step} of {folder} was not saved; there are {few}")
    try:
        return checkpoints.load(places, step, trainer.abstract_state(), trainer.config)
    except UNREADABLE as error:
        raise UserError(
            f"step {step} of {folder} is damaged or foreign: {first_line(error)}; choose another"
        ) from error


def begin(trainer: Trainer, folder: Path, experiment: str = "") -> Origin:
    """Make the folder of a run that is to be trained, unless there is one; gives what made it, were it made now."""
    origin = Origin(experiment, trainer.config, trainer.places.count, environment())
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        write_origin(folder, origin)
    return origin


def train(
    trainer: Trainer,
    folder: str | os.PathLike,
    *,
    experiment: str = "",
    extend: bool = False,
    keep: int = 0,
    watch: Callable[[Progress], None] | None = None,
    note: Note = print,
) -> Record:
    """Train in a run folder: begin there, or go on from where a run of the same config was ended.

    Args:
      trainer: the config made ready.
      folder: made if it does not exist.
      experiment: recorded as what made the run.
      extend: allow the folder's config to differ in its number of steps, and go on to this config's.
      keep: how many of the newest saved states are kept; 0 keeps all.
      watch: called after every chunk.
      note: called with a sentence on anything the user should know (resumed, fell back, diverged).

    Returns:
      what the folder holds at the end.

    Raises:
      ValueError: the folder holds another config or is no run folder, or another process works on it.
      OSError: the folder cannot be written. What was saved before is whole.
    """
    folder, config = Path(folder), trainer.config
    _refuse_other_files(folder)
    with _locked(folder):
        _claim(folder, begin(trainer, folder, experiment), extend, note)
        if (folder / "summary.json").is_file():
            try:
                record = load(folder)
            except UserError as error:
                note(str(error))
                (folder / "summary.json").unlink()
            else:
                note(f"{folder} is complete; nothing is left to train")
                return record
        metrics = recorded(folder)
        if metrics is None and len(checkpoints.steps(folder / "checkpoints")) > 1:
            note("metrics.npz is lost or damaged, so the run begins again from step 0")
        state = newest_checkpoint(folder, trainer, len(metrics["step"]) if metrics else 0, note)
        states = folder / "checkpoints"
        if state is None and metrics:
            raise UserError(
                f"{folder} has a record of {len(metrics['step'])} steps but no whole checkpoint to go on from, and "
                "training again would replace it; move its metrics.npz away to do so, or choose another name"
            )
        seconds = 0.0
        if state is None:
            state = trainer.init()
            checkpoints.save(states, state, config)
        else:
            seconds = checkpoints.seconds(states, checkpoints.updates_made(state))
            note(f"going on from step {checkpoints.updates_made(state)} of {config.steps}")
        if metrics:
            # The row of a step is recorded after its checkpoint; that of the last lane's last step before.
            rows = checkpoints.updates_made(state) + int(not np.any(np.asarray(state.status) == RUNNING))
            metrics = cut(metrics, rows)

        def save(result: Result) -> None:
            write_npz(folder / "metrics.npz", result.metrics)
            checkpoints.save(states, result.state, config, seconds + result.run_seconds)
            checkpoints.prune(states, keep, checkpoints.updates_made(result.state))

        save_at = range(0, config.steps, config.checkpoint_every)
        watch = _telling_of_divergence(config, watch, note)
        result = fit(trainer, state=state, metrics=metrics, save_at=save_at, save=save, watch=watch)
        save(result)
        write_npz(folder / "params.npz", flatten(result.state.params))
        summary = summarise(config, result._replace(run_seconds=seconds + result.run_seconds))
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return load(folder)


def newest_checkpoint(folder: Path, trainer: Trainer, at_most: int, note: Note) -> TrainState | None:
    """Read the newest whole checkpoint of a step up to `at_most`, telling of those passed over; None if none is."""
    states, like = folder / "checkpoints", trainer.abstract_state()
    for step in reversed(checkpoints.steps(states)):
        if step > at_most:
            continue
        try:
            return checkpoints.load(states, step, like, trainer.config)
        except UNREADABLE as error:
            note(f"checkpoint {step} is damaged or foreign and is passed over: {first_line(error)}")
    return None


def recorded(folder: Path) -> Metrics | None:
    """Read the metrics of a run; None where there are none, or they are damaged."""
    try:
        return read_npz(folder / "metrics.npz")
    except PermissionError:
        raise
    except UNREADABLE:
        return None


def _telling_of_divergence(
    config: RunConfig, watch: Callable[[Progress], None] | None, note: Note
) -> Callable[[Progress], None]:
    told: set[int] = set()

    def watching(progress: Progress) -> None:
        if watch:
            watch(progress)
        for lane in set(np.flatnonzero(progress.status == DIVERGED)) - told:
            told.add(lane)
            own = "".join(f", {name} {values[lane]:g}" for name, values in config.vary)
            note(
                f"seed {config.seeds[lane]}{own} diverged and is frozen: its loss or gradient was not finite "
                f"at step {progress.step[lane]}"
            )

    return watching


def environment() -> dict[str, str]:
    """Name the versions and the device that results depend on."""
    device = jax.devices()[0]
    return {
        "jax": jax.__version__,
        "python": platform.python_version(),
        "platform": device.platform,
        "device": f"{jax.device_count()} × {_processor() if device.platform == 'cpu' else device.device_kind}",
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"CPU ({line.split(':', 1)[1].strip()}, {os.cpu_count()} cores)"
    return f"CPU ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


# --- the folder ------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """Give back the name of a folder; raises UserError where it is more or less than one."""
    if name in (".", "..") or Path(name).name != name:
        raise UserError(f"a name must be that of one folder, without slashes, got {name!r}")
    return name


def _refuse_other_files(folder: Path) -> None:
    """Raise UserError for a folder that holds something else, before anything in it is touched."""
    foreign = folder.is_dir() and not (folder / "config.json").exists()
    if foreign and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds files but no run; choose another name")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(f"another process is working on {folder}; wait for it or choose another name") from error
    try:
        yield
    finally:
        lock.release()


def _claim(folder: Path, origin: Origin, extend: bool, note: Note) -> None:
    """Check that the folder holds this config, or one that it may be extended to; clear what a kill left there."""
    states = folder / "checkpoints"
    theirs = read_origin(folder)
    config = theirs.config
    if extend and config.steps != origin.config.steps:
        newest = max(checkpoints.steps(states), default=None)
        if newest is None:
            raise UserError(f"{folder} has no checkpoint to go on from")
        if origin.config.steps < newest:
            raise UserError(f"{folder} is already at step {newest}; it cannot be cut to {origin.config.steps} steps")
        config = replace(config, steps=origin.config.steps)
    if difference := configs.difference(origin.config, config):
        raise UserError(f"{folder} holds a run of another config ({'; '.join(difference)}); choose another name")
    if config != theirs.config:
        (folder / "summary.json").unlink(missing_ok=True)
    if (config, origin.places) != (theirs.config, theirs.places):
        write_origin(folder, theirs._replace(config=config, places=origin.places))
    if any(checkpoints.steps(states)):
        warn_of_other_environment(theirs, origin.places, note)
    states.mkdir(exist_ok=True)
    checkpoints.tidy(states)
    for leftover in folder.glob(".*.part"):
        leftover.unlink()


def write_origin(folder: Path, origin: Origin, more: dict[str, Any] | None = None) -> None:
    """Write what made a run, and more that is told of it, to its config.json."""
    data = origin._asdict() | {"config": configs.to_json(origin.config)} | (more or {})
    write_text(folder / "config.json", json.dumps(data, indent=2) + "\n")


def read_origin(folder: str | os.PathLike) -> Origin:
    """Read what made a run; raises ValueError where the folder is no run folder."""
    path = Path(folder) / "config.json"
    try:
        data = json.loads(path.read_text())
        if "replay_of" in data:
            raise UserError(f"it is a replay of {data['replay_of']}, not a run")
        return Origin(data["experiment"], configs.from_json(data["config"]), data["places"], data["environment"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is no run folder: there is no {path}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the config of a run: {first_line(error)}") from error


def warn_of_other_environment(origin: Origin, places: int, note: Note) -> None:
    """Tell what is not as it was when the run began, so that numbers may be rounded in another way."""
    now, then = environment() | {"lanes at once": places}, origin.environment | {"lanes at once": origin.places}
    if changed := [f"{name} {then.get(name)} then, {now[name]} now" for name in now if now[name] != then.get(name)]:
        note(f"not bit for bit the run it was, since what it runs on has changed: {'; '.join(changed)}")
