"""The run folder: the names of its files, and the lock on it.

    <folder>/config.json    the whole config; the versions, device and lanes at once of the run
             metrics.npz    step [T], every other array [S, T, ...]
             params.npz     final parameters by path, with a leading S axis
             summary.json   headline numbers; written last, so that a run with one is complete
             checkpoints/   resumable states, one folder per step
             replays/       exact re-runs of a part, see `runs.replay`
             figures/       pictures, beside report.txt

Every file is written under a temporary name and renamed, and metrics are written before the checkpoint that belongs
to them. So whenever a process is killed or a disk is full, the newest whole checkpoint and the metrics up to it are
there, and resuming from them repeats the lost steps exactly.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jaxadd.errors import UserError
from jaxadd.files import make_folder

REPLAY_OF = "replay_of"  # The key in config.json that distinguishes a replay from a run.
_NAMED = 3  # Run folders below a folder that is none.


class Files:
    """The paths of one run folder.

    Attributes:
      folder: the run folder itself.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.config = self.folder / "config.json"
        self.metrics = self.folder / "metrics.npz"
        self.params = self.folder / "params.npz"
        self.summary = self.folder / "summary.json"
        self.checkpoints = self.folder / "checkpoints"
        self.replays = self.folder / "replays"
        self.snapshots = self.folder / "snapshots"

    def snapshot(self, step: int) -> Path:
        """Return the path of the parameters that a replay saves at a step."""
        return self.snapshots / f"{step:08d}.npz"

    def refuse_other_files(self) -> None:
        """Raise UserError for a folder that holds files but no run."""
        no_run = self.folder.is_dir() and not self.config.exists()
        if no_run and any(not path.name.startswith(".") for path in self.folder.iterdir()):
            raise UserError(f"{self.folder} holds files but no run; choose another name")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes; raises UserError where one is training in it."""
        make_folder(self.folder)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(
                f"another process is working on {self.folder}; wait for it or choose another name"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def remove_unfinished(self) -> None:
        """Remove files that a killed process left partly written."""
        for leftover in self.folder.glob(".*.part"):
            leftover.unlink()

    def read_config(self) -> dict[str, Any]:
        """Return config.json as plain data; raises UserError where the folder is not a run folder."""
        try:
            data = json.loads(self.config.read_text())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{self.folder} {self._no_run()}") from error
        except IsADirectoryError as error:
            raise UserError(f"{self.config} is damaged: it is a folder, and should be a file") from error
        except ValueError as error:
            raise UserError(f"{self.config} is damaged: it is not JSON ({error})") from error
        if not isinstance(data, dict):
            raise UserError(f"{self.config} is damaged: it holds no JSON object")
        if REPLAY_OF in data:
            raise UserError(f"{self.folder} is a replay of {data[REPLAY_OF]}, not a run")
        return data

    def _no_run(self) -> str:
        """Return why the folder is not a run folder, with a few of the run folders below it."""
        if self.folder.is_file():
            return "is a file, not a run folder"
        below = (
            file.parent for depth in range(1, 4) for file in sorted(self.folder.glob("*/" * depth + "config.json"))
        )
        runs = (folder for folder in below if Files(folder).checkpoints.is_dir())
        first, more = list(itertools.islice(runs, _NAMED)), next(runs, None)
        if first:
            return (
                f"is not a run folder; run folders below it are {', '.join(map(str, first))}{', …' if more else ''}"
            )
        return f"is not a run folder: there is no {self.config}"


def check_name(name: str) -> str:
    """Return the name of a folder unchanged; raises UserError where it is a path or empty."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise UserError(f"a name must be the name of one folder, without slashes, got {name!r}")
    return name
