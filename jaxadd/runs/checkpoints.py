"""Resumable states on disk (Orbax), each with a manifest that proves it whole."""

import contextlib
import json
import logging
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxadd.config import RunConfig
from jaxadd.files import first_line
from jaxadd.serialization import to_json
from jaxadd.training.step import TrainState
from jaxadd.trees import flatten

_MANIFEST = "manifest.json"


def updates_made(state: TrainState) -> int:
    """Give the largest number of updates that any lane has made: the name of its checkpoint."""
    return int(np.max(np.asarray(state.step)))


def steps(folder: str | os.PathLike) -> list[int]:
    """List the steps of the checkpoints in a folder, ascending."""
    return sorted(int(path.name) for path in Path(folder).glob("*") if path.name.isdecimal())


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put an interrupt from the keyboard off to the end: Orbax's threads would wait for each other for minutes."""
    caught, before = [], signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # No interrupt arrives here, or none is heeded.
        return
    signal.signal(signal.SIGINT, lambda *_: caught.append(1))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


@_uninterrupted()
def save(folder: Path, state: TrainState, config: RunConfig, seconds: float = 0.0) -> None:
    """Write a state as `<folder>/<updates made>`; raises OSError, and leaves nothing, where that fails.

    Args:
      folder: of the checkpoints.
      state: of all lanes.
      config: of the run.
      seconds: spent on training so far, for whoever goes on from here; see `seconds`.
    """
    from orbax.checkpoint import v1 as ocp

    path = folder.absolute() / f"{updates_made(state):08d}"
    part = path.with_name(f".{path.name}.part")
    _remove(part)
    try:
        with _without_orbax_log():
            ocp.save(part, flatten(state))
        manifest = _about(config, path) | {"crc32": _checksums(part), "seconds": seconds}
        (part / _MANIFEST).write_text(json.dumps(manifest))
    except Exception as error:  # Orbax tells of a full disk in several types; all mean that nothing was saved.
        _remove(part)
        reason = "no space left on the device" if "No space left" in str(error) else first_line(error)
        raise OSError(f"checkpoint {path} could not be written ({reason}); what was saved before is whole") from error
    old = path.with_name(f".{path.name}.old")
    if path.exists():
        path.rename(old)
    part.rename(path)
    _remove(old)


def load(folder: Path, step: int, config: RunConfig) -> dict[str, np.ndarray]:
    """Return the arrays of one checkpoint by path, as `trees.flatten` named those of the state.

    Args:
      folder: of the checkpoints.
      step: one of `steps`.
      config: of the run; its number of steps does not matter.

    Raises:
      one of UNREADABLE, where the checkpoint is damaged or of another run.
    """
    from orbax.checkpoint import v1 as ocp

    path = folder.absolute() / f"{step:08d}"
    # Checked before Orbax sees it: what it does with a damaged file depends on where the damage is.
    manifest = json.loads((path / _MANIFEST).read_text())
    del manifest["seconds"]
    if manifest.pop("crc32") != _checksums(path):
        raise ValueError("its files are not those that were saved")
    if manifest != json.loads(json.dumps(_about(config, path))):
        raise ValueError("it was saved by another run or at another step")
    return {name: np.asarray(array) for name, array in ocp.load(path).items()}


def tidy(folder: Path) -> None:
    """Clear away what a kill left, and put back a checkpoint that was about to be replaced."""
    for old in folder.glob(".*.old"):
        if not (whole := folder / old.stem.removeprefix(".")).exists():
            old.rename(whole)
    for left in folder.glob(".*"):
        _remove(left)


def prune(folder: Path, keep: int, newest: int) -> None:
    """Remove all checkpoints but the newest up to that of a step; 0 keeps all.

    Later ones are of a record that was lost, or are damaged, or the run would have gone on from them.
    """
    saved = steps(folder)
    kept = [step for step in saved if step <= newest][-keep:]
    for step in set(saved) - set(kept) if keep else ():
        shutil.rmtree(folder / f"{step:08d}")


def seconds(folder: Path, step: int) -> float:
    """Read how long training took up to a checkpoint that is whole."""
    return json.loads((folder / f"{step:08d}" / _MANIFEST).read_text())["seconds"]


@contextlib.contextmanager
def _without_orbax_log() -> Iterator[None]:
    """Keep Orbax from printing tracebacks of its threads for an error that it raises as well."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _remove(part: Path) -> None:
    """Remove what was half written under a name, Orbax's own temporary folder beside it included."""
    for _ in range(100):  # Where a save failed, Orbax's threads may still be writing for a moment.
        left = list(part.parent.glob(f"{part.name}*"))
        if not left:
            return
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.01)


def _about(config: RunConfig, path: Path) -> dict[str, Any]:
    return {"config": to_json(replace(config, steps=0)), "step": int(path.name)}


def _checksums(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _MANIFEST)
    return {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in files}
