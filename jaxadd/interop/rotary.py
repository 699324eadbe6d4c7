"""The angles of rotary positions that a file holds beside its weights, and the fields that they state."""

import numpy as np

from jaxadd.interop.fields import Fields

_TOLERANCE = 1e-4  # of a frequency, relative; files hold them in float32, or in half precision


def of_frequencies(frequencies: np.ndarray) -> Fields:
    """Return the field rope_theta that angles per position state, θ^(-j/n) for the pairs j of n.

    Nothing is returned for a single pair, whose angle is 1 with any θ, and for angles that are no such sequence.
    """
    angles = np.asarray(frequencies, np.float64).ravel()
    count = angles.size
    if count < 2 or not np.all(np.isfinite(angles)) or np.any(angles <= 0):
        return {}
    theta = float(angles[1]) ** -count
    rounded = float(f"{theta:.4g}")
    for candidate in (rounded, theta):
        if np.allclose(angles, candidate ** (-np.arange(count) / count), rtol=_TOLERANCE, atol=0):
            return {"rope_theta": candidate}
    return {}


def of_tables(sine: np.ndarray, cosine: np.ndarray) -> Fields:
    """Return the fields that the tables of TransformerLens state, `[T, K]` each: rope_theta and rope_pairs."""
    if sine.ndim != 2 or sine.shape != cosine.shape or len(sine) < 2 or sine.shape[1] % 2 or not sine.shape[1]:
        return {}
    angles = np.arctan2(sine[1].astype(np.float64), cosine[1].astype(np.float64))
    half, neighbours = np.split(angles, 2), (angles[::2], angles[1::2])
    for pairs, (first, second) in (("half", half), ("interleaved", neighbours)):
        if np.array_equal(first, second):
            # One pair of coordinates is the same in both orders.
            order = {"rope_pairs": pairs} if len(first) > 1 else {}
            return {**of_frequencies(first), **order}
    return {}
