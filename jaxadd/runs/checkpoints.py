"""Resumable states on disk (Orbax), each with a manifest that proves that it is whole.

A checkpoint is an Orbax checkpoint of one item, the arrays of a state in an npz file. In Orbax's own format several
threads write the arrays. On an error such as a full disk, Orbax closes its event loop while others still write, and
each of these prints a traceback; and such a small state takes four times as long.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadd.config import RunConfig
from jaxadd.files import first_line, read_npz, write_npz
from jaxadd.serialization import to_json
from jaxadd.training.step import TrainState
from jaxadd.trees import flatten

if TYPE_CHECKING:
    from orbax.checkpoint.v1 import path as orbax_path

_MANIFEST = "manifest.json"
_ITEM, _FILE = "state", "arrays.npz"


def updates_made(state: TrainState) -> int:
    """Return the largest number of updates that a lane has made, which names the checkpoint of the state."""
    return int(np.max(np.asarray(state.step)))


def steps(folder: str | os.PathLike) -> list[int]:
    """Return the steps of the checkpoints in a folder, ascending; a file, or a folder of another name, is none."""
    named = (path for path in Path(folder).glob("*") if path.name.isdecimal() and path.is_dir())
    return sorted(int(path.name) for path in named if path.name == f"{int(path.name):08d}")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay an interrupt from the keyboard to the end, as Orbax writes in a thread, which would go on."""
    caught: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # This thread gets no interrupt, or interrupts are ignored.
        return
    signal.signal(signal.SIGINT, lambda *_: caught.append(1))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if caught:
        raise KeyboardInterrupt


@_uninterrupted()
def save(folder: Path, state: TrainState, config: RunConfig, seconds: float = 0.0) -> None:
    """Write a state as the checkpoint `<folder>/<updates made>`.

    Args:
      folder: folder of checkpoints.
      state: state of all lanes.
      config: config of the run.
      seconds: time spent on training so far, which `seconds` reads.

    Raises:
      OSError: the checkpoint cannot be written; nothing of it is left.
    """
    from orbax.checkpoint import v1 as ocp

    path = folder.absolute() / f"{updates_made(state):08d}"
    part = path.with_name(f".{path.name}.part")
    _remove(part)
    try:
        with _without_orbax_log():
            ocp.save_checkpointables(part, {_ITEM: _Arrays(flatten(state))})
        manifest = _identity(config, path) | {"crc32": _checksums(part), "seconds": seconds}
        (part / _MANIFEST).write_text(json.dumps(manifest))
    except Exception as error:  # For a full disk, Orbax raises several types; nothing is saved with any.
        _remove(part)
        reason = "no space left on the device" if "No space left" in str(error) else first_line(error)
        raise OSError(f"checkpoint {path} could not be written ({reason}); earlier ones are whole") from error
    old = path.with_name(f".{path.name}.old")
    if path.exists():
        path.rename(old)
    part.rename(path)
    _remove(old)


def load(folder: Path, step: int, config: RunConfig) -> dict[str, np.ndarray]:
    """Return the arrays of one checkpoint by path, named as by `trees.flatten`.

    Args:
      folder: folder of checkpoints.
      step: one of `steps`.
      config: config of the run; the number of steps may differ.

    Raises:
      one of UNREADABLE: the checkpoint is damaged or of another run.
    """
    from orbax.checkpoint import v1 as ocp

    path = folder.absolute() / f"{step:08d}"
    # Checked before Orbax reads it, which may do anything with a damaged file.
    manifest = json.loads((path / _MANIFEST).read_text())
    if not isinstance(manifest, dict):
        raise ValueError("its manifest holds no JSON object")
    del manifest["seconds"]
    if manifest.pop("crc32") != _checksums(path):
        raise ValueError("its files have changed since it was saved")
    if manifest != json.loads(json.dumps(_identity(config, path))):
        raise ValueError("it was saved by another run or at another step")
    return ocp.load_checkpointables(path, {_ITEM: _Arrays()})[_ITEM].arrays


class _Arrays:
    """Arrays by name as an item of an Orbax checkpoint, an `orbax.checkpoint.v1.StatefulCheckpointable`."""

    def __init__(self, arrays: dict[str, np.ndarray] | None = None):
        self.arrays = arrays or {}

    async def save(self, directory: "orbax_path.PathAwaitingCreation") -> Awaitable[None]:
        """Return what writes the arrays, which Orbax awaits once the directory exists."""

        async def write() -> None:
            write_npz(Path(await directory.await_creation()) / _FILE, self.arrays)

        return write()

    async def load(self, directory: "orbax_path.Path") -> Awaitable[None]:
        """Return what reads the arrays."""

        async def read() -> None:
            self.arrays = read_npz(Path(directory) / _FILE)

        return read()


def tidy(folder: Path) -> None:
    """Remove what a killed process left, and restore a checkpoint that it was about to replace."""
    for old in folder.glob(".*.old"):
        if not (whole := folder / old.stem.removeprefix(".")).exists():
            old.rename(whole)
    for leftover in folder.glob(".*"):
        _remove(leftover)


def prune(folder: Path, keep: int, newest: int) -> None:
    """Remove all checkpoints but the `keep` newest up to step `newest`; a `keep` of 0 keeps all.

    Later ones are useless: the run did not resume from them because they are damaged, or their metrics are lost.
    """
    saved = steps(folder)
    kept = [step for step in saved if step <= newest][-keep:]
    for step in set(saved) - set(kept) if keep else ():
        shutil.rmtree(folder / f"{step:08d}")


def seconds(folder: Path, step: int) -> float:
    """Return the time that training took up to a whole checkpoint."""
    return json.loads((folder / f"{step:08d}" / _MANIFEST).read_text())["seconds"]


@contextlib.contextmanager
def _without_orbax_log() -> Iterator[None]:
    """Silence the tracebacks that Orbax's threads print for an error that is raised anyway."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _remove(part: Path) -> None:
    """Remove a partly written checkpoint, with Orbax's temporary folder beside it."""
    for _ in range(100):  # After an error, Orbax's threads may still write for a moment.
        leftovers = list(part.parent.glob(f"{part.name}*"))
        if not leftovers:
            return
        for path in leftovers:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        time.sleep(0.01)


def _identity(config: RunConfig, path: Path) -> dict[str, Any]:
    return {"config": to_json(replace(config, steps=0)), "step": int(path.name)}


def _checksums(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _MANIFEST)
    return {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in files}
