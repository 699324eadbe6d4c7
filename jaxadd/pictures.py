"""Pictures as plain data: described once here, drawn as PNG by `views.figures.render` and on a page by `views.html`.

A figure is a title and a few pictures side by side. Steps are numbers of updates; NaN is not drawn. Analysis returns
these descriptions, so this module is below it and imports NumPy alone. What both renderers have to agree on beyond
the data (the band over lanes, which series has which colour) is computed here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Level(NamedTuple):
    """A value with a name: a horizontal line such as an exact floor of a loss, or a place on an axis."""

    value: float
    name: str


class Span(NamedTuple):
    """A stretch of the x axis with a name, such as a phase of training; with a `level` a bar drawn at that height."""

    start: float
    end: float
    name: str
    level: float | None = None


class Lines(NamedTuple):
    """Curves: for each series the median over lanes with a band of all of them; see `band`.

    Attributes:
      title: of the picture.
      x: `[T]`, ascending, usually steps.
      series: by name, `[T]` or `[S, T]`; NaN where nothing was measured.
      ylabel: with the unit.
      xlabel: with the unit.
      log_x: logarithmic x axis; where x begins at 0, linear up to the next value, see `log_from`, and so labelled.
      log_y: logarithmic y axis; values that are not above 0 are not drawn.
      ylim: ends of the y axis.
      levels: horizontal lines.
      spans: stretches of x that are shaded and named.
      behind: by name, `[T]`, raw curves drawn thin and pale behind the others.
      stacked: fill the space between the series, one on top of the other.
      ordered: the series beside train and test have an order, shown by colours from light to dark.
      note: a sentence below the title.
    """

    title: str
    x: np.ndarray
    series: Mapping[str, np.ndarray]
    ylabel: str = ""
    xlabel: str = "step"
    log_x: bool = False
    log_y: bool = False
    ylim: tuple[float, float] | None = None
    levels: Sequence[Level] = ()
    spans: Sequence[Span] = ()
    behind: Mapping[str, np.ndarray] = {}
    stacked: bool = False
    ordered: bool = False
    note: str = ""


class HeatMaps(NamedTuple):
    """Matrices side by side; those with several frames evolve over training.

    On the page a slider chooses the frame; a PNG shows the last frame, or `snapshots` of them.

    Attributes:
      title: of the picture.
      steps: `[E]`, ascending, of the frames.
      frames: by name of the panel, `[E, rows, columns]`; NaN is left grey.
      row_labels: `[rows]`; empty for rows without names, such as those of an image.
      column_labels: `[columns]`; empty for columns without names.
      xlabel: what the columns are.
      ylabel: what the rows are.
      unit: of the values, beside the scale of colours.
      limits: of the colours; by default 0 and the largest value, or both sides of 0 alike where diverging.
      diverging: different colours on the two sides of 0.
      power: colours follow this power of the values, 0.5 to show small ones beside large ones.
      log: colours follow the logarithm of the values, over six decades at most.
      numbers: write the values into the cells, for small matrices.
      least: numbers smaller than this are written as 0.
      categories: names of the values 0, 1, 2, … where they are kinds, not amounts; shown in a legend with counts.
      separate: every panel has a scale of colours of its own, since their values are not to be compared.
      marks: places on both axes, in cells from 0, that are named instead of rows and columns.
      levels: values named on the scale of colours.
      snapshots: number of frames that a PNG shows in a row.
      note: a sentence below the title.
    """

    title: str
    steps: Sequence[int] | np.ndarray
    frames: Mapping[str, np.ndarray]
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    xlabel: str = ""
    ylabel: str = ""
    unit: str = ""
    limits: tuple[float, float] | None = None
    diverging: bool = False
    power: float = 1.0
    log: bool = False
    numbers: bool = False
    least: float = 0.0
    categories: Sequence[str] = ()
    separate: bool = False
    marks: Sequence[Level] = ()
    levels: Sequence[Level] = ()
    snapshots: int = 1
    note: str = ""


class Bars(NamedTuple):
    """Bars side by side on one scale, such as a spectrum; those with several frames evolve over training.

    Attributes:
      title: of the picture.
      steps: `[E]`, ascending, of the frames.
      frames: by name of the panel, `[E, n]`.
      labels: of the bars, `[n]`.
      xlabel: what the bars are.
      ylabel: what their height is, with the unit.
      highlight: labels of bars that have another colour and are named.
      note: a sentence below the title.
    """

    title: str
    steps: Sequence[int] | np.ndarray
    frames: Mapping[str, np.ndarray]
    labels: Sequence[str]
    xlabel: str = ""
    ylabel: str = ""
    highlight: Sequence[str] = ()
    note: str = ""


class Histogram(NamedTuple):
    """Counts in bins, stacked by series.

    Attributes:
      title: of the picture.
      edges: `[n + 1]`, ascending.
      counts: by name of the series, `[n]`.
      xlabel: what is binned, with the unit.
      ylabel: what is counted.
      threshold: where a vertical line is drawn; None for none.
      note: a sentence below the title.
    """

    title: str
    edges: np.ndarray
    counts: Mapping[str, np.ndarray]
    xlabel: str = ""
    ylabel: str = ""
    threshold: float | None = None
    note: str = ""


class Table(NamedTuple):
    """Cells of text under headings; those that are numbers are aligned on the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Text(NamedTuple):
    """Paragraphs."""

    title: str
    paragraphs: Sequence[str]


Picture = Lines | HeatMaps | Bars | Histogram


class FigureOf(NamedTuple):
    """A figure: a title over a few pictures; one PNG, or one section of a page.

    Attributes:
      name: of the file, without the ending.
      title: over all pictures: what they show.
      pictures: side by side, in rows.
      subject: the network or run that they are of, below the title of a PNG, which stands alone.
      note: a sentence below the title.
    """

    name: str
    title: str
    pictures: Sequence[Picture]
    subject: str = ""
    note: str = ""


Block = Picture | FigureOf | Table | Text


def thin(count: int, most: int) -> np.ndarray:
    """Return the indices of at most `most` of `count` things, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


START = 0.08
"""The fraction of a logarithmic axis that lies between 0 and the first value after it."""


def log_from(x: Sequence[int] | np.ndarray) -> float | None:
    """Return from where on a logarithmic axis over ascending values, such as steps, is logarithmic.

    Where they begin at 0, which has no logarithm, this is the next one: before it the axis is linear, and takes the
    fraction START of the room. Where they begin later, it is the first. None where two values or fewer are left, over
    which an axis is linear.
    """
    positive = np.asarray(x)[np.asarray(x) > 0]
    return float(positive[0]) if len(positive) > 1 else None


def log_label(label: str, x: Sequence[int] | np.ndarray) -> str:
    """Return the label of a logarithmic axis over ascending values: where it begins at 0, with its linear part."""
    start = log_from(x)
    return label if start is None or x[0] >= start else f"{label} (linear up to {start:,g}, then log)"


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the least value, the median and the largest value over lanes, each float64 `[T]`.

    A lane that ended early keeps its last value, so that none of them jumps where it leaves.

    Args:
      values: `[T]` or `[S, T]`; NaN where nothing was measured.
    """
    values = np.atleast_2d(np.array(values, np.float64))
    measured = ~np.all(np.isnan(values), axis=0)
    for lane in values:
        known = np.flatnonzero(~np.isnan(lane))
        if known.size:
            lane[known[-1] + 1 :] = lane[known[-1]]
    result = np.full((3, values.shape[1]), np.nan)
    if measured.any():
        shown = values[:, measured]
        result[:, measured] = np.nanmin(shown, axis=0), np.nanmedian(shown, axis=0), np.nanmax(shown, axis=0)
    return result[0], result[1], result[2]


def colour_numbers(names: Iterable[str]) -> list[int]:
    """Return the number of each series' colour: 0 for "train …", 1 for "test …", and 2, 3, … for the others."""
    known = {"train": 0, "test": 1}
    numbers: list[int] = []
    others = 2
    for name in names:
        number = known.get(name.partition(" ")[0])
        # A second series of the same kind takes a colour of its own.
        if number is None or number in numbers:
            number, others = others, others + 1
        numbers.append(number)
    return numbers


def frames_shown(count: int, snapshots: int, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return which of `count` frames a still picture shows: the last, or several evenly spread in log(step)."""
    if snapshots <= 1 or count <= 1:
        return np.array([count - 1])
    steps = np.asarray(steps)
    wanted = np.geomspace(steps[1] or 1, steps[-1] or 1, snapshots - 1)
    return np.unique([0, count - 1, *(int(np.argmin(np.abs(steps - step))) for step in wanted)])
