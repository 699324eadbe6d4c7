"""Modular arithmetic: the task, its operations, and the groups of residues in which they are sums."""

from jaxadd.tasks.modular.cyclic import CyclicProduct, additive, multiplicative
from jaxadd.tasks.modular.operations import OPERATIONS, Operation
from jaxadd.tasks.modular.task import Modular

__all__ = ["OPERATIONS", "CyclicProduct", "Modular", "Operation", "additive", "multiplicative"]
