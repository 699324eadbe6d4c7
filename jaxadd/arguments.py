"""What a person writes on a command line: read into frozen dataclasses, and into the name of a folder."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from jaxadd import config as configs
from jaxadd import runs
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.sweeps import Sweep, axis_of
from jaxadd.sweeps.design import MOST_LANES

_KINDS = {
    part: {kind.__name__.lower(): kind for kind in typing.get_args(typing.get_type_hints(RunConfig)[part])}
    for part in ("task", "model", "optimizer", "gradient", "norm", "loss")
}


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
            if not 1 <= self.count <= MOST_LANES:
                raise UserError(f"--count must be from 1 to {MOST_LANES:,}, got {self.count:,}")
            base = dataclasses.replace(base, seeds=tuple(range(self.count)))
        axes = tuple(axis_of(text, base) for text in self.axes)
        return Sweep(base, axes, self.design, self.points, self.design_seed)


@dataclass(frozen=True)
class Workers:
    """Who trains which lanes of a sweep."""

    width: int | None = None
    """lanes trained at once; as many as fit the memory by default"""
    part: str = "0/1"
    """I/N: train only the I-th of N parts, from 0/N on, as in a job array; whoever ends last draws the figures"""
    keep: int = 2
    """newest saved states that each wave keeps, to go on from; 0 keeps all, for replays and analysis over time"""
    coordinator: str | None = None
    """HOST:PORT of process 0, to share the lanes among processes, one to a machine; several on one machine need
    devices of their own, as by CUDA_VISIBLE_DEVICES"""
    processes: int = 1
    """with --coordinator: how many"""
    process: int = 0
    """with --coordinator: which of them this is, from 0"""


Config = TypeVar("Config")


@dataclass(frozen=True)
class Arguments(Generic[Config]):
    """What every experiment takes."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    runs: Path = Path("runs")
    """folder that run folders go to"""
    name: str | None = None
    """name of the run folder; by default the preset and what was changed of it"""


@dataclass(frozen=True)
class SweepArguments(Arguments[Config], Generic[Config]):
    """What a sweep takes besides."""

    workers: Annotated[Workers, tyro.conf.arg(name="")] = Workers()


def parse(module: str, about: str, presets: Mapping[str, Config], argv: list[str], kind: type) -> tuple[Any, Path]:
    """Read the arguments as `kind`, and choose the folder, by default named after the preset and what was changed."""
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
    arguments = read(
        kind[type(config)],
        default=kind(config),
        args=rest,
        prog=f"python -m {module} {preset}",
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )
    before, after = configs.flat(config), configs.flat(arguments.config)
    if after.get("count") is not None and after["base.seeds"] != before["base.seeds"]:
        raise UserError("--count and --seeds both name the seeds; choose one")
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
        if rest.count(f"--{part}") > 1:
            raise UserError(f"--{part} is given twice")
        place = rest.index(f"--{part}")
        kind = (rest[place + 1 : place + 2] or ["nothing"])[0]
        if kind not in kinds:
            raise UserError(f"--{part} must be one of {', '.join(kinds)}, got {kind}")
        config = dataclasses.replace(config, **{part: kinds[kind]()})
        chosen.append(kind)
        del rest[place : place + 2]
    return config, chosen, rest


def read(options: type, **keywords: Any) -> Any:
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
