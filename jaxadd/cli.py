"""What an experiment does when it is started: a run folder with figures comes out, errors in one line."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jaxadd import figures, report, runs, sweeps
from jaxadd.arguments import Arguments, SweepArguments, SweepConfig, Workers, parse, read
from jaxadd.config import RunConfig, Stop
from jaxadd.errors import UserError
from jaxadd.files import replacing, write_text
from jaxadd.fit import Metrics
from jaxadd.sweeps import Sweep, processes
from jaxadd.tasks import Addition, Digits, Modular
from jaxadd.train import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Findings(NamedTuple):
    """What an experiment concludes.

    Attributes:
      figures: by file name.
      text: printed, and kept as findings.txt; "" for none.
    """

    figures: Mapping[str, "Figure"]
    text: str = ""


class Study(Protocol):
    """A frozen dataclass that stands for several runs; what they have in common are its fields."""

    def arms(self) -> Mapping[str, RunConfig]:
        """Give the runs by name."""


Conclude = Callable[[Trainer, runs.Record], Findings]
# The experiment that a wave counts as, where it is resumed on its own.
HOMES = {Modular: "modular_addition", Addition: "digit_addition", Digits: "handwritten_digits"}


def main(module: str, about: str, presets: Mapping[str, RunConfig], conclude: Conclude) -> int:
    """Run one experiment from the process's arguments.

    Args:
      module: its name, such as "experiments.modular_addition".
      about: what it asks, expects and costs, printed first and in its help; the module's docstring.
      presets: configs by name; the first is the default.
      conclude: makes the figures of a finished run, beside the curves and norms that all runs have.

    Returns:
      the exit status: 0; 2 where the user has something to mend; 130 when interrupted.
    """

    def action(arguments: Arguments, folder: Path) -> int:
        print(f"{about.strip()}\n")
        return run(module.rpartition(".")[2], Trainer(arguments.config), folder, conclude)

    return _experiment(module, about, presets, action)


def study(
    module: str,
    about: str,
    presets: Mapping[str, Study],
    conclude: Callable[[Any, Mapping[str, runs.Record]], Findings],
    *,
    experiment: str,
) -> int:
    """Run an experiment of several runs from the process's arguments; each gets a run folder within the study's.

    Args:
      module: its name, such as "experiments.shelf_law".
      about: as for `main`.
      presets: studies by name; the first is the default.
      conclude: draws the study and its records by name of the arm together.
      experiment: what each run counts as, where it is resumed on its own.

    Returns:
      the exit status, as for `main`.
    """

    def action(arguments: Arguments, folder: Path) -> int:
        arms = arguments.config.arms()
        if not arms:
            raise UserError("this study has no runs")
        lanes = sum(len(config.seeds) for config in arms.values())
        print(f"{about.strip()}\n\n{len(arms)} runs of {lanes} lanes together, in {folder}")
        records = {}
        for i, (name, config) in enumerate(arms.items(), 1):
            trainer = Trainer(config)
            with report.progress_bar(config.steps, f"{i}/{len(arms)} {name} ") as (watch, note):
                records[name] = runs.train(trainer, folder / name, experiment=experiment, watch=watch, note=note)
        show(folder, conclude(arguments.config, records))
        return 0

    return _experiment(module, about, presets, action)


def sweep(
    module: str,
    about: str,
    presets: Mapping[str, SweepConfig],
    conclude: Callable[[Sweep, Path, Sequence[sweeps.Row]], Findings],
    *,
    needs: Sequence[str] = (),
    stop: Stop | None = None,
) -> int:
    """Run a sweep from the process's arguments: this process's part of it, and the conclusion where all is done.

    Args:
      module: its name, such as "experiments.seed_sweep".
      about: as for `main`.
      presets: sweeps by name; the first is the default.
      conclude: draws the sweep, its folder and its rows together.
      needs: the axes that `conclude` draws; any by default.
      stop: where `conclude` expects lanes to end; anywhere by default.

    Returns:
      the exit status, as for `main`.
    """

    def action(arguments: SweepArguments, folder: Path) -> int:
        workers, planned = arguments.workers, arguments.config.sweep()
        axes = [axis.name for axis in planned.axes]
        if needs and set(axes) != set(needs):
            raise UserError(
                f"this experiment draws {' × '.join(needs)}, and needs just these axes, got "
                f"{', '.join(axes) or 'none'}; seed_sweep takes any"
            )
        if len(needs) > 1 and planned.design != "grid":
            raise UserError(f"this experiment draws a grid, got design {planned.design}; seed_sweep takes any")
        if stop is not None and planned.base.stop != stop:
            raise UserError(
                f"this experiment compares lanes that stop at {stop.metric} {stop.threshold:g}; seed_sweep takes any"
            )
        if workers.coordinator is not None and workers.part != Workers.part:
            raise UserError("--part and --coordinator are two ways to share the lanes; choose one")
        joined = processes.join(workers.coordinator, workers.processes, workers.process, planned, folder)
        part = joined or processes.part_of(workers.part)
        structures = sweeps.structures(planned)
        lanes = sum(len(structure.lanes) for structure in structures)
        print(f"{about.strip()}\n\n{lanes} lanes, {len(structures)} to compile, in {folder}")
        rows = _train(planned, folder, lanes, part=part, width=workers.width, keep=workers.keep)
        unfinished = sum(row["status"] in (sweeps.WAITING, sweeps.UNFINISHED) for row in rows)
        if unfinished:
            print(
                f"\n{unfinished} of {lanes} lanes are left to other parts, and the last to end draws the figures; "
                "start those again that are not at work"
            )
        else:
            findings = conclude(planned, folder, rows)
            with sweeps.alone(folder):  # Another part may have ended at the same moment.
                show(folder, findings)
        print(f"{'table':<{report.INDENT}}{folder / 'sweep.csv'}")
        return 0

    return _experiment(module, about, presets, action, SweepArguments)


def contest(
    module: str,
    about: str,
    presets: Mapping[str, Any],
    contend: Callable[[Any, Callable[[Sweep, str, str], list[sweeps.Row]]], Findings],
) -> int:
    """Run an experiment whose later sweeps follow from its earlier ones.

    Args:
      module: its name, such as "experiments.time_to_generalise".
      about: as for `main`.
      presets: frozen dataclasses by name; the first is the default.
      contend: given one, and what trains a sweep in a folder within the contest's, with a label beside its bar, and
        gives its rows: does it all.

    Returns:
      the exit status, as for `main`.
    """

    def action(arguments: Arguments, folder: Path) -> int:
        def train(planned: Sweep, name: str, label: str) -> list[sweeps.Row]:
            lanes = len(planned.settings()) * len(planned.base.seeds)
            return _train(planned, folder / name, lanes, f"{label} ")

        print(f"{about.strip()}\n\n{'folder':<{report.INDENT}}{folder}")
        findings = contend(arguments.config, train)
        with sweeps.alone(folder):  # Others may share the work.
            show(folder, findings)
        return 0

    return _experiment(module, about, presets, action)


def _train(planned: Sweep, folder: Path, total: int, label: str = "", **options: Any) -> list[sweeps.Row]:
    """Train a sweep of so many lanes with a bar for each wave; gives its rows."""

    @contextlib.contextmanager
    def watching(first: int, last: int, structure: sweeps.Structure) -> Iterator:
        lanes = f"lane {first}" if first == last else f"lanes {first} to {last}"
        with report.progress_bar(structure.config.steps, f"{label}{lanes} of {total} ") as bar:
            yield bar

    return sweeps.run(
        planned,
        folder,
        experiment=HOMES[type(planned.base.task)],
        watching=watching,
        note=lambda text: print(f"note: {text}", file=sys.stderr),
        **options,
    )


def command(module: str, options: type, function: Callable[[Any], int]) -> int:
    """Run a command that is no experiment: parse `options`, a dataclass, and give the function's exit status."""
    return _guard(lambda: function(read(options, prog=f"python -m {module}")))


def run(experiment: str, trainer: Trainer, folder: Path, conclude: Conclude, *, extend: bool = False) -> int:
    """Train in a folder with everything shown, then report and draw; gives the exit status."""
    print(report.header(trainer, folder))
    if trainer.config.debug:
        print(report.shapes(trainer))
    with report.progress_bar(trainer.config.steps) as (watch, note):
        record = runs.train(trainer, folder, experiment=experiment, extend=extend, watch=watch, note=note)
    print(report.outcome(trainer, record))
    findings = conclude(trainer, record)
    common = standard_figures(record.metrics, report.title(trainer.config))
    show(folder, findings._replace(figures=common | findings.figures))
    return 0


def standard_figures(metrics: Metrics, title: str, *, log_steps: bool = True) -> dict[str, "Figure"]:
    """Draw what all runs have: curves and norms."""
    return {
        "curves": figures.curves(metrics, title, log_steps=log_steps),
        "norms": figures.norms(metrics, title, log_steps=log_steps),
    }


def show(folder: Path, findings: Findings) -> None:
    """Print findings, save them in a folder, and say where everything is."""
    if findings.text:
        print(f"\n{findings.text}\n")
        write_text(folder / "findings.txt", findings.text + "\n")
    target = folder / "figures"
    target.mkdir(parents=True, exist_ok=True)
    for name, figure in findings.figures.items():
        with replacing(target / f"{name}.png") as part:
            figure.savefig(part, format="png")
    names = ",".join(findings.figures)
    print(f"{'figures':<{report.INDENT}}{target}/{f'{{{names}}}' if len(findings.figures) > 1 else names}.png")
    print(f"{'folder':<{report.INDENT}}{folder}")


def _experiment(
    module: str,
    about: str,
    presets: Mapping[str, Any],
    action: Callable[[Any, Path], int],
    kind: type = Arguments,
) -> int:
    """Act on the process's arguments, read as `kind`, and the folder that follows from them."""
    argv = sys.argv[1:]
    return _guard(
        lambda: action(*parse(module, about, presets, argv, kind)),
        "; the same command goes on from the last checkpoint",
    )


def _guard(action: Callable[[], int], after_interrupt: str = "") -> int:
    """Act; what the user can mend becomes one line on standard error and status 2."""
    try:
        return action()
    except (UserError, OSError) as error:
        said = " ".join(str(error).split())
        if isinstance(error, FileExistsError | NotADirectoryError):
            said = f"{error.filename} is a file where a folder should be; choose another --name or --runs"
        print(f"error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted{after_interrupt}", file=sys.stderr)
        return 130
