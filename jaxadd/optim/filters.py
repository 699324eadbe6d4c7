"""What stands around the optimiser: filters of the gradient before it, and the norm that it may be held to after it.

Frozen configs and pytrees, as optimisers are.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxadd.errors import check_numbers

_TINY = 1e-30  # In place of a norm of 0, squared or not; far below it a float32 is flushed to 0.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlainGradient:
    """The gradient as it is."""

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        return optax.identity()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GrokfastEMA:
    """Adds the slow part of the gradient, its exponential mean, once more (Lee et al. 2024, Grokfast)."""

    decay: float = 0.98
    """of the mean"""
    gain: float = 2.0
    """times the mean is added"""

    def __post_init__(self) -> None:
        check_numbers(self, decay=(0, 1), gain=(0, math.inf))

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation; the mean begins at the first gradient."""

        def init(params: Any) -> tuple:
            return jnp.int32(0), jax.tree.map(jnp.zeros_like, params)

        def update(grads: Any, state: tuple, params: Any = None) -> tuple:
            count, mean = state
            decay = jnp.where(count == 0, 0.0, self.decay)
            mean = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, mean, grads)
            return jax.tree.map(lambda g, m: g + self.gain * m, grads, mean), (count + 1, mean)

        return optax.GradientTransformation(init, update)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GrokfastMA:
    """Adds the mean of the newest gradients, once there are as many as the window takes (Lee et al. 2024, Grokfast).

    Every lane keeps a window of gradients: its memory is that of `window` copies of the parameters.
    """

    window: int = field(default=100, metadata={"static": True})
    """gradients averaged"""
    gain: float = 5.0
    """times the mean is added"""

    def __post_init__(self) -> None:
        check_numbers(self, window=(1, math.inf), gain=(0, math.inf))

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""

        def init(params: Any) -> tuple:
            return jnp.int32(0), jax.tree.map(lambda w: jnp.zeros((self.window, *w.shape), w.dtype), params)

        def update(grads: Any, state: tuple, params: Any = None) -> tuple:
            count, kept = state
            kept = jax.tree.map(lambda k, g: k.at[count % self.window].set(g), kept, grads)
            gain = jnp.where(count + 1 >= self.window, self.gain, 0.0)
            return jax.tree.map(lambda g, k: g + gain * jnp.mean(k, axis=0), grads, kept), (count + 1, kept)

        return optax.GradientTransformation(init, update)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OrthogonalGradient:
    """Takes from each parameter's gradient what lies along the parameter, and keeps its norm: ⊥Grad.

    Prieto et al. 2025, "Grokking at the edge of numerical stability".
    """

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""

        def across(g: jax.Array, w: jax.Array) -> jax.Array:
            rest = g - w * (jnp.vdot(w, g) / jnp.maximum(jnp.vdot(w, w), _TINY))
            return rest * (jnp.linalg.norm(g.ravel()) / jnp.maximum(jnp.linalg.norm(rest.ravel()), _TINY))

        return optax.stateless(lambda grads, params: jax.tree.map(across, grads, params))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FreeNorm:
    """The norm of the parameters goes where training takes it."""

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        return optax.identity()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FixedNorm:
    """Every update ends on the sphere that training began on (Liu et al. 2022, Omnigrok).

    All parameters together are scaled to the norm of the initial ones, those that `init_scale` gave.
    """

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""

        def update(updates: Any, radius: jax.Array, params: Any) -> tuple:
            moved = optax.apply_updates(params, updates)
            scale = radius / optax.tree.norm(moved)
            return jax.tree.map(lambda m, w: scale * m - w, moved, params), radius

        return optax.GradientTransformation(optax.tree.norm, update)


Gradient = PlainGradient | GrokfastEMA | GrokfastMA | OrthogonalGradient
Norm = FreeNorm | FixedNorm
