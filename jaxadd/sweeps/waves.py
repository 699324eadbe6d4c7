"""Train the lanes of a sweep: in waves as wide as memory allows, each a run folder of its own, so nothing is lost.

    <folder>/sweep.json                       the sweep
             sweep.csv                        one row per lane; pandas.read_csv reads it
             lanes/000000-000015/             run folder of the lanes 0 to 15, see `jaxadd.runs`

A wave resumes exactly, whoever continues it, and a finished one is left alone. So a sweep may be killed at any
moment, go on with another width or on other machines, and be worked on by several processes, each at its own part.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxadd import checkpoints, runs
from jaxadd import config as configs
from jaxadd.errors import UserError
from jaxadd.files import write_text
from jaxadd.sweeps.design import Lane, Structure, Sweep, share, structures
from jaxadd.sweeps.results import Row, alone, load, waves_of, write_table
from jaxadd.train import METRICS, Trainer

Note = Callable[[str], None]
_SHARE = 0.8  # of the memory that is free


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
      part: (i, n) trains only the i-th of n parts of the lanes; each process takes its own.
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
    mine = share(planned, *part)
    if width is not None and width < 1:
        raise UserError(f"width must be at least 1, got {width}")
    with alone(folder):
        _claim(folder, sweep)
    write_table(folder, sweep)
    for structure in planned:
        _train(structure, mine, folder, experiment, width, watching, note, lambda: write_table(folder, sweep))
    return write_table(folder, sweep)


def _train(structure, mine, folder, experiment, width, watching, note, done) -> None:
    """Train my lanes of a structure, in the waves that exist already, and in new ones where there are none."""
    begun = list(waves_of(folder))
    covered = {i for low, high, _ in begun for i in range(low, high + 1)}
    missing = [lane for lane in structure.lanes if lane.index in mine and lane.index not in covered]
    waves = [
        [lane for lane in structure.lanes if low <= lane.index <= high]
        for low, high, path in begun
        if low in mine and low in structure.indices() and not (path / "summary.json").is_file()
    ]
    trainer = None
    if missing:
        trainer = _widest(structure, missing, width, note)
        waves += _cut(missing, len(trainer.config.seeds))
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
            if checkpoints.steps(place / "checkpoints"):
                raise UserError(
                    f"out of memory with {len(wave)} lanes at once, which fitted before: something else takes the "
                    "memory; free it, and the same command goes on"
                ) from error
            half = len(wave) // 2
            note(f"out of memory with {len(wave)} lanes at once, so they are trained {half} at a time")
            shutil.rmtree(place)
            kept = [other for other in waves if _place(folder, other).exists()]
            new = [lane for other in (wave, *waves) if other not in kept for lane in other]
            waves, trainer = [*kept, *_cut(new, half)], None
        done()


def _widest(structure: Structure, lanes: Sequence[Lane], width: int | None, note: Note) -> Trainer:
    """Make a trainer of as many lanes as fit the memory, by what the compiler says of it."""
    if width is not None:
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


def _cut(lanes: Sequence[Lane], size: int) -> list[list[Lane]]:
    """Cut lanes into waves of at most `size`, equally wide, so that they share what is compiled, and without gaps."""
    stretches: list[list[Lane]] = []
    for lane in lanes:
        if stretches and lane.index == stretches[-1][-1].index + 1:
            stretches[-1].append(lane)
        else:
            stretches.append([lane])
    waves = []
    for stretch in stretches:
        fair = -(-len(stretch) // -(-len(stretch) // size))
        waves += [stretch[i : i + fair] for i in range(0, len(stretch), fair)]
    return waves


def _claim(folder: Path, sweep: Sweep) -> None:
    """Write the sweep to its folder, or raise ValueError where the folder holds another."""
    path = folder / "sweep.json"
    text = json.dumps(configs.to_json(sweep), indent=2) + "\n"
    if path.is_file():
        theirs = load(folder)
        if theirs != sweep:
            what = "; ".join(configs.difference(sweep.base, theirs.base)) or "axes or design"
            raise UserError(f"{folder} holds another sweep, which differs in {what}; choose another name")
        return
    if any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files and is no sweep; choose another name")
    (folder / "lanes").mkdir(parents=True, exist_ok=True)
    write_text(path, text)
