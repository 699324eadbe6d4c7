"""Figures of studies: many runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.analysis.plateaus import smooth
from jaxadd.pictures import log_label
from jaxadd.views.colours import TEST, TRAIN
from jaxadd.views.figures.style import ARMS, FLOOR, OTHER, line, log_axis, new_figure, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxadd.types import Metrics


@styled
def arms(metrics: Mapping[str, Metrics], steps: Mapping[str, np.ndarray], threshold: float, title: str) -> Figure:
    """Compare the runs of a study: exact match over steps, and when each digit is learned.

    Args:
      metrics: of each arm by name; median and range over lanes are drawn.
      steps: of each arm `[S, A]`, the step at which a lane learned an answer digit; inf for never, drawn as a cross
        at the end.
      threshold: the loss at which a digit counts as learned, nats.
      title: of the figure.
    """
    figure, (match, learned) = panels(2, title, width=5.5)
    learned.set_xscale("log")
    for i, (name, colour) in enumerate(zip(metrics, ARMS, strict=False)):
        line(match, metrics[name], "test_accuracy", colour, name)
        count = steps[name].shape[1]
        for digit in range(count):
            place = count - 1 - digit + (i - (len(metrics) - 1) / 2) * 0.17
            values, end = steps[name][:, digit], metrics[name]["step"][-1]
            for part, mark in ((values[np.isfinite(values)], "o"), (values[np.isinf(values)], "x")):
                at = np.minimum(part, end)
                learned.plot(at, np.full(len(at), place), mark, ms=3.5, color=colour, alpha=0.6)
    match.set(ylim=(-0.03, 1.03), ylabel="exact match, uniform problems", title="all digits correct")
    match.legend(loc="upper left", fontsize=8)
    learned.set_title(f"each seed's step to {threshold:g} nats")
    learned.set_yticks(range(count), [f"A{digit}" for digit in reversed(range(count))])
    learned.invert_yaxis()
    return figure


@styled
def loss_grid(metrics: Mapping[str, Metrics], title: str) -> Figure:
    """Draw the smoothed train loss of several one-digit runs, each in a panel of its own, a line per lane."""
    columns = min(6, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = new_figure((2.3 * columns, 1.9 * rows + 0.6), title)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax in axes[len(metrics) :]:
        ax.set_axis_off()
    for ax, (name, run) in zip(axes, metrics.items(), strict=False):
        smoothed = smooth(run["train_position_loss"][:, :, 0], run["step"])
        ax.plot(run["step"], smoothed.T, color=TRAIN, lw=0.9, alpha=0.7)
        ax.axhline(np.log(2), color=FLOOR, lw=0.8, ls=(0, (4, 3)))
        ax.set(yscale="log", ylim=(1e-3, 4))
        log_axis(ax, run["step"], "")
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
    labels = dict.fromkeys(log_label("step", run["step"]) for run in metrics.values())
    figure.supxlabel(f"{' or '.join(labels)}; dashes at log 2", fontsize=9)
    figure.supylabel("nats", fontsize=9)
    return figure


@styled
def loss_split(metrics: Mapping[str, Metrics], uncertainty: float, title: str) -> Figure:
    """Draw what the loss of one digit consists of over steps: leak, carry loss, and the floor of the latter.

    Args:
      metrics: of one-digit addition runs by name; medians over lanes are drawn.
      uncertainty: the exact floor of the carry loss where the carry is unknown, nats.
      title: of the figure.
    """
    figure, axes = panels(len(metrics), title)
    for ax, (name, run) in zip(axes, metrics.items(), strict=True):
        lanes = {n: run[f"evaluation/{n}"][:, :, 0] for n in ("digit_loss", "leak", "carry_loss")}
        lanes["step"] = run["evaluation/step"]
        line(ax, lanes, "digit_loss", OTHER, "loss")
        line(ax, lanes, "leak", TRAIN, "leak: outside naive, naive + 1")
        line(ax, lanes, "carry_loss", TEST, "carry loss")
        ax.axhline(uncertainty, color=FLOOR, lw=0.8, ls=(0, (4, 3)), label=f"floor, carry unknown: {uncertainty:.3f}")
        ax.set(title=name, ylim=(0, 2.6))
    axes[0].set_ylabel("nats")
    axes[0].legend(fontsize=8)
    return figure


@styled
def plateau_law(points: Mapping[str, Mapping[int, Mapping[int, Sequence[int | None] | None]]], title: str) -> Figure:
    """Draw steps to leave a plateau by base, a line through the medians for each digit and a dot for each lane.

    Args:
      points: plateau name, digit and base to the steps of each lane, None for never or for no such plateau.
      title: of the figure.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import NullFormatter

    figure, axes = panels(len(points), title, width=5)
    for ax, (name, digits) in zip(axes, points.items(), strict=True):
        ax.set(xscale="log", yscale="log")
        for digit, bases in digits.items():
            colour = colormaps["viridis_r"](0.15 + 0.75 * digit / max(1, max(digits)))
            left = {base: [s for s in steps or () if s is not None] for base, steps in bases.items()}
            left = {base: steps for base, steps in left.items() if steps}
            for base, steps in left.items():
                ax.plot([base] * len(steps), steps, "o", color=colour, ms=3, alpha=0.6, mew=0)
            ax.plot(
                list(left), [np.median(steps) for steps in left.values()], color=colour, lw=1.2, label=f"A{digit}"
            )
        bases = sorted({base for by_base in digits.values() for base in by_base})
        ax.set(title=f"{name} plateau", xlabel="base")
        ax.set_xticks(bases, bases)
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("steps to leave")
    axes[0].legend()
    return figure
