"""Training of a sweep in batches of lanes, each of which has a run folder.

    <folder>/sweep.json                       the sweep
             sweep.csv                        one row per lane; pandas.read_csv reads it
             lanes/000000-000015/             run folder of the lanes 0 to 15, see `jaxadd.runs`

A batch resumes exactly, in any process, and a finished one is not trained again. So a sweep may be killed at any
moment, continue with another width of new batches or on other machines, and be trained by several processes, each
with its part of the lanes.

Batches bound memory and make a sweep resumable. Within a batch, waiting lanes take the slots of lanes that are done
(`training.trainer.Trainer.groups`), which keeps an accelerator busy when lanes stop at a threshold.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxadd.errors import UserError
from jaxadd.files import write_text
from jaxadd.lanes import side_by_side
from jaxadd.runs import Note, begin, open_run, train_in
from jaxadd.runs.folder import Files
from jaxadd.serialization import check_importable, difference, to_json
from jaxadd.sweeps.design import Lane, Structure, Sweep, lanes_of_part, structures
from jaxadd.sweeps.results import (
    Row,
    alone,
    batch_folder,
    batches_of,
    check_batches,
    lanes_folder,
    load,
    sweep_file,
    write_table,
)
from jaxadd.training import costs
from jaxadd.training.trainer import Trainer

_MEMORY_FRACTION = 0.8  # Of the free memory.
_GROUPS = 4  # Lanes per slot of a batch. On average, half of the slots of the last group are idle: an eighth of all.


def run(
    sweep: Sweep,
    folder: str | os.PathLike,
    *,
    part: tuple[int, int] = (0, 1),
    width: int | None = None,
    keep: int = 2,
    watching: Callable[[int, int, Structure], Any] | None = None,
    note: Note = print,
) -> list[Row]:
    """Train the lanes of a sweep that are not finished.

    Args:
      sweep: the sweep.
      folder: folder of the sweep, created if it does not exist.
      part: (i, n) trains only the i-th of n parts of the lanes, one for each of several processes.
      width: number of lanes trained at once in new batches; by default as many as fit the memory of the devices.
      keep: number of saved states that each batch keeps, the newest ones; 0 keeps all.
      watching: called before each batch with its first and last lane and the structure; returns a context manager
        whose value is (watch, note), as arguments of `runs.train_in`.
      note: called with a sentence on anything the user should know.

    Returns:
      one row per lane, as in sweep.csv.

    Raises:
      UserError: the folder holds another sweep, there are more parts than lanes, one lane does not fit the memory,
        or a class of the config is defined where it cannot be imported from.
    """
    folder = Path(folder)
    planned = structures(sweep)
    selected = lanes_of_part(planned, *part)
    if width is not None and width < 1:
        raise UserError(f"width must be at least 1, got {width}")
    if keep < 0:
        raise UserError(f"keep must be at least 0, got {keep}")
    check_importable(sweep.base)
    with alone(folder):
        _prepare(folder, sweep, planned, note)
    write_table(folder, sweep)
    training = _Training(folder, width, keep, watching or (lambda *_: contextlib.nullcontext((None, note))), note)
    for structure in planned:
        for _ in training.train(structure, selected):
            write_table(folder, sweep)
    return write_table(folder, sweep)


@dataclass(frozen=True)
class _Training:
    """The training of a sweep's batches; the fields are arguments of `run`."""

    folder: Path
    width: int | None
    keep: int
    watching: Callable[[int, int, Structure], Any]
    note: Note

    def train(self, structure: Structure, selected: frozenset[int]) -> Iterator[None]:
        """Train the selected lanes of a structure, yielding after each batch.

        First, batches that were begun are continued as they are; then lanes that are in no batch are trained in new
        ones.
        """
        begun = list(batches_of(self.folder))
        covered = {i for low, high, _ in begun for i in range(low, high + 1)}
        trainer = None
        for low, high, path in begun:
            batch = [lane for lane in structure.lanes if low <= lane.number <= high]
            if low in selected and batch and not Files(path).summary.is_file():
                slots = open_run(path).machine.lanes_at_once
                if trainer is None or trainer.slots.size != slots:
                    trainer = Trainer(structure.part(batch), slots)
                trainer = self._train_batch(structure, batch, trainer)
                yield
        missing = [lane for lane in structure.lanes if lane.number in selected and lane.number not in covered]
        if missing:
            trainer = self._widest(structure, missing)
            for batch in _cut(missing, _hosted(trainer)):
                trainer = self._train_batch(structure, batch, trainer)
                yield

    def _train_batch(self, structure: Structure, batch: Sequence[Lane], trainer: Trainer) -> Trainer:
        """Train a batch to its end, with fewer slots if memory does not suffice, and return its trainer."""
        first, last, config = batch[0].number, batch[-1].number, structure.part(batch)
        if config != trainer.config:
            trainer = trainer.for_lanes(config.seeds, config.vary)
        folder = batch_folder(self.folder, first, last)
        with alone(self.folder):  # Another process may have begun to train some of the lanes.
            for low, high, path in batches_of(self.folder):
                if path != folder and low <= last and first <= high:
                    raise UserError(f"another process trains lanes {low} to {high}; give each process its own part")
            begin(trainer, folder)
        while True:
            try:
                with self.watching(first, last, structure) as (watch, note):
                    train_in(trainer, folder, keep=self.keep, watch=watch, note=note)
                return trainer
            except jax.errors.JaxRuntimeError as error:
                trainer = Trainer(config, self._half(trainer.slots.size, error))

    def _widest(self, structure: Structure, lanes: Sequence[Lane]) -> Trainer:
        """Return a trainer with as many slots as fit the memory, by the analysis of the compiler.

        Where lanes are computed side by side, it has more lanes than slots, and waiting lanes take the slots of those
        that are done. With a stop at a threshold, lanes end at very different steps, and a batch without waiting
        lanes would take as long as its slowest one.
        """
        slots, groups = min(len(lanes), self.width or len(lanes)), _GROUPS if side_by_side() else 1
        while True:
            trainer = Trainer(structure.part(lanes[: slots * groups]), slots)
            if self.width is not None:
                return trainer
            try:
                need = costs.device_memory(trainer)
            except jax.errors.JaxRuntimeError as error:
                slots = self._half(slots, error)
                continue
            free = costs.free_on_device()
            excess = need / free / _MEMORY_FRACTION
            if excess <= 1 or slots == 1:
                return trainer
            fewer = max(1, min(slots - 1, int(0.95 * slots / excess)))
            self.note(
                f"{slots} lanes at once need {need / 2**30:.1f} GiB of each device, which has {free / 2**30:.1f} GiB "
                f"free; training {fewer} at once"
            )
            slots = fewer

    def _half(self, slots: int, error: jax.errors.JaxRuntimeError) -> int:
        """Return half as many slots after running out of memory; raises other errors, and UserError for one slot."""
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise error
        if slots == 1:
            raise UserError(
                "out of memory with a single lane; choose a smaller model or batch size, or free memory that other "
                "programs use and repeat the command, which continues the sweep"
            ) from error
        self.note(f"out of memory with {slots} lanes at once; training {slots // 2} at once")
        return slots // 2


def _hosted(trainer: Trainer) -> int:
    """Return how many of the trainer's lanes one batch may have for its metrics to fit the memory of the host."""
    lanes = trainer.slots.lanes
    return max(1, min(lanes, int(lanes * _MEMORY_FRACTION * costs.free_on_host() / costs.host_memory(trainer))))


def _cut(lanes: Sequence[Lane], size: int) -> list[list[Lane]]:
    """Cut lanes into batches of at most `size` successive lanes, of equal size to share what is compiled."""
    stretches: list[list[Lane]] = []
    for lane in lanes:
        if stretches and lane.number == stretches[-1][-1].number + 1:
            stretches[-1].append(lane)
        else:
            stretches.append([lane])
    batches = []
    for stretch in stretches:
        equal = -(-len(stretch) // -(-len(stretch) // size))
        batches += [stretch[i : i + equal] for i in range(0, len(stretch), equal)]
    return batches


def _prepare(folder: Path, sweep: Sweep, planned: Sequence[Structure], note: Note) -> None:
    """Write the sweep to its folder; raises UserError where the folder or a batch in it is of another sweep."""
    path, existing = sweep_file(folder), None
    if path.is_file():
        try:
            existing = load(folder)
        except UserError as error:
            note(f"{error}; it is written again")
    elif lanes_folder(folder).is_dir():
        note(f"{folder} has lost its sweep.json; it is written again")
    elif any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files and is not a sweep; choose another name")
    if existing is not None and existing != sweep:
        changes = "; ".join(difference(sweep.base, existing.base)) or "axes or design"
        raise UserError(f"{folder} holds another sweep, which differs in {changes}; choose another name")
    check_batches(folder, planned)
    if existing is None:
        write_text(path, json.dumps(to_json(sweep), indent=2) + "\n")
