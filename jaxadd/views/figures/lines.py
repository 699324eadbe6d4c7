"""Curves, drawn from their description."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxadd.pictures import Level, Lines, band, colour_numbers, log_from
from jaxadd.views.colours import LINES, ORDERED, STACKED, TEST
from jaxadd.views.figures.drawing import Drawing
from jaxadd.views.figures.style import FLOOR, curve, log_axis, plain_ticks, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

SHADES = ("#f3e3c3", "#d9e6d3", "#dcd6ea", "#d3e4ea")
_LEGEND = 6  # Series that a legend inside the axes has room for.


def lines(picture: Lines) -> Drawing:
    """Make curves ready to be drawn."""
    from matplotlib.patches import Patch

    shades = [span for span in picture.spans if span.level is None]
    legend = [Patch(color=SHADES[i % len(SHADES)], label=span.name, alpha=0.6) for i, span in enumerate(shades)]
    if picture.stacked:
        names = zip(picture.series, STACKED, strict=False)
        return Drawing(2.7, 2.5, lambda part: _draw(part, picture), [Patch(color=c, label=name) for name, c in names])
    aside = len(picture.series) > _LEGEND
    width = 4.2 + (0.09 * max(map(len, picture.series)) + 0.5) * aside
    return Drawing(width, 3.0, lambda part: _draw(part, picture), legend)


def _draw(part: SubFigure, picture: Lines) -> None:
    ax = part.subplots()
    x = np.asarray(picture.x)
    ax.set(xlabel=picture.xlabel, ylabel=picture.ylabel, yscale="log" if picture.log_y else "linear")
    for name, values in picture.behind.items():
        ax.plot(x, values, color=LINES[0], lw=0.3, alpha=0.35, label=f"_{name}")
    if picture.stacked:
        _stack(ax, picture, x)
    else:
        for name, colour in zip(picture.series, _colours(picture), strict=True):
            curve(ax, x, picture.series[name], colour, name, log_y=picture.log_y)
    if picture.log_x:
        log_axis(ax, x, picture.xlabel)
    else:
        ax.locator_params(axis="x", nbins=5)
    if picture.ylim:
        ax.set_ylim(picture.ylim)
    elif picture.log_y:
        plain_ticks(ax.yaxis)
    _levels(ax, picture)
    _spans(ax, picture, x)
    if picture.stacked:
        return
    if len(picture.series) > _LEGEND:
        part.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    elif len(picture.series) > 1:
        ax.legend(fontsize=8)


def _colours(picture: Lines) -> list:
    numbers = colour_numbers(picture.series)
    if picture.ordered:
        last, ordered = max(1, max(numbers) - 2), scale_of(ORDERED)
        return [LINES[i] if i < 2 else ordered((i - 2) / last) for i in numbers]
    return [LINES[i if i < len(LINES) else 2 + (i - 2) % (len(LINES) - 2)] for i in numbers]


def _stack(ax: Axes, picture: Lines, x: np.ndarray) -> None:
    middles = np.array([band(values)[1] for values in picture.series.values()])
    known = ~np.isnan(middles).any(axis=0)
    ax.stackplot(x[known], middles[:, known], labels=list(picture.series), colors=STACKED)


def _levels(ax: Axes, picture: Lines) -> None:
    """Draw levels dashed, with their names above the line, or below it where another is close above."""
    from matplotlib.patheffects import withStroke

    bottom, top = ax.get_ylim()
    start = ax.get_xlim()[0]
    above: float | None = None
    for level in sorted((level for level in picture.levels if bottom < level.value < top), reverse=True):
        close = above is not None and _between(level, above, bottom, top, log=picture.log_y) < 0.065
        ax.axhline(level.value, color=FLOOR, lw=0.8, ls=(0, (4, 3)), zorder=1)
        ax.annotate(
            f"{level.name} {level.value:.3g}",
            (start, level.value),
            xytext=(3, -1.5 if close else 1.5),
            textcoords="offset points",
            fontsize=7,
            color=FLOOR,
            va="top" if close else "bottom",
            path_effects=[withStroke(linewidth=2, foreground="white")],  # A curve may pass behind it.
        )
        above = None if close else level.value


def _between(level: Level, above: float, bottom: float, top: float, *, log: bool) -> float:
    """Return the distance to the level above, as a fraction of the axis."""
    if log:
        return float(np.log(above / level.value) / np.log(top / bottom))
    return (above - level.value) / (top - bottom)


def _spans(ax: Axes, picture: Lines, x: np.ndarray) -> None:
    shades = [span for span in picture.spans if span.level is None]
    for i, span in enumerate(shades):
        ends = [min(max(end, x[0]), x[-1]) for end in (span.start, span.end)]
        ax.axvspan(*ends, color=SHADES[i % len(SHADES)], alpha=0.6, lw=0, zorder=0)
    for span in picture.spans:
        if span.level is None:
            continue
        ax.plot(
            [span.start, span.end], [span.level] * 2, color=TEST, lw=4, alpha=0.55, zorder=3, label=f"_{span.name}"
        )
        start = log_from(x) if picture.log_x else None
        middle = (span.start + span.end) / 2 if start is None else (max(span.start, start) * span.end) ** 0.5
        ax.annotate(
            f"{span.name}\nsteps {span.start:,.0f} to {span.end:,.0f}",
            (middle, span.level),
            xytext=(0, -4),
            textcoords="offset points",
            fontsize=7,
            color=TEST,
            ha="center",
            va="top",
        )
