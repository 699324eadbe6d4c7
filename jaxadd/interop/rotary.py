"""The angles of rotary positions that a file holds beside its weights, and the fields that they state."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop.fields import Fields

_DIGITS = 5  # of a rope_theta that is found by its angles; one with fewer is taken if it fits too


def of_frequencies(frequencies: Sequence[np.ndarray], known: Fields) -> Fields:
    """Return the fields that the angles per position state: angle j of n is rope_scale · rope_theta^(-j/n).

    Args:
      frequencies: an array of every block that has one, `[K/2]` each, in radians.
      known: fields that a config or the caller states; where rope_theta fits, it is kept.

    Raises:
      UserError: the blocks differ, or there are no such fields; not if `known` holds both of them.
    """
    return {} if {"rope_theta", "rope_scale"} <= known.keys() else _fields(_one(frequencies), known)


def of_tables(sines: Sequence[np.ndarray], cosines: Sequence[np.ndarray], known: Fields) -> Fields:
    """Return rope_theta, rope_scale and rope_pairs as the tables of TransformerLens state them.

    Args:
      sines: of the angle of each coordinate, an array `[T, K]` of every block.
      cosines: likewise.
      known: see `of_frequencies`.

    Raises:
      UserError: the blocks differ, or no fields give these angles; not if `known` holds all three of them.
    """
    if {"rope_theta", "rope_scale", "rope_pairs"} <= known.keys():
        return {}
    sine, cosine = _one(sines), _one(cosines)
    if sine.ndim != 2 or sine.shape != cosine.shape or len(sine) < 2 or sine.shape[1] % 2:
        raise UserError(f"its rotary tables should have the shape [positions, d_head], got {sine.shape}")
    angles = np.arctan2(sine[1].astype(np.float64), cosine[1].astype(np.float64)).astype(sine.dtype)
    both = {"half": np.split(angles, 2), "interleaved": (angles[::2], angles[1::2])}
    orders = [pairs for pairs, (first, second) in both.items() if np.array_equal(first, second)]
    if not orders:
        raise UserError("its rotary tables turn no pairs of coordinates by the same angle")
    # A single pair of coordinates is the same in both orders.
    order = {"rope_pairs": orders[0]} if len(orders) == 1 else {}
    return {**_fields(both[orders[0]][0], known), **order}


def _one(arrays: Sequence[np.ndarray]) -> np.ndarray:
    if not all(np.array_equal(array, arrays[0]) for array in arrays):
        raise UserError("its blocks rotate by different angles, and this model rotates all by the same")
    return arrays[0]


def _fields(frequencies: np.ndarray, known: Fields) -> Fields:
    angles = frequencies.astype(np.float64).ravel()
    count, rounding = angles.size, 1e-4 + float(jnp.finfo(frequencies.dtype).eps)
    if not count or not np.all(np.isfinite(angles)) or np.any(angles <= 0):
        raise UserError(
            "its rotary angles should be positive numbers; state rope_theta and rope_scale to ignore them"
        )
    scale = {} if abs(angles[0] - 1) < rounding else {"rope_scale": float(angles[0])}
    if count == 1:
        return scale  # Which is the angle with any rope_theta.
    with np.errstate(over="ignore"):
        theta = float((angles[1] / angles[0]) ** np.float64(-count))
    if np.isfinite(theta):
        rounded = (float(f"{theta:.{digits}g}") for digits in range(1, _DIGITS))
        stated = [known["rope_theta"]] if "rope_theta" in known else []
        for candidate in (*stated, *rounded, theta):
            if np.allclose(angles / angles[0], candidate ** (-np.arange(count) / count), rtol=rounding, atol=0):
                return {"rope_theta": candidate, **scale}
    raise UserError(
        "its rotary angles are not rope_scale · rope_theta^(-j/n) for pair j of n; state the fields rope_theta and "
        "rope_scale to ignore them"
    )
