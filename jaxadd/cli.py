"""The command line of an experiment: presets and flags in, a run folder with figures out, errors in one line."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import tyro

from jaxadd import config as configs
from jaxadd import figures, report, runs, sweeps
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.files import write_text
from jaxadd.fit import Metrics
from jaxadd.sweeps import Sweep, axis_of, processes
from jaxadd.train import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_KINDS = {
    part: {kind.__name__.lower(): kind for kind in typing.get_args(typing.get_type_hints(RunConfig)[part])}
    for part in ("task", "model", "optimizer", "gradient", "norm", "loss")
}


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


@dataclass(frozen=True)
class SweepConfig:
    """A sweep as the command line writes it."""

    base: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    """what no axis says"""
    axes: tuple[str, ...] = ()
    """optimizer.lr=1e-3,1e-2 for values, optimizer.lr=log:1e-4..1e-1 for a range of a random design; any field"""
    design: Literal["grid", "list", "random"] = "grid"
    """grid: all combinations; list: the i-th values of all axes together; random: --points drawn from the axes"""
    points: int = 0
    """of a random design"""
    design_seed: int = 0
    """of a random design"""
    count: int | None = None
    """this many seeds, from 0 on, in place of --seeds"""

    def sweep(self) -> Sweep:
        """Give the sweep; raises ValueError where it cannot be one."""
        base = self.base
        if self.count is not None:
            if self.count < 1:
                raise UserError("the design is empty: --count must be at least 1")
            base = dataclasses.replace(base, seeds=tuple(range(self.count)))
        axes = tuple(axis_of(text, base) for text in self.axes)
        return Sweep(base, axes, self.design, self.points, self.design_seed)


@dataclass(frozen=True)
class _Workers:
    width: int | None = None
    """lanes trained at once; as many as fit the memory by default"""
    part: str = "0/1"
    """I/N: train only the I-th of N parts, from 0/N on, as in a job array; whoever ends last draws the figures"""
    coordinator: str | None = None
    """HOST:PORT of process 0, to share the lanes among processes, one to a machine or to a device of its own"""
    processes: int = 1
    """with --coordinator: how many"""
    process: int = 0
    """with --coordinator: which of them this is, from 0"""


Conclude = Callable[[Trainer, runs.Record], Findings]
Config = TypeVar("Config", RunConfig, Study, SweepConfig)


@dataclass(frozen=True)
class _Arguments(Generic[Config]):
    config: Annotated[Config, tyro.conf.arg(name="")]
    runs: Path = Path("runs")
    """folder that run folders go to"""
    name: str | None = None
    """name of the run folder; by default the preset and what was changed of it"""


@dataclass(frozen=True)
class _SweepArguments(_Arguments[Config], Generic[Config]):
    workers: Annotated[_Workers, tyro.conf.arg(name="")] = _Workers()


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

    def action(arguments: _Arguments, folder: Path) -> int:
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

    def action(arguments: _Arguments, folder: Path) -> int:
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
    experiment: str,
    needs: Sequence[str] = (),
) -> int:
    """Run a sweep from the process's arguments: this process's part of it, and the conclusion where all is done.

    Args:
      module: its name, such as "experiments.seed_sweep".
      about: as for `main`.
      presets: sweeps by name; the first is the default.
      conclude: draws the sweep, its folder and its rows together.
      experiment: what each run counts as, where it is resumed on its own.
      needs: the axes that `conclude` draws; any by default.

    Returns:
      the exit status, as for `main`.
    """

    def action(arguments: _SweepArguments, folder: Path) -> int:
        workers, planned = arguments.workers, arguments.config.sweep()
        axes = [axis.name for axis in planned.axes]
        if needs and set(axes) != set(needs):
            raise UserError(
                f"this experiment draws {' × '.join(needs)}, and needs just these axes, got "
                f"{', '.join(axes) or 'none'}; seed_sweep takes any"
            )
        if workers.coordinator is not None and workers.part != _Workers.part:
            raise UserError("--part and --coordinator are two ways to share the lanes; choose one")
        joined = processes.join(workers.coordinator, workers.processes, workers.process, planned, folder)
        part = joined or processes.part_of(workers.part)
        structures = sweeps.structures(planned)
        lanes = sum(len(structure.lanes) for structure in structures)
        print(f"{about.strip()}\n\n{lanes} lanes, {len(structures)} to compile, in {folder}")
        rows = sweeps.run(
            planned,
            folder,
            experiment=experiment,
            part=part,
            width=workers.width,
            watching=_watching("", lanes),
            note=lambda text: print(f"note: {text}", file=sys.stderr),
        )
        unfinished = sum(row["status"] in (sweeps.WAITING, sweeps.UNFINISHED) for row in rows)
        if unfinished:
            print(f"\n{unfinished} of {lanes} lanes are left to other parts; the last to end draws the figures")
        else:
            show(folder, conclude(planned, folder, rows))
        print(f"{'table':<{report.INDENT}}{folder / 'sweep.csv'}")
        return 0

    return _experiment(module, about, presets, action, _SweepArguments)


def contest(
    module: str,
    about: str,
    presets: Mapping[str, Any],
    contend: Callable[[Any, Path, Callable[[str], Callable]], Findings],
) -> int:
    """Run an experiment whose later sweeps follow from its earlier ones.

    Args:
      module: its name, such as "experiments.time_to_generalise".
      about: as for `main`.
      presets: frozen dataclasses by name; the first is the default.
      contend: given one, a folder, and what makes the `watching` of `sweeps.run` from a label: does it all.

    Returns:
      the exit status, as for `main`.
    """

    def action(arguments: _Arguments, folder: Path) -> int:
        print(f"{about.strip()}\n\n{'folder':<{report.INDENT}}{folder}")
        show(folder, contend(arguments.config, folder, _watching))
        return 0

    return _experiment(module, about, presets, action)


def _watching(label: str, total: int | None = None) -> Callable:
    """Make the `watching` of `sweeps.run`: a bar for each wave."""

    @contextlib.contextmanager
    def watching(first: int, last: int, structure: sweeps.Structure) -> Iterator:
        lanes = f"lane {first}" if first == last else f"lanes {first} to {last}"
        of = f" of {total}" if total else ""
        with report.progress_bar(structure.config.steps, f"{label}{lanes}{of} ") as bar:
            yield bar

    return watching


def command(module: str, options: type, function: Callable[[Any], int]) -> int:
    """Run a command that is no experiment: parse `options`, a dataclass, and give the function's exit status."""
    return _guard(lambda: function(_tyro(options, prog=f"python -m {module}")))


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
    target.mkdir(exist_ok=True)
    for name, figure in findings.figures.items():
        figure.savefig(target / f"{name}.png")
    print(f"{'figures':<{report.INDENT}}{target}/{{{','.join(findings.figures)}}}.png")
    print(f"{'folder':<{report.INDENT}}{folder}")


def _experiment(
    module: str,
    about: str,
    presets: Mapping[str, Any],
    action: Callable[[Any, Path], int],
    kind: type = _Arguments,
) -> int:
    """Act on the process's arguments, read as `kind`, and the folder that follows from them."""
    argv = sys.argv[1:]
    return _guard(
        lambda: action(*_parse(module, about, presets, argv, kind)),
        "; the same command goes on from the last checkpoint",
    )


def _guard(action: Callable[[], int], after_interrupt: str = "") -> int:
    """Act; what the user can mend becomes one line on standard error and status 2."""
    try:
        return action()
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted{after_interrupt}", file=sys.stderr)
        return 130


def _parse(module: str, about: str, presets: Mapping[str, Config], argv: list[str], kind: type) -> tuple[Any, Path]:
    """Read the arguments, and choose the folder, named after the preset and what was changed of it by default."""
    preset, *rest = argv if argv and not argv[0].startswith("-") else [next(iter(presets)), *argv]
    if preset not in presets:
        raise UserError(f"no preset is named {preset!r}; there are {', '.join(presets)}")
    config, name = presets[preset], [preset]
    base = config.base if isinstance(config, SweepConfig) else config
    choices = ""
    if isinstance(base, RunConfig):
        # A single run's experiment looks for the circuits of its own task; a sweep takes any.
        own = () if isinstance(config, SweepConfig) else ("task", "model")
        kinds = {part: names for part, names in _KINDS.items() if part not in own}
        base, chosen, rest = _choose_kinds(base, kinds, rest)
        name += chosen
        config = dataclasses.replace(config, base=base) if isinstance(config, SweepConfig) else base
        choices = "".join(f"[--{part} {' | '.join(names)}] " for part, names in kinds.items())
    description = (
        f"{about.strip()}\n\n"
        f"python -m {module} [{' | '.join(presets)}] {choices}[options]\n"
        f"The options and defaults below are those of preset {preset}."
    )
    arguments = _tyro(
        kind[type(config)],
        default=kind(config),
        args=rest,
        prog=f"python -m {module} {preset}",
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )
    before, after = configs.flat(config), configs.flat(arguments.config)
    name += [f"{path.removeprefix('base.')}={v}" for path, v in after.items() if v != before.get(path)]
    text = ",".join(name).translate(str.maketrans("/\\", "__", "[]' "))
    text = text if len(text) <= 100 else f"{text[:88]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return arguments, arguments.runs / module.rpartition(".")[2] / runs.check_name(arguments.name or text)


def _choose_kinds(
    config: RunConfig, choices: Mapping[str, Mapping[str, type]], argv: list[str]
) -> tuple[RunConfig, list[str], list[str]]:
    """Take flags such as `--optimizer sgd` out of arguments: the config with them, what they say, and the rest."""
    chosen, rest = [], list(argv)
    for part, kinds in choices.items():
        if f"--{part}" not in rest:
            continue
        place = rest.index(f"--{part}")
        kind = (rest[place + 1 : place + 2] or ["nothing"])[0]
        if kind not in kinds:
            raise UserError(f"--{part} must be one of {', '.join(kinds)}, got {kind}")
        config = dataclasses.replace(config, **{part: kinds[kind]()})
        chosen.append(kind)
        del rest[place : place + 2]
    return config, chosen, rest


def _tyro(options: type, **keywords: Any) -> Any:
    """Call `tyro.cli`, and raise what it says of a wrong argument as a UserError of one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options, **keywords)
    except SystemExit as error:
        if not error.code:
            raise
        # It draws a box, with whatever lines the terminal has: a title, the message, a rule, where to find help.
        lines = [line.strip("│|╭╮╰╯+ ") for line in said.getvalue().splitlines()[1:]]
        lines = itertools.dropwhile(_is_rule, lines)
        message = " ".join(itertools.takewhile(lambda line: not _is_rule(line), lines))
        raise UserError(message.partition("Error parsing config.")[2] or message or "wrong arguments") from None


def _is_rule(line: str) -> bool:
    return not line.strip("─-")
