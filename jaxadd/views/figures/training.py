"""Figures of any run: loss, accuracy and norms over steps, and what is answered wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxadd.views.figures.style import OTHER, TEST, TRAIN, line, new_figure, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxadd.types import Metrics


@styled
def curves(metrics: Metrics, title: str, *, log_steps: bool = True) -> Figure:
    """Draw train and test loss (log) and accuracy over steps.

    Args:
      metrics: as in `fit.Result`; with several lanes the median is drawn, over a band of all of them.
      title: of the figure.
      log_steps: draw steps on a logarithmic axis.
    """
    figure, (loss, accuracy) = panels(2, title, log_steps)
    for name, colour in (("train", TRAIN), ("test", TEST)):
        line(loss, metrics, f"{name}_loss", colour, name)
        line(accuracy, metrics, f"{name}_accuracy", colour, name)
    loss.set(yscale="log", ylabel="cross-entropy, nats", title="loss")
    accuracy.set(ylim=(-0.03, 1.03), ylabel="share answered rightly", title="accuracy")
    loss.legend()
    return figure


@styled
def norms(metrics: Metrics, title: str, *, log_steps: bool = True) -> Figure:
    """Draw the norms of gradient, update and weights over steps; arguments as for `curves`."""
    figure, axes = panels(3, title, log_steps)
    for ax, name in zip(axes, ("grad_norm", "update_norm", "weight_norm"), strict=True):
        line(ax, metrics, name, OTHER)
        ax.set(title=name.replace("grad", "gradient").replace("_", " "), ylabel="Euclidean norm")
        if name != "weight_norm":
            ax.set_yscale("log")
    return figure


@styled
def error_map(wrong: np.ndarray, trained: np.ndarray, title: str) -> Figure:
    """Draw which pairs (a, b) a network answers wrongly.

    Args:
      wrong: bool `[P, P]`, by a and b.
      trained: bool `[P, P]`, the pairs of the train set.
      title: of the figure.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure = new_figure((5.6, 6.2), title)
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


@styled
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
    figure = new_figure((8.4, 1.35 * rows + 0.5), title)
    for ax in figure.subplots(rows, 8, squeeze=False).flat:
        ax.set_axis_off()
    for ax, image, target, claim in zip(figure.axes, images[:shown], targets, claims, strict=False):
        side = round(len(image) ** 0.5)
        ax.imshow(image.reshape(side, -1), cmap="Greys", vmin=0, vmax=1)
        ax.set_title(f"{target}, read as {claim}", fontsize=8)
    return figure
