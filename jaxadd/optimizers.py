"""Optimisers, and what stands before and after them, as frozen configs whose numbers may be traced per lane.

Each config is also a pytree: its numbers are leaves, and its class, the structure, is static.
`AdamW(lr=3e-3)` names an optimiser; `jax.vmap` over an `AdamW` whose leaves are arrays is a sweep.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxadd.errors import UserError
from jaxadd.trees import named_leaves

_TINY = 1e-30  # In place of a squared norm of 0; far below it a float32 is flushed to 0.


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


def _decoupled(
    scale: optax.GradientTransformation,
    weight_decay: jax.typing.ArrayLike,
    lr: jax.typing.ArrayLike,
    warmup: jax.typing.ArrayLike,
) -> optax.GradientTransformation:
    """Scale gradients, add decoupled weight decay, and take the learning rate's share of both."""
    return optax.chain(scale, optax.add_decayed_weights(weight_decay), _scale_by_warm_up(lr, warmup))


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
        return _decoupled(optax.scale_by_adam(self.b1, self.b2, self.eps), self.weight_decay, self.lr, self.warmup)


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lion:
    """Lion (Chen et al. 2023): the sign of an interpolation between gradient and mean, decoupled weight decay."""

    lr: float = 1e-4
    """learning rate after warm-up; a third to a tenth of AdamW's"""
    b1: float = 0.9
    """weight of the mean in what the sign is taken of"""
    b2: float = 0.99
    """decay of the mean of gradients"""
    weight_decay: float = 3.0
    """each step also takes lr · weight_decay of every parameter"""
    warmup: float = 10.0
    """steps of linear warm-up; the update of step 0 is zero"""

    def __post_init__(self) -> None:
        inf = math.inf
        _check(self, lr=(0, inf), b1=(0, 1), b2=(0, 1), weight_decay=(0, inf), warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        return _decoupled(optax.scale_by_lion(self.b1, self.b2), self.weight_decay, self.lr, self.warmup)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al. 2024) for the matrices inside blocks, AdamW for embeddings, unembedding and biases.

    Each head's W_Q, W_K, W_V and W_O is a matrix of its own, orthogonalised alone by five Newton-Schulz iterations.
    """

    lr: float = 0.02
    """learning rate of the matrices after warm-up"""
    momentum: float = 0.95
    """decay of the mean of gradients of the matrices, Nesterov's form"""
    weight_decay: float = 1.0
    """each step also takes the learning rate times this of every parameter"""
    adam_lr: float = 1e-3
    """learning rate of all other parameters after warm-up"""
    b1: float = 0.9
    """AdamW's decay of the mean of gradients"""
    b2: float = 0.98
    """AdamW's decay of the mean of squared gradients"""
    warmup: float = 10.0
    """steps of linear warm-up; the update of step 0 is zero"""

    def __post_init__(self) -> None:
        inf = math.inf
        _check(self, lr=(0, inf), momentum=(0, 1), weight_decay=(0, inf), adam_lr=(0, inf), b1=(0, 1), b2=(0, 1))
        _check(self, warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        matrices = optax.contrib.scale_by_muon(beta=self.momentum, weight_dimension_numbers=_matrices)
        others = optax.scale_by_adam(self.b1, self.b2)
        return optax.partition(
            {
                "matrix": _decoupled(matrices, self.weight_decay, self.lr, self.warmup),
                "other": _decoupled(others, self.weight_decay, self.adam_lr, self.warmup),
            },
            _muon_labels,
        )


def _muon_labels(params: Any) -> Any:
    labels = [
        "matrix" if name.startswith("blocks.") and ".W_" in name else "other" for name, _ in named_leaves(params)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), labels)


def _matrices(params: Any) -> Any:
    """Name the axes of a matrix: its last two; heads before them are matrices of their own."""
    return jax.tree.map(lambda w: optax.contrib.MuonDimensionNumbers(w.ndim - 2, w.ndim - 1), params)


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
        _check(self, decay=(0, 1), gain=(0, math.inf))

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
        _check(self, window=(1, math.inf), gain=(0, math.inf))

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


Optimizer = AdamW | Adam | SGD | Lion | Muon
Gradient = PlainGradient | GrokfastEMA | GrokfastMA | OrthogonalGradient
Norm = FreeNorm | FixedNorm
