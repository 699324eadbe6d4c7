"""Numerals: digits as a person writes them, most significant first, and back."""

import string
from collections.abc import Sequence

import numpy as np

_SIGNS = string.digits + string.ascii_lowercase


def write(digits: Sequence[int], base: int) -> str:
    """Write a number, digits `[N]`, units first: "0427".

    Digits above 9 are a, b, c …; beyond base 36 digits are decimal numbers between colons.
    """
    shown = [int(d) for d in reversed(digits)]
    return ":".join(map(str, shown)) if base > len(_SIGNS) else "".join(_SIGNS[d] for d in shown)


def read(numeral: str, base: int) -> np.ndarray | None:
    """Read what `write` writes: int32 `[N]`, units first; None where it is no numeral of this base."""
    wide = base > len(_SIGNS)
    known = {str(d) if wide else _SIGNS[d]: d for d in range(base)}
    shown = numeral.split(":") if wide else list(numeral)
    return np.array([known[d] for d in reversed(shown)], np.int32) if all(d in known for d in shown) else None
