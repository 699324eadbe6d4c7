"""Clock or Pizza: by which algorithm a network adds mod P.

A Clock turns a and b into angles and adds them by multiplying; its logits are cos w(a + b - c). A Pizza averages the
two points of the circle, which costs it a factor |cos(w (a - b) / 2)| on every logit. Definitions: Zhong et al. 2023,
"The Clock and the Pizza"; distance irrelevance and gradient symmetricity are 0.17 and 0.99 of their Pizza, 0.85 and
0.33 of their Clock.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import fourier
from jaxadd.analysis.measures import divide
from jaxadd.models import Model
from jaxadd.types import Params


def distance_irrelevance(logits: jax.Array, answers: jax.Array, orders: fourier.Orders | None = None) -> jax.Array:
    """Compute how little the correct logit depends on the distance a - b.

    Of the correct logits of the P pairs of one distance take the standard deviation; its mean over distances, by
    the standard deviation over all pairs, is 0 where the distance alone decides, 1 where it does not matter.
    For subtraction, where a + b takes the place of a - b, that is the distance.

    Args:
      logits: float32 `[P², C]`.
      answers: int `[P²]`.
      orders: of the group, by default that mod P.

    Returns:
      a scalar; NaN where all correct logits are equal.
    """
    chex.assert_rank([logits, answers], [2, 1])
    p = math.isqrt(len(answers))
    correct = jnp.take_along_axis(logits, answers[:, None], axis=1)[:, 0]
    # With the answer a ± b, 2a - answer is a ∓ b. Each value has P pairs, also where P is even and sum and
    # distance together do not name a pair.
    doubled = np.diagonal(fourier.combine(orders or (p,), 1)).repeat(p)
    distance = jnp.asarray(fourier.combine(orders or (p,), -1))[doubled, answers]
    deviation = correct - fourier.by_answer(correct, distance)[distance]
    return jnp.mean(jnp.sqrt(fourier.by_answer(deviation**2, distance))) / jnp.std(correct)


@functools.partial(jax.jit, static_argnames="model")
def gradient_symmetricity(
    params: Params, model: Model, inputs: jax.Array, pairs: jax.Array | None = None, classes: jax.Array | None = None
) -> jax.Array:
    """Compute the mean of cos(∂L_c/∂E_a, ∂L_c/∂E_b), over pairs (a, b) and all numbers c.

    Args:
      params: of one network.
      model: its model.
      inputs: int32 `[P², T]`, all pairs.
      pairs: int32 `[n]`, which of them count; None takes all.
      classes: int32 `[P]`, those of the numbers; by default the first P.

    Returns:
      a scalar in [-1, 1], NaN where a gradient is not finite. A triple where either gradient is zero counts 0.
    """
    p = math.isqrt(len(inputs))
    chex.assert_shape(inputs, (p * p, None))
    chosen = jnp.arange(p * p) if pairs is None else jnp.asarray(pairs)
    chex.assert_rank(chosen, 1)

    def total(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, weight = row
        tokens = inputs[index]

        def logits(numbers: jax.Array) -> jax.Array:
            edits = {"hook_embed": lambda embedded: embedded.at[:, :2].set(numbers)}
            return model.apply(params, tokens, edits=edits)[0][:, 0]

        out, backward = jax.vjp(logits, params["embed"]["W_E"][tokens[:, :2]])

        def of_class(c: jax.Array) -> jax.Array:
            by_a, by_b = jnp.moveaxis(backward(jnp.zeros_like(out).at[:, c].set(1))[0], 1, 0)
            size = jnp.linalg.norm(by_a, axis=-1) * jnp.linalg.norm(by_b, axis=-1)
            return jnp.sum(weight * divide(jnp.sum(by_a * by_b, axis=-1), size))

        return jnp.sum(jax.lax.map(of_class, jnp.arange(p) if classes is None else classes))

    # Rows of P pairs, one class after the other: the room of one backward pass. The last row is filled up.
    rows = math.ceil(len(chosen) / p)
    weight = (jnp.arange(rows * p) < len(chosen)).astype(jnp.float32)
    filled = jnp.resize(chosen, (rows * p,))
    return jnp.sum(jax.lax.map(total, (filled.reshape(rows, p), weight.reshape(rows, p)))) / len(chosen) / p


def circularity(embedding: jax.Array, orders: fourier.Orders | None = None) -> jax.Array:
    """Compute how circular the embedding is: 1 where each of its main directions is one wave.

    Of each of the first 4 principal components, a unit vector v `[P]` over the numbers, the fraction of its best
    frequency, max_k (2/P) |Σ_t v_t exp(2πikt/P)|² (for P/2 of even P, 1/P); then the mean.

    Args:
      embedding: float32 `[P, D]`, W_E of the numbers, without `=`.
      orders: of the group, by default that mod P.

    Returns:
      a scalar in [0, 1]. Where P - 1 or D is below 4, the mean is over as many components.
    """
    chex.assert_rank(embedding, 2)
    centred = embedding - jnp.mean(embedding, axis=0, keepdims=True)
    components = jnp.linalg.svd(centred, full_matrices=False)[0][:, : min(4, len(centred) - 1)]
    fractions = jax.vmap(lambda v: fourier.norms(v, 0, orders), in_axes=1)(components)[:, 1:] ** 2
    return jnp.mean(fourier.largest(fractions, axis=1))
