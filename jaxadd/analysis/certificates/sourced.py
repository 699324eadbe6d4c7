"""Single inputs whose errors are multiplied by matrices only when they are used.

An error that is passed on by the absolute values of one matrix after the other grows by each of them; the absolute
values of the product of the matrices are much smaller. So a stream keeps where its errors come from, such as the
neurons of a layer, with the matrix through which they reach it. Axes: as in `forward`, m whatever an error is of.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import rounding
from jaxadd.analysis.certificates.rounding import Rounded

Source = tuple[np.ndarray, np.ndarray]  # Bounds on errors `[..., m]`, and the matrix `[m, n]` that they reach.


class Sourced(NamedTuple):
    """Exact values of single inputs, and where the errors of float32 results come from.

    Attributes:
      value: `[..., n]`.
      error: `[..., n]`, bound on the error that comes from no source.
      sources: errors and their matrices.
    """

    value: np.ndarray
    error: np.ndarray
    sources: tuple[Source, ...] = ()

    @classmethod
    def of(cls, x: "Rounded | Sourced") -> "Sourced":
        """Return single inputs with their whole error as a source, or what has sources as it is."""
        if isinstance(x, Sourced):
            return x
        return cls(x.value, np.zeros_like(x.error), ((x.error, np.eye(x.error.shape[-1])),))

    @property
    def from_sources(self) -> np.ndarray:
        """What the sources may change, `[..., n]`."""
        return sum((_product(error, np.abs(matrix)) for error, matrix in self.sources), np.zeros_like(self.value))

    @property
    def whole(self) -> Rounded:
        """The same with one error."""
        return Rounded(self.value, self.error + self.from_sources)

    @property
    def fresh(self) -> Rounded:
        """The same with the error that comes from no source, and an interval of what the others make of the value."""
        return Rounded(self.value, self.error, self.from_sources)

    @property
    def magnitude(self) -> np.ndarray:
        """The largest absolute value of a float32 result."""
        return self.whole.magnitude

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Sourced":
        """Apply an indexing of all axes but the last."""
        sources = tuple((function(error), matrix) for error, matrix in self.sources)
        return Sourced(function(self.value), function(self.error), sources)

    def passed(self, w: np.ndarray) -> np.ndarray:
        """Return what the errors may change in an exact product with a matrix `[n, m]`."""
        parts = [_product(error, np.abs(matrix @ w)) for error, matrix in self.sources]
        return sum(parts, _product(self.error, np.abs(w)))


def linear(x: Rounded, w: np.ndarray, b: np.ndarray | None) -> Sourced:
    """Multiply single inputs by a matrix and add a bias, with the errors of the inputs as a source."""
    y = rounding.linear(Rounded(x.value, np.zeros_like(x.error), x.error), w, b)
    return Sourced(y.value, y.error, ((x.error, w),))


def _product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return rounding.matrix_product(np.broadcast_to(x, (*x.shape[:-1], w.shape[0])), w)


@rounding.linear.register
def _(x: Sourced, w: np.ndarray, b: np.ndarray | None = None) -> Rounded:
    y, from_sources = rounding.linear(x.fresh, w, b), sum(_product(e, np.abs(m @ w)) for e, m in x.sources)
    return rounding.limited(Rounded(y.value, y.error + from_sources))


@rounding.add.register
def _(x: Sourced, y: Sourced | Rounded) -> Sourced:
    y = Sourced.of(y)
    total = rounding.add(x.fresh, y.fresh)
    return Sourced(total.value, total.error, x.sources + y.sources)


@rounding.centred.register
def _(x: Sourced) -> Rounded:
    return rounding.centred(x.whole)


@rounding.scaled.register
def _(x: Sourced, weight: np.ndarray | None, epsilon: float) -> Rounded:
    return rounding.scaled(x.whole, weight, epsilon)
