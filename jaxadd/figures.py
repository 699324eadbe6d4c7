"""Every picture. Functions take a run's metrics or predictions and give a matplotlib Figure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
}


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in this module's style, and leave the user's own matplotlib settings as they are."""

    @functools.wraps(draw)
    def styled(*arguments: Any, **keywords: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*arguments, **keywords)

    return styled


@_styled
def curves(metrics: Metrics, title: str, *, log_steps: bool = True) -> Figure:
    """Draw train and test loss (log) and accuracy over steps.

    Args:
      metrics: as in `fit.Result`; with several lanes the median is drawn, over a band of all of them.
      title: of the figure.
      log_steps: draw steps on a logarithmic axis.
    """
    figure, (loss, accuracy) = _panels(2, title, log_steps)
    for name, colour in (("train", TRAIN), ("test", TEST)):
        _line(loss, metrics, f"{name}_loss", colour, name)
        _line(accuracy, metrics, f"{name}_accuracy", colour, name)
    loss.set(yscale="log", ylabel="cross-entropy, nats", title="loss")
    accuracy.set(ylim=(-0.03, 1.03), ylabel="share answered rightly", title="accuracy")
    loss.legend()
    return figure


@_styled
def norms(metrics: Metrics, title: str, *, log_steps: bool = True) -> Figure:
    """Draw the norms of gradient, update and weights over steps; arguments as for `curves`."""
    figure, axes = _panels(3, title, log_steps)
    for ax, name in zip(axes, ("grad_norm", "update_norm", "weight_norm"), strict=True):
        _line(ax, metrics, name, OTHER)
        ax.set(title=name.replace("grad", "gradient").replace("_", " "), ylabel="Euclidean norm")
        if name != "weight_norm":
            ax.set_yscale("log")
    return figure


@_styled
def error_map(wrong: np.ndarray, trained: np.ndarray, title: str) -> Figure:
    """Draw which pairs (a, b) a network answers wrongly.

    Args:
      wrong: bool `[P, P]`, by a and b.
      trained: bool `[P, P]`, the pairs of the train set.
      title: of the figure.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure = _figure((5.6, 6.2), title)
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
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    ax.grid(visible=False)
    ax.set(xlabel="b", ylabel="a")
    return figure


@_styled
def misread(images: np.ndarray, targets: np.ndarray, claims: np.ndarray, title: str) -> Figure:
    """Draw the first images that were read wrongly, each with its digit and the claim.

    Args:
      images: `[n, features]` in [0, 1], square; at most 24 are drawn.
      targets: `[n]`.
      claims: `[n]`.
      title: of the figure.
    """
    shown = min(len(images), 24)
    rows = max(1, -(-shown // 8))
    figure = _figure((8.4, 1.35 * rows + 0.5), title)
    for ax in figure.subplots(rows, 8, squeeze=False).flat:
        ax.set_axis_off()
    for ax, image, target, claim in zip(figure.axes, images[:shown], targets, claims, strict=False):
        side = round(len(image) ** 0.5)
        ax.imshow(image.reshape(side, -1), cmap="Greys", vmin=0, vmax=1)
        ax.set_title(f"{target}, read as {claim}", fontsize=8)
    return figure


def _panels(count: int, title: str, log_steps: bool) -> tuple[Figure, np.ndarray]:
    figure = _figure((4.2 * count, 3.6), title)
    axes = figure.subplots(1, count)
    for ax in axes:
        ax.set(xlabel="step + 1" if log_steps else "step", xscale="log" if log_steps else "linear")
    return figure, axes


def _figure(size: tuple[float, float], title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=150)
    figure.suptitle(title)
    return figure


def _line(ax: Axes, metrics: Metrics, name: str, colour: str, label: str | None = None) -> None:
    # A zero (the update of a warm-up's first step) has no place on a logarithmic axis.
    values = np.where(metrics[name] == 0, np.nan, metrics[name]) if name.endswith("norm") else metrics[name].copy()
    measured = ~np.all(np.isnan(values), axis=0)
    # A lane that ended early keeps its last value, so that the median and range do not jump when it leaves.
    last = [np.flatnonzero(~np.isnan(row)) for row in values]
    for row, known in zip(values, last, strict=True):
        if known.size:
            row[known[-1] + 1 :] = row[known[-1]]
    # On a logarithmic axis steps count from 1, so that step 0 has a place.
    step, values = metrics["step"][measured] + (ax.get_xscale() == "log"), values[:, measured]
    if len(values) > 1:
        ax.fill_between(step, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.2, lw=0)
    ax.plot(step, np.nanmedian(values, axis=0), color=colour, lw=1.4, label=label)
