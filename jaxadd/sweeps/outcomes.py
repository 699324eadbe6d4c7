"""When lanes learn: survival curves, in which lanes that never do are censored, and the outcomes of training."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Outcome = Literal["comprehension", "grokking", "memorisation", "confusion"]
OUTCOMES: tuple[Outcome, ...] = ("comprehension", "grokking", "memorisation", "confusion")
GAP = 1_000  # Steps from train to test accuracy beyond which generalisation counts as delayed.


class Survival(NamedTuple):
    """The fraction of lanes that have not yet reached a threshold, by Kaplan and Meier (1958).

    Attributes:
      step: float64 `[·]`, ascending, the first is 0.
      fraction: float64 `[·]`, from each step to the next; the first is 1.
      low: lower end of the 95 % interval, by Greenwood's variance on the log-log scale; NaN where undefined.
      high: upper end of the interval.
      censored: steps at which lanes ended without having reached the threshold, ascending.
    """

    step: np.ndarray
    fraction: np.ndarray
    low: np.ndarray
    high: np.ndarray
    censored: np.ndarray


def kaplan_meier(reached: Sequence[float | None], ended: Sequence[float]) -> Survival:
    """Estimate a survival curve.

    Args:
      reached: by lane, the step at which it reached the threshold; None where it did not.
      ended: by lane, the last step observed. A lane that had not reached the threshold by then is censored.

    Raises:
      ValueError: the lengths differ, or are 0.
    """
    if len(reached) != len(ended) or not len(reached):
        raise ValueError(f"expected as many ends as lanes, at least one, got {len(ended)} and {len(reached)}")
    time = np.array([end if at is None else at for at, end in zip(reached, ended, strict=True)], float)
    event = np.array([at is not None for at in reached])
    steps = np.unique(time[event])
    at_risk = (time[:, None] >= steps).sum(axis=0)
    events = (event[:, None] & (time[:, None] == steps)).sum(axis=0)
    fraction = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(events / (at_risk * (at_risk - events)))
        spread = 1.96 * np.sqrt(variance) / np.abs(np.log(fraction))
        low, high = fraction ** np.exp(spread), fraction ** np.exp(-spread)
    undefined = (fraction == 0) | ~np.isfinite(spread)
    low, high = (np.where(undefined, np.nan, x) for x in (low, high))
    return Survival(
        step=np.concatenate([[0], steps]),
        fraction=np.concatenate([[1], fraction]),
        low=np.concatenate([[np.nan], low]),
        high=np.concatenate([[np.nan], high]),
        censored=np.sort(time[~event]),
    )


def outcome(train: float | None, test: float | None, gap: float = GAP) -> Outcome:
    """Return the outcome of training by the four classes of Liu et al. (2022), "Towards understanding grokking".

    In the paper a set is learned at 90 % accuracy within 100,000 steps, and a delay is short below 1,000 steps. Here
    the caller chooses threshold and number of steps, so that memorisation in one run may be grokking in a longer one.

    Args:
      train: step at which the train set was learned; None for never.
      test: step at which the test set was learned; None for never.
      gap: the longest delay, in steps, that is comprehension; a longer one is grokking.
    """
    if test is None:
        return "confusion" if train is None else "memorisation"
    return "comprehension" if train is None or test - train <= gap else "grokking"
