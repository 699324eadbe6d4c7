"""What single neurons do: the irrep that explains them, and the subgroups whose cosets they read."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.group import progress
from jaxadd.analysis.group.problem import Problem
from jaxadd.analysis.group.subgroups import ON_COSETS, Subgroups, concentrations, subgroups
from jaxadd.analysis.measures import EXPLAINED, divide
from jaxadd.models import Model, Network, structure
from jaxadd.tasks import Group
from jaxadd.types import Params


class Neurons(NamedTuple):
    """What single neurons do.

    Attributes:
      explained: float32 `[F, K]`, the fraction of each neuron's variance that each irrep explains.
      irrep: int `[F]`, the irrep that explains most, where that is enough; -1 for others.
      classes: conjugacy classes of subgroups.
      subgroup: int `[F]`, the class of the largest subgroups whose cosets a neuron reads; -1 for none.
    """

    explained: np.ndarray
    irrep: np.ndarray
    classes: Sequence[Subgroups]
    subgroup: np.ndarray


def neurons(network: Network, problem: Problem) -> Neurons:
    """Describe the neurons of a network that learned a `Group`."""
    task = network.task
    assert isinstance(task, Group)
    explained = np.clip(np.asarray(neurons_by_irrep(network.params, network.model, problem)), 0, 1)
    best = explained.argmax(axis=1)
    irrep = np.where(explained.max(axis=1) > EXPLAINED, best, -1)
    known = task.known
    classes = [one._replace(members=one.members[:, known.to]) for one in subgroups(known.reference)]
    before = progress.overview(network.params, network.model, problem).before
    found = concentrations(known.group, classes, *(np.asarray(before[of]) for of in "ab")) >= ON_COSETS
    rank = np.arange(1, len(classes) + 1)[:, None] * found
    subgroup = rank.max(axis=0, initial=0) - 1
    return Neurons(explained, irrep, classes, subgroup)


@functools.partial(jax.jit, static_argnames="model")
def neurons_by_irrep(params: Params, model: Model, problem: Problem) -> jax.Array:
    """Compute which fraction of each neuron's variance over (a, b) every irrep explains, `[F, K]`.

    It is the fraction in the span of the products of 1 or a matrix entry of ρ(a) with 1 or one of ρ(b), as the 3 × 3
    block of a frequency is for addition; 0 for a neuron that is the same everywhere.
    """
    name = structure.last_neurons(model)
    assert name is not None  # Measured of networks with neurons only.
    n, basis, count = len(problem.basis), problem.basis, len(problem.characters)
    activations = model.apply(params, problem.inputs, (name,))[1][name].reshape(n, n, -1)
    pairs = problem.irrep[:, None] * count + problem.irrep[None]  # The trivial irrep, 1, is 0.

    def fractions(values: jax.Array) -> jax.Array:
        size, values = jnp.sum(values**2), values - jnp.mean(values)
        transformed = jnp.matmul(jnp.matmul(basis.T, values, precision="highest"), basis, precision="highest")
        blocks = jnp.zeros(count * count).at[pairs].add(transformed**2).reshape(count, count)
        k, blocks = jnp.arange(count), blocks.at[0, 0].set(0)
        total = jnp.sum(blocks)
        explained = (blocks[k, k] + blocks[0] + blocks[:, 0]).at[0].set(0)
        # Less is float32 rounding of a constant.
        return divide(explained, jnp.where(total <= 1e-12 * size, 0, total))

    return jax.lax.map(fractions, jnp.moveaxis(activations, 2, 0))
