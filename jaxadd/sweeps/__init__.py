"""Sweeps: one experiment over seeds and settings. `design` says which lanes there are, `waves`
trains them, `results` reads what they gave, and `processes` lets several processes agree."""

from jaxadd.sweeps.design import Axis, Structure, Sweep, axis_of, structures
from jaxadd.sweeps.results import UNFINISHED, WAITING, Row, alone, lane_curves, rows, survival
from jaxadd.sweeps.waves import run

__all__ = [
    "UNFINISHED",
    "WAITING",
    "Axis",
    "Row",
    "Structure",
    "Sweep",
    "alone",
    "axis_of",
    "lane_curves",
    "rows",
    "run",
    "structures",
    "survival",
]
