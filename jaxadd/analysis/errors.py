"""The map of errors over all pairs (a, b), of tasks that list them."""

from collections.abc import Sequence

import numpy as np

from jaxadd.analysis.trained import Trained
from jaxadd.pictures import FigureOf, HeatMaps

KINDS = ("test, correct", "train, correct", "test, error", "train, error")
UNSPLIT = ("correct", "error")
"""The kinds of pairs where the train split is not known."""


def error_map(trained: Trained, lane: int, correct: np.ndarray, names: Sequence[str]) -> FigureOf:
    """Describe which pairs a network answers correctly, and whether it was trained on them, where that is known.

    Args:
      trained: the networks.
      lane: of the networks.
      correct: bool `[n²]`, pair (a, b) at n·a + b.
      names: of the n elements.
    """
    network, count = trained.networks[lane], len(names)
    kind = (~np.asarray(correct)).astype(int)
    if network.split_known:
        kind *= 2
        kind[np.asarray(network.data.lane["train"])] += 1
    picture = HeatMaps(
        "Errors over all pairs",
        [network.step],
        {"errors": kind.reshape(1, count, count).astype(np.float32)},
        names,
        names,
        xlabel="b",
        ylabel="a",
        categories=KINDS if network.split_known else UNSPLIT,
    )
    return FigureOf("errors", "Errors over all pairs", [picture], trained.subject(lane))
