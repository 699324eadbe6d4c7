"""Every picture. Functions take a run's metrics, or arrays measured on it, and give a matplotlib Figure."""

from jaxadd.views.figures.addition import cascades, confusions, digit_curves, offsets
from jaxadd.views.figures.circuits import (
    attention_change,
    attention_maps,
    attribution,
    circuit_matrices,
    composition,
    logit_lens,
)
from jaxadd.views.figures.interventions import damage_map, hypotheses
from jaxadd.views.figures.modular import (
    attention_over_pairs,
    embedding_norms,
    logit_spectrum,
    neuron_clusters,
    neuron_maps,
)
from jaxadd.views.figures.progress import measures
from jaxadd.views.figures.spikes import exchanged, spike, spike_damage, spikes
from jaxadd.views.figures.studies import arms, loss_grid, loss_split, shelf_law
from jaxadd.views.figures.sweeps import fractions, lane_bands, phase_diagram, survival, time_by_lanes
from jaxadd.views.figures.training import curves, error_map, misread, norms

__all__ = [
    "arms",
    "attention_change",
    "attention_maps",
    "attention_over_pairs",
    "attribution",
    "cascades",
    "circuit_matrices",
    "composition",
    "confusions",
    "curves",
    "damage_map",
    "digit_curves",
    "embedding_norms",
    "error_map",
    "exchanged",
    "fractions",
    "hypotheses",
    "lane_bands",
    "logit_lens",
    "logit_spectrum",
    "loss_grid",
    "loss_split",
    "measures",
    "misread",
    "neuron_clusters",
    "neuron_maps",
    "norms",
    "offsets",
    "phase_diagram",
    "shelf_law",
    "spike",
    "spike_damage",
    "spikes",
    "survival",
    "time_by_lanes",
]
