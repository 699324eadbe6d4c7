"""Activation functions as the verification of a certificate computes them, with where they turn."""

import functools
import math
from collections.abc import Callable

import numpy as np


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


_below = np.vectorize(lambda x: math.erfc(-x / math.sqrt(2)) / 2, otypes=[np.float64])
_density = lambda x: np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "identity": lambda x: x,
    "abs": np.abs,
    "square": lambda x: x * x,
    "sin": np.sin,
    "silu": lambda x: x * _logistic(x),
    "gelu": lambda x: x * _below(x),
}
DERIVATIVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.where(x > 0, 1.0, 0.0),
    "identity": lambda x: np.ones(np.shape(x)),
    "abs": np.sign,
    "square": lambda x: x + x,
    "sin": np.cos,
    "silu": lambda x: _logistic(x) + x * _logistic(x) * _logistic(-x),
    "gelu": lambda x: _below(x) + x * _density(x),
}


def values(name: str, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest value of a function between two arguments; for a sine, bounds of them."""
    if name == "sin":
        middle, radius = np.sin((low + high) / 2), (high - low) / 2
        return middle - radius, middle + radius
    return _between(FUNCTIONS[name], _turns(name)[0], low, high)


def slopes(name: str, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest derivative of a function between two arguments; for a sine, bounds of them."""
    if name == "sin":
        middle, radius = np.cos((low + high) / 2), (high - low) / 2
        return middle - radius, middle + radius
    return _between(DERIVATIVES[name], _turns(name)[1], low, high)


@functools.cache
def _turns(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return where a function and its derivative turn: the roots of the first and second derivative, by bisection."""
    derivative = DERIVATIVES[name]
    second = lambda x: (derivative(x + 1e-4) - derivative(x - 1e-4)) / 2e-4
    return _roots(derivative), () if name in ("relu", "abs") else _roots(second)


def _roots(function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, ...]:
    """Return where a function changes its sign from -8 to 8, beyond which none does; 0 is not on the grid."""
    grid = np.linspace(-8.03, 8, 2_000)
    signs = np.sign(np.where(np.abs(function(grid)) < 1e-9, 0, function(grid)))
    roots = []
    for i in np.flatnonzero(signs[:-1] * signs[1:] < 0):
        low, high = grid[i], grid[i + 1]
        for _ in range(60):
            middle = np.asarray((low + high) / 2)
            low, high = (middle, high) if np.sign(function(middle)) == signs[i] else (low, middle)
        roots.append(float(high))
    return tuple(roots)


def _between(
    function: Callable[[np.ndarray], np.ndarray], turns: tuple[float, ...], low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest value between two arguments: at the ends, or where the function turns."""
    values = [function(low), function(high)]
    values += [np.where((low < turn) & (turn < high), function(np.asarray(turn)), values[0]) for turn in turns]
    return np.minimum.reduce(values), np.maximum.reduce(values)
