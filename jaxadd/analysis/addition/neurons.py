"""Which column of the sum each neuron of an adding network is about."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.models import Network, structure


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
    task = network.task
    sums = task.features(operands).sum[:, : task.digits]
    explained, total = _explained(network, task.batch(operands).inputs, sums, name, int(jnp.max(sums)) + 1)
    explained, total = np.asarray(explained), np.asarray(total)
    known = (total > 0) & np.all(np.isfinite(explained), axis=0)
    return np.where(known, np.argmax(explained, axis=0), -1)


@functools.partial(jax.jit, static_argnames=("name", "values"))
def _explained(network, inputs, sums, name, values):
    """Return the variance `[N, F]` that each column's sum explains, over all positions read, and the whole `[F]`."""
    x = network(inputs, cache=[name])[1][name]
    if not structure.only_where_read(network.model, name):
        x = x[:, jnp.asarray(network.model.sizes.read)]
    x = x - jnp.mean(x, axis=0)

    def of(column: jax.Array) -> jax.Array:
        member = jax.nn.one_hot(column, values)
        means = jnp.einsum("bv,brf->vrf", member, x) / jnp.maximum(jnp.sum(member, axis=0), 1)[:, None, None]
        return jnp.einsum("v,vrf->f", jnp.sum(member, axis=0), means**2)

    return jax.lax.map(of, sums.T), jnp.sum(x**2, axis=(0, 1))
