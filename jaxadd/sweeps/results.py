"""The results of a sweep so far: its files, its table, the curves of its lanes, and survival curves."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from jaxadd.errors import UserError
from jaxadd.files import UNREADABLE, first_line, make_folder, write_text
from jaxadd.runs import load as load_run
from jaxadd.runs import open_run
from jaxadd.runs.folder import Files
from jaxadd.runs.summary import FINAL, step_of, thresholds
from jaxadd.serialization import difference, from_json
from jaxadd.sweeps.design import Structure, Sweep, structures
from jaxadd.sweeps.outcomes import Survival, kaplan_meier

Row = dict[str, Any]
WAITING, UNFINISHED = "waiting", "unfinished"
_POINTS = 400  # Of the curve of a lane, evenly spaced in the logarithm of the step.


def _move(path: Path | str = "it") -> str:
    return f"move {path} away, and the same command trains its lanes again"


def sweep_file(folder: str | os.PathLike) -> Path:
    """Return the path of the file with the sweep of a folder."""
    return Path(folder) / "sweep.json"


def table_file(folder: Path) -> Path:
    """Return the path of the table with a row per lane."""
    return folder / "sweep.csv"


def lanes_folder(folder: Path) -> Path:
    """Return the folder of a sweep's batches."""
    return folder / "lanes"


def load(folder: str | os.PathLike) -> Sweep:
    """Return the sweep of a folder; raises UserError where the folder has none."""
    path = sweep_file(folder)
    try:
        return from_json(json.loads(path.read_text()), Sweep)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a sweep: {first_line(error)}") from error


def batches_of(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield the batches that were begun: first lane, last lane, run folder.

    Raises:
      UserError: a batch has lost its config, or two have a lane in common.
    """
    end = -1
    for path in sorted(lanes_folder(folder).glob("*-*")):
        first, _, last = path.name.partition("-")
        if not (first.isdecimal() and last.isdecimal()):
            continue
        has_files = any(not inside.name.startswith(".") for inside in path.iterdir())
        # Checked after listing the files: another process that begins the batch writes its config first.
        if not Files(path).config.is_file():
            if has_files:
                raise UserError(f"{path} has lost its config.json; {_move()}")
            continue
        if int(first) <= end:
            raise UserError(f"{path} has lanes that another batch has as well; {_move()}")
        end = int(last)
        yield int(first), end, path


def check_batches(folder: Path, planned: Sequence[Structure]) -> None:
    """Raise UserError where the config of a batch is not that of its lanes: edited, or extended."""
    lanes = {lane.number: (structure, lane) for structure in planned for lane in structure.lanes}
    for first, last, path in batches_of(folder):
        members = [lanes[i] for i in range(first, last + 1) if i in lanes]
        try:
            config = open_run(path).config
        except UserError as error:
            raise UserError(f"{error}; {_move(path)}") from error
        if len(members) <= last - first or any(structure is not members[0][0] for structure, _ in members):
            raise UserError(f"{path} has lanes that this sweep does not have, or not in one structure; {_move()}")
        expected = members[0][0].part([lane for _, lane in members])
        if changes := difference(expected, config):
            raise UserError(f"{path} is not a batch of this sweep ({'; '.join(changes)}); {_move()}")


def batch_folder(folder: Path, first: int, last: int) -> Path:
    """Return the run folder of the batch with these lanes."""
    return lanes_folder(folder) / f"{first:06d}-{last:06d}"


def is_batch(folder: Path) -> bool:
    """Return whether a run folder is a batch of a sweep."""
    return sweep_file(folder.resolve().parent.parent).is_file()


def write_table(folder: Path, sweep: Sweep) -> list[Row]:
    """Write sweep.csv from the results so far, and return its rows."""
    with alone(folder):
        table = rows(folder, sweep)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        write_text(table_file(folder), text.getvalue())
    return table


def alone(folder: Path) -> FileLock:
    """Return a lock against other processes that write files of the same sweep."""
    make_folder(folder)
    return FileLock(folder / ".lock")


def rows(folder: str | os.PathLike, sweep: Sweep) -> list[Row]:
    """Return the results of every lane.

    Returns:
      one dict per lane, all with the same keys: "lane", "seed", the axes by name, "status", "steps" made, "seconds",
      which is the run time of its batch without compilation, divided among lanes by their steps,
      "step_of_<metric>_<threshold>" for each of `summary.thresholds`, and "final_<metric>". None where a value is
      unknown or a threshold was not reached.
    """
    results: dict[int, dict[str, Any]] = {}
    status: dict[int, str] = {}
    seconds: dict[int, float] = {}
    for first, last, path in batches_of(Path(folder)):
        status |= dict.fromkeys(range(first, last + 1), UNFINISHED)
        if (file := Files(path).summary).is_file():
            try:
                summary = json.loads(file.read_text())
                lanes = summary["lanes"]
                results |= dict(zip(range(first, last + 1), lanes, strict=True))
            except (*UNREADABLE, TypeError) as error:
                raise UserError(
                    f"{file} is damaged ({first_line(error)}); remove it, and the same command writes it again"
                ) from error
            made = max(1, sum(lane["steps"] for lane in lanes))
            seconds |= {first + i: summary["run_seconds"] * lane["steps"] / made for i, lane in enumerate(lanes)}
    names = [step_of(stop) for stop in thresholds(sweep.base)] + [f"final_{metric}" for metric in FINAL]
    table = []
    for structure in structures(sweep):
        for lane in structure.lanes:
            result = results.get(lane.number, {})
            row: Row = {"lane": lane.number, "seed": lane.seed} | lane.setting
            row["status"] = result.get("status", status.get(lane.number, WAITING))
            row["steps"] = result.get("steps")
            row["seconds"] = round(seconds[lane.number], 3) if lane.number in seconds else None
            for name in names:
                row[name] = result.get(name)
            table.append(row)
    return table


def lane_curves(folder: str | os.PathLike, *names: str) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Return metrics of every lane that was begun, as curves of at most 400 finite values.

    Args:
      folder: folder of the sweep.
      names: names of metrics, such as "test_loss".

    Returns:
      by name and by lane, the steps and the values, both `[·]`.

    Raises:
      UserError: the metrics of a batch are damaged.
    """
    curves: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {name: {} for name in names}
    for first, _, path in batches_of(Path(folder)):
        if not any(file.is_file() for file in (Files(path).metrics, Files(path).summary)):
            continue  # Nothing is recorded yet.
        metrics = load_run(path).metrics
        for name in names:
            for i, values in enumerate(metrics[name]):
                if (known := np.flatnonzero(np.isfinite(values))).size:
                    step = metrics["step"][known]
                    spaced = np.geomspace(1, step[-1] + 1, _POINTS).round() - 1
                    keep = np.unique(np.searchsorted(step, spaced).clip(max=len(step) - 1))
                    curves[name][first + i] = step[keep], values[known][keep]
    return curves


def survival(rows: Sequence[Row], reached: str, steps: int) -> Survival:
    """Estimate the fraction of lanes that have not yet reached a threshold.

    Args:
      rows: the lanes, as `rows` returns them.
      reached: name of the column with the step at the threshold, see `summary.step_of`.
      steps: steps of the config, at which a lane that diverged is censored, since it never reaches the threshold.
    """
    ended = [steps if row["status"] == "diverged" else row["steps"] for row in rows]
    return kaplan_meier([row[reached] for row in rows], ended)
