"""The driver of experiments: a config from the command line, what to do with it, and errors in one line.

An experiment is a module with a docstring, presets and one function of a config and a `Session`:

    def conduct(config: RunConfig, session: Session) -> None:
        session.run(config)

    if __name__ == "__main__":
        sys.exit(main(__doc__, PRESETS, conduct))
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxadd import sweeps
from jaxadd.analysis.report import summarize
from jaxadd.cli.arguments import Arguments, SweepArguments, Workers, parse
from jaxadd.cli.guard import guard, note
from jaxadd.cli.output import rendered, save
from jaxadd.config import RunConfig, Stop
from jaxadd.errors import UserError
from jaxadd.runs import Run, train_in
from jaxadd.sweeps import Row, Sweep, processes
from jaxadd.training.trainer import Trainer
from jaxadd.views import terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Findings(NamedTuple):
    """What an experiment found.

    Attributes:
      figures: by file name.
      text: printed, and kept as report.txt; "" for none.
    """

    figures: Mapping[str, "Figure"]
    text: str = ""


@dataclass(frozen=True)
class Session:
    """What an experiment trains with: everything is kept in one folder, and the same command goes on after a kill.

    Attributes:
      folder: of the experiment.
      workers: which lanes of a sweep this process trains.
    """

    folder: Path
    workers: Workers = field(default_factory=Workers)

    def run(self, config: RunConfig) -> Run:
        """Train one run in the experiment's folder, and show everything about it; returns the finished run."""
        return show_run(Trainer(config), self.folder)

    def train(self, config: RunConfig, name: str, label: str = "") -> Run:
        """Train one of several runs in a folder of that name, with a label before its bar; returns the run."""
        with terminal.progress_bar(config.steps, f"{label or name} ") as (watch, note):
            return train_in(Trainer(config), self.folder / name, watch=watch, note=note)

    def train_all(self, configs: Mapping[str, RunConfig]) -> dict[str, Run]:
        """Train several runs, one after the other, each in a folder of its name; returns them by name."""
        if not configs:
            raise UserError("this experiment has no runs; its options must name one at least")
        lanes = sum(len(config.seeds) for config in configs.values())
        print(f"{len(configs)} runs of {lanes} lanes together, in {self.folder}")
        return {
            name: self.train(config, name, f"{i}/{len(configs)} {name}")
            for i, (name, config) in enumerate(configs.items(), 1)
        }

    def sweep(self, sweep: Sweep, name: str = "", label: str = "") -> list[Row] | None:
        """Train a sweep, or this process's part of it.

        Args:
          sweep: what to train.
          name: of the folder within the experiment's; the experiment's own by default.
          label: before each bar.

        Returns:
          a row per lane; None where lanes are left to other processes.
        """
        workers, folder = self.workers, self.folder / name
        if workers.coordinator is not None and workers.part != Workers.part:
            raise UserError("--part and --coordinator are two ways to divide the lanes; choose one")
        joined = processes.join(workers.coordinator, workers.processes, workers.process, sweep, folder)
        structures = sweeps.structures(sweep)
        lanes = sum(len(structure.lanes) for structure in structures)
        programs = f"{len(structures)} program{'s' if len(structures) > 1 else ''}"
        print(f"{lanes} lane{'s' if lanes > 1 else ''}, {programs} to compile, in {folder}")

        @contextlib.contextmanager
        def watching(first: int, last: int, structure: sweeps.Structure) -> Iterator:
            which = f"lane {first}" if first == last else f"lanes {first} to {last}"
            with terminal.progress_bar(structure.config.steps, f"{label} {which} of {lanes} ".lstrip()) as bar:
                yield bar

        rows = sweeps.run(
            sweep,
            folder,
            part=joined or processes.part_of(workers.part),
            width=workers.width,
            keep=workers.keep,
            watching=watching,
            note=note,
        )
        print(f"{'table':<{terminal.INDENT}}{sweeps.table_file(folder)}")
        if left := sum(row["status"] in (sweeps.WAITING, sweeps.UNFINISHED) for row in rows):
            print(
                f"{left} of {lanes} lanes are left to other processes, and the one that ends last draws the figures; "
                "start those again that have stopped"
            )
            return None
        return rows


def require(sweep: Sweep, axes: Sequence[str], stop: Stop) -> None:
    """Raise UserError where a sweep has other axes, another design or another stop than an experiment's figure shows.

    Args:
      sweep: as the command line asks for it.
      axes: those of the figure.
      stop: where its lanes end.
    """
    given = [axis.name for axis in sweep.axes]
    if set(given) != set(axes):
        raise UserError(
            f"this experiment shows {' × '.join(axes)} and needs exactly these axes, got {', '.join(given) or 'none'}"
        )
    if len(axes) > 1 and sweep.design != "grid":
        raise UserError(f"this experiment shows a grid, got --design {sweep.design}")
    if sweep.base.stop != stop:
        raise UserError(
            "this experiment compares lanes that stop at the same threshold, --stop.metric "
            f"{stop.metric.replace('_', '-')} --stop.threshold {stop.threshold:g}"
        )


def main(about: str | None, presets: Mapping[str, Any], conduct: Callable[[Any, Session], Findings | None]) -> int:
    """Run an experiment from the process's arguments.

    Args:
      about: what it asks, expects and costs, printed first and in its help: the module's docstring.
      presets: configs by name, frozen dataclasses; the first is the default.
      conduct: trains what a config asks for in a session, and returns what was found; None where everything has been
        shown.

    Returns:
      the exit status: 0; 2 where the user has something to fix; 130 when interrupted.
    """
    about = (about or "").strip()

    def action() -> int:
        arguments, folder = parse(_module_name(), about, presets, sys.argv[1:])
        print(f"{about}\n")
        findings = conduct(arguments.config, _session(arguments, folder))
        if findings is not None:
            with sweeps.alone(folder):  # Another process may end at the same moment.
                save(folder, findings.text, findings.figures)
        return 0

    return guard(action, "; the same command goes on from the last checkpoint")


def _session(arguments: Arguments, folder: Path) -> Session:
    return Session(folder, arguments.workers) if isinstance(arguments, SweepArguments) else Session(folder)


def _module_name() -> str:
    """Return the name of the module that `python -m` runs."""
    spec = sys.modules["__main__"].__spec__
    return Path(sys.argv[0]).stem if spec is None else spec.name


def show_run(trainer: Trainer, folder: Path, *, extend: bool = False) -> Run:
    """Train in a folder with everything shown, then report and draw; returns the finished run.

    Args:
      trainer: the config made ready.
      folder: the run folder.
      extend: as for `runs.train_in`.
    """
    print(terminal.header(trainer, folder))
    if trainer.config.debug:
        print(terminal.shapes(trainer))
    with terminal.progress_bar(trainer.config.steps) as (watch, note):
        run = train_in(trainer, folder, extend=extend, watch=watch, note=note)
    print(terminal.outcome(run))
    report = summarize(run.trained())
    save(folder, report.text, rendered(report.figures))
    return run
