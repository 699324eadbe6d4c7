"""Optimisers as frozen configs whose numbers may be traced, so that lanes may differ in them.

Each config is also a pytree: its numbers are leaves, and its class, the structure, is static.
`AdamW(lr=3e-3)` names an optimiser; `jax.vmap` over an `AdamW` whose leaves are arrays is a sweep.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxadd.errors import UserError


def _check(config: object, **limits: tuple[float, float]) -> None:
    """Raise ValueError for a number outside its half-open range; traced numbers are left alone."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if isinstance(value, int | float) and not (math.isfinite(value) and low <= value < high):
            expected = f"at least {low:g}" if high == math.inf else f"from {low:g} to below {high:g}"
            raise UserError(f"{type(config).__name__}.{name} must be a number {expected}, got {value}")


def _scale_by_warm_up(lr: jax.typing.ArrayLike, warmup: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """Scale updates by -lr · min(step / warmup, 1), step from 0: the first update is zero if warmup > 0."""

    def schedule(step: jax.Array) -> jax.Array:
        return lr * jnp.where(step < warmup, step / jnp.maximum(warmup, 1), 1.0)

    return optax.scale_by_learning_rate(schedule)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay on every parameter, biases and embeddings too."""

    lr: float = 1e-3
    """learning rate after warm-up"""
    b1: float = 0.9
    """decay of the mean of gradients"""
    b2: float = 0.98
    """decay of the mean of squared gradients"""
    eps: float = 1e-8
    """added to the root of the mean square"""
    weight_decay: float = 1.0
    """each step also takes lr · weight_decay of every parameter"""
    warmup: float = 10.0
    """steps of linear warm-up; the update of step 0 is zero"""

    def __post_init__(self) -> None:
        inf = math.inf
        _check(self, lr=(0, inf), b1=(0, 1), b2=(0, 1), eps=(0, inf), weight_decay=(0, inf), warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        return optax.chain(
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay),
            _scale_by_warm_up(self.lr, self.warmup),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adam:
    """Adam; weight decay, where asked for, is added to the gradient (L2), not decoupled."""

    lr: float = 1e-3
    """learning rate after warm-up"""
    b1: float = 0.9
    """decay of the mean of gradients"""
    b2: float = 0.999
    """decay of the mean of squared gradients"""
    eps: float = 1e-8
    """added to the root of the mean square"""
    l2: float = 0.0
    """this times the parameter is added to its gradient"""
    warmup: float = 0.0
    """steps of linear warm-up"""

    def __post_init__(self) -> None:
        inf = math.inf
        _check(self, lr=(0, inf), b1=(0, 1), b2=(0, 1), eps=(0, inf), l2=(0, inf), warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        return optax.chain(
            optax.add_decayed_weights(self.l2),
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            _scale_by_warm_up(self.lr, self.warmup),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum and L2 decay."""

    lr: float = 0.1
    """learning rate after warm-up"""
    momentum: float = 0.9
    """decay of the running sum of gradients"""
    l2: float = 0.0
    """this times the parameter is added to its gradient"""
    warmup: float = 0.0
    """steps of linear warm-up"""

    def __post_init__(self) -> None:
        inf = math.inf
        _check(self, lr=(0, inf), momentum=(0, 1), l2=(0, inf), warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        return optax.chain(
            optax.add_decayed_weights(self.l2),
            optax.trace(self.momentum),
            _scale_by_warm_up(self.lr, self.warmup),
        )


Optimizer = AdamW | Adam | SGD


def lanes(optimizer: Optimizer, count: int) -> Optimizer:
    """Repeat every number of an optimiser over S lanes: leaves become float32 `[S]`."""
    return jax.tree.map(lambda number: jnp.full((count,), number, jnp.float32), optimizer)
