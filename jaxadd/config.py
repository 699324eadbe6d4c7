"""RunConfig, everything that determines a run, and the numbers in which the lanes of a run may differ."""

import fractions
import math
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jaxadd.errors import UserError, check_choices
from jaxadd.models import MLP, ModelConfig, PairMLP, Transformer
from jaxadd.optim.filters import Clip, FreeNorm, Gradient, NoClip, Norm, PlainGradient
from jaxadd.optim.losses import CrossEntropy, Loss
from jaxadd.optim.optimizers import AdamW, Optimizer
from jaxadd.optim.schedules import Constant, Schedule
from jaxadd.serialization import changed
from jaxadd.tasks import Modular, Task

MODELS: tuple[type[ModelConfig], ...] = (Transformer, PairMLP, MLP)
# The parts of a config that hold numbers in which lanes may differ.
PARTS = ("optimizer", "gradient", "clip", "schedule", "norm", "loss")


@dataclass(frozen=True)
class Stop:
    """End a lane at the step where a metric reaches a threshold: a loss falls to it, an accuracy rises to it."""

    metric: Literal["none", "train_loss", "train_accuracy", "test_loss", "test_accuracy"] = "none"
    """metric compared with the threshold; test metrics are computed every eval_every steps"""
    threshold: float = 0.0
    """value at which a lane ends: nats for a loss, a fraction from 0 to 1 for an accuracy"""

    def __post_init__(self) -> None:
        check_choices(self)
        highest = 1 if self.metric.endswith("accuracy") else math.inf
        if self.metric != "none" and not 0 < self.threshold <= highest:
            raise UserError(
                f"stop.threshold must be above 0 and at most {highest} for {self.metric}, got {self.threshold}"
            )

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        return {"threshold": "a stop.metric"} if self.metric == "none" else {}

    def reached(self, values: Any, examples: int) -> Any:
        """Return where values of the metric reach the threshold, a bool array; NaN does not.

        Args:
          values: array of values of the metric.
          examples: number of examples that an accuracy is a fraction of. The numbers of correct examples are
            compared, so that the rounding of a fraction does not matter.
        """
        if not self.metric.endswith("accuracy"):
            return values <= self.threshold
        needed = math.ceil(fractions.Fraction(repr(float(self.threshold))) * examples)
        return values * np.float32(examples) >= needed - 0.5


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    task: Task = field(default_factory=Modular)
    """task that the network learns"""
    model: ModelConfig = field(default_factory=Transformer)
    """architecture of the network"""
    optimizer: Optimizer = field(default_factory=AdamW)
    """optimiser and its hyper-parameters"""
    gradient: Gradient = field(default_factory=PlainGradient)
    """filter applied to the gradient before the optimiser"""
    clip: Clip = field(default_factory=NoClip)
    """whether the norm of the filtered gradient is limited"""
    schedule: Schedule = field(default_factory=Constant)
    """how the learning rate changes over the steps"""
    norm: Norm = field(default_factory=FreeNorm)
    """whether the norm of all parameters together is held fixed"""
    loss: Loss = field(default_factory=CrossEntropy)
    """loss that is minimised; the recorded losses are cross-entropy in any case"""
    init_scale: float = 1.0
    """factor by which the initial parameters are multiplied"""
    init_from: str = ""
    """run folder or checkpoint file whose parameters the lanes start from; "" draws them from the seed"""
    steps: int = 25_000
    """number of updates"""
    seeds: tuple[int, ...] = (0,)
    """one lane per seed, trained side by side; a seed determines initial parameters, batches and data split"""
    vary: Annotated[tuple[tuple[str, tuple[float, ...]], ...], tyro.conf.Suppress] = ()
    """numbers in which lanes differ: paths such as optimizer.lr, each with one value per lane; set by sweeps"""
    eval_every: int = 10
    """steps between evaluations on the whole test set"""
    checkpoint_every: int = 500
    """steps between saved states; a killed run repeats at most this many"""
    stop: Stop = field(default_factory=Stop)
    """threshold that ends a lane early"""
    debug: bool = False
    """run without jit, check every operation for NaN, and print the shape of every array"""

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
    """Return the numbers in which the lanes of a run may differ, by path; all other fields are compiled in."""
    numbers: dict[str, float] = {"init_scale": config.init_scale}
    for part in PARTS:
        value = getattr(config, part)
        numbers |= {f"{part}.{f.name}": getattr(value, f.name) for f in fields(value) if not f.metadata.get("static")}
    return numbers


def structure(config: RunConfig) -> RunConfig:
    """Return a config that is equal for all runs that one compiled program can train: without lanes and numbers."""
    parts = {
        part: type(value)(**{f.name: getattr(value, f.name) for f in fields(value) if f.metadata.get("static")})
        for part, value in ((part, getattr(config, part)) for part in PARTS)
    }
    return replace(config, **parts, init_scale=1.0, init_from="", seeds=(0,), vary=(), steps=0, checkpoint_every=1)


class Hyper(NamedTuple):
    """The numbers in which lanes may differ, float32 arrays `[S]`; scalars inside the step of one lane.

    Attributes:
      optimizer, gradient, clip, schedule, norm, loss: as in RunConfig, with arrays in place of numbers.
      init_scale: as in RunConfig, an array.
    """

    optimizer: Optimizer
    gradient: Gradient
    clip: Clip
    schedule: Schedule
    norm: Norm
    loss: Loss
    init_scale: Any

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation from the gradient to the update of one lane."""
        parts = (self.gradient, self.clip, self.optimizer, self.schedule, self.norm)
        return optax.chain(*(part.transform() for part in parts))


def hyper(config: RunConfig) -> Hyper:
    """Return the numbers of every lane, float32 leaves `[S]`."""
    varied = dict(config.vary)
    columns = {
        name: jnp.asarray(varied.get(name, (value,) * len(config.seeds)), jnp.float32)
        for name, value in traced(config).items()
    }
    parts = changed(config, columns)
    return Hyper(*(parts.get(part, getattr(config, part)) for part in Hyper._fields))
