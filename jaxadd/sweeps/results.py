"""What a sweep has given so far: where it lies, its table, its lanes' curves, and when they reached something."""

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
from jaxadd.files import UNREADABLE, first_line, write_text
from jaxadd.runs import load as load_run
from jaxadd.runs import open_run
from jaxadd.runs.folder import Files
from jaxadd.runs.summary import FINAL, step_of, thresholds
from jaxadd.serialization import difference, from_json
from jaxadd.sweeps.design import Structure, Sweep, structures
from jaxadd.sweeps.outcomes import Survival, kaplan_meier

Row = dict[str, Any]
WAITING, UNFINISHED = "waiting", "unfinished"
_POINTS = 400  # of a lane's curve, evenly spaced in the logarithm of the step


def _move(what: Path | str = "it") -> str:
    return f"move {what} away, and the same command trains its lanes again"


def sweep_file(folder: str | os.PathLike) -> Path:
    """Return the path of the file that says which sweep a folder holds."""
    return Path(folder) / "sweep.json"


def table_file(folder: Path) -> Path:
    """Return the path of the table with a row per lane."""
    return folder / "sweep.csv"


def lanes_folder(folder: Path) -> Path:
    """Return the folder of a sweep's batches."""
    return folder / "lanes"


def load(folder: str | os.PathLike) -> Sweep:
    """Read which sweep a folder holds; raises ValueError where it is none."""
    path = sweep_file(folder)
    try:
        return from_json(json.loads(path.read_text()), Sweep)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a sweep: {first_line(error)}") from error


def batches_of(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """List the batches that were begun: first lane, last lane, run folder.

    Raises:
      ValueError: one has lost its config, or two have a lane in common.
    """
    end = -1
    for path in sorted(lanes_folder(folder).glob("*-*")):
        first, _, last = path.name.partition("-")
        if not (first.isdecimal() and last.isdecimal()):
            continue
        visible = [inside.name for inside in path.iterdir() if not inside.name.startswith(".")]
        # Looked at last: another process makes it first.
        if not Files(path).config.is_file():
            if visible:
                raise UserError(f"{path} has lost its config.json; {_move()}")
            continue
        if int(first) <= end:
            raise UserError(f"{path} has lanes that another batch beside it has, too; {_move()}")
        end = int(last)
        yield int(first), end, path


def check_batches(folder: Path, planned: Sequence[Structure]) -> None:
    """Raise ValueError where a batch is not what the sweep makes of its lanes: changed by hand, or made longer."""
    lanes = {lane.index: (structure, lane) for structure in planned for lane in structure.lanes}
    for first, last, path in batches_of(folder):
        found = [lanes[i] for i in range(first, last + 1) if i in lanes]
        try:
            config = open_run(path).config
        except UserError as error:
            raise UserError(f"{error}; {_move(path)}") from error
        if len(found) <= last - first or any(structure is not found[0][0] for structure, _ in found):
            raise UserError(f"{path} has lanes that the sweep has not, or not together; {_move()}")
        ours = found[0][0].part([lane for _, lane in found])
        if changes := difference(ours, config):
            raise UserError(f"{path} is not a batch of this sweep ({'; '.join(changes)}); {_move()}")


def batch_folder(folder: Path, first: int, last: int) -> Path:
    """Name the run folder of the batch with these lanes."""
    return lanes_folder(folder) / f"{first:06d}-{last:06d}"


def is_batch(folder: Path) -> bool:
    """Tell whether a run folder is a batch of a sweep."""
    return sweep_file(folder.resolve().parent.parent).is_file()


def write_table(folder: Path, sweep: Sweep) -> list[Row]:
    """Write sweep.csv anew from what there is, and give its rows."""
    with alone(folder):
        found = rows(folder, sweep)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
        write_text(table_file(folder), text.getvalue())
    return found


def alone(folder: Path) -> FileLock:
    """Keep other processes of the same sweep from writing the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".lock")


def rows(folder: str | os.PathLike, sweep: Sweep) -> list[Row]:
    """Read what each lane gave.

    Returns:
      one dict per lane, all with the same keys: "lane", "seed", the axes by name, "status", "steps" made,
      "seconds", its share by steps of the time that its batch ran, without compiling, "step_of_<metric>_<threshold>"
      for each of `summaries.thresholds`, and "final_<metric>"; None where it is not known, or was not reached.
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
                    f"{file} is damaged ({first_line(error)}); without it, the same command mends it"
                ) from error
            made = max(1, sum(lane["steps"] for lane in lanes))
            seconds |= {first + i: summary["run_seconds"] * lane["steps"] / made for i, lane in enumerate(lanes)}
    names = [step_of(stop) for stop in thresholds(sweep.base)] + [f"final_{metric}" for metric in FINAL]
    found = []
    for structure in structures(sweep):
        for lane in structure.lanes:
            result = results.get(lane.index, {})
            row: Row = {"lane": lane.index, "seed": lane.seed} | lane.setting
            row["status"] = result.get("status", status.get(lane.index, WAITING))
            row["steps"] = result.get("steps")
            row["seconds"] = round(seconds[lane.index], 3) if lane.index in seconds else None
            for name in names:
                row[name] = result.get(name)
            found.append(row)
    return found


def lane_curves(folder: str | os.PathLike, *names: str) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Read metrics of every lane begun, thinned: by name and lane (steps, values), finite ones only.

    Args:
      folder: of the sweep.
      names: of the metrics, such as "test_loss".

    Raises:
      ValueError: a record is damaged.
    """
    found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {name: {} for name in names}
    for first, _, path in batches_of(Path(folder)):
        if not any(file.is_file() for file in (Files(path).metrics, Files(path).summary)):
            continue  # It has not recorded anything yet.
        metrics = load_run(path).metrics
        for name in names:
            for i, values in enumerate(metrics[name]):
                if (known := np.flatnonzero(np.isfinite(values))).size:
                    step = metrics["step"][known]
                    wanted = np.geomspace(1, step[-1] + 1, _POINTS).round() - 1
                    keep = np.unique(np.searchsorted(step, wanted).clip(max=len(step) - 1))
                    found[name][first + i] = step[keep], values[known][keep]
    return found


def survival(rows: Sequence[Row], reached: str, steps: int) -> Survival:
    """Estimate the share of lanes left before a threshold.

    Args:
      rows: the lanes, as `rows` gives them.
      reached: the column with the step of it, see `step_of`.
      steps: of the config: a lane that diverged counts as one that had not come so far by then, for it never will.
    """
    ended = [steps if row["status"] == "diverged" else row["steps"] for row in rows]
    return kaplan_meier([row[reached] for row in rows], ended)
