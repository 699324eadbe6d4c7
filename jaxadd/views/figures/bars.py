"""Bars, spectra and histograms, drawn from their description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.pictures import Bars, Histogram
from jaxadd.views.colours import TEST
from jaxadd.views.figures.drawing import Drawing
from jaxadd.views.figures.style import (
    FLOOR,
    PALETTE,
    colour_bar,
    edges,
    from_zero,
    largest,
    log_axis,
    log_edges,
    sequential,
    together,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_PLAIN = "#b8c4d6"
_ACROSS = 4
_TICKS = 16  # that are named
_LETTER = 0.07  # inches
_SIDE_BY_SIDE = 6  # the most neighbours that are all named


def bars(picture: Bars) -> Drawing:
    """Make bars ready to be drawn; those that evolve as a map over training beside the last state."""
    count, panels = len(picture.labels), len(picture.frames)
    if len(picture.steps) > 1:
        height = float(np.clip(0.075 * count + 1.3, 3, 7))
        return Drawing(8.4, panels * height, lambda part: _over_training(part, picture, height))
    width = _width(picture)
    columns = min(panels, _ACROSS)
    rows = -(-panels // columns)
    under = _LETTER * max(map(len, picture.labels)) if _upright(picture) else 0
    return Drawing(
        columns * width + 0.3, rows * (2.6 if panels == 1 else 1.9) + under + 0.3, lambda part: _still(part, picture)
    )


def _width(picture: Bars) -> float:
    """Return the width of a panel of bars of one state, inches."""
    return float(np.clip(0.1 * len(picture.labels) + 0.8, 2.6, 7.5 if len(picture.frames) == 1 else 3.4))


def _named(count: int, most: float) -> range:
    """Return which of some bars are named on the axis, evenly spread."""
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if count / n <= most)
    return range(0, count, every)


def _upright(picture: Bars) -> bool:
    """Return whether the names on the axis are too long to stand side by side, and are written upright."""
    named = _named(len(picture.labels), _TICKS)
    return _LETTER * max(len(picture.labels[i]) for i in named) > 0.85 * _width(picture) / len(named)


def _joined(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= _SIDE_BY_SIDE else f"{labels[0]} … {labels[-1]}"


def _still(part: SubFigure, picture: Bars) -> None:
    columns = min(len(picture.frames), _ACROSS)
    rows = -(-len(picture.frames) // columns)
    axes = part.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(picture.frames) :]:
        ax.remove()
    for i, (ax, (name, frames)) in enumerate(zip(axes.flat, picture.frames.items(), strict=False)):
        marked = [j for j, label in enumerate(picture.labels) if label in set(picture.highlight)]
        ax.bar(range(len(picture.labels)), frames[-1], width=0.85, color=_bar_colours(picture))
        ax.tick_params(labelsize=7)
        ax.grid(visible=False, axis="x")
        _ticks(ax, picture)
        if len(picture.frames) > 1:
            ax.set_title(name, fontsize=9)
        if i % columns == 0:
            ax.set_ylabel(picture.ylabel, fontsize=9)
        if i + columns >= len(picture.frames):
            ax.set_xlabel(picture.xlabel, fontsize=9)
            ax.tick_params(labelbottom=True)
        if marked:
            ax.margins(y=0.14)
        if _upright(picture) and len(picture.labels) <= _TICKS:
            continue  # All are named on the axis.
        for group in together(marked, gap=len(picture.labels) / 28):
            places = [marked[j] for j in group]
            ax.annotate(
                _joined([picture.labels[j] for j in places]),
                (float(np.mean(places)), float(np.nanmax(np.append(frames[-1][places], 0)))),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=TEST,
            )


def _ticks(ax: Axes, picture: Bars) -> None:
    named = _named(len(picture.labels), _TICKS)
    ax.set_xticks(named, [picture.labels[i] for i in named], rotation=90 if _upright(picture) else 0)


def _bar_colours(picture: Bars) -> list[str]:
    plain = _PLAIN if picture.highlight else PALETTE[0]
    return [TEST if label in set(picture.highlight) else plain for label in picture.labels]


def _over_training(part: SubFigure, picture: Bars, height: float) -> None:
    count, steps = len(picture.labels), np.asarray(picture.steps)
    marked = [j for j, label in enumerate(picture.labels) if label in set(picture.highlight)]
    norm, cells = from_zero(np.stack(list(picture.frames.values()))), log_edges(steps)
    pairs = part.subplots(len(picture.frames), 2, squeeze=False, sharey=True, width_ratios=(3, 1.4))
    for (over, last), (name, frames) in zip(pairs, picture.frames.items(), strict=True):
        image = over.pcolormesh(
            cells,
            edges(np.arange(count)),
            np.ma.masked_invalid(frames).T,
            cmap=sequential(),
            norm=norm,
        )
        over.set_ylabel(picture.xlabel)
        over.set_title(f"{name}, over training" if len(picture.frames) > 1 else "over training")
        over.grid(visible=False)
        log_axis(over, steps)
        over.set_xlim(cells[0], cells[-1])
        last.barh(range(count), frames[-1], height=0.85, color=_bar_colours(picture))
        top = largest(frames[-1])
        last.set(xlabel=picture.ylabel, title=f"step {steps[-1]:,}", ylim=(-0.7, count - 0.3), xlim=(0, 1.25 * top))
        last.grid(visible=False, axis="y")
        named = _named(count, 4 * height)
        over.set_yticks(named, [picture.labels[i] for i in named])
        for group in together(marked, gap=count / (9 * height)):
            places = [marked[j] for j in group]
            last.annotate(
                _joined([picture.labels[j] for j in places]),
                (float(np.nanmax(np.append(frames[-1][places], 0))), float(np.mean(places))),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=TEST,
            )
        colour_bar(part, image, [over, last], picture.ylabel, shrink=0.6)


def histogram(picture: Histogram) -> Drawing:
    """Make a histogram ready to be drawn."""
    return Drawing(6.4, 3.4, lambda part: _histogram(part, picture))


def _histogram(part: SubFigure, picture: Histogram) -> None:
    ax = part.subplots()
    under = np.zeros(len(picture.edges) - 1)
    width = np.diff(picture.edges)
    colours = iter(PALETTE)
    for name, counts in picture.counts.items():
        # What belongs to no kind, or to all the rest, is grey.
        grey = {"none": "#c9c9c9"}.get(name.partition(":")[0], "#8a8a8a" if "others" in name else None)
        colour = grey or next(colours, "#8a8a8a")
        ax.bar(picture.edges[:-1], counts, width, under, align="edge", color=colour, label=name)
        under = under + np.asarray(counts)
    if picture.threshold is not None:
        ax.axvline(picture.threshold, color=FLOOR, lw=0.9, ls=(0, (4, 3)))
    ax.set(xlim=(picture.edges[0], picture.edges[-1]), xlabel=picture.xlabel, ylabel=picture.ylabel)
    part.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
