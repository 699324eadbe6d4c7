"""Command-line arguments: read into frozen dataclasses, and into the name of a folder."""

import dataclasses
import hashlib
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from jaxadd.cli.parser import read
from jaxadd.config import MODELS, PARTS, RunConfig, traced
from jaxadd.errors import UserError
from jaxadd.runs.folder import check_name
from jaxadd.serialization import class_default, flat, unused, with_values
from jaxadd.sweeps import Sweep, axis_of
from jaxadd.sweeps.design import MOST_LANES
from jaxadd.tasks import TASKS


def kebab(name: str) -> str:
    """Return the name of a class as a flag's value: "LabelSmoothing" as "label-smoothing", "AdamW" as "adamw"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z]|[A-Z]{2})", "-", name).lower()


def _choices(part: str) -> Sequence[type]:
    return typing.get_args(typing.get_type_hints(RunConfig)[part])


# The classes that a field of RunConfig may have, by the value of its flag.
KINDS: dict[str, dict[str, type]] = {
    part: {kebab(kind.__name__): kind for kind in kinds}
    for part, kinds in {
        "task": TASKS,
        "model": MODELS,
        **{part: _choices(part) for part in PARTS},
    }.items()
}


@dataclass(frozen=True)
class SweepConfig:
    """A sweep as the command line writes it."""

    base: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    """the run at every point of the sweep, except for its axes"""
    axes: tuple[str, ...] = ()
    """fields that vary: optimizer.lr=1e-3,1e-2 for values, optimizer.lr=log:1e-4..1e-1 for a range to draw from"""
    design: Literal["grid", "list", "random"] = "grid"
    """grid: all combinations; list: the i-th values of all axes; random: --points points drawn from the axes"""
    points: int = 0
    """number of points, random design only"""
    design_seed: int = 0
    """seed of the points drawn, random design only"""
    count: int | None = None
    """number of seeds, 0 to count - 1, in place of --seeds"""

    def sweep(self) -> Sweep:
        """Return the sweep; raises UserError where its axes or design are invalid."""
        base = self.base
        if self.count is not None:
            if not 1 <= self.count <= MOST_LANES:
                raise UserError(f"--count must be from 1 to {MOST_LANES:,}, got {self.count:,}")
            base = dataclasses.replace(base, seeds=tuple(range(self.count)))
        axes = tuple(axis_of(text, base) for text in self.axes)
        return Sweep(base, axes, self.design, self.points, self.design_seed)


@dataclass(frozen=True)
class Workers:
    """Which lanes of a sweep this process trains, and how."""

    width: int | None = None
    """lanes trained at once; by default as many as fit the memory"""
    part: str = "0/1"
    """part of the lanes that this process trains, I/N with I from 0; the process that ends last draws the figures"""
    keep: int = 2
    """number of newest saved states to keep in each batch of lanes; 0 keeps all, as replays need them"""
    coordinator: str | None = None
    """HOST:PORT of process 0, to divide the lanes among processes; on one machine, each needs its own devices"""
    processes: int = 1
    """number of processes, only with --coordinator"""
    process: int = 0
    """index of this process, from 0, only with --coordinator"""


Config = TypeVar("Config")


@dataclass(frozen=True)
class Arguments(Generic[Config]):
    """The arguments of every experiment."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    runs: Path = Path("runs")
    """folder that the run folders of all experiments are in"""
    name: str | None = None
    """name of the run folder; by default the preset and the fields that were changed"""


@dataclass(frozen=True)
class SweepArguments(Arguments[Config], Generic[Config]):
    """The arguments of a sweep."""

    workers: Annotated[Workers, tyro.conf.arg(name="")] = Workers()


def parse(module: str, about: str, presets: Mapping[str, Any], argv: Sequence[str]) -> tuple[Arguments, Path]:
    """Return the arguments of an experiment, and its folder.

    Args:
      module: name of the experiment's module, as in `python -m MODULE`.
      about: what it asks, expects and costs, for its help.
      presets: configs by name; the first is the default.
      argv: the words after the module's name.

    Raises:
      UserError: there is no such preset, or an argument is invalid.
    """
    preset, *rest = argv if argv and not argv[0].startswith("-") else [next(iter(presets)), *argv]
    if preset not in presets:
        raise UserError(f"no preset is named {preset!r}; there are {', '.join(presets)}")
    config, name = presets[preset], [preset]
    swept = isinstance(config, SweepConfig)
    base = config.base if swept else config
    kinds = ""
    if isinstance(base, RunConfig):
        parts, chosen, rest = choose_kinds({part: getattr(base, part) for part in KINDS}, rest)
        name += chosen
        base = dataclasses.replace(base, **parts)
        config = dataclasses.replace(config, base=base) if swept else base
        kinds = _usage(KINDS)
    description = (
        f"{about.strip()}\n\nusage: python -m {module} [{' | '.join(presets)}] {kinds}[options]\n\n"
        f"The options and defaults below are those of preset {preset}."
    )
    kind = SweepArguments if swept else Arguments
    arguments = read(kind[type(config)], f"python -m {module} {preset}", rest, description, kind(config))
    before, after = flat(config), flat(arguments.config)
    _check_effects(arguments.config, config, _without_effect(arguments.config))
    if after.get("count") is not None and after["base.seeds"] != before["base.seeds"]:
        raise UserError("--count and --seeds both name the seeds; choose one")
    name += [f"{path.removeprefix('base.')}={v}" for path, v in after.items() if v != before.get(path)]
    text = ",".join(name).translate(str.maketrans("/\\", "__", "[]' "))
    text = text if len(text) <= 100 else f"{text[:88]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return arguments, arguments.runs / module.rpartition(".")[2] / check_name(arguments.name or text)


def read_options(options: type, program: str, argv: Sequence[str]) -> Any:
    """Return the options of a command; a field that is a part of RunConfig, such as a task, has its kind as a flag.

    A field `typed` receives the flags among the words, such as "--task.p", for what a default alone cannot tell.

    Args:
      options: a frozen dataclass.
      program: the command as it is typed, for its help.
      argv: the words after it.

    Raises:
      UserError: an argument is missing or invalid.
    """
    fields = dataclasses.fields(options)
    parts = {f.name: f.default for f in fields if isinstance(f.default, tuple(KINDS.get(f.name, {}).values()))}
    parts, _, rest = choose_kinds(parts, argv)
    description = inspect.cleandoc(options.__doc__ or "")
    if "typed" in {f.name for f in fields}:
        flags = frozenset(word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--"))
        return dataclasses.replace(_read_options(options, program, rest, description, parts), typed=flags)
    return _read_options(options, program, rest, description, parts)


def _without_effect(config: Any) -> dict[str, str]:
    """Return the fields without effect, see `serialization.unused`; of a sweep those without any at every point."""
    if not isinstance(config, SweepConfig):
        return unused(config)
    sweep = config.sweep()
    numbers, axes = traced(sweep.base), {axis.name for axis in sweep.axes}
    structures = {tuple((k, v) for k, v in setting.items() if k not in numbers) for setting in sweep.settings()}
    found = [unused(with_values(sweep.base, dict(values))) for values in structures]
    everywhere = {path: why for path, why in found[0].items() if all(path in others for others in found)}
    if idle := sorted(axes & everywhere.keys()):
        raise UserError(f"axis {idle[0]} would have no effect: it is for {everywhere[idle[0]]}; leave it out")
    design = {} if config.design == "random" else {"design_seed": "a random design"}
    return design | {f"base.{path}": why for path, why in everywhere.items()}


def _check_effects(config: Any, default: Any, without: Mapping[str, str], prefix: str = "") -> None:
    """Raise UserError for a field that the user changed and that has no effect beside the others.

    Args:
      config: as it is.
      default: as it is where the user says nothing of it; None where that is the default of its class.
      without: what the fields without effect are for, by path.
      prefix: of the paths, in the flags.
    """
    before, after = flat(default) if default is not None else {}, flat(config)
    for path, purpose in without.items():
        if after[path] != before.get(path) and after[path] != class_default(config, path):
            owners, dot, name = f"{prefix}{path.removeprefix('base.')}".replace("_", "-").rpartition(".")
            flag = f"--{owners}{dot}{'no-' * (after[path] is False)}{name}"
            raise UserError(f"{flag} would have no effect here: it is for {purpose}; leave it out")


def _read_options(
    options: type, program: str, words: Sequence[str], description: str, parts: Mapping[str, Any]
) -> Any:
    fields = dataclasses.fields(options)
    if not parts:
        result = read(options, program, words, description)
        _check_effects(result, None, unused(result))
        return result
    required = {f.name: tyro.MISSING for f in fields if f.default is dataclasses.MISSING}
    description += f"\n\nusage: {program} {_usage({part: KINDS[part] for part in parts})}[options]"
    result = read(options, program, words, description, options(**required, **parts))
    for name, part in parts.items():
        chosen = getattr(result, name)
        _check_effects(chosen, part, unused(chosen), f"{name}.")
    return result


def choose_kinds(parts: Mapping[str, Any], argv: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Take flags such as `--optimizer sgd` out of arguments.

    Args:
      parts: the default of each part that may be chosen, by a name in KINDS.
      argv: the words.

    Returns:
      the parts, the values of the flags taken, and the other words.

    Raises:
      UserError: a part has no such kind, or is given twice.
    """
    result, chosen, rest = dict(parts), [], []
    words = iter([word for text in argv for word in _split(text, parts)])
    for word in words:
        part = word.removeprefix("--")
        if part not in parts or word == part:
            rest.append(word)
            continue
        value = next(words, "nothing")
        if value not in KINDS[part]:
            raise UserError(f"--{part} must be one of {', '.join(KINDS[part])}, got {value}")
        if result[part] is not parts[part]:
            raise UserError(f"--{part} is given twice")
        result[part] = KINDS[part][value]()
        chosen.append(value)
    return result, chosen, rest


def _split(word: str, parts: Mapping[str, Any]) -> list[str]:
    """Split "--task=modular" in two; leave every other word as it is."""
    flag, equals, value = word.partition("=")
    return [flag, value] if equals and flag.removeprefix("--") in parts and flag.startswith("--") else [word]


def _usage(kinds: Mapping[str, Mapping[str, type]]) -> str:
    return "".join(f"[--{part} {' | '.join(names)}] " for part, names in kinds.items())
