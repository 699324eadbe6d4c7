"""Quantities of many problems at once: a sum of functions of one free digit each, and a radius for the rest.

In a case some digits are fixed and the others, the free ones, may be anything. A quantity of the network then lies in

    value + Σ_j tables[j, t_j] ± Σ_j radius[j],

t_j the token of digit j, for every problem of the case, in exact arithmetic and in float32. Linear functions keep
this form: what one digit adds at several positions, and what cancels there, is followed through a network. A function
of one number is computed for each value of the digit that moves it most; what other digits add to its argument is
multiplied by one slope, and the distance of the function from that goes into the radius. Axes: J digits, V tokens,
then any others; functions act on the last.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import rounding
from jaxadd.analysis.certificates.rounding import Function, Rounded

_EQUAL = 1 - 1e-9
_BENT = ("relu", "abs", "identity")  # Functions that are linear on both sides of 0.


class Additive(NamedTuple):
    """An additive quantity; float64 arrays.

    Attributes:
      value: `[..., n]`.
      tables: `[J, V, ..., n]`, what each value of a digit adds; the extremes of each digit are opposite numbers.
      radius: `[J + 1, ..., n]`, how far the rest may be from 0: what each digit causes, and last what float32 does.
    """

    value: np.ndarray
    tables: np.ndarray
    radius: np.ndarray

    @classmethod
    def of(cls, value: np.ndarray, tables: np.ndarray, radius: np.ndarray) -> "Additive":
        """Return a quantity, given any tables: the middle of what each digit adds moves to the value."""
        return cls(*with_middles_moved(value, tables), radius)

    @property
    def halves(self) -> np.ndarray:
        """Half the width of what each digit adds or causes, and last of what float32 does, `[J + 1, ..., n]`."""
        halves = self.radius.copy()
        halves[:-1] += self.tables.max(axis=1)
        return halves

    @property
    def box(self) -> Rounded:
        """The interval of the quantity; it holds what float32 has done so far, so that its error is 0."""
        return Rounded(self.value, np.zeros_like(self.value), self.halves.sum(axis=0))

    @property
    def magnitude(self) -> np.ndarray:
        """The largest absolute value."""
        return np.abs(self.value) + self.halves.sum(axis=0)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Additive":
        """Apply an indexing or reshaping that moves elements and computes nothing."""
        return Additive(*(function(part) for part in self))

    def joined(self, other: "Additive", join: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> "Additive":
        """Put two quantities together by a function of arrays that moves elements."""
        return Additive(*(join(a, b) for a, b in zip(self, other, strict=True)))

    def among(self, number: Sequence[int], count: int) -> "Additive":
        """Return the quantity as one of `count` digits, of which its own have these numbers, in ascending order."""
        return Additive(
            self.value, among(self.tables, number, count), among(self.radius, [*number, count], count + 1)
        )

    def widened(self, error: np.ndarray) -> "Additive":
        """Add what float32 may err by, `[..., n]`."""
        radius = self.radius.copy()
        radius[-1] += error
        return self._replace(radius=radius)


class Image(NamedTuple):
    """An additive quantity whose radius is multiplied by a matrix only when it is used.

    Matrices are multiplied with each other first: the absolute values of a product of matrices are much smaller than
    the product of their absolute values.

    Attributes:
      value, tables: as in `Additive`, of the quantity itself.
      radius: `[J + 1, ..., m]`, of what the matrix is multiplied by.
      matrix: `[m, n]`.
      rounded: the interval of the quantity, and what the computation with this matrix in float32 errs by.
    """

    value: np.ndarray
    tables: np.ndarray
    radius: np.ndarray
    matrix: np.ndarray
    rounded: Rounded

    @classmethod
    def of(cls, x: "Additive | Image") -> "Image":
        """Return a quantity with the identity as its matrix, or the image as it is."""
        return x if isinstance(x, Image) else cls(*x, np.eye(x.value.shape[-1]), x.box)

    @property
    def multiplied(self) -> Additive:
        """The quantity with its radius."""
        radius = rounding.matrix_product(self.radius, np.abs(self.matrix))
        return Additive(self.value, self.tables, radius).widened(self.rounded.error)


def with_middles_moved(value: np.ndarray, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a value and tables after the middle of what each digit adds has moved to the value."""
    middle = (tables.max(axis=1) + tables.min(axis=1)) / 2
    return value + middle.sum(axis=0), tables - middle[:, None]


def among(x: np.ndarray, number: Sequence[int], count: int) -> np.ndarray:
    """Return `count` rows: those of some numbers are the rows of an array, the others 0."""
    result = np.zeros((count, *x.shape[1:]))
    result[list(number)] = x
    return result


def constant(x: Rounded, like: Additive) -> Additive:
    """Return what no digit changes as an additive quantity, with the digits and as many axes as another one."""
    assert not isinstance(x.radius, np.ndarray)
    shape = np.broadcast_shapes(x.value.shape, x.error.shape, (1,) * like.value.ndim)
    digits, tokens = like.tables.shape[:2]
    found = Additive(
        np.broadcast_to(x.value, shape), np.zeros((digits, tokens, *shape)), np.zeros((digits + 1, *shape))
    )
    return found.widened(x.error)


def times_matrix(x: Additive, w: np.ndarray) -> Additive:
    """Multiply by a matrix `[n, m]`, in exact arithmetic."""
    parts = (rounding.matrix_product(part, side) for part, side in zip(x, (w, w, np.abs(w)), strict=True))
    return Additive.of(*parts)


def times(x: Additive, y: Additive) -> Additive:
    """Multiply element by element, in exact arithmetic.

    What the same digit adds to both is multiplied value by value. The products of what different digits add are in
    the radius, half of each for both.
    """
    tables = x.tables * y.value + x.value * y.tables + x.tables * y.tables
    a, b = x.halves, y.halves
    radius = x.radius * np.abs(y.value) + np.abs(x.value) * y.radius
    radius += (a * b.sum(axis=0) + b * a.sum(axis=0)) / 2
    radius[:-1] -= x.tables.max(axis=1) * y.tables.max(axis=1)
    return Additive.of(x.value * y.value, tables, radius)


def elementwise(
    x: Additive, function: Function, derivative: Function, *, bent: bool = False, least: np.ndarray | float = -np.inf
) -> Additive:
    """Apply a function of one number, in exact arithmetic.

    Args:
      x: the argument.
      function, derivative: the function, and its derivative.
      bent: whether the function is linear on both sides of 0.
      least: a number that the argument is known not to be below.
    """
    most = x.tables.max(axis=1)
    # The digit that moves each element most; those of one column may differ by the rounding of float64 alone.
    first = (most >= _EQUAL * most.max(axis=0)).argmax(axis=0)[None]
    along = np.take_along_axis(x.tables, first[:, None], axis=0)[0]  # [V, ..., n]
    fractions = x.halves
    others = np.take_along_axis(fractions, first, axis=0) - np.take_along_axis(most, first, axis=0)
    np.put_along_axis(fractions, first, others, axis=0)
    rest = fractions.sum(axis=0)
    low, high = (np.maximum(x.value + along + side, least) for side in (-rest, rest))
    fit = _bent_fit if bent else _smooth_fit
    slope, offset, beyond = fit(function, derivative, low, high)
    tables = slope * x.tables
    moved = np.take_along_axis(tables, first[:, None], axis=0) + offset
    np.put_along_axis(tables, first[:, None], moved, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions = np.where(rest > 0, fractions / rest, 1 / len(fractions))
    return Additive.of(slope * x.value, tables, np.abs(slope) * x.radius + beyond * fractions)


_Fit = tuple[np.ndarray, np.ndarray, np.ndarray]


def _bent_fit(function: Function, derivative: Function, low: np.ndarray, high: np.ndarray) -> _Fit:
    """Return a slope `[...]`, offsets `[V, ...]` and the largest distance `[...]` of a function from their lines.

    The distance from a line is largest at an end of the interval or at 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        chord = (function(high) - function(low)) / (high - low)
    chord = np.where(high > low, chord, derivative((low + high) / 2))
    slope = (chord.min(axis=0) + chord.max(axis=0)) / 2
    bend = np.clip(0, low, high)
    above = [function(x) - slope * x for x in (low, high, bend)]
    top, bottom = np.maximum.reduce(above), np.minimum.reduce(above)
    return slope, (top + bottom) / 2, (top - bottom).max(axis=0) / 2


def _smooth_fit(function: Function, derivative: Function, low: np.ndarray, high: np.ndarray) -> _Fit:
    """Return the same by the mean value theorem, or with slope 0 by the range of the function if that is nearer."""
    slowest, fastest = derivative.between(low, high)
    slope = (slowest.min(axis=0) + fastest.max(axis=0)) / 2
    middle = (low + high) / 2
    offset = function(middle) - slope * middle
    beyond = (np.maximum(fastest - slope, slope - slowest) * (high - low)).max(axis=0) / 2
    bottom, top = function.between(low, high)
    flat = (top - bottom).max(axis=0) / 2
    better = flat < beyond
    offset = np.where(better, (top + bottom) / 2, offset)
    return np.where(better, 0, slope), offset, np.where(better, flat, beyond)


# --- the functions of `rounding` ---------------------------------------------------------------------------------


@rounding.add.register
def _(x: Additive, y: Additive | Rounded) -> Additive:
    if isinstance(y, Rounded):
        assert not isinstance(y.radius, np.ndarray)
        return x._replace(value=x.value + y.value).widened(rounding.add(x.box, y).error)
    error = rounding.add(x.box, y.box).error
    return Additive.of(*(a + b for a, b in zip(x, y, strict=True))).widened(error)


@rounding.product.register
def _(x: Additive, y: Additive | Rounded) -> Additive:
    if isinstance(y, Rounded):
        assert not isinstance(y.radius, np.ndarray)
        scaled = Additive(x.value * y.value, x.tables * y.value, x.radius * np.abs(y.value))
        return scaled.widened(rounding.product(x.box, y).error)
    return times(x, y).widened(rounding.product(x.box, y.box).error)


@rounding.linear.register
def _(x: Additive, w: np.ndarray, b: np.ndarray | None = None) -> Additive:
    y = times_matrix(x, w)
    y = y if b is None else y._replace(value=y.value + b)
    return y.widened(rounding.linear(x.box, w, b).error)


@rounding.linear.register
def _(x: Image, w: np.ndarray, b: np.ndarray | None = None) -> Additive:
    used = x.tables if w.any() else x.tables[:, :1]  # Queries and keys that do not depend on tokens.
    value, tables = (rounding.matrix_product(part, w) for part in (x.value, used))
    radius = rounding.matrix_product(x.radius, np.abs(x.matrix @ w))
    y = Additive.of(value if b is None else value + b, tables, radius)
    return y.widened(rounding.linear(x.rounded, w, b).error)


@rounding.activation.register
def _(x: Additive, name: str) -> Additive:
    function, derivative, _ = rounding.FUNCTIONS[name]
    return elementwise(x, function, derivative, bent=name in _BENT).widened(rounding.activation(x.box, name).error)


@rounding.centred.register
def _(x: Additive) -> Additive:
    n = x.value.shape[-1]
    return times_matrix(x, np.eye(n) - 1 / n).widened(rounding.centred(x.box).error)


@rounding.centred.register
def _(x: Image) -> Additive:
    return rounding.centred(x.multiplied)


@rounding.scaled.register
def _(x: Additive, weight: np.ndarray | None, epsilon: float) -> Additive:
    box = x.box
    nearest = np.where((box.low < 0) & (box.high > 0), 0, np.minimum(np.abs(box.low), np.abs(box.high)))
    squares = Additive.of(*(part.mean(axis=-1, keepdims=True) for part in times(x, x)))
    inverse = elementwise(
        squares,
        Function(lambda y: 1 / np.sqrt(y + epsilon)),
        Function(lambda y: -0.5 * (y + epsilon) ** -1.5),
        least=(nearest**2).mean(axis=-1, keepdims=True),
    )
    y = times(x, inverse)
    scale = 1.0 if weight is None else weight
    y = Additive(y.value * scale, y.tables * scale, y.radius * np.abs(scale))
    interval = rounding.scaled(box, weight, epsilon)
    return _within(y, interval, x.halves.sum(axis=-1, keepdims=True)).widened(interval.error)


def _within(x: Additive, interval: Rounded, causes: np.ndarray) -> Additive:
    """Return an interval of a quantity in place of each element that says less.

    Args:
      x: the quantity.
      interval: of the same quantity.
      causes: `[J + 1, ..., 1]`, in proportion to which the radius of an interval is divided.
    """
    total = causes.sum(axis=0)
    fractions = np.divide(causes, total, out=np.full_like(causes, 1 / len(causes)), where=total > 0)
    less = ~(x.halves.sum(axis=0) <= interval.radius)
    return Additive(
        np.where(less, interval.value, x.value),
        np.where(less, 0, x.tables),
        np.where(less, fractions * interval.radius, x.radius),
    )


@rounding.scaled.register
def _(x: Image, weight: np.ndarray | None, epsilon: float) -> Additive:
    return rounding.scaled(x.multiplied, weight, epsilon)
