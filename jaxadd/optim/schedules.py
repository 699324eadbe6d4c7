"""How the learning rate changes over the steps, after the warm-up that every optimiser has.

A schedule multiplies the update, decoupled weight decay included. It is a function of the number of updates made, so
that a run that is resumed or replayed has the same learning rates. Each is a frozen config and a pytree, as the
optimisers are.
"""

import abc
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxadd.errors import check_numbers


class _Schedule(abc.ABC):
    @abc.abstractmethod
    def factor(self, step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        """Return the factor of the learning rate at a step, counted from 0."""

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation of updates."""
        return optax.scale_by_schedule(self.factor)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constant(_Schedule):
    """The learning rate of the optimiser at all steps."""

    def factor(self, step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        """Return 1."""
        return 1.0

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation of updates, which changes nothing."""
        return optax.identity()


@dataclass(frozen=True)
class _Decay(_Schedule):
    begin: float = 0.0
    """step at which the decay begins"""
    steps: float = 10_000.0
    """number of steps that the decay takes; afterwards the learning rate is constant"""
    final: float = 0.0
    """factor of the learning rate after the decay"""

    def __post_init__(self) -> None:
        check_numbers(self, begin=(0, math.inf), steps=(1, math.inf), final=(0, math.inf))

    def progress(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Return how much of the decay is done, from 0 to 1."""
        return jnp.clip((step - self.begin) / self.steps, 0, 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear(_Decay):
    """A linear decay; with `begin` above 0, warm-up, stable, decay (Hu et al. 2024)."""

    def factor(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Return the factor of the learning rate at a step."""
        return 1 - (1 - self.final) * self.progress(step)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cosine(_Decay):
    """A decay along half a cosine wave (Loshchilov & Hutter 2017)."""

    def factor(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Return the factor of the learning rate at a step."""
        return self.final + (1 - self.final) * (1 + jnp.cos(jnp.pi * self.progress(step))) / 2


Schedule = Constant | Linear | Cosine
