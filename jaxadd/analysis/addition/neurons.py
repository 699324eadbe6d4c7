"""Which column of the sum each neuron of an adding network is about."""

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.models import Network, structure
from jaxadd.tasks import Addition


def neuron_groups(network: Network, operands: jax.Array, layer: int) -> np.ndarray:
    """Assign each neuron of a layer to the column whose sum explains most of its variance where digits are read.

    Args:
      network: trained on addition.
      operands: problems, int `[B, M, N]`.
      layer: below L.

    Returns:
      int `[F]`, a column, or -1 for a neuron that is never active there, or whose activations are not finite.
    """
    name = f"blocks.{layer}.mlp.hook_post"
    task = cast(Addition, network.task)
    sums = task.features(operands).sum[:, : task.digits]
    inputs, values = task.batch(operands).inputs, int(jnp.max(sums)) + 1
    explained, total = _explained(network.params, network.model, inputs, sums, name, values)
    explained, total = np.asarray(explained), np.asarray(total)
    known = (total > 0) & np.all(np.isfinite(explained), axis=0)
    return np.where(known, np.argmax(explained, axis=0), -1)


@functools.partial(jax.jit, static_argnames=("model", "name", "values"))
def _explained(params, model, inputs, sums, name, values):
    """Return the variance `[N, F]` that each column's sum explains, over all positions read, and all of it `[F]`."""
    x = model.apply(params, inputs, [name])[1][name]
    if not structure.only_where_read(model, name):
        x = x[:, jnp.asarray(model.sizes.read)]
    x = x - jnp.mean(x, axis=0, keepdims=True)

    def of(column: jax.Array) -> jax.Array:
        member = jax.nn.one_hot(column, values)
        means = jnp.einsum("bv,brf->vrf", member, x) / jnp.maximum(jnp.sum(member, axis=0), 1)[:, None, None]
        return jnp.einsum("v,vrf->f", jnp.sum(member, axis=0), means**2)

    return jax.lax.map(of, sums.T), jnp.sum(x**2, axis=(0, 1))
