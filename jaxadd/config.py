"""RunConfig: everything that determines a run, and its form as JSON."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_type_hints

from jaxadd.errors import UserError, check_choices
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


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    task: Modular | Addition | Digits = field(default_factory=Modular)
    """what is learned"""
    model: Network = field(default_factory=Transformer)
    """the network"""
    optimizer: Optimizer = field(default_factory=AdamW)
    """the optimiser"""
    steps: int = 25_000
    """updates to make"""
    seeds: tuple[int, ...] = (0,)
    """one lane per seed, trained side by side; a seed names initial parameters, batches and split"""
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
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds must name at least one seed and none twice, got {self.seeds}")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise UserError(f"seeds must be from 0 to 2**32 - 1, got {self.seeds}")


def to_json(config: Any) -> dict[str, Any]:
    """Write a config as plain data; a nested dataclass gets its class name as "kind"."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {"kind": type(config).__name__} | {
        name: to_json(value) if is_dataclass(value) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def from_json(data: Any, kind: Any = RunConfig) -> Any:
    """Read what `to_json` wrote back into the same dataclass; raises ValueError where it does not fit."""
    if not isinstance(data, dict):
        return tuple(data) if isinstance(data, list) else data
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
    fields: dict[str, Any] = {}
    for name, value in to_json(config).items():
        if name == "kind":
            fields |= {prefix.removesuffix("."): value} if prefix else {}
        elif isinstance(value, dict):
            fields |= flat(getattr(config, name), f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields
