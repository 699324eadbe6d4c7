"""Train the lanes of a sweep: in waves as wide as memory allows, each a run folder of its own, so nothing is lost.

    <folder>/sweep.json                       the sweep
             sweep.csv                        one row per lane; pandas.read_csv reads it
             lanes/000000-000015/             run folder of the lanes 0 to 15, see `jaxadd.runs`

A wave resumes exactly, whoever continues it, and a finished one is left alone. So a sweep may be killed at any
moment, go on with another width or on other machines, and be worked on by several processes, each at its own part.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock

from jaxadd import config as configs
from jaxadd import runs
from jaxadd.errors import UserError
from jaxadd.files import UNREADABLE, first_line, write_text
from jaxadd.sweeps.design import Lane, Structure, Sweep, check_parts, structures
from jaxadd.train import METRICS, Trainer

Note = Callable[[str], None]
Row = dict[str, Any]
WAITING, UNFINISHED = "waiting", "unfinished"
_SHARE = 0.8  # of the memory that is free
_POINTS = 400  # of a lane's curve, evenly spaced in the logarithm of the step


def run(
    sweep: Sweep,
    folder: str | os.PathLike,
    *,
    experiment: str = "",
    part: tuple[int, int] = (0, 1),
    width: int | None = None,
    watching: Callable[[int, int, Structure], Any] | None = None,
    note: Note = print,
) -> list[Row]:
    """Train what is missing of a sweep.

    Args:
      sweep: what to train.
      folder: made if it does not exist; refused if it holds another sweep.
      experiment: recorded as what made the runs.
      part: (i, n) trains only the i-th of n parts of every structure's lanes; each process takes its own.
      width: lanes at once; by default as many as fit the memory of the devices.
      watching: called before each wave with its first and last lane and the structure; gives a context manager
        whose value is (watch, note), as `report.progress_bar` does.
      note: called with a sentence on anything the user should know.

    Returns:
      one row per lane, as in sweep.csv.

    Raises:
      ValueError: the folder holds another sweep, or there are more parts than lanes.
    """
    folder = Path(folder)
    planned = structures(sweep)
    index, parts = part
    if not 0 <= index < parts:
        raise UserError(f"a part is one of 0 to {parts - 1} of {parts}, got {index}")
    check_parts(planned, parts)
    with _alone(folder):
        _claim(folder, sweep)
    write_table(folder, sweep)
    for structure in planned:
        _train(structure, folder, experiment, part, width, watching, note, lambda: write_table(folder, sweep))
    return write_table(folder, sweep)


def _train(structure, folder, experiment, part, width, watching, note, done) -> None:
    """Train this part's lanes of a structure, in the waves that exist already and in new ones for the others."""
    index, parts = part
    first, last = (round(len(structure.lanes) * i / parts) for i in (index, index + 1))
    mine = structure.lanes[first:last]
    begun = list(_waves(folder))
    covered = {i for low, high, _ in begun for i in range(low, high + 1)}
    missing = [lane for lane in mine if lane.index not in covered]
    waves = [
        [lane for lane in structure.lanes if low <= lane.index <= high]
        for low, high, path in begun
        if mine and mine[0].index <= low <= mine[-1].index and not (path / "summary.json").is_file()
    ]
    trainer = None
    if missing:
        trainer = _widest(structure, missing, width, note)
        size = len(trainer.config.seeds)
        for stretch in _stretches(missing):
            # Equally wide, so that they share what is compiled.
            fair = -(-len(stretch) // -(-len(stretch) // size))
            waves += [stretch[i : i + fair] for i in range(0, len(stretch), fair)]
    while waves:
        wave = waves.pop(0)
        config = structure.part(wave)
        trainer = Trainer(config) if trainer is None else trainer.for_lanes(config.seeds, config.vary)
        place = _place(folder, wave)
        try:
            if watching is None:
                runs.train(trainer, place, experiment=experiment, note=note)
            else:
                with watching(wave[0].index, wave[-1].index, structure) as (watch, bar_note):
                    runs.train(trainer, place, experiment=experiment, watch=watch, note=bar_note)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or len(wave) == 1:
                raise
            half = len(wave) // 2
            note(f"out of memory with {len(wave)} lanes at once, so they are trained {half} at a time")
            shutil.rmtree(place)
            waves = [wave[:half], wave[half:], *waves]
            trainer = None
        done()


def _widest(structure: Structure, lanes: Sequence[Lane], width: int | None, note: Note) -> Trainer:
    """Make a trainer of as many lanes as fit the memory, by what the compiler says of it."""
    if width is not None:
        if width < 1:
            raise UserError(f"width must be at least 1, got {width}")
        return Trainer(structure.part(lanes[:width]))
    count = len(lanes)
    while True:
        trainer = Trainer(structure.part(lanes[:count]))
        if count == 1:
            return trainer
        need, free = trainer.memory(), _free(trainer)
        host = _recorded(trainer)
        share = max(need / free, host / _free_on_host())
        if share <= _SHARE:
            return trainer
        fewer = max(1, min(count - 1, int(0.95 * count * _SHARE / share)))
        note(
            f"{count} lanes at once need {need / 2**30:.1f} GiB of each device and {host / 2**30:.1f} GiB for their "
            f"record; {fewer} are taken"
        )
        count = fewer


def _free(trainer: Trainer) -> int:
    """Give the bytes that a device has free; CPU devices share those of the machine."""
    device = trainer.mesh.devices.flat[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if not stats:
        return _free_on_host() // trainer.mesh.size
    return stats["bytes_limit"] - stats["bytes_in_use"]


def _free_on_host() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _recorded(trainer: Trainer) -> int:
    """Give the bytes of the record on the host: kept, joined with what is new, and written."""
    config = trainer.config
    columns = len(METRICS) + len(config.task.sizes.read)
    return 3 * 4 * columns * (config.steps + 1) * len(config.seeds)


def _place(folder: Path, wave: Sequence[Lane]) -> Path:
    return folder / "lanes" / f"{wave[0].index:06d}-{wave[-1].index:06d}"


def _waves(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """List the waves that were begun: first lane, last lane, run folder."""
    for path in sorted((folder / "lanes").glob("*-*")):
        first, _, last = path.name.partition("-")
        if first.isdecimal() and last.isdecimal() and (path / "config.json").is_file():
            yield int(first), int(last), path


def _stretches(lanes: Sequence[Lane]) -> list[list[Lane]]:
    """Cut lanes where their indices have a gap."""
    stretches: list[list[Lane]] = []
    for lane in lanes:
        if stretches and lane.index == stretches[-1][-1].index + 1:
            stretches[-1].append(lane)
        else:
            stretches.append([lane])
    return stretches


def _claim(folder: Path, sweep: Sweep) -> None:
    """Write the sweep to its folder, or raise ValueError where the folder holds another."""
    path = folder / "sweep.json"
    text = json.dumps(configs.to_json(sweep), indent=2) + "\n"
    if path.is_file():
        theirs = load(folder)
        if theirs != sweep:
            ours, others = configs.flat(sweep.base), configs.flat(theirs.base)
            changed = [name for name in ours.keys() | others.keys() if ours.get(name) != others.get(name)]
            what = ", ".join(sorted(changed)) or "axes or design"
            raise UserError(f"{folder} holds another sweep, which differs in {what}; choose another name")
        return
    if any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files and is no sweep; choose another name")
    (folder / "lanes").mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def load(folder: str | os.PathLike) -> Sweep:
    """Read which sweep a folder holds; raises ValueError where it is none."""
    path = Path(folder) / "sweep.json"
    try:
        return configs.from_json(json.loads(path.read_text()), Sweep)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a sweep: {first_line(error)}") from error


def write_table(folder: Path, sweep: Sweep) -> list[Row]:
    """Write sweep.csv anew from what there is, and give its rows."""
    with _alone(folder):
        found = rows(folder, sweep)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
        write_text(folder / "sweep.csv", text.getvalue())
    return found


def _alone(folder: Path) -> FileLock:
    """Keep other processes of the same sweep from writing the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".lock")


def rows(folder: str | os.PathLike, sweep: Sweep) -> list[Row]:
    """Read what each lane gave.

    Returns:
      one dict per lane, all with the same keys: "lane", "seed", the axes by name, "status", "steps" made,
      "seconds", its share by steps of the time that its wave ran, without compiling (None where that was resumed),
      "step_of_<metric>_<threshold>" for each of `runs.THRESHOLDS`, and "final_<metric>"; None where it is not known,
      or was not reached.
    """
    results: dict[int, dict[str, Any]] = {}
    status: dict[int, str] = {}
    seconds: dict[int, float] = {}
    for first, last, path in _waves(Path(folder)):
        status |= dict.fromkeys(range(first, last + 1), UNFINISHED)
        if (path / "summary.json").is_file():
            summary = json.loads((path / "summary.json").read_text())
            lanes = summary["lanes"]
            results |= dict(zip(range(first, last + 1), lanes, strict=True))
            made = sum(lane["steps"] for lane in lanes)
            if made == summary["lane_steps_made"]:
                seconds |= {first + i: summary["run_seconds"] * lane["steps"] / made for i, lane in enumerate(lanes)}
    found = []
    for structure in structures(sweep):
        for lane in structure.lanes:
            result = results.get(lane.index, {})
            row: Row = {"lane": lane.index, "seed": lane.seed} | lane.setting
            row["status"] = result.get("status", status.get(lane.index, WAITING))
            row["steps"] = result.get("steps")
            row["seconds"] = round(seconds[lane.index], 3) if lane.index in seconds else None
            for metric, threshold in runs.THRESHOLDS:
                sign = ">=" if metric.endswith("accuracy") else "<="
                row[f"step_of_{metric}_{threshold:g}"] = result.get(f"step of {metric} {sign} {threshold:g}")
            for metric in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
                row[f"final_{metric}"] = result.get(f"final {metric}")
            found.append(row)
    return found


def lane_curves(folder: str | os.PathLike, *names: str) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Read metrics of every lane begun, thinned: by name and lane (steps, values), measured ones only.

    Args:
      folder: of the sweep.
      names: of the metrics, such as "test_loss".
    """
    found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {name: {} for name in names}
    for first, _, path in _waves(Path(folder)):
        try:
            metrics = runs.load(path).metrics
        except UserError:
            continue  # It has not recorded anything yet.
        for name in names:
            for i, values in enumerate(metrics[name]):
                if (known := np.flatnonzero(~np.isnan(values))).size:
                    step = metrics["step"][known]
                    wanted = np.geomspace(1, step[-1] + 1, _POINTS).round() - 1
                    keep = np.unique(np.searchsorted(step, wanted).clip(max=len(step) - 1))
                    found[name][first + i] = step[keep], values[known][keep]
    return found
