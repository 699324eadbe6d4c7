"""The plateaus of a loss curve: where it rests, which exact floor it rests on, and when it leaves.

Losses and steps both run over decades, so everything is measured in ratios: a plateau is a stretch over which
the smoothed loss stays in a narrow band while the step grows by a large factor. A sum of per-digit losses blurs
the plateaus of its digits, so pass one digit's curve at a time. NumPy only. A record that is not finite counts
nowhere: it is neither on a plateau nor below a threshold.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

WINDOW = 0.05  # Half a smoothing window, as a fraction of the step: twenty of them fit into one e-fold of steps.
REACH = 2  # Records on either side that a window holds at least: five carry a mean through the first steps.
CONVERGED = 0.01  # Nats. A few digits in a thousand are errors: batches of 256 show little but noise.
BAND = 0.1  # Log-loss. Just closes out the nearest neighbours: log 2 and 0.9 log 2 are 0.105 apart.
RATIO = 1.5  # Of the last step on a plateau to the first. Falling through the band at slope 0.25 takes as long.
SLOPE = 0.07  # Of log-loss over log-step. Falls by 3 % over the shortest plateau; power laws of training fall faster.
_GRID = 0.02  # Log-steps between the points that `find` looks at: finer than the smoothing window.
_FEWEST = 5  # Points that show a slope with their outer eighths left out.


class Plateau(NamedTuple):
    """A stretch of a curve that is flat.

    Attributes:
      level: nats, the interquartile mean of the loss on it.
      start: first step on it.
      end: last step on it; the last recorded step where the curve is still on it.
      left: whether the curve left it downwards.
      name: the nearest floor's name, "" where none is near.
    """

    level: float
    start: int
    end: int
    left: bool
    name: str


def smooth(loss: np.ndarray, step: np.ndarray, *, window: float = WINDOW, reach: int = REACH) -> np.ndarray:
    """Smooth curves by a robust mean over a centred window that grows with the step.

    A first mean gives every record's residual; records further from it than three times the mean residual
    around them are pulled in to that distance, so a spike counts little, and the mean is taken again.
    The window is cut at the ends of the record, and only there does the result lag, by half of `window` at most.

    Args:
      loss: `[..., T]`, nats; records that are not finite count nowhere.
      step: `[T]`, ascending, of any spacing.
      window: half the window, as a fraction of the step.
      reach: records on either side that the window holds at least.

    Returns:
      `[..., T]`, float64; NaN where `loss` is not finite.
    """
    loss = np.asarray(loss, np.float64)
    low, high = _windows(np.asarray(step), window, reach)
    known = np.isfinite(loss)
    loss = np.where(known, loss, np.nan)

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.cumsum(np.where(known, values, 0), axis=-1, dtype=np.float64)
        sums = np.concatenate([np.zeros_like(sums[..., :1]), sums], axis=-1)
        return sums[..., high] - sums[..., low]

    count = np.where(known, total(known), np.nan)
    centre = total(loss) / count
    spread = 3 * total(np.abs(loss - centre)) / count
    return total(np.clip(loss, centre - spread, centre + spread)) / count


def find(
    loss: np.ndarray,
    step: np.ndarray,
    floors: Mapping[str, float],
    *,
    band: float = BAND,
    ratio: float = RATIO,
    slope: float = SLOPE,
    min_steps: int = 10,
    converged: float = CONVERGED,
) -> list[Plateau]:
    """Find the plateaus of one curve.

    Losses are compared as y = log(loss + converged), so that differences far below `converged`, which are
    noise, vanish. A plateau is a stretch on which the smoothed y stays inside `band` and which, its outer eighths
    left out, is flat: a line fitted there, whose slope is taken as steep as its standard error allows, is no
    steeper than `slope` and crosses less than half the band. A slide crosses all of it. The longest plateau is
    taken first, and reaches as far as the curve stays in the band around its median.

    What noise leaves in doubt is not reported: with 4 % of noise, a plateau needs some 30 records. The end
    of a slide slower than `slope` passes for a plateau, for it is not known to go on.

    Args:
      loss: `[T]`, nats; records that are not finite are left out.
      step: `[T]`, ascending, at least 0.
      floors: name to exact loss in nats.
      band: width of the band, in log-loss; a plateau takes the name of the nearest floor in the band around it.
      ratio: how many times its first step a plateau's last step must be.
      slope: most that y may fall or rise per e-fold of steps.
      min_steps: least steps from first to last; from step 0 to 1 is a ratio too.
      converged: nats; a lower level is the end of learning and no plateau.

    Returns:
      the plateaus by step. Nothing for a curve of fewer than two known records.
    """
    known = np.isfinite(loss)
    loss, step = np.asarray(loss, np.float64)[known], np.asarray(step)[known]
    if len(loss) < 2:
        return []
    # Steps are counted from 1, so that step 0 has a logarithm.
    position = np.log1p(step)
    grid = np.arange(position[0], position[-1], _GRID)
    points = np.unique(np.append(np.searchsorted(position, grid), len(loss) - 1))
    curve = np.maximum(smooth(loss, step), 0) + converged
    x, y = position[points], np.log(curve[points])
    noise = np.append(0, np.cumsum(((loss + converged) / curve - 1) ** 2))

    # From each point a stretch goes as far as the band lets it. Only whole stretches are judged: a slide cut
    # short, by a plateau beside it, would pass for flat.
    ahead = np.where(np.tri(len(x), dtype=bool), y[:, None], y)
    width = np.maximum.accumulate(ahead, axis=1) - np.minimum.accumulate(ahead, axis=1)
    starts, ends = np.arange(len(x)), np.sum(width <= band, axis=1) - 1
    long = (x[ends] - x[starts] >= np.log(ratio)) & (ends - starts >= _FEWEST - 1)
    starts, ends = starts[long], ends[long]
    span = x[ends] - x[starts]
    inner = np.searchsorted(x, [x[starts] + span / 8, x[ends] - span / 8])
    first, last = points[inner]
    # The standard error of a slope fitted to n even records over 3/4 of the span is sqrt(12 / n) sigma / width.
    error = np.sqrt(12 * (noise[last + 1] - noise[first])) / (last + 1 - first) / (0.75 * span)
    flat = np.abs(_slopes(x, y, *inner)) + error <= np.minimum(slope, band / 2 / span)

    stretches, pending = list(zip(starts[flat], ends[flat], strict=True)), [(0, len(x))]
    pieces = []
    while pending:
        low, high = pending.pop()
        inside = [(start, min(end, high - 1)) for start, end in stretches if low <= start < high]
        if inside:
            longest = max(inside, key=lambda stretch: x[stretch[1]] - x[stretch[0]])
            first, last = _around(y, *longest, low, high, band / 2)
            pieces.append((first, last))
            pending += [(low, first), (last + 1, high)]

    plateaus = []
    for first, last in _join(sorted(pieces), y, band):
        ordered = np.sort(loss[points[first] : points[last] + 1])
        quarter = len(ordered) // 4
        level = float(np.mean(ordered[quarter : len(ordered) - quarter]))
        few = last - first < _FEWEST - 1 or step[points[last]] - step[points[first]] < min_steps
        if few or x[last] - x[first] < np.log(ratio) or level < converged:
            continue
        off = {name: abs(np.log((level + converged) / (floor + converged))) for name, floor in floors.items()}
        near = min(off, key=lambda name: off[name], default="")
        name = near if near and off[near] <= band / 2 else ""
        left = last + 1 < len(y) and y[last + 1] < np.median(y[first : last + 1])
        plateaus.append(Plateau(level, int(step[points[first]]), int(step[points[last]]), bool(left), name))
    return plateaus


def steps_to_leave(
    loss: np.ndarray, step: np.ndarray, level: float, *, margin: float = 0.05, hold: float = 1.2
) -> int | None:
    """Find when a curve leaves a level downwards.

    Args:
      loss: `[T]`, nats.
      step: `[T]`, ascending.
      level: nats.
      margin: how far below, as a fraction of `level`. The default lies between all neighbouring floors:
        2.11 is 8 % below log 10, 0.9 log 2 is 10 % below log 2.
      hold: the smoothed curve must stay below until the step has grown by this factor, and for 10 records,
        or until the record ends.

    Returns:
      the first step clearly below `level`, which is the first recorded one for a curve that starts there;
      None where the curve never leaves.
    """
    return _falls_below(loss, step, level * (1 - margin), hold, 10)


def steps_to_reach(loss: np.ndarray, step: np.ndarray, threshold: float) -> int | None:
    """Find the first step, of `[T]` steps, at which the smoothed loss `[T]` is below `threshold` nats, if any."""
    return _falls_below(loss, step, threshold, 1, 1)


def _falls_below(loss: np.ndarray, step: np.ndarray, threshold: float, hold: float, records: int) -> int | None:
    known = np.isfinite(loss)
    loss, step = np.asarray(loss)[known], np.asarray(step)[known]
    above = np.append(0, np.cumsum(smooth(loss, step) >= threshold))
    until = np.searchsorted(step, hold * step, side="right")
    until = np.maximum(until, np.minimum(np.arange(len(step)) + records, len(step)))
    crossed = np.flatnonzero(above[until] == above[:-1])
    if not len(crossed):
        return None
    # Smoothing blurs a jump over its window. The jump lies where the records of that window split best into
    # those above and those below.
    low, high = (bound[crossed[0]] for bound in _windows(step, WINDOW, REACH))
    split = np.argmax(np.append(0, np.cumsum(np.where(loss[low:high] >= threshold, 1, -1))))
    return int(step[min(low + split, len(step) - 1)])


def _windows(step: np.ndarray, window: float, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first record of each record's window, and the one after its last: two int `[T]`."""
    here = np.arange(len(step))
    low = np.minimum(np.searchsorted(step, step - window * step), here - reach)
    high = np.maximum(np.searchsorted(step, step + window * step, side="right"), here + reach + 1)
    return np.maximum(low, 0), np.minimum(high, len(step))


def _slopes(x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Fit a line to the points from `low` to `high`, int `[C]` both, by least squares; return the slopes `[C]`."""

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.append(0, np.cumsum(values))
        return (sums[high + 1] - sums[low]) / (high + 1 - low)

    variance = mean(x * x) - mean(x) ** 2
    return (mean(x * y) - mean(x) * mean(y)) / np.maximum(variance, 1e-12)


def _around(y: np.ndarray, first: int, last: int, low: int, high: int, reach: float) -> tuple[int, int]:
    """Trim or extend a stretch to the points within `reach` of its median, inside [low, high)."""
    outside = np.abs(y - np.median(y[first : last + 1])) > reach
    while outside[first]:
        first += 1
    while outside[last]:
        last -= 1
    while first > low and not outside[first - 1]:
        first -= 1
    while last + 1 < high and not outside[last + 1]:
        last += 1
    return first, last


def _join(pieces: list[tuple[int, int]], y: np.ndarray, band: float) -> list[tuple[int, int]]:
    """Put neighbouring pieces of one level together, unless the curve fell out of the band between them."""
    joined: list[tuple[int, int]] = []
    for first, last in pieces:
        level = np.median(y[first : last + 1])
        if joined:
            before, until = joined[-1]
            same = abs(level - np.median(y[before : until + 1])) < band / 2
            if same and np.min(y[until : first + 1]) > level - band:
                joined[-1] = (before, last)
                continue
        joined.append((first, last))
    return joined
