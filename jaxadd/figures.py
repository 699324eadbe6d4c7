"""Every picture. Functions take a run's metrics or predictions and give a matplotlib Figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxadd.fit import Metrics

TRAIN, TEST, OTHER = "#3b6fb6", "#d1495b", "#4a4a4a"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def curves(metrics: Metrics, title: str) -> Figure:
    """Draw train and test loss (log) and accuracy over steps.

    Args:
      metrics: as in `fit.Result`; with several lanes the median is drawn, over a band of all of them.
      title: of the figure.
    """
    figure, (loss, accuracy) = _panels(2, title)
    for name, colour in (("train", TRAIN), ("test", TEST)):
        _line(loss, metrics, f"{name}_loss", colour, name)
        _line(accuracy, metrics, f"{name}_accuracy", colour, name)
    loss.set(yscale="log", ylabel="cross-entropy, nats", title="loss")
    accuracy.set(ylim=(-0.03, 1.03), ylabel="share answered rightly", title="accuracy")
    loss.legend()
    return figure


def norms(metrics: Metrics, title: str) -> Figure:
    """Draw the norms of gradient, update and weights over steps; arguments as for `curves`."""
    figure, axes = _panels(3, title)
    for ax, name in zip(axes, ("grad_norm", "update_norm", "weight_norm"), strict=True):
        _line(ax, metrics, name, OTHER)
        ax.set(yscale="log", title=name.replace("grad", "gradient").replace("_", " "), ylabel="Euclidean norm")
    return figure


def error_map(wrong: np.ndarray, trained: np.ndarray, title: str) -> Figure:
    """Draw which pairs (a, b) a network answers wrongly.

    Args:
      wrong: bool `[P, P]`, by a and b.
      trained: bool `[P, P]`, the pairs of the train set.
      title: of the figure.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure = _figure((6.4, 5.2), title)
    ax = figure.subplots()
    colours = {"test, right": "#f3f0ea", "train, right": "#c9d7ea", "test, wrong": TEST, "train, wrong": "#16324f"}
    ax.imshow(
        trained + 2 * wrong, cmap=ListedColormap(list(colours.values())), vmin=0, vmax=3, interpolation="nearest"
    )
    counts = [np.sum((trained + 2 * wrong) == i) for i in range(4)]
    labels = [f"{name}: {count:,}" for name, count in zip(colours, counts, strict=True)]
    handles = [
        Patch(facecolor=c, edgecolor="#999999", label=t) for c, t in zip(colours.values(), labels, strict=True)
    ]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1))
    ax.grid(visible=False)
    ax.set(xlabel="b", ylabel="a")
    return figure


def _panels(count: int, title: str) -> tuple[Figure, np.ndarray]:
    figure = _figure((4.2 * count, 3.6), title)
    axes = figure.subplots(1, count)
    for ax in axes:
        ax.set(xlabel="step")
    return figure, axes


def _figure(size: tuple[float, float], title: str) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(_STYLE)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    return figure


def _line(ax: Axes, metrics: Metrics, name: str, colour: str, label: str | None = None) -> None:
    values = metrics[name]
    measured = ~np.all(np.isnan(values), axis=0)
    # Steps run from 1, so that step 0 has a place on a logarithmic axis.
    step, values = metrics["step"][measured] + 1, values[:, measured]
    ax.set_xscale("log")
    if len(values) > 1:
        ax.fill_between(step, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.2, lw=0)
    ax.plot(step, np.nanmedian(values, axis=0), color=colour, lw=1.4, label=label)
