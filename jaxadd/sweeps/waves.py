"""Train the lanes of a sweep: in waves as wide as memory allows, each a run folder of its own, so nothing is lost.

    <folder>/sweep.json                       the sweep
             sweep.csv                        one row per lane; pandas.read_csv reads it
             lanes/000000-000015/             run folder of the lanes 0 to 15, see `jaxadd.runs`

A wave resumes exactly, whoever continues it, and a finished one is left alone. So a sweep may be killed at any
moment, go on with another width of new waves or on other machines, and be worked on by several processes, each at its
own part.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxadd import config as configs
from jaxadd import costs, runs
from jaxadd.errors import UserError
from jaxadd.files import write_text
from jaxadd.lanes import side_by_side
from jaxadd.sweeps.design import Lane, Structure, Sweep, share, structures
from jaxadd.sweeps.results import Row, alone, check_waves, load, wave_folder, waves_of, write_table
from jaxadd.train import Trainer

_SHARE = 0.8  # of the memory that is free
_TURNS = 4  # Lanes for each place of a wave: so the last turn leaves an eighth of the places idle, on the average.


def run(
    sweep: Sweep,
    folder: str | os.PathLike,
    *,
    experiment: str = "",
    part: tuple[int, int] = (0, 1),
    width: int | None = None,
    keep: int = 2,
    watching: Callable[[int, int, Structure], Any] | None = None,
    note: runs.Note = print,
) -> list[Row]:
    """Train what is missing of a sweep.

    Args:
      sweep: what to train.
      folder: made if it does not exist; refused if it holds another sweep.
      experiment: recorded as what made the runs.
      part: (i, n) trains only the i-th of n parts of the lanes; each process takes its own.
      width: lanes at once in new waves; by default as many as fit the memory of the devices.
      keep: how many of the newest saved states each wave keeps; 0 keeps all.
      watching: called before each wave with its first and last lane and the structure; gives a context manager
        whose value is (watch, note), as `report.progress_bar` does.
      note: called with a sentence on anything the user should know.

    Returns:
      one row per lane, as in sweep.csv.

    Raises:
      ValueError: the folder holds another sweep, or there are more parts than lanes, or not even one lane fits the
        memory.
    """
    folder = Path(folder)
    planned = structures(sweep)
    mine = share(planned, *part)
    if width is not None and width < 1:
        raise UserError(f"width must be at least 1, got {width}")
    if keep < 0:
        raise UserError(f"keep must be at least 0, got {keep}")
    with alone(folder):
        _claim(folder, sweep, planned, note)
    write_table(folder, sweep)
    crew = _Crew(folder, experiment, width, keep, watching or (lambda *_: contextlib.nullcontext((None, note))), note)
    for structure in planned:
        for _ in crew.train(structure, mine):
            write_table(folder, sweep)
    return write_table(folder, sweep)


@dataclass(frozen=True)
class _Crew:
    """What all waves of a sweep have in common; the fields are arguments of `run`."""

    folder: Path
    experiment: str
    width: int | None
    keep: int
    watching: Callable[[int, int, Structure], Any]
    note: runs.Note

    def train(self, structure: Structure, mine: frozenset[int]) -> Iterator[None]:
        """Train my lanes of a structure, wave by wave: those that were begun, as they were begun, and the missing."""
        begun = list(waves_of(self.folder))
        covered = {i for low, high, _ in begun for i in range(low, high + 1)}
        trainer = None
        for low, high, path in begun:
            wave = [lane for lane in structure.lanes if low <= lane.index <= high]
            if low in mine and wave and not (path / "summary.json").is_file():
                places = runs.read_origin(path).places
                if trainer is None or trainer.places.count != places:  # So many have not been compiled for.
                    trainer = Trainer(structure.part(wave), places)
                trainer = self._wave(structure, wave, trainer)
                yield
        missing = [lane for lane in structure.lanes if lane.index in mine and lane.index not in covered]
        if missing:
            trainer = self._widest(structure, missing)
            for wave in _cut(missing, _hosted(trainer)):
                trainer = self._wave(structure, wave, trainer)
                yield

    def _wave(self, structure: Structure, wave: Sequence[Lane], trainer: Trainer) -> Trainer:
        """Train a wave to its end, with fewer places at once where the memory does not suffice; gives the trainer."""
        first, last, config = wave[0].index, wave[-1].index, structure.part(wave)
        if config != trainer.config:
            trainer = trainer.for_lanes(config.seeds, config.vary)
        place = wave_folder(self.folder, first, last)
        with alone(self.folder):  # Another process may have begun with some of the lanes.
            for low, high, path in waves_of(self.folder):
                if path != place and low <= last and first <= high:
                    raise UserError(f"another process trains the lanes {low} to {high}; give each a part of its own")
            runs.begin(trainer, place, self.experiment)
        while True:
            try:
                with self.watching(first, last, structure) as (watch, note):
                    runs.train(trainer, place, experiment=self.experiment, keep=self.keep, watch=watch, note=note)
                return trainer
            except jax.errors.JaxRuntimeError as error:
                trainer = Trainer(config, self._half(trainer.places.count, error))

    def _widest(self, structure: Structure, lanes: Sequence[Lane]) -> Trainer:
        """Make a trainer with as many places as fit the memory, by what the compiler says of it.

        Where lanes are computed side by side, it has more lanes than places: those that wait take the places of those
        that are done.
        """
        places, turns = min(len(lanes), self.width or len(lanes)), _TURNS if side_by_side() else 1
        while True:
            trainer = Trainer(structure.part(lanes[: places * turns]), places)
            if self.width is not None:
                return trainer
            try:
                need = costs.device_memory(trainer)
            except jax.errors.JaxRuntimeError as error:
                places = self._half(places, error)
                continue
            free = costs.free_on_device()
            excess = need / free / _SHARE
            if excess <= 1 or places == 1:
                return trainer
            fewer = max(1, min(places - 1, int(0.95 * places / excess)))
            self.note(
                f"{places} lanes at once need {need / 2**30:.1f} GiB of each device, which has {free / 2**30:.1f} "
                f"free; {fewer} are taken"
            )
            places = fewer

    def _half(self, places: int, error: jax.errors.JaxRuntimeError) -> int:
        """Give half as many places after an error for want of memory; raises any other, and where one is too many."""
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise error
        if places == 1:
            raise UserError(
                "out of memory with a single lane; choose a smaller model or batch, or free the memory that other "
                "programs take. The same command goes on"
            ) from error
        self.note(f"out of memory with {places} lanes at once, so {places // 2} are taken")
        return places // 2


def _hosted(trainer: Trainer) -> int:
    """Give how many of its lanes one wave may have for its record to fit the memory of the host."""
    lanes = trainer.places.lanes
    return max(1, min(lanes, int(lanes * _SHARE * costs.free_on_host() / costs.host_memory(trainer))))


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


def _claim(folder: Path, sweep: Sweep, planned: Sequence[Structure], note: runs.Note) -> None:
    """Write the sweep to its folder, or raise ValueError where the folder or a wave in it is of another."""
    path, theirs = folder / "sweep.json", None
    if path.is_file():
        try:
            theirs = load(folder)
        except UserError as error:
            note(f"{error}; it is written again")
    elif (folder / "lanes").is_dir():
        note(f"{folder} has lost its sweep.json; it is written again")
    elif any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files and is no sweep; choose another name")
    if theirs not in (None, sweep):
        what = "; ".join(configs.difference(sweep.base, theirs.base)) or "axes or design"
        raise UserError(f"{folder} holds another sweep, which differs in {what}; choose another name")
    check_waves(folder, planned)
    if theirs is None:
        write_text(path, json.dumps(configs.to_json(sweep), indent=2) + "\n")
