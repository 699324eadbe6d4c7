"""Pictures as plain data: described once here, drawn as PNG by `views.figures.render` and on a page by `views.html`.

A figure is a title and a few pictures side by side. Steps are numbers of updates; NaN is not drawn. Analysis returns
these descriptions, so this module is below it and imports NumPy alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Level(NamedTuple):
    """A horizontal line with a name, such as an exact floor of a loss."""

    value: float
    name: str


class Span(NamedTuple):
    """A stretch of the x axis with a name, such as a phase of training; with a `level` a bar drawn at that height."""

    start: float
    end: float
    name: str
    level: float | None = None


class Lines(NamedTuple):
    """Curves: for each series the median over lanes with a band of all of them.

    Attributes:
      title: of the picture.
      x: `[T]`, ascending, usually steps.
      series: by name, `[T]` or `[S, T]`; NaN where nothing was measured.
      ylabel: with the unit.
      xlabel: with the unit.
      log_x: logarithmic x axis, of x + 1.
      log_y: logarithmic y axis.
      ylim: ends of the y axis.
      levels: horizontal lines.
      spans: stretches of x that are shaded and named.
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
    note: str = ""


class HeatMaps(NamedTuple):
    """Matrices side by side on one scale of colours; those with several frames evolve over training.

    On the page a slider chooses the frame; a PNG shows the last frame, or `snapshots` of them.

    Attributes:
      title: of the picture.
      steps: `[E]`, ascending, of the frames.
      frames: by name of the panel, `[E, rows, columns]`; NaN is left grey.
      row_labels: `[rows]`.
      column_labels: `[columns]`.
      xlabel: what the columns are.
      ylabel: what the rows are.
      unit: of the values, beside the scale of colours.
      limits: of the colours; by default 0 and the largest value, or both sides of 0 alike where diverging.
      diverging: different colours on the two sides of 0.
      power: colours follow this power of the values, 0.5 to show small ones beside large ones.
      log: colours follow the logarithm of the values, over six decades at most.
      numbers: write the values into the cells, for small matrices.
      categories: names of the values 0, 1, 2, … where they are kinds, not amounts; shown in a legend with counts.
      snapshots: number of frames that a PNG shows in a row.
      note: a sentence below the title.
    """

    title: str
    steps: np.ndarray
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
    categories: Sequence[str] = ()
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
      highlight: labels of bars in another colour.
      note: a sentence below the title.
    """

    title: str
    steps: np.ndarray
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
Block = Picture | Table | Text


class FigureOf(NamedTuple):
    """A figure: a title over a few pictures; `name` is that of its file.

    Attributes:
      name: of the file, without the ending.
      title: over all pictures.
      pictures: side by side, in rows.
    """

    name: str
    title: str
    pictures: Sequence[Picture]
