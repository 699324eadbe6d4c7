"""Analysis of networks that add numbers of N digits: ablation effects, neuron groups, exact match, claims, report."""

from jaxadd.analysis.addition import claims, report
from jaxadd.analysis.addition.exact import exact_matches

__all__ = ["claims", "exact_matches", "report"]
