"""Values with an explicit allowance for float32: what any float32 program for the same formula may return.

A `Rounded` holds, element by element, the exact value of a quantity (computed in float64, for one input or as an
interval for many) and a bound on the distance of a float32 result from it. Every operation here adds the error that
its own roundings may make to the error that it passes on; this is the standard a-priori analysis (Higham 2002,
chapters 3 and 4). With an interval of values it may also hold intervals of their derivatives, which bound how far a
function of several quantities is from a linear one.

Assumptions:

- Sums of products are float32, each operation rounded to nearest, in any order, with or without fused multiply-add.
  Then a sum of n products errs by at most γ_n Σ |x||w|, γ_n = n u / (1 - n u), u = 2⁻²⁴. Matrix products have
  precision highest; TF32 and bfloat16 are not covered.
- A float32 elementary function (exp, sin, cos, erf, reciprocal root) errs by at most 4 units in the last place.
- A quantity that several others read, such as what attention writes or what is unembedded, is computed once: its
  error is the same for all of them.
- Sines and cosines of rotary positions are computed in float64 and rounded to float32.
- Results below 2⁻¹²⁶ may be flushed to zero. Where a result may exceed 10³⁷, the error is infinite.

The float64 results stand for exact ones: their own error is 2⁻²⁹ of what is allowed for float32, and every allowance
is made larger by 2⁻²⁰ of itself to cover it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

UNIT = 2.0**-24 * (1 + 2.0**-20)  # Of float32, with room for float64.
FUNCTION = 8 * UNIT  # Relative error of an elementary function: 4 units in the last place.
TINY = 2.0**-125  # Absolute error of a result that may be flushed to zero, and of an input of it.
LARGEST_LOG = 100.0  # Largest bound of the error of a log weight with which anything is computed.
LARGEST = 1e37  # What float32 surely holds.
_SMALLEST_SQUARE = 1e-29  # Of a root mean square: what is flushed to zero is 2⁻²⁴ of it at most, and of no account.

ASSUMPTIONS = (
    "float32 operations round to nearest; sums are taken in any order, with or without fused multiply-add",
    "matrix products have precision highest: TF32 and bfloat16 are not covered",
    "a quantity that several others read, such as what attention writes, is computed once",
    "sines and cosines of rotary positions are computed in float64 and rounded to float32",
    "float32 exp, sin, cos, erf and reciprocal roots err by at most 4 units in the last place",
    "results below 2^-126 may be flushed to zero",
    "bounds are computed in float64, whose rounding is covered by 2^-20 of the allowance for float32",
)


# A `Rounded`, or another kind of values for which the functions below are registered (`additive`).
Quantity: TypeAlias = Any


class Slope(NamedTuple):
    """An interval of derivatives, by S inputs.

    Attributes:
      value: `[..., S, n]`, the centre.
      radius: `[..., S, n]`, half the width.
    """

    value: np.ndarray
    radius: np.ndarray

    def times(self, factor: np.ndarray, radius: np.ndarray | float = 0.0) -> "Slope":
        """Multiply by factors in an interval, the centre `[..., n]`, or `[..., 1]`, and its radius."""
        factor, radius = factor[..., None, :], radius[..., None, :] if isinstance(radius, np.ndarray) else radius
        size = np.abs(factor) + radius
        return Slope(self.value * factor, np.abs(self.value) * radius + self.radius * size)

    def plus(self, other: "Slope | None") -> "Slope":
        """Add the derivative of another quantity; None is that of a constant."""
        return self if other is None else Slope(self.value + other.value, self.radius + other.radius)


class Rounded(NamedTuple):
    """Exact values, and how far float32 results may be from them; float64 arrays that broadcast together.

    Attributes:
      value: `[..., n]`, the exact value, or the centre of the interval of exact values.
      error: `[..., n]`, bound on the distance of a float32 result from the exact value.
      radius: `[..., n]`, half the width of the interval of exact values; 0 for a single input.
      slope: the derivatives of the exact values wherever the inputs are in their intervals; None for a constant, and
        where nobody asks for them.
    """

    value: np.ndarray
    error: np.ndarray
    radius: np.ndarray | float = 0.0
    slope: Slope | None = None

    @property
    def magnitude(self) -> np.ndarray:
        """The largest absolute value of a float32 result."""
        return np.abs(self.value) + self.error + self.radius

    @property
    def low(self) -> np.ndarray:
        """The smallest exact value."""
        return self.value - self.radius

    @property
    def high(self) -> np.ndarray:
        """The largest exact value."""
        return self.value + self.radius

    def passed(self, w: np.ndarray) -> np.ndarray:
        """Return what the error may change in an exact product with a matrix `[n, m]`."""
        return self.error @ np.abs(w)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Rounded":
        """Apply an indexing or reshaping that moves elements and computes nothing."""
        assert self.slope is None  # Its axes are others.
        radius = function(self.radius) if isinstance(self.radius, np.ndarray) else self.radius
        return Rounded(function(self.value), function(self.error), radius)

    def joined(self, other: "Rounded", join: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> "Rounded":
        """Put two quantities together by a function of arrays that moves elements."""
        radius: np.ndarray | float = 0.0
        if isinstance(self.radius, np.ndarray) and isinstance(other.radius, np.ndarray):
            radius = join(self.radius, other.radius)
        return Rounded(join(self.value, other.value), join(self.error, other.error), radius)


def exact(value: np.ndarray) -> Rounded:
    """Return float32 numbers, such as parameters, as values without an error."""
    value = np.asarray(value, np.float64)
    return Rounded(value, np.zeros_like(value))


def gamma(n: int) -> float:
    """Return γ_n, the largest relative error of n roundings."""
    return n * UNIT / (1 - n * UNIT)


def limited(x: Rounded, most: float = LARGEST) -> Rounded:
    """Return x, with an infinite error where a float32 result may be above `most`, or is not a number."""
    fits = x.magnitude <= most  # False for NaN.
    return x if np.all(fits) else x._replace(error=np.where(fits, x.error, np.inf))


@functools.singledispatch
def add(x: Quantity, y: Quantity) -> Quantity:
    """Add two quantities."""
    value, radius = x.value + y.value, x.radius + y.radius
    error = x.error + y.error
    slope = y.slope if x.slope is None else x.slope.plus(y.slope)
    return limited(Rounded(value, error + UNIT * (np.abs(value) + radius + error) + TINY, radius, slope))


@functools.singledispatch
def product(x: Quantity, y: Quantity) -> Quantity:
    """Multiply two quantities element by element."""
    value = x.value * y.value
    radius: np.ndarray | float = 0.0
    if isinstance(x.radius, np.ndarray) or isinstance(y.radius, np.ndarray):
        radius = np.abs(x.value) * y.radius + np.abs(y.value) * x.radius + x.radius * y.radius
    error = x.magnitude * y.error + (y.magnitude - y.error) * x.error
    slopes = [a.slope.times(b.value, b.radius) for a, b in ((x, y), (y, x)) if a.slope is not None]
    slope = slopes[0].plus(slopes[1] if len(slopes) == 2 else None) if slopes else None
    return limited(Rounded(value, error + UNIT * x.magnitude * y.magnitude + TINY, radius, slope))


@functools.singledispatch
def linear(x: Quantity, w: np.ndarray, b: np.ndarray | None = None) -> Quantity:
    """Multiply `[..., D]` by float32 parameters `[D, F]` and add the bias `[F]`."""
    n, size = w.shape[0] + 1, np.abs(w)
    value = matrix_product(x.value, w)
    radius = matrix_product(x.radius, size) if isinstance(x.radius, np.ndarray) else 0.0
    error = matrix_product((1 + gamma(n)) * x.error + gamma(n) * (np.abs(x.value) + x.radius), size) + n * TINY
    if b is not None:
        value = value + b
        error = error + gamma(n) * np.abs(b) + TINY
    slope = None if x.slope is None else Slope(matrix_product(x.slope.value, w), matrix_product(x.slope.radius, size))
    return limited(Rounded(value, error, radius, slope))


def matrix_product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Multiply as one product of two matrices; NumPy would compute one small product for each leading index."""
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])


def softmax(scores: Rounded, visible: np.ndarray) -> Rounded:
    """Return the softmax over the last axis of single inputs, 0 where `visible` is False.

    An error of every score by at most δ_i changes log p_i by at most δ_i + max δ. The subtraction of the largest
    score s_max, whichever that is in float32, adds 2 u |s - s_max|. Where a score has no bound, no weight has one.
    """
    assert not isinstance(scores.radius, np.ndarray)
    shifted = np.where(visible, scores.value, -np.inf)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    p = np.exp(shifted)
    p /= p.sum(axis=-1, keepdims=True)
    n = scores.value.shape[-1]
    # Weights below e^-88 are flushed to zero, whatever their relative error is.
    moved = np.where(visible, scores.error + 2 * UNIT * (np.minimum(-shifted, 100) + scores.error), 0)
    moved = moved + moved.max(axis=-1, keepdims=True)
    moved = moved + 2 * FUNCTION + gamma(n + 3)
    # No weight is above 1, whatever finite scores are; p may be so small that a product with e^moved says nothing.
    error = np.where(
        moved < LARGEST_LOG,
        np.minimum(p * np.expm1(np.minimum(moved, LARGEST_LOG)), 1 + gamma(n + 3)),
        1 + gamma(n + 3),
    )
    bounded = np.isfinite(moved).all(axis=-1, keepdims=True)
    return Rounded(p, np.where(visible, np.where(bounded, error, np.inf) + n * TINY, 0))


def matmul(x: Rounded, y: Rounded) -> Rounded:
    """Multiply stacks of matrices, `[..., R, T]` and `[..., T, K]`, of single inputs."""
    n, size = y.value.shape[-2], np.abs(y.value)
    spread = gamma(n)
    x_size = np.abs(x.value)
    error = (x_size + x.error) @ ((1 + spread) * y.error + spread * size) + (1 + spread) * (x.error @ size)
    return limited(Rounded(x.value @ y.value, error + n * TINY))


@functools.singledispatch
def scaled(x: Quantity, weight: np.ndarray | None, epsilon: float) -> Quantity:
    """Divide by the root mean square over the last axis, and multiply by the weight `[D]`.

    y_i = x_i / √(mean x² + ε) increases with x_i, and |y_i| decreases with the squares of the others. The derivative
    of y in direction d is (d - y (y·d) / D) / √(mean x² + ε).
    """
    n = x.value.shape[-1]
    low, high = x.low, x.high
    most = np.maximum(np.abs(low), np.abs(high)) ** 2
    least = np.where((low < 0) & (high > 0), 0, np.minimum(np.abs(low), np.abs(high)) ** 2)

    def at(end: np.ndarray, far: bool) -> np.ndarray:
        squares = (least if far else most).sum(axis=-1, keepdims=True) - (least if far else most)
        return end / np.sqrt((end**2 + squares) / n + epsilon)

    y_low = np.where(low < 0, at(low, True), at(low, False))
    y_high = np.where(high > 0, at(high, True), at(high, False))
    size = np.maximum(np.abs(y_low), np.abs(y_high))
    inner = np.maximum(np.sqrt(least) - x.error, 0) ** 2
    root = np.sqrt(inner.mean(axis=-1, keepdims=True) + epsilon)
    # The derivative never lengthens d by more than 1 / root, so |y| of a result with an error is at most `reach`.
    length = np.sqrt((x.error**2).sum(axis=-1, keepdims=True)) / root
    reach = np.minimum(math.sqrt(n), size + length)
    error = np.minimum(length, (x.error + reach * (reach * x.error).sum(axis=-1, keepdims=True) / n) / root)
    error = error + (gamma(n + 4) + FUNCTION) * (size + error) + TINY
    # Squares may overflow, and be flushed to zero.
    fits = ((np.sqrt(most) + x.error) ** 2).sum(axis=-1, keepdims=True) <= LARGEST
    error = np.where(fits & (root**2 >= _SMALLEST_SQUARE), error, np.inf)
    value, radius = (y_low + y_high) / 2, (y_high - y_low) / 2 if isinstance(x.radius, np.ndarray) else 0.0
    slope = None
    if x.slope is not None:
        along = x.slope.times(value, radius)
        inward = Slope(*(part.mean(axis=-1, keepdims=True) for part in along)).times(-value, radius)
        slowest, fastest = (1 / np.sqrt(part.mean(axis=-1, keepdims=True) + epsilon) for part in (most, least))
        slope = x.slope.plus(inward).times((fastest + slowest) / 2, (fastest - slowest) / 2)
    result = Rounded(value, error, radius, slope)
    return result if weight is None else product(result, exact(weight))


@functools.singledispatch
def centred(x: Quantity) -> Quantity:
    """Subtract the mean over the last axis."""
    n = x.value.shape[-1]
    mean = lambda y: y.mean(axis=-1, keepdims=True)
    value = x.value - mean(x.value)
    error = x.error + mean(x.error) + gamma(n + 1) * mean(x.magnitude)
    error = error + UNIT * (x.magnitude + mean(x.magnitude) + error) + n * TINY
    inner = lambda y: y * (1 - 2 / n) + mean(y)  # Half the width of what may be anywhere within half its width.
    radius = inner(x.radius) if isinstance(x.radius, np.ndarray) else 0.0
    slope = None if x.slope is None else Slope(x.slope.value - mean(x.slope.value), inner(x.slope.radius))
    return limited(Rounded(value, error, radius, slope))


@functools.singledispatch
def activation(x: Quantity, name: str) -> Quantity:
    """Apply an activation function of `models.model.ACTIVATIONS`."""
    function, derivative, steepest = FUNCTIONS[name]
    value, radius, slope = function(x.value), x.radius, None
    if isinstance(radius, np.ndarray):
        low, high = function.between(x.low, x.high)
        # Around the value of the centre, which a caller may want alone.
        radius = np.maximum(high - value, value - low)
    if x.slope is not None:
        low, high = derivative.between(x.low, x.high)
        slope = x.slope.times((high + low) / 2, (high - low) / 2)
    error = (2 * x.magnitude if name == "square" else steepest) * x.error
    if name not in ("relu", "abs", "identity"):
        # A product or quotient and an elementary function of an argument that is rounded once more.
        slope_of_argument = 0.0 if name == "square" else steepest
        error = error + 3 * FUNCTION * (np.abs(value) + radius + error + slope_of_argument * x.magnitude) + TINY
    return limited(Rounded(value, error, radius, slope))


class Function(NamedTuple):
    """A function in float64.

    Attributes:
      of: the function, element by element.
      turns: all arguments where it is largest or least among those near; None where it changes as fast as its
        argument at most, and has too many of them to be listed.
    """

    of: Callable[[np.ndarray], np.ndarray]
    turns: tuple[float, ...] | None = ()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the values of the function."""
        return self.of(x)

    def between(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return bounds of the least and largest value between two arguments."""
        if self.turns is None:
            middle, radius = self.of((low + high) / 2), (high - low) / 2
            return middle - radius, middle + radius
        ends = self.of(low), self.of(high)
        least, largest = np.minimum(*ends), np.maximum(*ends)
        for turn in self.turns:
            inside, there = (low < turn) & (turn < high), self.of(np.asarray(turn))
            least = np.where(inside, np.minimum(least, there), least)
            largest = np.where(inside, np.maximum(largest, there), largest)
        return least, largest


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has none.


def _normal(x: np.ndarray) -> np.ndarray:
    """Return the probability that a standard normal variable is below x."""
    return 0.5 * (1 + _erf(x / math.sqrt(2)))


_SILU, _GELU = -1.2784645427610738, -0.7517915241370145  # Where they are least.
_STEEPEST_SILU, _STEEPEST_GELU = 2.399357280515467, math.sqrt(2)  # Where, and at minus which, they are steepest.

# By name: the function, its derivative, and the largest absolute derivative.
FUNCTIONS: dict[str, tuple[Function, Function, float]] = {
    "relu": (Function(lambda x: np.maximum(x, 0)), Function(lambda x: (x > 0).astype(float)), 1.0),
    "identity": (Function(lambda x: x), Function(np.ones_like), 1.0),
    "abs": (Function(np.abs, (0.0,)), Function(np.sign), 1.0),
    "square": (Function(np.square, (0.0,)), Function(lambda x: 2 * x), math.inf),
    "sin": (Function(np.sin, None), Function(np.cos, None), 1.0),
    "silu": (
        Function(lambda x: x * _sigmoid(x), (_SILU,)),
        Function(lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))), (-_STEEPEST_SILU, _STEEPEST_SILU)),
        1.0999,
    ),
    "gelu": (
        Function(lambda x: x * _normal(x), (_GELU,)),
        Function(
            lambda x: _normal(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), (-_STEEPEST_GELU, _STEEPEST_GELU)
        ),
        1.1290,
    ),
}
