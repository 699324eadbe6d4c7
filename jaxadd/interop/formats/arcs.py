"""Embeddings of digits on an arc, as many small adders have them."""

import numpy as np


def embedding(radius: float, start: float, stride: float, count: int) -> np.ndarray:
    """Return the points (radius cos φ, radius sin φ), φ = start + d · stride, of digits d, float64 `[count, 2]`."""
    angle = start + stride * np.arange(count)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
