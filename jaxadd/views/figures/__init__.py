"""Figures: `render` draws what is described (`jaxadd.pictures`), other functions what commands and experiments draw.

All return a matplotlib Figure. The only package that imports Matplotlib.
"""

from jaxadd.views.figures.circuits import attention_change
from jaxadd.views.figures.hypotheses import hypotheses
from jaxadd.views.figures.render import render
from jaxadd.views.figures.spikes import exchanged, spike, spike_damage, spikes
from jaxadd.views.figures.studies import arms, loss_grid, loss_split, plateau_law
from jaxadd.views.figures.sweeps import fractions, lane_bands, phase_diagram, survival, time_by_lanes

__all__ = [
    "arms",
    "attention_change",
    "exchanged",
    "fractions",
    "hypotheses",
    "lane_bands",
    "loss_grid",
    "loss_split",
    "phase_diagram",
    "plateau_law",
    "render",
    "spike",
    "spike_damage",
    "spikes",
    "survival",
    "time_by_lanes",
]
