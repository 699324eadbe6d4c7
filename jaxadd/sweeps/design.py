"""The design of a sweep: axes, points, and the lanes and structures that follow from them."""

import collections
import difflib
import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from jaxadd.config import RunConfig, traced
from jaxadd.errors import UserError, check_choices
from jaxadd.serialization import single_values, with_values

MOST_LANES = 1_000_000
# Fields that cannot be an axis: all lanes have the same steps and stop, so that they can be compared.
_COMMON = ("debug", "steps", "stop")


@dataclass(frozen=True)
class Axis:
    """One field of the config with its values, or a range for a random design."""

    name: str
    """path of the field, such as optimizer.lr or task.train_fraction"""
    values: tuple[Any, ...] = ()
    """values of the field: a grid combines them, a list takes them in order, a random design draws from them"""
    low: float | None = None
    """lower end of a range in place of values, random design only"""
    high: float | None = None
    """upper end of a range in place of values, random design only"""
    log: bool = False
    """whether to draw from a range evenly in the logarithm"""

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple):
            raise UserError(f"the values of axis {self.name} must be a tuple, got {self.values!r}")
        ends = [end for end in (self.low, self.high) if end is not None]
        if (len(ends), bool(self.values)) not in ((0, True), (2, False)) or (self.values and self.log):
            raise UserError(f"axis {self.name} needs values, or low and high of a range")
        if self.low is None or self.high is None:
            return
        if not (self.low < self.high and (self.low > 0 or not self.log)):
            raise UserError(f"the range of {self.name} must ascend, from above 0 if it is logarithmic")


@dataclass(frozen=True)
class Sweep:
    """Many runs: the seeds of a config × the points of a design over axes."""

    base: RunConfig = field(default_factory=RunConfig)
    """config of all lanes apart from the axes; its seeds are trained at every point"""
    axes: tuple[Axis, ...] = ()
    """fields that vary; init_scale and numbers of optimizer, gradient, norm and loss differ from lane to lane, all
    other fields are structure, which is compiled for each value"""
    design: Literal["grid", "list", "random"] = "grid"
    """grid: all combinations; list: the i-th values of all axes together; random: points drawn independently"""
    points: int = 0
    """number of points, random design only"""
    design_seed: int = 0
    """seed of the points, random design only"""

    def __post_init__(self) -> None:
        check_choices(self)
        if not isinstance(self.axes, tuple):
            raise UserError(f"the axes must be a tuple, got {self.axes!r}")
        if self.base.vary or self.base.debug:
            raise UserError("the base of a sweep must have equal lanes, without vary, and debug off")
        names = [axis.name for axis in self.axes]
        if len(set(names)) < len(names):
            raise UserError(f"every axis may be named once, got {', '.join(names)}")
        current = {axis.name: check_axis(axis.name, self.base) for axis in self.axes}
        for axis in self.axes:
            if axis.low is None:
                continue
            if self.design != "random":
                raise UserError(
                    f"axis {axis.name} is a range, which only a random design draws from; set design to random, "
                    "and the number of points"
                )
            if type(current[axis.name]) not in (int, float):
                raise UserError(f"{axis.name} is not a number and cannot be drawn from a range; list its values")
        lengths = {len(axis.values) for axis in self.axes}
        if self.design == "list" and len(lengths) > 1:
            raise UserError("in a list design all axes need the same number of values")
        if self.design == "random" and self.points < 1:
            raise UserError(f"a random design needs points of at least 1, got {self.points}")
        if self.design != "random" and self.points:
            raise UserError(f"the points of a {self.design} follow from its axes; only a random design takes points")
        if self.design == "random" and not self.axes:
            raise UserError("the design is empty: there is no axis to draw from")
        for axis in self.axes:
            for value in axis.values:
                _check_type(axis.name, value, current[axis.name])
        count = {
            "grid": math.prod(len(axis.values) for axis in self.axes),
            "list": max(lengths, default=1),
            "random": self.points,
        }[self.design]
        if count * len(self.base.seeds) > MOST_LANES:
            raise UserError(f"{count:,} points of {len(self.base.seeds):,} seeds are more than {MOST_LANES:,} lanes")
        settings = self.settings()
        for setting in settings:
            with_values(self.base, setting)
        ((point, times),) = collections.Counter(tuple(setting.items()) for setting in settings).most_common(1)
        if times > 1:
            raise UserError(f"the design has the same point twice: {', '.join(f'{k} {v}' for k, v in point)}")
        if self.design == "random" and len(settings) < self.points:
            raise UserError(f"{self.points} different points cannot be drawn; the axes have about {len(settings)}")

    def settings(self) -> list[dict[str, Any]]:
        """Return the points of the design, each as values by name, with points of one structure side by side."""
        names = [axis.name for axis in self.axes]
        chosen: Iterable[tuple[Any, ...]]
        if self.design == "grid":
            chosen = itertools.product(*(axis.values for axis in self.axes))
        elif self.design == "list":
            chosen = zip(*(axis.values for axis in self.axes), strict=True) if self.axes else [()]
        else:
            rng = random.Random(self.design_seed)
            current = single_values(self.base)
            drawn: dict[tuple, None] = {}  # Each point once.
            for _ in range(100 * self.points):
                if len(drawn) == self.points:
                    break
                drawn[tuple(_draw(axis, type(current[axis.name]) is int, rng) for axis in self.axes)] = None
            chosen = drawn
        settings = [dict(zip(names, values, strict=True)) for values in chosen]
        numbers = traced(self.base)
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for setting in settings:
            groups.setdefault(tuple((k, v) for k, v in setting.items() if k not in numbers), []).append(setting)
        return [setting for group in groups.values() for setting in group]


def _check_type(name: str, value: Any, like: Any) -> None:
    """Raise UserError for a value of another type than `like`, the current value of a field, unless it is None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if type(like) is int and type(value) is not int:
        raise UserError(f"{name} takes whole numbers, got {value!r}")
    if (type(like) is float and not number) or (type(like) in (bool, str) and type(value) is not type(like)):
        raise UserError(f"{name} takes values such as {like!r}, got {value!r}")


def check_axis(name: str, base: RunConfig) -> Any:
    """Return the value in the base of a field that may be an axis; raises UserError for any other field."""
    values = single_values(base)
    possible = {path: value for path, value in values.items() if path.partition(".")[0] not in _COMMON}
    if name not in possible:
        numbers = traced(base)
        structural = [path for path in possible if path not in numbers]
        last = [path for path in possible if path.rpartition(".")[2] == name]
        close = last or difflib.get_close_matches(name, possible, 1)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UserError(
            f"no axis can be named {name or 'nothing'}{hint}; lanes can differ in {', '.join(numbers)}; "
            f"and in structure, which is compiled for each value: {', '.join(structural)}"
        )
    return possible[name]


def _draw(axis: Axis, whole: bool, rng: random.Random) -> Any:
    if axis.values:
        return rng.choice(axis.values)
    assert axis.low is not None  # An axis without values is a range.
    assert axis.high is not None
    value = (
        math.exp(rng.uniform(math.log(axis.low), math.log(axis.high)))
        if axis.log
        else rng.uniform(axis.low, axis.high)
    )
    return round(value) if whole else value


class Lane(NamedTuple):
    """One lane of a sweep.

    Attributes:
      number: number of the lane in the whole sweep, from 0.
      seed: seed of its parameters, batches and split.
      setting: values by name of the axes.
    """

    number: int
    seed: int
    setting: dict[str, Any]


class Structure(NamedTuple):
    """The lanes that one compiled program trains.

    Attributes:
      config: config of all these lanes; its seeds are those of the sweep's base.
      lanes: lanes in the order of their numbers.
    """

    config: RunConfig
    lanes: list[Lane]

    def part(self, lanes: Sequence[Lane]) -> RunConfig:
        """Return the config of a run of some of the lanes."""
        numbers = traced(self.config)
        names = [name for name in lanes[0].setting if name in numbers]
        vary = tuple((name, tuple(float(lane.setting[name]) for lane in lanes)) for name in names)
        return replace(self.config, seeds=tuple(lane.seed for lane in lanes), vary=vary)


def structures(sweep: Sweep) -> list[Structure]:
    """Return all lanes of a sweep by structure."""
    numbers = traced(sweep.base)
    planned: list[Structure] = []
    count = itertools.count()
    previous = None
    for setting in sweep.settings():
        structural = {name: value for name, value in setting.items() if name not in numbers}
        if structural != previous:
            planned.append(Structure(with_values(sweep.base, structural), []))
            previous = structural
        planned[-1].lanes.extend(Lane(next(count), seed, setting) for seed in sweep.base.seeds)
    return planned


def lanes_of_part(planned: Sequence[Structure], index: int, parts: int) -> frozenset[int]:
    """Return the numbers of the lanes of one of several parts, between which the lanes of each structure are divided.

    Structures may take very different times, so that each part has as many lanes of a structure as any other part, or
    one less.

    Raises:
      UserError: there is no such part, or there are more parts than lanes.
    """
    lanes = sum(len(structure.lanes) for structure in planned)
    if not 0 <= index < parts:
        raise UserError(f"a part must be from 0 to {parts - 1}, got {index}")
    if parts > lanes:
        raise UserError(f"{parts} processes cannot share {lanes} lanes; there may be {lanes} parts at most")
    selected: set[int] = set()
    for structure in planned:
        numbers = [lane.number for lane in structure.lanes]
        each, more = divmod(len(numbers), parts)
        # The parts that get one more lane follow those that did in the previous structure.
        turn = (index - numbers[0]) % parts
        start = turn * each + min(turn, more)
        selected |= set(numbers[start : start + each + (turn < more)])
    return frozenset(selected)


def axis_of(text: str, base: RunConfig) -> Axis:
    """Parse an axis from a command line.

    Args:
      text: "optimizer.lr=1e-3,1e-2" for values, "optimizer.lr=1e-4..1e-1" for a range, or
        "optimizer.lr=log:1e-4..1e-1" for a range that is drawn from evenly in the logarithm.
      base: base of the sweep, which determines the types of values.

    Raises:
      UserError: the text is not an axis, or the base has no such field.
    """
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not values:
        raise UserError(f"an axis is written as NAME=VALUE,VALUE or NAME=LOW..HIGH, got {text!r}")
    like = check_axis(name, base)
    if ".." in values:
        log = values.startswith("log:")
        low, _, high = values.removeprefix("log:").partition("..")
        return Axis(name, low=_number(low, text), high=_number(high, text), log=log)
    return Axis(name, tuple(_value(part.strip(), like, text) for part in values.split(",")))


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{text!r} in {whole!r} is not a number") from error


def _value(text: str, like: Any, whole: str) -> Any:
    if text == "None":
        return None
    if isinstance(like, bool):
        if text not in ("True", "False"):
            raise UserError(f"{text!r} in {whole!r} must be True or False")
        return text == "True"
    if isinstance(like, str):
        return text
    number = _number(text, whole)
    return int(number) if not isinstance(like, float) and number.is_integer() else number
