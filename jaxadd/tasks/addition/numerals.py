"""Numerals: digits as text, most significant first, and back."""

import string
from collections.abc import Sequence

import numpy as np

_SIGNS = string.digits + string.ascii_lowercase


def write(digits: Sequence[int] | np.ndarray, base: int) -> str:
    """Return the numeral of digits `[N]`, units first, such as "0427".

    Digits above 9 are a, b, c …; beyond base 36, digits are decimal numbers separated by colons.
    """
    ordered = [int(d) for d in digits[::-1]]
    return ":".join(map(str, ordered)) if base > len(_SIGNS) else "".join(_SIGNS[d] for d in ordered)


def read(numeral: str, base: int) -> np.ndarray | None:
    """Return the digits of a numeral, int32 `[N]`, units first; None where it is not a numeral of this base."""
    wide = base > len(_SIGNS)
    values = {str(d) if wide else _SIGNS[d]: d for d in range(base)}
    signs = numeral.split(":") if wide else list(numeral)
    return np.array([values[s] for s in reversed(signs)], np.int32) if all(s in values for s in signs) else None
