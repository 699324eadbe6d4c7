"""Sweeps: one experiment over seeds and settings. `design` says which lanes there are, `waves`
trains them, `results` reads what they gave, and `processes` lets several processes agree."""

from jaxadd.sweeps.design import Axis, Lane, Structure, Sweep, axis_of, share, structures
from jaxadd.sweeps.results import UNFINISHED, WAITING, Row, column, lane_curves, load, rows, survival
from jaxadd.sweeps.waves import run

__all__ = [
    "UNFINISHED",
    "WAITING",
    "Axis",
    "Lane",
    "Row",
    "Structure",
    "Sweep",
    "axis_of",
    "column",
    "lane_curves",
    "load",
    "rows",
    "run",
    "share",
    "structures",
    "survival",
]
