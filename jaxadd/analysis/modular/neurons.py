"""What single neurons do: their frequency, the phases of what they read and write, and when they settled on it.

A neuron that adds reads cos(w_k a + φ) + cos(w_k b + χ) and writes cos(w_k c + ψ) to the logits, with ψ = φ + χ for a
sum, φ - χ for a difference (Gromov 2023); He et al. 2026 find ψ = 2φ where both operands are read alike. All in the
characters of the operation's group.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, fourier
from jaxadd.analysis.modular.pairs import graduation
from jaxadd.analysis.modular.problem import Problem
from jaxadd.errors import UserError
from jaxadd.models import Model, structure
from jaxadd.types import Params


class Neurons(NamedTuple):
    """The neurons of the last layer.

    Attributes:
      frequency: int32 `[F]`, the one that explains most of the activation, from 1; 0 for a dead neuron.
      explained: float32 `[F]`, the fraction of its variance that this frequency explains.
      input_phases: float32 `[F, 2]`, radians: φ and χ of the mean pre-activation over b, and over a.
      output_phase: float32 `[F]`, radians: ψ of the neuron's row of W_L; NaN where W_L is not defined.
      concentration: float32 `[F]`, see `concentration`.
    """

    frequency: jax.Array
    explained: jax.Array
    input_phases: jax.Array
    output_phase: jax.Array
    concentration: jax.Array

    def phase_error(self, sign: int) -> jax.Array:
        """Return ψ - (φ ± χ), radians in (-π, π], `[F]`; about 0 for a neuron that adds.

        Args:
          sign: 1 for a sum, -1 for a difference.
        """
        phi, chi = self.input_phases.T
        return jnp.angle(jnp.exp(1j * (self.output_phase - phi - sign * chi)))


@functools.partial(jax.jit, static_argnames="model")
def neurons(params: Params, model: Model, problem: Problem) -> Neurons:
    """Describe the neurons of the last layer of one network.

    Raises:
      UserError: the network has no neurons.
    """
    post = structure.last_neurons(model)
    if post is None:
        raise UserError("this network has no MLP (d_mlp is 0), so it has no neurons to read")
    pre = post.replace("hook_post", "hook_pre")
    _, cache = model.apply(params, problem.inputs, [pre, post])
    read, active = (cache[name] if cache[name].ndim == 2 else cache[name][:, 0] for name in (pre, post))
    fractions = fourier.neuron_fractions(active, problem.orders)
    explained = fourier.largest(fractions, axis=1)
    frequency = jnp.where(explained > 0, jnp.argmax(fractions, axis=1) + 1, 0).astype(jnp.int32)
    p = len(problem.group.elements)
    grid = read.reshape(p, p, -1)
    sides = jnp.stack([jnp.mean(grid, axis=1), jnp.mean(grid, axis=0)])  # [2, P, F]
    phases = jnp.stack([_phase(side.T, frequency, problem.orders) for side in sides], axis=1)
    if structure.is_transformer(model) and not structure.is_linear(model):
        written = jnp.full(len(frequency), jnp.nan)
    else:
        to_logits = problem.of_elements(circuits.last_neurons_to_logits(params, model), 1)
        written = _phase(to_logits, frequency, problem.orders)
    return Neurons(frequency, explained, phases, written, concentration(sides, problem.orders))


def _phase(x: jax.Array, frequency: jax.Array, orders: fourier.Orders) -> jax.Array:
    """Return the phase of each row `[F, P]` at its frequency, that of cos(w_k n + phase)."""
    angles = np.stack([np.zeros(x.shape[1]), *(fourier.angles(orders, k + 1) for k in range(fourier.count(orders)))])
    waves = jnp.asarray(np.exp(-1j * angles), jnp.complex64)
    return jnp.angle(jnp.einsum("fp,fp->f", x.astype(jnp.complex64), waves[frequency], precision="highest"))


def concentration(inputs: jax.Array, orders: fourier.Orders) -> jax.Array:
    """Compute the inverse participation ratio of what neurons read, Σ_k |û_k|⁴ / (Σ_k |û_k|²)².

    |û_k|² is what frequency k holds, cosine and sine together, of both operands; the constant does not count. It is 1
    where a neuron reads one frequency, 1/K where it reads all K alike, and for random weights about 2/K (He et al.
    2026).

    Args:
      inputs: float32 `[2, P, F]`, what neurons read of a and of b.
      orders: of the group.

    Returns:
      float32 `[F]`; 0 for a neuron that reads nothing.
    """
    chex.assert_shape(inputs, (2, fourier.basis(orders).shape[0], None))
    ratios = []
    for side in inputs:
        power = fourier.by_frequency(fourier.transform(side, 0, orders) ** 2, orders)[1:]
        total = jnp.sum(power, axis=0) ** 2
        ratios.append(jnp.where(total > 0, jnp.sum(power**2, axis=0) / jnp.where(total > 0, total, 1), 0))
    return jnp.mean(jnp.stack(ratios), axis=0)


def commitment(frequency: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the first known step from which a neuron keeps the frequency that it ends with.

    Args:
      frequency: int `[E, F]`, at the known states.
      steps: `[E]`, ascending.

    Returns:
      float64 `[F]`; NaN for a neuron that ends without a frequency.
    """
    chex.assert_shape(frequency, (len(steps), None))
    return np.where(frequency[-1] > 0, graduation(frequency == frequency[-1], steps), np.nan)
