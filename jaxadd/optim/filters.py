"""Transformations around the optimiser: filters and clipping of the gradient, and a constraint on the norm.

Each is a frozen config and a pytree, as the optimisers are.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxadd.errors import check_numbers

_TINY = 1e-30  # Replaces a norm of 0, squared or not. Float32 numbers below 1.2e-38 are flushed to 0.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlainGradient:
    """The gradient unchanged."""

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        return optax.identity()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GrokfastEMA:
    """Amplify the slow part of the gradient, its exponential mean (Lee et al. 2024, "Grokfast")."""

    decay: float = 0.98
    """decay of the exponential mean of gradients"""
    gain: float = 2.0
    """multiple of the mean that is added to the gradient"""

    def __post_init__(self) -> None:
        check_numbers(self, decay=(0, 1), gain=(0, math.inf))

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation; the mean starts at the first gradient."""

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
    """Amplify the moving average of the gradient, once the window is full (Lee et al. 2024, "Grokfast").

    Every lane keeps a window of gradients, which takes the memory of `window` copies of the parameters.
    """

    window: int = field(default=100, metadata={"static": True})
    """number of gradients averaged"""
    gain: float = 5.0
    """multiple of the mean that is added to the gradient"""

    def __post_init__(self) -> None:
        check_numbers(self, window=(1, math.inf), gain=(0, math.inf))

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""

        def init(params: Any) -> tuple:
            return jnp.int32(0), jax.tree.map(lambda w: jnp.zeros((self.window, *w.shape), w.dtype), params)

        def update(grads: Any, state: tuple, params: Any = None) -> tuple:
            count, window = state
            window = jax.tree.map(lambda w, g: w.at[count % self.window].set(g), window, grads)
            gain = jnp.where(count + 1 >= self.window, self.gain, 0.0)
            return jax.tree.map(lambda g, w: g + gain * jnp.mean(w, axis=0), grads, window), (count + 1, window)

        return optax.GradientTransformation(init, update)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OrthogonalGradient:
    """⊥Grad: remove from each parameter's gradient the component along the parameter, and keep its norm.

    Prieto et al. 2025, "Grokking at the edge of numerical stability".
    """

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""

        def orthogonal(g: jax.Array, w: jax.Array) -> jax.Array:
            rest = g - w * (jnp.vdot(w, g) / jnp.maximum(jnp.vdot(w, w), _TINY))
            return rest * (jnp.linalg.norm(g.ravel()) / jnp.maximum(jnp.linalg.norm(rest.ravel()), _TINY))

        return optax.stateless(lambda grads, params: jax.tree.map(orthogonal, grads, params))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FreeNorm:
    """No constraint on the norm of the parameters."""

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        return optax.identity()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FixedNorm:
    """Project every update onto the sphere of the initial parameters (Liu et al. 2022, "Omnigrok").

    All parameters together are scaled to the norm of the initial ones, after `init_scale`.
    """

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""

        def update(updates: Any, radius: jax.Array, params: Any) -> tuple:
            moved = optax.apply_updates(params, updates)
            scale = radius / optax.tree.norm(moved)
            return jax.tree.map(lambda m, w: scale * m - w, moved, params), radius

        return optax.GradientTransformation(optax.tree.norm, update)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoClip:
    """The gradient at its full length."""

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        return optax.identity()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GlobalNormClip:
    """The gradient scaled down where the norm of all its parts together is above a limit."""

    limit: float = 1.0
    """largest norm of the gradient of all parameters together, after the filter"""

    def __post_init__(self) -> None:
        check_numbers(self, limit=(_TINY, math.inf))

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        return optax.clip_by_global_norm(self.limit)


Gradient = PlainGradient | GrokfastEMA | GrokfastMA | OrthogonalGradient
Norm = FreeNorm | FixedNorm
Clip = NoClip | GlobalNormClip
