"""The three phases of grokking, distinguished by the progress measures of one lane."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxadd.errors import UserError


class Phases(NamedTuple):
    """The steps at which the phases end; None for one that does not end within the record.

    Attributes:
      memorised: end of memorisation, start of circuit formation.
      formed: end of circuit formation, start of clean-up.
      cleaned: end of clean-up.
    """

    memorised: int | None
    formed: int | None
    cleaned: int | None


PHASES = {"memorised": "memorisation", "formed": "circuit formation", "cleaned": "clean-up"}
"""What the phase is called that ends there."""


def phases(
    steps: Sequence[int] | np.ndarray,
    train_loss: np.ndarray,
    test_loss: np.ndarray,
    excluded_loss: np.ndarray,
    sum_of_squares: np.ndarray,
    *,
    learned: float = 0.1,
    rise: float = 2.0,
    half: float = 0.5,
    low: float = 0.01,
    settled: float = 0.95,
    on: float = 0.25,
) -> Phases:
    """Find where memorisation, circuit formation and clean-up end.

    The phases are those of Nanda et al. 2023, section 5.2, where they end at 1.4k, 9.4k and 14k steps, read off
    the figure by eye. The rules here say in numbers what is seen there:

    - While it memorises, the network does without the waves, so the loss that excludes them falls along with the
      train loss, and it rises as soon as the waves begin to carry train answers. Memorisation ends where the
      excluded loss is least, before circuits are formed, if the train pairs are known there (train loss at most
      `learned`) and the excluded loss later grows by the factor `rise`. A network that generalises from the start
      has no memorisation to end.
    - Circuits form out of sight: the test loss stays near its peak until memorisation no longer drowns them.
      Formation ends at the last step at which the test loss is still `half` of its peak, before it first falls below
      `low` of it (at all, where it never does). The peak is the largest value so far, so a spike after grokking
      moves nothing.
    - Clean-up is weight decay removing what the circuits have made superfluous. It ends where the test loss has
      fallen below `low` of its peak and the sum of squares has made `settled` of all its fall after `formed`.
      Without weight decay that sum does not fall, and the test loss alone decides. The record must go on for the
      part `on` of the time that clean-up took; until then the fall may not be over.

    Args:
      steps: `[E]`, ascending.
      train_loss: `[E]`, nats.
      test_loss: `[E]`, nats.
      excluded_loss: `[E]`, of the train pairs, nats.
      sum_of_squares: `[E]`, of the parameters.
      learned: nats.
      rise: factor.
      half: fraction of the test loss's peak.
      low: fraction of the test loss's peak.
      settled: fraction of the fall of the sum of squares.
      on: fraction of the steps from `formed` to `cleaned`.

    Returns:
      three of `steps`, or None. Steps at which a series is not finite are left out, as of a lane that diverged.

    Raises:
      UserError: where the series do not have one entry for each step.
    """
    series = [np.asarray(x) for x in (steps, train_loss, test_loss, excluded_loss, sum_of_squares)]
    if any(x.shape != series[0].shape or x.ndim != 1 for x in series):
        raise UserError(f"phases are those of one lane: series [E] are expected, got {[x.shape for x in series]}")
    steps, train, test, excluded, squares = (x[np.all(np.isfinite(series), axis=0)] for x in series)
    if not len(steps):
        return Phases(None, None, None)

    peak = np.maximum.accumulate(test)
    fallen = _first(test < low * peak)
    end = len(steps) - 1 if fallen is None else fallen
    high = np.flatnonzero(test[: end + 1] >= half * peak[end])
    formed = int(high[-1]) if high[-1] < end else None

    cleaned = None
    if fallen is not None and formed is not None:
        after = squares[formed:]
        rest = np.min(after) + (1 - settled) * (after[0] - np.min(after))
        cleaned = max(fallen, formed + int(np.argmax(after <= rest)))
        if steps[-1] - steps[cleaned] < on * (steps[cleaned] - steps[formed]):
            cleaned = None

    within = slice(0, None if formed is None else formed + 1)
    least = int(np.argmin(excluded[within]))
    kept_out = excluded[least:] >= rise * excluded[least]
    memorised = least if train[least] <= learned and np.any(kept_out) else None
    return Phases(*(None if i is None else int(steps[i]) for i in (memorised, formed, cleaned)))


def _first(condition: np.ndarray) -> int | None:
    return int(np.argmax(condition)) if np.any(condition) else None
