"""One network that multiplies in a finite group, as it is analysed: its key irreps and all measures."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxadd.analysis import measures
from jaxadd.analysis.group import cayley, declarations, progress
from jaxadd.analysis.group.cayley import Cayley
from jaxadd.analysis.group.irreps import Irrep, irreps_of
from jaxadd.analysis.group.neurons import Neurons, neurons
from jaxadd.analysis.group.problem import Problem, whole_problem
from jaxadd.models import Network
from jaxadd.tasks import Group

NOTHING = "none"
"""What is said where no irrep or no cosets are found."""


class Measured(NamedTuple):
    """One network as it is analysed.

    Attributes:
      problem: the problem.
      irreps: of its group, K.
      keys: bool `[K]`, the key irreps: those of a logit similarity above `progress.KEY`.
      values: of all measures.
      numbers: for JSON.
      table: of its answers; None for another operation than the product, of which they are no group's.
      neurons: what they do; None without any.
    """

    problem: Problem
    irreps: tuple[Irrep, ...]
    keys: np.ndarray
    values: Mapping[str, Any]
    numbers: dict[str, Any]
    table: Cayley | None
    neurons: Neurons | None

    @property
    def key_names(self) -> list[str]:
        """The names of the key irreps."""
        return [irrep.name for irrep, key in zip(self.irreps, self.keys, strict=True) if key]


def measure(network: Network) -> Measured:
    """Measure a network that learned a `Group`: everything that `jaxadd analyse` says of it in numbers."""
    task = network.task
    assert isinstance(task, Group)
    problem, irreps = whole_problem(task, network.data.lane), irreps_of(task.known)
    declared = measures.defined(declarations.affordable(len(irreps), network.model), network)
    values = jax.device_get(progress.measures(network.params, network.model, problem, declarations=declared))
    keys = values["logit_similarity"] > progress.KEY
    described = neurons(network, problem) if measures.needs_neurons(network.model) else None
    learned = cayley.learned(network.params, network.model)
    table = cayley.describe(learned, task) if task.operation == "product" else None
    names = np.array([irrep.name for irrep in irreps])
    numbers: dict[str, Any] = {"key_irreps": names[keys].tolist()}
    numbers |= {} if table is None else _table_numbers(table)
    numbers |= measures.flat(declared, values, problem.axes)
    if described is not None:
        groups = [one.name for one in described.classes]
        for what, found, of in (("irrep", described.irrep, names), ("cosets", described.subgroup, groups)):
            for k, count in zip(*np.unique(found, return_counts=True), strict=True):
                numbers[f"neurons_by_{what}.{NOTHING if k < 0 else of[k]}"] = int(count)
        if described.classes:
            numbers["neurons_on_cosets"] = float(np.mean(described.subgroup >= 0))
        numbers["neurons_of_one_irrep"] = float(np.mean(described.irrep >= 0))
    return Measured(problem, irreps, keys, values, numbers, table, described)


def _table_numbers(table: Cayley) -> dict[str, Any]:
    return {
        "table_latin_square": table.latin,
        "table_associative": table.associative,
        "table_associative_fraction": table.associative_fraction,
        "table_triples_tried": table.triples,
        "table_identity": table.identity,
        "table_commuting_fraction": table.commuting,
        "table_group": None if table.known is None else table.known.group.name,
    }
