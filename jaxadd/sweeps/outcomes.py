"""When lanes learn: survival curves that treat those that never did rightly, and the four outcomes of a training."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Outcome = Literal["comprehension", "grokking", "memorisation", "confusion"]
OUTCOMES: tuple[Outcome, ...] = ("comprehension", "grokking", "memorisation", "confusion")
GAP = 1_000  # steps between train and test accuracy beyond which generalisation counts as delayed


class Survival(NamedTuple):
    """The share of lanes that have not yet reached a threshold, by Kaplan and Meier (1958).

    Attributes:
      step: ascending, the first is 0.
      share: at and after each step, until the next; the first is 1.
      low: lower end of the 95 % interval, Greenwood's variance on the log-log scale; NaN where there is none.
      high: upper end.
      censored: steps at which lanes ended without having reached it, ascending.
    """

    step: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    censored: np.ndarray


def kaplan_meier(reached: Sequence[float | None], ended: Sequence[float]) -> Survival:
    """Estimate a survival curve.

    Args:
      reached: of each lane, the step at which it reached the threshold; None where it did not.
      ended: of each lane, the last step that was looked at. A lane that had not reached it by then says nothing of
        what would have come after: it is censored.
    """
    if len(reached) != len(ended) or not len(reached):
        raise ValueError(f"expected as many ends as lanes, and one at least, got {len(reached)} and {len(ended)}")
    time = np.array([end if at is None else at for at, end in zip(reached, ended, strict=True)], float)
    event = np.array([at is not None for at in reached])
    steps = np.unique(time[event])
    at_risk = (time[:, None] >= steps).sum(axis=0)
    events = (event[:, None] & (time[:, None] == steps)).sum(axis=0)
    share = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(events / (at_risk * (at_risk - events)))
        spread = 1.96 * np.sqrt(variance) / np.abs(np.log(share))
        low, high = share ** np.exp(spread), share ** np.exp(-spread)
    none = (share == 0) | ~np.isfinite(spread)
    low, high = (np.where(none, np.nan, x) for x in (low, high))
    return Survival(
        *(np.concatenate([[first], x]) for first, x in ((0, steps), (1, share), (np.nan, low), (np.nan, high))),
        np.sort(time[~event]),
    )


def outcome(train: float | None, test: float | None, gap: float = GAP) -> Outcome:
    """Name how a training ended by the four outcomes of Liu et al. (2022), "Towards understanding grokking".

    They call a set learned at 90 % accuracy within 100,000 steps, and a delay short below 1,000 of them; level and
    budget are the caller's here, so what is memorised in one budget may be grokked in a longer one.

    Args:
      train: the step at which the train set was learned; None for never.
      test: the same of the test set.
      gap: in steps; at most so long a delay is comprehension, a longer one grokking.
    """
    if test is None:
        return "confusion" if train is None else "memorisation"
    return "comprehension" if train is None or test - train <= gap else "grokking"
