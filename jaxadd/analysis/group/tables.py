"""The whole problem of a network that learns an operation of a finite group: all pairs, and the group's irreps."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.group import irreps as representations
from jaxadd.analysis.group.irreps import Irrep
from jaxadd.tasks import Group
from jaxadd.tasks.group.finite import FiniteGroup
from jaxadd.tasks.group.task import Known
from jaxadd.types import Data


class Problem(NamedTuple):
    """The whole problem: all pairs in lexicographic order, pair (a, b) at n·a + b; and the group's representations.

    Attributes:
      inputs: int32 `[n², T]`.
      answers: int32 `[n²]`.
      labels: int32 `[n²]`, the answers that are trained on, some of them wrong where there is label noise.
      train: int32 `[m]`, the pairs trained on.
      test: int32 `[n² - m]`, the others.
      basis: float32 `[n, n]`, orthonormal functions on the group, a column each.
      irrep: int32 `[n]`, the irrep whose matrix entries span the space that each column is in, of K.
      characters: float32 `[K, n]`.
      quotients: int32 `[n, n]`, s c⁻¹ at (s, c).
    """

    inputs: jax.Array
    answers: jax.Array
    labels: jax.Array
    train: jax.Array
    test: jax.Array
    basis: jax.Array
    irrep: jax.Array
    characters: jax.Array
    quotients: jax.Array


def irreps(known: Known) -> tuple[Irrep, ...]:
    """Return the irreps of a task's group, in the order and with the names of those of the named group, if any."""
    found = representations.irreps(known.reference)
    return tuple(irrep._replace(character=irrep.character[known.to]) for irrep in found)


@functools.lru_cache(maxsize=4)
def _basis(group: FiniteGroup) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal functions on a group, `[n, n]`, and the irrep of each, `[n]`, in the order of `irreps`."""
    found = representations.irreps(group)
    # The projections on the irreps are the eigenspaces of one symmetric matrix, with eigenvalues 0, 1, 2, …
    weights = np.sum([k * one.dimension / one.commutant * one.character for k, one in enumerate(found)], axis=0)
    values, basis = np.linalg.eigh(representations.projector(group, weights, 1 / group.order))
    return basis, np.rint(values).astype(int)


def problem(task: Group, lane: Mapping[str, jax.Array]) -> Problem:
    """Return the problem of one lane, `lane` being its train and test pairs, `Network.data.lane`."""
    chex.assert_rank([lane["train"], lane["test"]], 1)
    known = task.known
    group, n = known.group, known.group.order
    basis, irrep = _basis(known.reference)
    pairs, answers = jnp.arange(n * n, dtype=jnp.int32), jnp.asarray(task.answers())
    data = Data({"table": answers}, lane)
    return Problem(
        task.batch(pairs, data.shared).inputs,
        answers,
        task.labelled(pairs, data).targets[:, 0],
        lane["train"],
        lane["test"],
        jnp.asarray(basis[known.to], jnp.float32),
        jnp.asarray(irrep, jnp.int32),
        jnp.asarray(np.stack([one.character for one in irreps(known)]), jnp.float32),
        jnp.asarray(group.table[:, group.inverse]),
    )
