"""Sweeps: one run over many seeds and settings.

`design` defines the lanes, `training` trains them in batches, `results` reads tables and curves, `outcomes` computes
survival curves, and `processes` divides the lanes among several processes.
"""

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
