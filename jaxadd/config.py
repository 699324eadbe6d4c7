"""RunConfig: everything that determines a run, and its form as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import jax.numpy as jnp
import optax
import tyro

from jaxadd.errors import UserError, check_choices
from jaxadd.filters import FreeNorm, Gradient, Norm, PlainGradient
from jaxadd.losses import CrossEntropy, Loss
from jaxadd.model import Network, Transformer
from jaxadd.optimizers import AdamW, Optimizer
from jaxadd.tasks import Addition, Digits, Modular


@dataclass(frozen=True)
class Stop:
    """Ends a lane at the step where a metric reaches a threshold: a loss falls to it, an accuracy rises to it."""

    metric: Literal["none", "train_loss", "train_accuracy", "test_loss", "test_accuracy"] = "none"
    """what is watched; test metrics are known every eval_every steps"""
    threshold: float = 0.0
    """nats for a loss, a share from 0 to 1 for an accuracy"""

    def __post_init__(self) -> None:
        check_choices(self)
        highest = 1 if self.metric.endswith("accuracy") else math.inf
        if self.metric != "none" and not 0 < self.threshold <= highest:
            raise UserError(
                f"stop.threshold must be above 0 and at most {highest} for {self.metric}, got {self.threshold}"
            )

    def reached(self, values: Any) -> Any:
        """Tell of values of the metric, an array, which reach the threshold; NaN does not."""
        return values >= self.threshold if self.metric.endswith("accuracy") else values <= self.threshold


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    task: Modular | Addition | Digits = field(default_factory=Modular)
    """what is learned"""
    model: Network = field(default_factory=Transformer)
    """the network"""
    optimizer: Optimizer = field(default_factory=AdamW)
    """the optimiser"""
    gradient: Gradient = field(default_factory=PlainGradient)
    """what is done to the gradient before the optimiser sees it"""
    norm: Norm = field(default_factory=FreeNorm)
    """whether the norm of all parameters together is held"""
    loss: Loss = field(default_factory=CrossEntropy)
    """what is minimised; the losses recorded are cross-entropy all the same"""
    init_scale: float = 1.0
    """initial parameters are multiplied by this"""
    steps: int = 25_000
    """updates to make"""
    seeds: tuple[int, ...] = (0,)
    """one lane per seed, trained side by side; a seed names initial parameters, batches and split"""
    vary: Annotated[tuple[tuple[str, tuple[float, ...]], ...], tyro.conf.Suppress] = ()
    """numbers in which lanes differ: names such as optimizer.lr, each with one value per lane; sweeps set it"""
    eval_every: int = 10
    """steps between evaluations on the whole test set"""
    checkpoint_every: int = 500
    """steps between saved states; a killed run repeats at most this many"""
    stop: Stop = field(default_factory=Stop)
    """ends a lane early"""
    debug: bool = False
    """run un-jitted, with every operation checked for NaN and every shape printed"""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("eval_every", 1), ("checkpoint_every", 1)):
            if not least <= getattr(self, name) < 2**31 - 1:  # Steps are counted in int32.
                raise UserError(f"{name} must be at least {least} and below 2**31 - 1, got {getattr(self, name)}")
        names = [name for name, _ in self.vary]
        if unknown := [name for name in names if name not in traced(self)]:
            raise UserError(f"lanes cannot differ in {', '.join(unknown)}; they can in {', '.join(traced(self))}")
        if len(set(names)) < len(names) or any(len(values) != len(self.seeds) for _, values in self.vary):
            raise UserError("vary must name every number once, with one value for each seed")
        for name, values in self.vary:
            for value in values:
                _parts(self, {name: value})
        for scale in (self.init_scale, *dict(self.vary).get("init_scale", ())):
            if not 0 < scale < math.inf:
                raise UserError(f"init_scale must be above 0 and finite, got {scale}")
        lanes = list(zip(self.seeds, *(values for _, values in self.vary), strict=True))
        if not lanes or len(set(lanes)) < len(lanes):
            raise UserError(f"seeds must name at least one seed and none twice, got {self.seeds}")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise UserError(f"seeds must be from 0 to 2**32 - 1, got {self.seeds}")


def traced(config: RunConfig) -> dict[str, float]:
    """List the numbers in which the lanes of a run may differ, by path; all else is structure, compiled in."""
    found: dict[str, float] = {"init_scale": config.init_scale}
    for part in ("optimizer", "gradient", "norm", "loss"):
        value = getattr(config, part)
        found |= {f"{part}.{f.name}": getattr(value, f.name) for f in fields(value) if not f.metadata.get("static")}
    return found


class Hyper(NamedTuple):
    """The numbers in which lanes may differ, float32 with a leading S axis; one lane's make its step.

    Attributes:
      optimizer, gradient, norm, loss: as in RunConfig, with arrays for numbers.
      init_scale: as in RunConfig.
    """

    optimizer: Optimizer
    gradient: Gradient
    norm: Norm
    loss: Loss
    init_scale: Any

    def transform(self) -> optax.GradientTransformation:
        """Build what turns a gradient into an update."""
        return optax.chain(self.gradient.transform(), self.optimizer.transform(), self.norm.transform())


def hyper(config: RunConfig) -> Hyper:
    """Give each lane its numbers: leaves are float32 `[S]`."""
    varied = dict(config.vary)
    columns = {
        name: jnp.asarray(varied.get(name, (value,) * len(config.seeds)), jnp.float32)
        for name, value in traced(config).items()
    }
    own = _parts(config, columns)
    return Hyper(*(own.get(part, getattr(config, part)) for part in Hyper._fields))


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Replace fields by path, as in "optimizer.lr"; raises ValueError for a name that is none, or a wrong value."""
    for name in values:
        _check_path(config, name)
    return replace(config, **_parts(config, values))


def _parts(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields that values by paths that exist change; each dataclass checks its values together."""
    inside: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        inside.setdefault(head, {})[rest] = value
    own = {}
    for head, given in inside.items():
        part = getattr(config, head)
        own[head] = given[""] if "" in given else replace(part, **_parts(part, given))
    return own


def _check_path(config: Any, name: str) -> None:
    part = config
    for head in name.split("."):
        if not is_dataclass(part) or head not in {f.name for f in fields(part)}:
            raise UserError(f"no field is named {name}; there are {', '.join(flat(config))}")
        part = getattr(part, head)


def single_values(config: Any, prefix: str = "") -> dict[str, Any]:
    """List every field that holds one value, no list of them, by its path, as in "task.mixture.uniform"."""
    found: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            found |= single_values(value, f"{prefix}{f.name}.")
        elif not isinstance(value, tuple):
            found[prefix + f.name] = value
    return found


def to_json(config: Any) -> dict[str, Any]:
    """Write a config as plain data; a nested dataclass gets its class name as "kind"."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {"kind": type(config).__name__} | {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return to_json(value) if is_dataclass(value) else value


def from_json(data: Any, kind: Any = RunConfig) -> Any:
    """Read what `to_json` wrote back into the same dataclass; raises ValueError where it does not fit."""
    if not isinstance(data, dict):
        of = get_args(kind)[0] if get_origin(kind) is tuple else None
        return tuple(from_json(item, of) for item in data) if isinstance(data, list) else data
    choices = {c.__name__: c for c in (get_args(kind) or (kind,)) if is_dataclass(c)}
    chosen = choices.get(data.get("kind"))
    if chosen is None:
        raise UserError(f"expected one of {', '.join(choices)}, got kind {data.get('kind')!r}")
    hints = get_type_hints(chosen)
    given = {name: value for name, value in data.items() if name != "kind"}
    if given.keys() != hints.keys():
        wrong = ", ".join(sorted(given.keys() ^ hints.keys()))
        raise UserError(f"the fields of {chosen.__name__} have changed since this was written: {wrong}")
    return chosen(**{name: from_json(value, hints[name]) for name, value in given.items()})


def difference(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """List the fields in which two configs differ, as "optimizer.lr: 0.001 here, 0.003 there"."""
    a, b = flat(ours), flat(theirs)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return [f"{name}: {a.get(name, 'absent')} here, {b.get(name, 'absent')} there" for name in names]


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """List every field by its path, as in "optimizer.lr"; the class of a nested config goes under its own path."""
    found: dict[str, Any] = {}
    for name, value in to_json(config).items():
        if name == "kind":
            found |= {prefix.removesuffix("."): value} if prefix else {}
        elif isinstance(value, dict):
            found |= flat(getattr(config, name), f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
