"""Numbers as a person reads them: medians with their range, and tables in columns."""

from collections.abc import Sequence

import numpy as np


def or_never(steps: Sequence[float | None]) -> np.ndarray:
    """Return steps as float64 `[·]`, infinite where the threshold was never reached: None, NaN if diverged."""
    values = np.array([np.inf if step is None else step for step in steps], float)
    return np.where(np.isnan(values), np.inf, values)


def quantiles(steps: Sequence[float | None], fractions: Sequence[float] = (0.25, 0.5, 0.75)) -> np.ndarray:
    """Interpolate quantiles of steps; infinite where one depends on a lane that never reached its threshold."""
    values = np.sort(or_never(steps))
    position = np.asarray(fractions) * (len(values) - 1)
    low, high = (values[rounded(position).astype(int)] for rounded in (np.floor, np.ceil))
    gap = np.subtract(high, low, out=np.zeros_like(low), where=np.isfinite(high))
    return np.where(np.isfinite(high), low + (position % 1) * gap, high)


def spread(values: Sequence[float | None], form: str = "{:,.0f}") -> str:
    """Return a median with its range, such as "690 (470 to 760)".

    None, inf and NaN (a lane that diverged) mean "never", which is larger than every number. Where some lanes never
    reached the threshold, the number of those that did is added: "690 (470 to never, 4 of 5)".
    """
    first, middle, last = ("never" if np.isinf(x) else form.format(x) for x in quantiles(values, (0, 0.5, 1)))
    reached = np.isfinite(or_never(values)).sum()
    count = f", {reached} of {len(values)}" if 0 < reached < len(values) else ""
    return middle if first == last else f"{middle} ({first} to {last}{count})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text in aligned columns; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
