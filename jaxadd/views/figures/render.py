"""The renderer of described figures (`jaxadd.pictures`): the layout, where each picture is drawn by its module."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxadd.pictures import Bars, FigureOf, HeatMaps, Lines, Picture
from jaxadd.views.figures import bars, heatmaps, lines
from jaxadd.views.figures.drawing import Drawing
from jaxadd.views.figures.style import OTHER, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

_MARGIN = 0.05  # inches around what had no room
WIDTH = 14.0  # inches; pictures that do not fit beside each other begin a new row


@styled
def render(figure: FigureOf) -> Figure:
    """Draw a described figure with Matplotlib."""
    made = _made(figure.pictures)
    rows = _rows([drawing.width for drawing in made])
    # Two lines for a title below a title, and a line for each of a note.
    heads = [_head(figure, picture, drawing.width) for picture, drawing in zip(figure.pictures, made, strict=True)]
    heights = [max(made[i].height + 0.2 * len(heads[i]) + 0.1 for i in row) for row in rows]
    widths = [sum(made[i].width for i in row) for row in rows]
    width = max(*widths, 4.4, min(6.4, 0.079 * max(len(figure.title), len(figure.subject)) + 0.3))
    title = [
        part for text in (figure.title, figure.subject) if text for part in textwrap.wrap(text, int(width / 0.079))
    ]
    note = textwrap.wrap(figure.note, int(width / 0.062))
    below = 0.3 * any(drawing.legend for drawing in made)
    height = sum(heights) + 0.2 * len(title) + 0.14 * len(note) + below + 0.15
    result = new_figure((width, height), "\n".join(title), title_size=11)
    bands = result.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for band, row, used in zip(bands, rows, widths, strict=True):
        # What is left of a row stays empty, so that pictures keep their size.
        rest = [width - used] if width - used > 0.2 and len(rows) > 1 else []
        ratios = [made[i].width for i in row] + rest
        for i, part in zip(row, band.subfigures(1, len(ratios), squeeze=False, width_ratios=ratios)[0], strict=False):
            _add_head(part, heads[i])
            made[i].draw(part)
    handles = {handle.get_label(): handle for drawing in made for handle in drawing.legend}
    if handles:  # What pictures have in common is named once, below them.
        legend = result.legend(handles=list(handles.values()), loc="outside lower center", ncols=3, fontsize=8)
        legend.set_title("\n".join(note), {"size": 7.5})  # type: ignore[arg-type]  # Matplotlib takes a dict; its stub does not say so.
    elif note:
        result.supxlabel("\n".join(note), fontsize=7.5, color=OTHER)
    for _ in range(2):  # Parts within parts are laid out right the second time.
        result.get_layout_engine().execute(result)  # type: ignore[union-attr]  # Figures are made with a layout.
    _make_room(result)
    result.set_layout_engine("none")  # Every other time would move square panels on, beyond the edge at last.
    return result


def _make_room(figure: Figure) -> None:
    """Enlarge a figure, after its layout, by what stands beyond its edges.

    The layout measures the names at the sides of a panel before it is made square, and may leave too little room.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    left, below, right, above = (max(0.0, x) for x in (-box.x0, -box.y0, box.x1 - width, box.y1 - height))
    if max(left, below, right, above) == 0:
        return
    left, below, right, above = (x + _MARGIN for x in (left, below, right, above))
    across, up = width + left + right, height + below + above
    figure.set_size_inches(across, up)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(left / across, below / up, width / across, height / up))
    engine.execute(figure)


def _made(pictures: Sequence[Picture]) -> list[Drawing]:
    made = []
    for i, picture in enumerate(pictures):
        if isinstance(picture, HeatMaps):
            before, after = (pictures[j] if 0 <= j < len(pictures) else None for j in (i - 1, i + 1))
            made.append(heatmaps.heat_maps(picture, before, after))
        elif isinstance(picture, Lines):
            made.append(lines.lines(picture))
        else:
            made.append(bars.bars(picture) if isinstance(picture, Bars) else bars.histogram(picture))
    return made


def _rows(widths: Sequence[float]) -> list[list[int]]:
    """Return which pictures stand in each row, so that rows are as even as their number allows."""
    rows: list[list[int]] = []
    for i, width in enumerate(widths):
        if rows and sum(widths[j] for j in rows[-1]) + width <= WIDTH:
            rows[-1].append(i)
        else:
            rows.append([i])
    if len(rows) > 1 and len(set(widths)) == 1:
        count, each = len(widths), -(-len(widths) // len(rows))
        rows = [list(range(first, min(first + each, count))) for first in range(0, count, each)]
    return rows


def _head(figure: FigureOf, picture: Picture, width: float) -> list[str]:
    """Return the lines above a picture, its title where the figure has another one, and those of its note."""
    title = [] if picture.title == figure.title else textwrap.wrap(picture.title, int(width / 0.08))
    return [*title, *(f"\N{WORD JOINER}{line}" for line in textwrap.wrap(picture.note, int(width / 0.062)))]


def _add_head(part: SubFigure, head: Sequence[str]) -> None:
    titles = [line for line in head if not line.startswith("\N{WORD JOINER}")]
    notes = [line[1:] for line in head if line.startswith("\N{WORD JOINER}")]
    if titles:
        part.suptitle("\n".join(titles), fontsize=10)
    if notes:
        part.supxlabel("\n".join(notes), fontsize=7.5, color=OTHER)
