"""The figure of hypotheses: which claims hold."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.views.colours import TEST
from jaxadd.views.figures.style import FLOOR, OTHER, PALETTE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERDICTS = (PALETTE[3], "#c98a1b", TEST)  # from best to worst
_LOWEST = -0.3  # Scores have no lower end; what lies below is drawn at the edge.


@styled
def hypotheses(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray | float, np.ndarray | float, str]],
    thresholds: Mapping[str, float],
    title: str,
) -> Figure:
    """Draw the score of every claim with its interval, coloured by the verdict: a dot for each lane.

    Args:
      scores: claim to score `[S]`, the ends of its interval, and the verdict. The ends are `[S]`, drawn as a line
        for each lane, or two numbers for all lanes, drawn as one band. NaN for a score that is not defined.
      thresholds: the verdicts, from best to worst, with the least score of each; -inf for the worst. At most three
        have a colour, and any other verdict is grey.
      title: of the figure.
    """
    claims = [textwrap.fill(claim, 66) for claim in scores]
    heights = [max(1.25, 0.75 * (claim.count("\n") + 1)) for claim in claims]
    places = np.cumsum(heights) - np.array(heights) / 2
    figure = new_figure((10, 0.26 * float(np.sum(heights)) + 1.4), title)
    ax = figure.subplots()
    colours = dict(zip(thresholds, _VERDICTS, strict=False))
    for place, (score, low, high, verdict) in zip(places, scores.values(), strict=True):
        colour = colours.get(verdict, FLOOR)
        at = place + np.linspace(-0.3, 0.3, len(score)) * (len(score) > 1)
        few = len(score) < 6
        if np.ndim(low):
            ax.hlines(at, np.maximum(low, _LOWEST), high, color=colour, lw=1.6 if few else 0.9, alpha=0.55)
        else:
            ax.barh(place, high - (left := max(low, _LOWEST)), 0.8, left, color=colour, alpha=0.22, lw=0)
        below = score < _LOWEST
        ax.plot(score[~below], at[~below], "o", color=colour, ms=5 if few else 3)
        if below.any():  # Also an empty line that is not clipped would take room.
            ax.plot(np.full(below.sum(), _LOWEST), at[below], "<", color=colour, ms=5, clip_on=False)
    for name, least in thresholds.items():
        if np.isfinite(least):
            ax.axvline(least, color=FLOOR, lw=0.8, ls=(0, (4, 3)), zorder=1)
            ax.annotate(
                f"{name}: from {least:g}",
                (least, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=FLOOR,
            )
    ax.set(
        xlim=(_LOWEST, 1.1),
        ylim=(float(np.sum(heights)), 0),
        xlabel="score: loss recovered, 1 for a claim that holds",
    )
    ax.set_yticks(places, claims, fontsize=8, linespacing=1.1)
    ax.grid(visible=False, axis="y")
    words = ax.secondary_yaxis("right")
    words.set_yticks(places, [_outcome(*entry) for entry in scores.values()], fontsize=8)
    words.tick_params(length=0)
    words.spines["right"].set_visible(False)
    for text, (*_, verdict) in zip(words.get_yticklabels(), scores.values(), strict=True):
        text.set_color(colours.get(verdict, OTHER))
    return figure


def _outcome(score: np.ndarray, low: np.ndarray | float, high: np.ndarray | float, verdict: str) -> str:
    """Return a claim's median score over lanes, the outermost ends of its intervals, and the verdict."""
    if np.isnan(score).all():
        return f"{verdict}: no score"
    return f"{verdict}: {np.nanmedian(score):.2f} [{np.nanmin(low):.2f}, {np.nanmax(high):.2f}]"
