"""What a sweep consists of: axes, their design, and the lanes and structures that follow from them."""

import collections
import difflib
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from jaxadd.config import RunConfig, traced
from jaxadd.errors import UserError, check_choices
from jaxadd.serialization import single_values, with_values

MOST_LANES = 1_000_000
# Fields of a run that are no axis: lanes have seeds in another way, and all end by the same rule, to be comparable.
_COMMON = ("debug", "steps", "stop")


@dataclass(frozen=True)
class Axis:
    """One field of the config and the values that it takes; a range for a random design."""

    name: str
    """path of the field, such as optimizer.lr or task.train_fraction"""
    values: tuple[Any, ...] = ()
    """what a grid combines, a list goes through, and a random design draws from"""
    low: float | None = None
    """of a range, in place of values"""
    high: float | None = None
    """of a range"""
    log: bool = False
    """draw evenly in the logarithm"""

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple):
            raise UserError(f"the values of axis {self.name} must be a tuple, got {self.values!r}")
        ends = [end for end in (self.low, self.high) if end is not None]
        if (len(ends), bool(self.values)) not in ((0, True), (2, False)) or (self.values and self.log):
            raise UserError(f"axis {self.name} needs values, or low and high of a range")
        if ends and not (self.low < self.high and (self.low > 0 or not self.log)):
            raise UserError(f"the range of {self.name} must ascend, from above 0 if it is logarithmic")


@dataclass(frozen=True)
class Sweep:
    """A run over and over: its seeds × the points of a design over axes."""

    base: RunConfig = field(default_factory=RunConfig)
    """what no axis says; its seeds are taken at every point"""
    axes: tuple[Axis, ...] = ()
    """fields that vary: numbers of the optimiser, gradient, norm, loss and init_scale lane by lane, all others, the
    structure, by compiling again"""
    design: Literal["grid", "list", "random"] = "grid"
    """grid: all combinations; list: the i-th values of all axes together; random: points drawn independently"""
    points: int = 0
    """of a random design"""
    design_seed: int = 0
    """of a random design"""

    def __post_init__(self) -> None:
        check_choices(self)
        if not isinstance(self.axes, tuple):
            raise UserError(f"the axes must be a tuple, got {self.axes!r}")
        if self.base.vary or self.base.debug:
            raise UserError("the base of a sweep has lanes alike, and debug off")
        names = [axis.name for axis in self.axes]
        if len(set(names)) < len(names):
            raise UserError(f"every axis may be named once, got {', '.join(names)}")
        known = {axis.name: check_axis(axis.name, self.base) for axis in self.axes}
        for axis in self.axes:
            if axis.low is None:
                continue
            if self.design != "random":
                raise UserError(
                    f"axis {axis.name} is a range, which only a random design draws from; ask for one and its points"
                )
            if type(known[axis.name]) not in (int, float):
                raise UserError(f"{axis.name} is no number that could be drawn from a range; list its values")
        lengths = {len(axis.values) for axis in self.axes}
        if self.design == "list" and len(lengths) > 1:
            raise UserError("in a list all axes need as many values as each other")
        if self.design == "random" and self.points < 1:
            raise UserError(f"a random design needs points of at least 1, got {self.points}")
        if self.design != "random" and self.points:
            raise UserError(f"a {self.design} has the points that its axes give; only a random design takes points")
        if self.design == "random" and not self.axes:
            raise UserError("the design is empty: there is no axis to draw from")
        for axis in self.axes:
            for value in axis.values:
                _check_type(axis.name, value, known[axis.name])
        points = {
            "grid": math.prod(len(axis.values) for axis in self.axes),
            "list": max(lengths, default=1),
            "random": self.points,
        }[self.design]
        if points * len(self.base.seeds) > MOST_LANES:
            raise UserError(f"{points:,} points of {len(self.base.seeds):,} seeds are more than {MOST_LANES:,} lanes")
        settings = self.settings()
        for point in settings:
            with_values(self.base, point)
        ((point, times),) = collections.Counter(tuple(point.items()) for point in settings).most_common(1)
        if times > 1:
            raise UserError(f"the design names the same point twice: {', '.join(f'{k} {v}' for k, v in point)}")
        if self.design == "random" and len(settings) < self.points:
            raise UserError(f"{self.points} different points cannot be drawn; the axes have about {len(settings)}")

    def settings(self) -> list[dict[str, Any]]:
        """Give the points of the design, each as values by name, structure varying slowest."""
        names = [axis.name for axis in self.axes]
        if self.design == "grid":
            chosen = itertools.product(*(axis.values for axis in self.axes))
        elif self.design == "list":
            chosen = zip(*(axis.values for axis in self.axes), strict=True) if self.axes else [()]
        else:
            rng = random.Random(self.design_seed)
            known = single_values(self.base)
            drawn: dict[tuple, None] = {}  # Each point once.
            for _ in range(100 * self.points):
                if len(drawn) == self.points:
                    break
                drawn[tuple(_draw(axis, type(known[axis.name]) is int, rng) for axis in self.axes)] = None
            chosen = list(drawn)
        settings = [dict(zip(names, values, strict=True)) for values in chosen]
        numbers = traced(self.base)
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for setting in settings:
            groups.setdefault(tuple((k, v) for k, v in setting.items() if k not in numbers), []).append(setting)
        return [setting for group in groups.values() for setting in group]


def _check_type(name: str, value: Any, like: Any) -> None:
    """Raise UserError for a value that a field cannot have whose value is now `like`; None says nothing of others."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if type(like) is int and type(value) is not int:
        raise UserError(f"{name} takes whole numbers, got {value!r}")
    if (type(like) is float and not number) or (type(like) in (bool, str) and type(value) is not type(like)):
        raise UserError(f"{name} takes values such as {like!r}, got {value!r}")


def check_axis(name: str, base: RunConfig) -> Any:
    """Give the base's value of a field that may be an axis; raises ValueError, which lists them, for any other."""
    values = single_values(base)
    possible = {path: value for path, value in values.items() if path.partition(".")[0] not in _COMMON}
    if name not in possible:
        numbers = traced(base)
        structural = [path for path in possible if path not in numbers]
        last = [path for path in possible if path.rpartition(".")[2] == name]
        close = last or difflib.get_close_matches(name, possible, 1)
        meant = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UserError(
            f"no axis can be named {name or 'nothing'}{meant}; lanes can differ in {', '.join(numbers)}; "
            f"structure, compiled for each value, are {', '.join(structural)}"
        )
    return possible[name]


def _draw(axis: Axis, whole: bool, rng: random.Random) -> Any:
    if axis.values:
        return rng.choice(axis.values)
    value = (
        math.exp(rng.uniform(math.log(axis.low), math.log(axis.high)))
        if axis.log
        else rng.uniform(axis.low, axis.high)
    )
    return round(value) if whole else value


class Lane(NamedTuple):
    """One training run of a sweep.

    Attributes:
      index: its place in the whole sweep.
      seed: of its parameters, batches and split.
      setting: values by name of the axes.
    """

    index: int
    seed: int
    setting: dict[str, Any]


class Structure(NamedTuple):
    """The lanes that one compiled program trains.

    Attributes:
      config: what they have in common; its seeds are those of the sweep's base.
      lanes: in the order of their index.
    """

    config: RunConfig
    lanes: list[Lane]

    def part(self, lanes: Sequence[Lane]) -> RunConfig:
        """Give the config of a run of some of the lanes."""
        numbers = traced(self.config)
        names = [name for name in lanes[0].setting if name in numbers]
        vary = tuple((name, tuple(float(lane.setting[name]) for lane in lanes)) for name in names)
        return replace(self.config, seeds=tuple(lane.seed for lane in lanes), vary=vary)


def structures(sweep: Sweep) -> list[Structure]:
    """List all lanes of a sweep, by what has to be compiled together."""
    numbers = traced(sweep.base)
    found: list[Structure] = []
    index = 0
    previous = None
    for setting in sweep.settings():
        own = {name: value for name, value in setting.items() if name not in numbers}
        if own != previous or not found:
            found.append(Structure(with_values(sweep.base, own), []))
            previous = own
        for seed in sweep.base.seeds:
            found[-1].lanes.append(Lane(index, seed, setting))
            index += 1
    return found


def share(planned: Sequence[Structure], index: int, parts: int) -> frozenset[int]:
    """Give the indices of the lanes in one of several parts: as many as in any other of each structure, or one less.

    Structures may take very different times, so no part has a whole one while another has none of it.

    Raises:
      ValueError: there is no such part, or there are more parts than lanes.
    """
    lanes = sum(len(structure.lanes) for structure in planned)
    if not 0 <= index < parts:
        raise UserError(f"a part is one of 0 to {parts - 1} of {parts}, got {index}")
    if parts > lanes:
        raise UserError(f"{parts} processes cannot share {lanes} lanes; there may be {lanes} parts at most")
    mine: set[int] = set()
    for structure in planned:
        own = [lane.index for lane in structure.lanes]
        each, more = divmod(len(own), parts)
        # The lanes that are left over go on from the part where those of the structure before ended.
        place = (index - own[0]) % parts
        start = place * each + min(place, more)
        mine |= set(own[start : start + each + (place < more)])
    return frozenset(mine)


def axis_of(text: str, base: RunConfig) -> Axis:
    """Read an axis as it is written on a command line.

    Args:
      text: "optimizer.lr=1e-3,1e-2", or "optimizer.lr=1e-4..1e-1" for a range, "log:1e-4..1e-1" for one that is even
        in the logarithm.
      base: tells the types of values.
    """
    name, equals, said = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not said:
        raise UserError(f"an axis is written as NAME=VALUE,VALUE or NAME=LOW..HIGH, got {text!r}")
    like = check_axis(name, base)
    if ".." in said:
        log = said.startswith("log:")
        low, _, high = said.removeprefix("log:").partition("..")
        return Axis(name, low=_number(low, text), high=_number(high, text), log=log)
    return Axis(name, tuple(_value(part.strip(), like, text) for part in said.split(",")))


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{text!r} in {whole!r} is no number") from error


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
