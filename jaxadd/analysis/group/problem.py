"""The whole problem of a network that learns an operation of a finite group: all pairs, and the group's irreps."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.group.irreps import irreps, irreps_of, projector
from jaxadd.analysis.measures import Axes
from jaxadd.tasks import Group
from jaxadd.tasks.group.finite import FiniteGroup
from jaxadd.types import Data


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("inputs", "answers", "train", "test", "labels", "basis", "irrep", "characters", "quotients"),
    meta_fields=("names",),
)
@dataclass(frozen=True)
class Problem:
    """The whole problem: all pairs in lexicographic order, pair (a, b) at n·a + b; and the group's irreps.

    Attributes:
      inputs: int32 `[n², T]`.
      answers: int32 `[n²]`.
      train: int32 `[m]`, the pairs trained on.
      test: int32 `[n² - m]`, the others.
      labels: int32 `[n²]`, the answers that are trained on, some of them wrong where there is label noise.
      basis: float32 `[n, n]`, orthonormal functions on the group, a column each.
      irrep: int32 `[n]`, the irrep whose matrix entries span the space that each column is in, of K.
      characters: float32 `[K, n]`.
      quotients: int32 `[n, n]`, s c⁻¹ at (s, c).
      names: of the K irreps; a pytree does not count them among its arrays.
    """

    inputs: jax.Array
    answers: jax.Array
    train: jax.Array
    test: jax.Array
    labels: jax.Array
    basis: jax.Array
    irrep: jax.Array
    characters: jax.Array
    quotients: jax.Array
    names: tuple[str, ...]

    @property
    def axes(self) -> Axes:
        """The names along the axes of measures: of the K irreps."""
        return {"irrep": self.names}


@functools.lru_cache(maxsize=4)
def _basis(group: FiniteGroup) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal functions on a group, `[n, n]`, and the irrep of each, `[n]`, in the order of `irreps`."""
    found = irreps(group)
    # The projections on the irreps are the eigenspaces of one symmetric matrix, with eigenvalues 0, 1, 2, …
    weights = np.sum([k * one.dimension / one.commutant * one.character for k, one in enumerate(found)], axis=0)
    values, basis = np.linalg.eigh(projector(group, weights, 1 / group.order))
    return basis, np.rint(values).astype(int)


def whole_problem(task: Group, lane: Mapping[str, jax.Array]) -> Problem:
    """Return the problem of one lane, `lane` being its train and test pairs, `Network.data.lane`."""
    chex.assert_rank([lane["train"], lane["test"]], 1)
    known = task.known
    group, n = known.group, known.group.order
    basis, irrep = _basis(known.reference)
    found = irreps_of(known)
    pairs, answers = jnp.arange(n * n, dtype=jnp.int32), jnp.asarray(task.answers())
    data = Data({"table": answers}, lane)
    return Problem(
        task.batch(pairs, data.shared).inputs,
        answers,
        lane["train"],
        lane["test"],
        task.labelled(pairs, data).targets[:, 0],
        jnp.asarray(basis[known.to], jnp.float32),
        jnp.asarray(irrep, jnp.int32),
        jnp.asarray(np.stack([one.character for one in found]), jnp.float32),
        jnp.asarray(group.table[:, group.inverse]),
        tuple(one.name for one in found),
    )
