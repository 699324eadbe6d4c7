"""Sweeps: one experiment over seeds and settings. `design` says which lanes there are, `waves` trains them."""

from jaxadd.sweeps.design import Axis, Lane, Structure, Sweep, axis_of, check_parts, structures
from jaxadd.sweeps.waves import UNFINISHED, WAITING, Row, lane_curves, load, rows, run

__all__ = [
    "UNFINISHED",
    "WAITING",
    "Axis",
    "Lane",
    "Row",
    "Structure",
    "Sweep",
    "axis_of",
    "check_parts",
    "lane_curves",
    "load",
    "rows",
    "run",
    "structures",
]
