"""RunConfig: everything that determines a run, and the numbers in which its lanes may differ."""

import fractions
import math
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jaxadd.errors import UserError, check_choices
from jaxadd.models import MLP, ModelConfig, Transformer
from jaxadd.optim.filters import FreeNorm, Gradient, Norm, PlainGradient
from jaxadd.optim.losses import CrossEntropy, Loss
from jaxadd.optim.optimizers import AdamW, Optimizer
from jaxadd.serialization import changed
from jaxadd.tasks import Modular, Task

MODELS: tuple[type[ModelConfig], ...] = (Transformer, MLP)


@dataclass(frozen=True)
class Stop:
    """Ends a lane at the step where a metric reaches a threshold: a loss falls to it, an accuracy rises to it."""

    metric: Literal["none", "train_loss", "train_accuracy", "test_loss", "test_accuracy"] = "none"
    """metric that is compared with the threshold; test metrics are computed every eval_every steps"""
    threshold: float = 0.0
    """value that ends the lane: nats for a loss, a fraction from 0 to 1 for an accuracy"""

    def __post_init__(self) -> None:
        check_choices(self)
        highest = 1 if self.metric.endswith("accuracy") else math.inf
        if self.metric != "none" and not 0 < self.threshold <= highest:
            raise UserError(
                f"stop.threshold must be above 0 and at most {highest} for {self.metric}, got {self.threshold}"
            )

    def reached(self, values: Any, examples: int) -> Any:
        """Return where values of the metric, an array, reach the threshold; NaN does not.

        Args:
          values: of the metric.
          examples: number of examples that an accuracy is a fraction of. Numbers of correct examples are compared,
            so that the rounding of a fraction decides nothing.
        """
        if not self.metric.endswith("accuracy"):
            return values <= self.threshold
        needed = math.ceil(fractions.Fraction(repr(float(self.threshold))) * examples)
        return values * np.float32(examples) >= needed - 0.5


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    task: Task = field(default_factory=Modular)
    """what is learned"""
    model: ModelConfig = field(default_factory=Transformer)
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
                changed(self, {name: value})
        for scale in (self.init_scale, *dict(self.vary).get("init_scale", ())):
            if not 0 < scale < math.inf:
                raise UserError(f"init_scale must be above 0 and finite, got {scale}")
        lanes = list(zip(self.seeds, *(values for _, values in self.vary), strict=True))
        if not lanes or len(set(lanes)) < len(lanes):
            raise UserError(f"seeds must name at least one seed and none twice, got {self.seeds}")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise UserError(f"seeds must be from 0 to 2**32 - 1, got {self.seeds}")


def traced(config: RunConfig) -> dict[str, float]:
    """Return the numbers in which the lanes of a run may differ, by path; all else is structure, compiled in."""
    numbers: dict[str, float] = {"init_scale": config.init_scale}
    for part in ("optimizer", "gradient", "norm", "loss"):
        value = getattr(config, part)
        numbers |= {f"{part}.{f.name}": getattr(value, f.name) for f in fields(value) if not f.metadata.get("static")}
    return numbers


def structure(config: RunConfig) -> RunConfig:
    """Return a config that is equal for all runs that one compiled program can train: without lanes and numbers."""
    parts = {
        part: type(value)(**{f.name: getattr(value, f.name) for f in fields(value) if f.metadata.get("static")})
        for part, value in ((part, getattr(config, part)) for part in ("optimizer", "gradient", "norm", "loss"))
    }
    return replace(config, **parts, init_scale=1.0, seeds=(0,), vary=(), steps=0, checkpoint_every=1)


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
        """Return the optax transformation that turns a gradient into an update."""
        return optax.chain(self.gradient.transform(), self.optimizer.transform(), self.norm.transform())


def hyper(config: RunConfig) -> Hyper:
    """Return the numbers of every lane: leaves are float32 `[S]`."""
    varied = dict(config.vary)
    columns = {
        name: jnp.asarray(varied.get(name, (value,) * len(config.seeds)), jnp.float32)
        for name, value in traced(config).items()
    }
    parts = changed(config, columns)
    return Hyper(*(parts.get(part, getattr(config, part)) for part in Hyper._fields))
