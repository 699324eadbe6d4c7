"""Values with an explicit allowance for float32: what any float32 program for the same formula may return.

A `Rounded` holds, element by element, the exact value of a quantity (computed in float64, for one input or as an
interval for many) and a bound on the distance of a float32 result from it. Every operation here adds the error that
its own roundings may make to the error that it passes on; this is the standard a-priori analysis (Higham 2002,
chapters 3 and 4).

Assumptions:

- Sums of products are float32, each operation rounded to nearest, in any order, with or without fused multiply-add.
  Then a sum of n products errs by at most γ_n Σ |x||w|, γ_n = n u / (1 - n u), u = 2⁻²⁴. Matrix products have
  precision highest; TF32 and bfloat16 are not covered.
- A float32 elementary function (exp, sin, cos, erf, reciprocal root) errs by at most 4 units in the last place.
- Results below 2⁻¹²⁶ may be flushed to zero. Where a result may exceed 10³⁷, the error is infinite.

The float64 results stand for exact ones: their own error is 2⁻²⁹ of what is allowed for float32, and every allowance
is made larger by 2⁻²⁰ of itself to cover it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

UNIT = 2.0**-24 * (1 + 2.0**-20)  # Of float32, with room for float64.
FUNCTION = 8 * UNIT  # Relative error of an elementary function: 4 units in the last place.
TINY = 2.0**-125  # Absolute error of a result that may be flushed to zero, and of an input of it.
LARGEST_LOG = 100.0  # Largest bound of the error of a log weight with which anything is computed.
_LARGEST = 1e37
_SMALLEST_SQUARE = 1e-29  # Of a root mean square: what is flushed to zero is 2⁻²⁴ of it at most, and of no account.

ASSUMPTIONS = (
    "float32 operations round to nearest; sums are taken in any order, with or without fused multiply-add",
    "matrix products have precision highest: TF32 and bfloat16 are not covered",
    "float32 exp, sin, cos, erf and reciprocal roots err by at most 4 units in the last place",
    "results below 2^-126 may be flushed to zero",
    "bounds are computed in float64, whose rounding is covered by 2^-20 of the allowance for float32",
)


class Rounded(NamedTuple):
    """Exact values, and how far float32 results may be from them; float64 arrays that broadcast together.

    Attributes:
      value: `[...]`, the exact value, or the centre of the interval of exact values.
      error: `[...]`, bound on the distance of a float32 result from the exact value.
      radius: `[...]`, half the width of the interval of exact values; 0 for a single input.
    """

    value: np.ndarray
    error: np.ndarray
    radius: np.ndarray | float = 0.0

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

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Rounded":
        """Apply an indexing or reshaping that moves elements and computes nothing."""
        radius = function(self.radius) if isinstance(self.radius, np.ndarray) else self.radius
        return Rounded(function(self.value), function(self.error), radius)


def exact(value: np.ndarray) -> Rounded:
    """Return float32 numbers, such as parameters, as values without an error."""
    value = np.asarray(value, np.float64)
    return Rounded(value, np.zeros_like(value))


def gamma(n: int) -> float:
    """Return γ_n, the largest relative error of n roundings."""
    return n * UNIT / (1 - n * UNIT)


def limited(x: Rounded, most: float = _LARGEST) -> Rounded:
    """Return x, with an infinite error where a float32 result may be above `most`, or is not a number."""
    fits = x.magnitude <= most  # False for NaN.
    return x if np.all(fits) else x._replace(error=np.where(fits, x.error, np.inf))


def add(x: Rounded, y: Rounded) -> Rounded:
    """Add two quantities."""
    value, radius = x.value + y.value, x.radius + y.radius
    error = x.error + y.error
    return limited(Rounded(value, error + UNIT * (np.abs(value) + radius + error) + TINY, radius))


def product(x: Rounded, y: Rounded) -> Rounded:
    """Multiply two quantities element by element."""
    value = x.value * y.value
    radius: np.ndarray | float = 0.0
    if isinstance(x.radius, np.ndarray) or isinstance(y.radius, np.ndarray):
        radius = np.abs(x.value) * y.radius + np.abs(y.value) * x.radius + x.radius * y.radius
    error = x.magnitude * y.error + (y.magnitude - y.error) * x.error
    return limited(Rounded(value, error + UNIT * x.magnitude * y.magnitude + TINY, radius))


def linear(x: Rounded, w: np.ndarray, b: np.ndarray | None = None) -> Rounded:
    """Multiply `[..., D]` by float32 parameters `[D, F]` and add the bias `[F]`."""
    n, size = w.shape[0] + 1, np.abs(w)
    value, radius = _matmul(x.value, w), _matmul(x.radius, size) if isinstance(x.radius, np.ndarray) else 0.0
    error = _matmul((1 + gamma(n)) * x.error + gamma(n) * (np.abs(x.value) + x.radius), size) + n * TINY
    if b is not None:
        value = value + b
        error = error + gamma(n) * np.abs(b) + TINY
    return limited(Rounded(value, error, radius))


def _matmul(x: np.ndarray, w: np.ndarray) -> np.ndarray:
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


def scaled(x: Rounded, weight: np.ndarray | None, epsilon: float) -> Rounded:
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
    fits = ((np.sqrt(most) + x.error) ** 2).sum(axis=-1, keepdims=True) <= _LARGEST
    error = np.where(fits & (root**2 >= _SMALLEST_SQUARE), error, np.inf)
    w = np.ones(n) if weight is None else weight
    result = Rounded((y_low + y_high) / 2, error, (y_high - y_low) / 2 if isinstance(x.radius, np.ndarray) else 0.0)
    return result if weight is None else product(result, exact(w))


def centred(x: Rounded) -> Rounded:
    """Subtract the mean over the last axis."""
    n = x.value.shape[-1]
    mean = lambda y: y.mean(axis=-1, keepdims=True)
    value = x.value - mean(x.value)
    error = x.error + mean(x.error) + gamma(n + 1) * mean(x.magnitude)
    error = error + UNIT * (x.magnitude + mean(x.magnitude) + error) + n * TINY
    radius = x.radius * (1 - 2 / n) + mean(x.radius) if isinstance(x.radius, np.ndarray) else 0.0
    return limited(Rounded(value, error, radius))


def activation(name: str, x: Rounded) -> Rounded:
    """Apply an activation function of `models.model.ACTIVATIONS`."""
    function, slope, monotone, least = _FUNCTIONS[name]
    value, radius = function(x.value), x.radius
    if isinstance(radius, np.ndarray):
        low, high = function(x.low), function(x.high)
        low, high = np.minimum(low, high), np.maximum(low, high)
        if not monotone:
            inside = (x.low < least) & (least < x.high)
            low = np.where(inside, function(np.asarray(least)), low)
        # Around the value of the centre, which a caller may want alone.
        radius = np.maximum(high - value, value - low) if name != "sin" else x.radius
    steepest = 2 * x.magnitude if name == "square" else slope
    error = steepest * x.error
    if name not in ("relu", "abs", "identity"):
        # A product or quotient and an elementary function of an argument that is rounded once more.
        error = error + 3 * FUNCTION * (np.abs(value) + radius + error + slope * x.magnitude) + TINY
    return limited(Rounded(value, error, radius))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has none.


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))


# By name: the function in float64, the largest absolute derivative, whether it is monotone, and where it is least.
_FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, bool, float]] = {
    "relu": (lambda x: np.maximum(x, 0), 1.0, True, 0.0),
    "identity": (lambda x: x, 1.0, True, 0.0),
    "abs": (np.abs, 1.0, False, 0.0),
    "square": (np.square, 0.0, False, 0.0),
    "sin": (np.sin, 1.0, False, 0.0),
    "silu": (lambda x: x * _sigmoid(x), 1.0999, False, -1.2784645427610738),
    "gelu": (_gelu, 1.1290, False, -0.7517915241370145),
}
