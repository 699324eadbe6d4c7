"""Sweeps: one experiment over seeds and settings. `design` says which lanes there are, `batches`
trains them, `results` reads what they gave, and `processes` lets several processes agree."""

from jaxadd.sweeps.design import Axis, Structure, Sweep, axis_of, structures
from jaxadd.sweeps.results import UNFINISHED, WAITING, Row, alone, is_batch, lane_curves, rows, survival, table_file
from jaxadd.sweeps.training import run

__all__ = [
    "UNFINISHED",
    "WAITING",
    "Axis",
    "Row",
    "Structure",
    "Sweep",
    "alone",
    "axis_of",
    "is_batch",
    "lane_curves",
    "rows",
    "run",
    "structures",
    "survival",
    "table_file",
]
