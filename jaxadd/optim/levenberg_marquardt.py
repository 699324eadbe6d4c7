"""The damped Gauss-Newton method, for networks of so few parameters that their curvature is a small matrix."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxadd.errors import UserError, check_numbers

MOST = 2_000  # Parameters. The derivatives of all logits by all of them are held at once.
_AT_ONCE = 16  # Parameters by which logits are differentiated together.
_LEAST, _LARGEST = 1e-6, 1e6  # Damping; below 1e-6, rounding in float32 dominates.
_FLAT = 1e-9  # Curvature, relative to the largest, below which a direction counts as flat.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LevenbergMarquardt:
    """Gauss-Newton steps (Levenberg 1944, Marquardt 1963), for networks of at most 2,000 parameters.

    With J the derivatives of the logits and H the curvature of the loss as a function of them, a step solves
    (JᵀHJ + damping · diag(JᵀHJ)) step = -gradient. A step that lowers the loss of its own batch is made, and divides
    the damping by 3; any other is not made, and multiplies it by 4. What is tested is the full step: a schedule
    shortens it afterwards. Batches should be large: several examples for each parameter.
    """

    lr: float = 1.0
    """factor of a step"""
    damping: float = 1e-3
    """damping at first, relative to the curvature along each parameter"""

    def __post_init__(self) -> None:
        check_numbers(self, lr=(0, math.inf), damping=(_LEAST, _LARGEST))

    def transform(self) -> optax.GradientTransformationExtraArgs:
        """Return the optax transformation; its update takes the functions `logits` and `loss` of a batch as well."""
        return optax.GradientTransformationExtraArgs(self._init, self._update)

    def _init(self, params: Any) -> jax.Array:
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        if count > MOST:
            raise UserError(f"LevenbergMarquardt is for at most {MOST:,} parameters, and this network has {count:,}")
        return jnp.asarray(self.damping, jnp.float32)

    def _update(
        self,
        grads: Any,
        damping: jax.Array,
        params: Any,
        *,
        logits: Callable[[Any], jax.Array],
        loss: Callable[[jax.Array], jax.Array],
        **_: Any,
    ) -> tuple[Any, jax.Array]:
        """Return the step and the next damping.

        Args:
          grads: gradient, structured as the parameters.
          damping: that of this step, a scalar.
          params: the parameters.
          logits: function of the parameters that returns the logits of the batch.
          loss: function of the logits that returns the mean loss.
        """
        flat, unravel = ravel_pytree(params)
        gradient = ravel_pytree(grads)[0]
        predicted, derivative = jax.linearize(lambda x: logits(unravel(x)), flat)
        curvature_times = jax.linearize(jax.grad(loss), predicted)[1]

        def along(direction: jax.Array) -> tuple[jax.Array, jax.Array]:
            change = derivative(direction)
            return change.ravel(), curvature_times(change).ravel()

        changes, curved = jax.lax.map(along, jnp.eye(flat.size), batch_size=_AT_ONCE)  # [P, logits] each
        curvature = changes @ curved.T
        scale = jnp.maximum(jnp.diag(curvature), _FLAT * jnp.max(jnp.diag(curvature)))
        root = jnp.sqrt(scale)
        # Scaled to a unit diagonal, which keeps float32 precise where parameters have very different curvatures.
        damped = curvature / jnp.outer(root, root) + damping * jnp.eye(flat.size)
        step = -self.lr * jax.scipy.linalg.solve(damped, gradient / root, assume_a="pos") / root
        lowers = loss(logits(unravel(flat + step))) < loss(predicted)  # False where the step is not finite.
        damping = jnp.clip(jnp.where(lowers, damping / 3, damping * 4), _LEAST, _LARGEST)
        return unravel(jnp.where(lowers, step, 0)), damping
