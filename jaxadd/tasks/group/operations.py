"""The operations of a finite group: a registry with an entry for each."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from jaxadd.tasks.group.finite import FiniteGroup


class Operation(NamedTuple):
    """What is computed of two elements: how it is written, and a function of the group that returns `[n, n]`."""

    symbol: str
    answers: Callable[[FiniteGroup], np.ndarray]

    def written(self, operands: Sequence[object]) -> str:
        """Write the operation on two operands, such as "a·b" or "(1 2)·(2 3)"."""
        a, b = operands
        return self.symbol.format(a=a, b=b)


OPERATIONS: dict[str, Operation] = {
    "product": Operation("{a}·{b}", lambda g: g.table),
    "conjugate": Operation("{a}·{b}·{a}⁻¹", lambda g: g.conjugates),
    "aba": Operation("{a}·{b}·{a}", lambda g: g.table[g.table, np.arange(g.order)[:, None]]),
}
"""The operations by name. For each a, the map from b to the answer must be one-to-one; analysis relies on it."""

if TYPE_CHECKING:
    OperationName = str
else:
    OperationName = Literal[tuple(OPERATIONS)]
