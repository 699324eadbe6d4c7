"""Additive quantities, as the verification of a certificate computes them, with code of its own.

In a leaf some digits are free. A quantity of the network lies, element by element and in float32 too, in

    value + Σ_j tables[j, t_j] ± radius,

where t_j is the token of digit j. The middle of what each digit adds is in the value, so that the extremes of a table
are opposite numbers. `rounding`, given the interval of a quantity, says what a float32 operation adds to the radius.
Axes: J digits, V tokens, n any width.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import rounding
from jaxadd.analysis.certificates.check_functions import DERIVATIVES, FUNCTIONS, slopes, values
from jaxadd.analysis.certificates.rounding import Rounded

Function = Callable[[np.ndarray], np.ndarray]
Range = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_EQUAL = 1 - 1e-9
_BENT = ("relu", "abs", "identity")  # Straight on both sides of 0.


class Additive(NamedTuple):
    """An additive quantity.

    Attributes:
      value: `[..., n]`.
      tables: `[J, V, ..., n]`.
      radius: `[..., n]`.
    """

    value: np.ndarray
    tables: np.ndarray
    radius: np.ndarray

    @classmethod
    def of(cls, value: np.ndarray, tables: np.ndarray, radius: np.ndarray) -> "Additive":
        """Return a quantity after the middle of each table was moved to the value."""
        middle = tables.max(axis=1) / 2 + tables.min(axis=1) / 2
        return cls(value + middle.sum(axis=0), tables - middle[:, None], radius)

    @property
    def half(self) -> np.ndarray:
        """Half the width of what each digit adds, `[J, ..., n]`."""
        return self.tables.max(axis=1)

    @property
    def total(self) -> np.ndarray:
        """How far the quantity may be from its value."""
        return self.half.sum(axis=0) + self.radius

    @property
    def box(self) -> Rounded:
        """The interval of the quantity, exact or not."""
        return Rounded(self.value, np.zeros_like(self.value), self.total)

    @property
    def magnitude(self) -> np.ndarray:
        """The largest absolute value."""
        return np.abs(self.value) + self.total

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> "Additive":
        """Apply a function that moves elements to all arrays."""
        return Additive(function(self.value), function(self.tables), function(self.radius))

    def widened(self, error: np.ndarray) -> "Additive":
        """Add to the radius."""
        return self._replace(radius=self.radius + error)

    # --- exact operations --------------------------------------------------------------------------------------

    def scaled_by(self, factor: np.ndarray) -> "Additive":
        """Multiply by constants."""
        return Additive(self.value * factor, self.tables * factor, self.radius * np.abs(factor))

    def through(self, w: np.ndarray) -> "Additive":
        """Multiply by a matrix `[n, m]`."""
        return Additive.of(self.value @ w, rounding.matrix_product(self.tables, w), self.radius @ np.abs(w))

    def sum(self) -> "Additive":
        """Sum over the last axis, which is kept with width 1."""
        return Additive.of(*(part.sum(axis=-1, keepdims=True) for part in self))

    def times(self, other: "Additive") -> "Additive":
        """Multiply two quantities of the same digits; what one digit does to both is multiplied token by token."""
        tables = self.tables * other.value + other.tables * self.value + self.tables * other.tables
        together = self.total * other.total - (self.half * other.half).sum(axis=0)
        radius = self.radius * np.abs(other.value) + other.radius * np.abs(self.value) + together
        return Additive.of(self.value * other.value, tables, radius)

    def smooth(
        self, function: Function, reaches: Range, rises: Range, least: np.ndarray | float = -np.inf
    ) -> "Additive":
        """Apply a function by the mean value theorem, or by its range where that is narrower.

        Args:
          function: of each element.
          reaches, rises: bounds of the function and of its derivative between two arguments.
          least: what no element is below.
        """
        most, low, high = self._around()
        low, high = np.maximum(low, least), np.maximum(high, least)
        slowest, fastest = rises(low, high)
        bottom, top = reaches(low, high)
        slope = slowest.min(axis=0) / 2 + fastest.max(axis=0) / 2
        middle = (low + high) / 2
        beyond = (np.maximum(fastest - slope, slope - slowest) * (high - low) / 2).max(axis=0)
        width = ((top - bottom) / 2).max(axis=0)
        flat = width < beyond
        offset = np.where(flat, (top + bottom) / 2, function(middle) - slope * middle)
        return self._fitted(most, np.where(flat, 0, slope), offset, np.where(flat, width, beyond))

    def bent(self, function: Function, derivative: Function) -> "Additive":
        """Apply a function that is straight on both sides of 0, so furthest from a line at an end or at 0."""
        most, low, high = self._around()
        wide = high > low
        chord = (function(high) - function(low)) / np.where(wide, high - low, 1)
        chord = np.where(wide, chord, derivative((low + high) / 2))
        slope = chord.min(axis=0) / 2 + chord.max(axis=0) / 2
        above = np.stack([function(x) - slope * x for x in (low, high, np.clip(0, low, high))])
        top, bottom = above.max(axis=0), above.min(axis=0)
        return self._fitted(most, slope, (top + bottom) / 2, ((top - bottom) / 2).max(axis=0))

    def _around(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the digit that moves each element most, `[1, ..., n]`, and ends for its tokens, `[V, ..., n]`."""
        others = self.half
        # Digits that move an element equally, such as those of one column, may differ by the rounding of float64.
        most = (others >= _EQUAL * others.max(axis=0)).argmax(axis=0)[None]
        np.put_along_axis(others, most, 0, axis=0)
        reach = others.sum(axis=0) + self.radius
        middle = self.value + np.take_along_axis(self.tables, most[:, None], axis=0)[0]
        return most, middle - reach, middle + reach

    def _fitted(self, most: np.ndarray, slope: np.ndarray, offset: np.ndarray, beyond: np.ndarray) -> "Additive":
        """Return what is within `beyond` of slope · x + offset, with an offset for each token of a digit."""
        tables = self.tables * slope
        changed = np.take_along_axis(tables, most[:, None], axis=0) + offset
        np.put_along_axis(tables, most[:, None], changed, axis=0)
        return Additive.of(self.value * slope, tables, self.radius * np.abs(slope) + beyond)

    # --- operations of a network, with what float32 adds to them ---------------------------------------------

    def plus(self, other: "Additive") -> "Additive":
        """Add a quantity of the same digits."""
        error = rounding.add(self.box, other.box).error
        return Additive.of(*(a + b for a, b in zip(self, other, strict=True))).widened(error)

    def shifted(self, bias: np.ndarray) -> "Additive":
        """Add parameters."""
        return self._replace(value=self.value + bias).widened(rounding.add(self.box, rounding.exact(bias)).error)

    def linear(self, w: np.ndarray, b: np.ndarray | None = None) -> "Additive":
        """Multiply by a matrix `[n, m]` of parameters and add a bias `[m]`."""
        y = self.through(w).widened(rounding.linear(self.box, w, b).error)
        return y if b is None else y._replace(value=y.value + b)

    def by(self, factor: Rounded) -> "Additive":
        """Multiply by numbers that float32 holds with an error."""
        return self.scaled_by(factor.value).widened(rounding.product(self.box, factor).error)

    def product(self, other: "Additive") -> "Additive":
        """Multiply two quantities of the same digits."""
        return self.times(other).widened(rounding.product(self.box, other.box).error)

    def activated(self, name: str) -> "Additive":
        """Apply an activation function."""
        if name in _BENT:
            y = self.bent(FUNCTIONS[name], DERIVATIVES[name])
        else:
            y = self.smooth(FUNCTIONS[name], functools.partial(values, name), functools.partial(slopes, name))
        return y.widened(rounding.activation(self.box, name).error)

    def centred(self) -> "Additive":
        """Subtract the mean over the last axis."""
        n = self.value.shape[-1]
        return self.through(np.eye(n) - np.full((n, n), 1 / n)).widened(rounding.centred(self.box).error)

    def over_root_mean_square(self, weight: np.ndarray | None, epsilon: float) -> "Additive":
        """Divide by √(mean x² + ε) over the last axis, and multiply by a weight."""
        box, n = self.box, self.value.shape[-1]
        nearest = np.maximum(np.abs(box.value) - box.radius, 0)
        mean = Additive.of(*(part / n for part in self.times(self).sum()))
        inverse = lambda s: 1 / np.sqrt(s + epsilon)
        rate = lambda s: -0.5 * (s + epsilon) ** -1.5
        falls = lambda low, high: (inverse(high), inverse(low))
        rises = lambda low, high: (rate(low), rate(high))
        least = np.square(nearest).mean(axis=-1, keepdims=True)
        y = self.times(mean.smooth(inverse, falls, rises, least))
        y = y if weight is None else y.scaled_by(weight)
        interval = rounding.scaled(box, weight, epsilon)
        better = ~(y.total <= interval.radius)  # Where the total is no number, too.
        return Additive(
            np.where(better, interval.value, y.value),
            np.where(better, 0, y.tables),
            np.where(better, interval.radius, y.radius),
        ).widened(interval.error)
