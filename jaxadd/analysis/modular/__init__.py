"""Analysis of networks that learn an operation mod P: progress measures, clocks and pizzas, claims, report."""

from jaxadd.analysis.modular import claims, report

__all__ = ["claims", "report"]
