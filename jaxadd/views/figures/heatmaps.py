"""Heat maps, drawn from their description."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxadd.pictures import HeatMaps, Picture, frames_shown
from jaxadd.views.colours import IMAGES, KINDS
from jaxadd.views.figures.drawing import Drawing
from jaxadd.views.figures.style import (
    around_zero,
    colour_bar,
    diverging,
    from_zero,
    heat,
    largest,
    scale_of,
    sequential,
    together,
    write_values,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import SubFigure

_NAMED = 40  # rows or columns, the most that are all named
_NUMBERED = 16  # of those that are numbers
_ACROSS = 4  # panels beside each other
_IMAGES_ACROSS = 8
_LETTER = 0.062  # inches, of names at the axes


class _Layout(NamedTuple):
    """Where panels stand: which frame of which panel, the grid, and the size of one in inches."""

    panels: list[tuple[str, int]]
    rows: int
    columns: int
    width: float
    height: float
    snapshots: int


def heat_maps(picture: HeatMaps, before: Picture | None = None, after: Picture | None = None) -> Drawing:
    """Make heat maps ready to be drawn.

    Args:
      picture: the description.
      before: what stands to the left of it; if its rows and colours are the same, they are named once.
      after: what stands to the right of it.
    """
    layout = _layout(picture)
    continues, goes_on = _same_rows(before, picture), _same_rows(picture, after)
    images = not picture.row_labels and not picture.column_labels
    left = 0.1 if images or continues else 0.25 + _LETTER * _longest(picture.row_labels) + 0.15 * bool(picture.ylabel)
    under = 0 if images else _LETTER * _longest(picture.column_labels) if _upright(picture, layout) else 0.15
    scale = 0 if picture.categories or images else 0.8
    every = scale if picture.separate else 0
    evolves = layout.snapshots > 1
    titles = 0.32 if images else 0.22 if len(layout.panels) > 1 and not evolves else 0
    width = left + layout.columns * (layout.width + 0.12 + every) + (0 if goes_on else scale - every)
    height = under + layout.rows * (layout.height + titles + 0.06) + 0.2 * bool(picture.xlabel) + 0.2 * evolves + 0.1
    legend = 0.24 * -(-len(picture.categories) // 2)

    def draw(part: SubFigure) -> None:
        _draw(part, picture, layout, names=not continues, scale=not goes_on)

    return Drawing(max(width, 2.0 if continues or goes_on else 3.0), height + legend, draw)


def _same_rows(left: Picture | None, right: Picture | None) -> bool:
    return (
        isinstance(left, HeatMaps)
        and isinstance(right, HeatMaps)
        and left.limits is not None
        and (left.limits, left.unit, left.power) == (right.limits, right.unit, right.power)
        and list(left.row_labels) == list(right.row_labels)
    )


def _layout(picture: HeatMaps) -> _Layout:
    names, count = list(picture.frames), len(picture.steps)
    shown = frames_shown(count, picture.snapshots, picture.steps)
    panels = [(name, int(frame)) for name in names for frame in shown]
    columns = len(shown) if len(shown) > 1 else -(-len(names) // -(-len(names) // _ACROSS))
    _, rows, across = next(iter(picture.frames.values())).shape
    if not picture.row_labels and not picture.column_labels:
        columns, width, height = min(len(names), _IMAGES_ACROSS), 1.0, rows / across
    elif picture.numbers:
        many = rows > 30
        width, height = 0.46 * max(across, 2), (0.17 if many else 0.24) * max(rows, 2)
    else:
        room = 0.95 if len(shown) > 1 else {1: 4.6, 2: 3.2}.get(len(names), 2.1)
        cell = room / max(rows, across)
        if _all_named(picture.row_labels) and _all_named(picture.column_labels):
            cell = min(max(cell, 0.155 if len(shown) == 1 else 0.1), 0.3)
        width, height = max(cell * across, 0.9), max(cell * rows, 0.4)
    return _Layout(panels, -(-len(panels) // columns), columns, width, height, len(shown))


def _all_named(labels: Sequence[str]) -> bool:
    return len(labels) <= (_NUMBERED if all(label.isdecimal() for label in labels) else _NAMED)


def _longest(labels: Sequence[str]) -> int:
    return max(map(len, labels), default=0) if _all_named(labels) else 3


def _upright(picture: HeatMaps, layout: _Layout) -> bool:
    """Whether the names of columns are turned, since they do not fit beside each other."""
    labels = picture.column_labels
    if picture.marks or not labels or not _all_named(labels):
        return False
    return _longest(labels) * _LETTER + 0.05 > layout.width / max(1, len(labels))


def _draw(part: SubFigure, picture: HeatMaps, layout: _Layout, *, names: bool, scale: bool) -> None:
    axes = part.subplots(layout.rows, layout.columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(layout.panels) :]:
        ax.remove()
    used = list(axes.flat[: len(layout.panels)])
    shared = None if picture.separate else _norm(picture, np.stack([picture.frames[n][f] for n, f in layout.panels]))
    evolves, images = layout.snapshots > 1, not picture.row_labels and not picture.column_labels
    for i, (ax, (name, frame)) in enumerate(zip(used, layout.panels, strict=True)):
        values = np.asarray(picture.frames[name][frame], np.float64)
        image = _panel(ax, picture, values, shared or _norm(picture, values))
        if evolves:
            ax.set_title(f"step {picture.steps[frame]:,}" if i < layout.columns else "", fontsize=9)
        elif images or len(layout.panels) > 1:
            ax.set_title(textwrap.fill(name, 16) if images else name, fontsize=7 if images else 9)
        if i % layout.columns == 0 and names:
            ax.set_ylabel(f"{name}: {picture.ylabel}" if evolves and len(picture.frames) > 1 else picture.ylabel)
            ax.yaxis.label.set_fontsize(8 if evolves else 9)
        if i + layout.columns >= len(layout.panels):
            ax.tick_params(labelbottom=True)
            if not evolves:
                ax.set_xlabel(picture.xlabel, fontsize=9)
            if _upright(picture, layout):
                ax.tick_params(axis="x", labelrotation=90)
        if not names:
            ax.tick_params(labelleft=False)
        if picture.separate:
            colour_bar(part, image, ax, picture.unit, cax=ax.inset_axes((1.04, 0, 0.055, 1)))
    if evolves and picture.xlabel:
        part.supxlabel(picture.xlabel, fontsize=9)
    if picture.categories:
        _legend(part, picture)
    elif scale and not picture.separate and not images:
        _scale(part, picture, layout, image, used)


def _panel(ax: Axes, picture: HeatMaps, values: np.ndarray, norm: Normalize) -> ScalarMappable:
    from matplotlib.colors import ListedColormap

    cmap: Colormap = sequential() if picture.row_labels or picture.column_labels else scale_of(IMAGES)
    if picture.diverging:
        cmap = diverging()
    elif picture.categories:
        cmap = ListedColormap(KINDS[: len(picture.categories)])
    image = heat(ax, values, cmap=cmap, norm=norm, size=7)
    if not picture.numbers:
        ax.set_aspect("equal")
    ax.tick_params(length=2)
    for axis, labels in ((ax.yaxis, picture.row_labels), (ax.xaxis, picture.column_labels)):
        if not labels:
            axis.set_ticks([])
        elif picture.marks:
            _marks(axis, picture, len(labels))
        elif _all_named(labels):
            axis.set_ticks(range(len(labels)), labels)
        else:
            every = next(n for n in (5, 10, 20, 25, 50, 100, 200, 500, 1000) if len(labels) / n <= 6)
            axis.set_ticks(range(0, len(labels), every), [labels[i] for i in range(0, len(labels), every)])
    if picture.numbers:
        write_values(ax, values, image, size=6 if len(values) > 30 else 7, least=picture.least)
    return image


def _marks(axis: Axis, picture: HeatMaps, count: int) -> None:
    """Name the marked places; those that are too close to each other share a label."""
    marks = sorted(picture.marks)
    room = 0.07 if axis.axis_name == "x" else 0.03  # type: ignore[attr-defined]
    groups = together([mark.value for mark in marks], gap=count * room * (1 if len(picture.frames) == 1 else 2.2))
    axis.set_ticks(
        [float(np.mean([marks[i].value for i in group])) for group in groups],
        [", ".join(marks[i].name for i in group) for group in groups],
    )


def _norm(picture: HeatMaps, values: np.ndarray) -> Normalize:
    from matplotlib.colors import LogNorm, Normalize

    if picture.categories:
        return Normalize(-0.5, len(picture.categories) - 0.5)
    if picture.log:
        # Six decades are enough to tell learned from not; below them all cells are equally light.
        top = largest(values)
        least = np.min(values[np.isfinite(values) & (values > 0)], initial=top)
        return LogNorm(vmin=max(least, 1e-6 * top) * (1 if least < top else 0.1), vmax=top, clip=True)
    if picture.limits and not picture.diverging:
        return Normalize(*picture.limits)
    reach = np.array(picture.limits) if picture.limits else values
    return around_zero(reach, picture.power) if picture.diverging else from_zero(reach, picture.power)


def _scale(part: SubFigure, picture: HeatMaps, layout: _Layout, image: ScalarMappable, axes: list[Axes]) -> None:
    label = picture.unit + "".join(f"\nline: {level.name}, {level.value:.3f}" for level in picture.levels)
    everything = np.concatenate([np.ravel(frames) for frames in picture.frames.values()])
    over = everything if picture.diverging and not picture.limits else None
    shrink = float(np.clip(3.2 / (layout.rows * layout.height), 0.35, 0.95))
    bar = colour_bar(part, image, axes, label, over=over, aspect=22, fraction=0.04, shrink=shrink)
    for level in picture.levels:
        bar.ax.axhline(level.value, color="#222222", lw=1.5)


def _legend(part: SubFigure, picture: HeatMaps) -> None:
    from matplotlib.patches import Patch

    values = np.concatenate([np.ravel(frames[-1]) for frames in picture.frames.values()])
    handles = [
        Patch(facecolor=colour, edgecolor="#999999", label=f"{name}: {np.sum(values == i):,}")
        for i, (name, colour) in enumerate(zip(picture.categories, KINDS, strict=False))
    ]
    part.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
