"""A picture made ready to be drawn: its size, which decides the layout, and what draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import SubFigure


class Drawing(NamedTuple):
    """A picture made ready.

    Attributes:
      width: inches, labels and scales included.
      height: inches.
      draw: draws it into a part of a figure.
      legend: handles of what the figure's legend names.
    """

    width: float
    height: float
    draw: Callable[[SubFigure], None]
    legend: Sequence[Artist] = ()
