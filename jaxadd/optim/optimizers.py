"""Optimisers as frozen configs whose numbers may be traced per lane; see `filters` for what surrounds them.

Each config is also a pytree: its numbers are leaves, and its class is static structure.
`AdamW(lr=3e-3)` names an optimiser; `jax.vmap` over an `AdamW` whose leaves are arrays is a sweep.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxadd.errors import check_numbers
from jaxadd.optim.levenberg_marquardt import LevenbergMarquardt
from jaxadd.trees import map_named


def _warm_up(lr: jax.typing.ArrayLike, warmup: jax.typing.ArrayLike) -> optax.Schedule:
    """Return the schedule lr · min(step / warmup, 1), step from 0: the first update is zero if warmup > 0."""
    return lambda step: lr * jnp.where(step < warmup, step / jnp.maximum(warmup, 1), 1.0)


def _decoupled(
    scale: optax.GradientTransformation,
    weight_decay: jax.typing.ArrayLike,
    lr: jax.typing.ArrayLike,
    warmup: jax.typing.ArrayLike,
    no_decay: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """Return the chain: scale gradients, add decoupled weight decay, multiply both by the learning rate.

    Parameters whose name contains one of `no_decay` are not decayed; names are paths such as "blocks.0.mlp.b_in".
    """
    decayed = lambda params: map_named(lambda name, _: not any(part in name for part in no_decay), params)
    decay = optax.add_decayed_weights(weight_decay, decayed if no_decay else None)
    return optax.chain(scale, decay, optax.scale_by_learning_rate(_warm_up(lr, warmup)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay on every parameter but those in no_decay, biases and embeddings too."""

    lr: float = 1e-3
    """learning rate after warm-up"""
    b1: float = 0.9
    """decay of the running mean of gradients"""
    b2: float = 0.98
    """decay of the running mean of squared gradients"""
    eps: float = 1e-8
    """number added to the root of the mean square, for stability"""
    weight_decay: float = 1.0
    """decoupled weight decay: each step also subtracts lr · weight_decay times every parameter"""
    warmup: float = 10.0
    """steps of linear warm-up; the update of step 0 is zero"""
    no_decay: tuple[str, ...] = field(default=(), metadata={"static": True})
    """parameters that are not decayed: those whose path contains one of these, such as b_in or embed.W_E"""

    def __post_init__(self) -> None:
        inf = math.inf
        check_numbers(self, lr=(0, inf), b1=(0, 1), b2=(0, 1), eps=(0, inf), weight_decay=(0, inf), warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        return _decoupled(
            optax.scale_by_adam(self.b1, self.b2, self.eps), self.weight_decay, self.lr, self.warmup, self.no_decay
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adam:
    """Adam with optional L2 decay, which is added to the gradient and not decoupled."""

    lr: float = 1e-3
    """learning rate after warm-up"""
    b1: float = 0.9
    """decay of the running mean of gradients"""
    b2: float = 0.999
    """decay of the running mean of squared gradients"""
    eps: float = 1e-8
    """number added to the root of the mean square, for stability"""
    l2: float = 0.0
    """L2 decay: multiple of every parameter that is added to its gradient"""
    warmup: float = 0.0
    """steps of linear warm-up"""

    def __post_init__(self) -> None:
        inf = math.inf
        check_numbers(self, lr=(0, inf), b1=(0, 1), b2=(0, 1), eps=(0, inf), l2=(0, inf), warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        return optax.chain(
            optax.add_decayed_weights(self.l2),
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.scale_by_learning_rate(_warm_up(self.lr, self.warmup)),
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
    """L2 decay: multiple of every parameter that is added to its gradient"""
    warmup: float = 0.0
    """steps of linear warm-up"""

    def __post_init__(self) -> None:
        inf = math.inf
        check_numbers(self, lr=(0, inf), momentum=(0, 1), l2=(0, inf), warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        return optax.chain(
            optax.add_decayed_weights(self.l2),
            optax.trace(self.momentum),
            optax.scale_by_learning_rate(_warm_up(self.lr, self.warmup)),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lion:
    """Lion (Chen et al. 2023): the sign of an interpolation of gradient and running mean, decoupled weight decay."""

    lr: float = 1e-4
    """learning rate after warm-up; usually a third to a tenth of AdamW's"""
    b1: float = 0.9
    """weight of the running mean in the interpolation whose sign is the update"""
    b2: float = 0.99
    """decay of the running mean of gradients"""
    weight_decay: float = 3.0
    """decoupled weight decay: each step also subtracts lr · weight_decay times every parameter"""
    warmup: float = 10.0
    """steps of linear warm-up; the update of step 0 is zero"""
    no_decay: tuple[str, ...] = field(default=(), metadata={"static": True})
    """parameters that are not decayed: those whose path contains one of these, such as b_in or embed.W_E"""

    def __post_init__(self) -> None:
        inf = math.inf
        check_numbers(self, lr=(0, inf), b1=(0, 1), b2=(0, 1), weight_decay=(0, inf), warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        return _decoupled(
            optax.scale_by_lion(self.b1, self.b2), self.weight_decay, self.lr, self.warmup, self.no_decay
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al. 2024) for the matrices of blocks and hidden layers, AdamW for all other parameters.

    The W_Q of all heads together is one matrix, and so are their W_K, W_V and W_O. The update of each matrix is
    orthogonalised by five Newton-Schulz iterations and scaled by √max(1, outputs / inputs).
    """

    lr: float = 0.02
    """learning rate of the matrices after warm-up"""
    momentum: float = 0.95
    """decay of the running mean of the gradients of matrices, in Nesterov's form"""
    weight_decay: float = 1.0
    """decoupled weight decay: each step also subtracts learning rate · weight_decay times every parameter"""
    adam_lr: float = 1e-3
    """learning rate of all other parameters after warm-up"""
    b1: float = 0.9
    """AdamW's decay of the running mean of gradients"""
    b2: float = 0.98
    """AdamW's decay of the running mean of squared gradients"""
    warmup: float = 10.0
    """steps of linear warm-up; the update of step 0 is zero"""

    def __post_init__(self) -> None:
        inf = math.inf
        check_numbers(
            self, lr=(0, inf), momentum=(0, 1), weight_decay=(0, inf), adam_lr=(0, inf), b1=(0, 1), b2=(0, 1)
        )
        check_numbers(self, warmup=(0, inf))

    def transform(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        matrices = optax.contrib.muon(
            _warm_up(self.lr, self.warmup),
            beta=self.momentum,
            weight_decay=self.weight_decay,
            muon_weight_dimension_numbers=_matrices,
        )
        # optax.contrib.muon has an Adam for the other parameters, but with Nesterov's momentum.
        others = _decoupled(optax.scale_by_adam(self.b1, self.b2), self.weight_decay, self.adam_lr, self.warmup)
        return optax.partition({"matrix": matrices, "other": others}, _muon_labels)


def _muon_labels(params: Any) -> Any:
    def label(name: str, w: jax.Array) -> str:
        hidden = name.startswith(("blocks.", "layers.")) and ".W" in name
        return "matrix" if hidden or name == "W_in" else "other"

    return map_named(label, params)


def _matrices(params: Any) -> Any:
    """Return the input and output axes of every matrix: heads `[H, D, K]` are outputs, those of W_O inputs."""

    def axes(name: str, w: jax.Array) -> optax.contrib.MuonDimensionNumbers:
        if w.ndim == 2:
            return optax.contrib.MuonDimensionNumbers(0, 1)
        # Of two factors, one is a matrix of each head, and the other common to all heads.
        if name.endswith(("W_O_left", "W_Q_right", "W_K_right", "W_V_right")):
            return optax.contrib.MuonDimensionNumbers(1, 2)
        return optax.contrib.MuonDimensionNumbers(
            *(((0, 1), 2) if name.endswith(("W_O", "W_O_right")) else (1, (0, 2)))
        )

    return map_named(axes, params)


Optimizer = AdamW | Adam | SGD | Lion | Muon | LevenbergMarquardt
