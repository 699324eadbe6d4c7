"""Analysis of networks that multiply in a finite group: irreps, cosets, the table that was learned, report."""

from jaxadd.analysis.group import report

__all__ = ["report"]
