"""The figure of what a loss spike does to attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.views.figures.style import around_zero, colour_bar, diverging, from_zero, heat, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def attention_change(
    before: np.ndarray, after: np.ndarray, queries: Sequence[str], tokens: Sequence[str], title: str
) -> Figure:
    """Draw the mean attention of every head before and after something, such as a loss spike, and the difference.

    Args:
      before: `[L, H, R, T]`, means over problems.
      after: `[L, H, R, T]`.
      queries: names of the positions read, `[R]`.
      tokens: names of the tokens, `[T]`.
      title: of the figure.
    """
    layers, heads = before.shape[:2]
    width, height = _cells(queries, tokens)
    figure = new_figure((3 * width + 2.6, layers * heads * (height - 0.04) + 1), title, "compressed")
    axes = figure.subplots(layers * heads, 3, squeeze=False, sharex=True, sharey=True)
    shared, change = from_zero(np.stack([before, after])), around_zero(after - before)
    for row, (layer, head) in zip(axes, np.ndindex(layers, heads), strict=True):
        one, other = before[layer, head], after[layer, head]
        for ax, values in zip(row, (one, other), strict=False):
            image = heat(ax, values, queries, tokens, norm=shared, size=7)
        difference = heat(row[2], other - one, queries, tokens, cmap=diverging(), norm=change, size=7)
        row[0].set_ylabel(f"L{layer}H{head}")
        for ax in row:
            ax.set_aspect("equal")
            ax.tick_params(axis="x", labelrotation=_turn(tokens))
    for ax, name in zip(axes[0], ("before", "after", "after - before"), strict=True):
        ax.set_title(name)
    shrink = min(1, 3 / (layers * heads * height))
    colour_bar(figure, image, list(axes[:, :2].flat), "mean attention", shrink=shrink)
    colour_bar(figure, difference, list(axes[:, 2]), "difference", shrink=shrink)
    return figure


def _cells(rows: Sequence[str], columns: Sequence[str], side: float = 0.155) -> tuple[float, float]:
    """Return the width and height in inches of a panel with square cells, its labels included, that is not tiny."""
    return max(1.6, side * len(columns) + 0.3), max(0.5, side * len(rows) + 0.25)


def _turn(tokens: Sequence[str]) -> int:
    """Return by how many degrees the names of tokens are turned: names longer than "a4" do not fit side by side."""
    return 90 if max(map(len, tokens)) > 2 else 0
