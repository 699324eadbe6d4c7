"""Figures of loss spikes: where a run has them, and what happens inside one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.views.colours import ABSENT, TEST, TRAIN
from jaxadd.views.figures.style import (
    FLOOR,
    OTHER,
    PALETTE,
    around_zero,
    brief,
    colour_bar,
    diverging,
    edges,
    from_zero,
    largest,
    new_figure,
    sequential,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxadd.analysis.spikes import Spike


@styled
def spikes(step: np.ndarray, loss: np.ndarray, found: Sequence[Spike], title: str) -> Figure:
    """Draw a train loss with its spikes shaded.

    Args:
      step: `[T]`.
      loss: `[T]`, nats.
      found: the spikes.
      title: of the figure.
    """
    figure = new_figure((8.4, 3.4), title)
    ax = figure.subplots()
    for spike in found:
        ax.axvspan(spike.start, step[-1] if spike.end is None else spike.end, color=TEST, alpha=0.15, lw=0)
    ax.plot(step, loss, color=TRAIN, lw=0.9)
    ax.plot([s.peak for s in found], [s.height for s in found], "o", color=TEST, ms=4)
    ax.set(yscale="log", xlabel="step", ylabel="train loss, nats", xlim=(step[0], step[-1]))
    ax.set_title("loss; shaded: spikes, until it is back" if found else "loss; no spikes")
    return figure


@styled
def spike(
    step: np.ndarray,
    losses: Mapping[str, np.ndarray],
    grad_norms: Mapping[str, np.ndarray],
    title: str,
    *,
    start: int | None = None,
    dynamics: Mapping[str, tuple[np.ndarray, float | None]] | None = None,
) -> Figure:
    """Draw the steps around a loss spike: losses, and the gradient's norm in every group of parameters.

    Norms are drawn relative to their median before it, so that it shows which group leads and which follow.

    Args:
      step: `[T]`, ascending.
      losses: by name, `[T]` each, nats; the first is marked where it is largest.
      grad_norms: by group of parameters, `[T]` each; NaN or 0 is left blank.
      title: of the figure.
      start: the first step of the spike; None takes the median of all steps.
      dynamics: what else goes on, by name: `[T]`, and a level at which a line is drawn, with a logarithmic axis, or
        None. What is NaN throughout is left out.
    """
    others = {name: entry for name, entry in (dynamics or {}).items() if np.isfinite(entry[0]).any()}
    rows = 0.2 * len(grad_norms) + 0.3
    figure = new_figure((9, rows + 3.7 + 1.25 * len(others)), title)
    above, *middle, below = figure.subplots(
        2 + len(others), 1, sharex=True, height_ratios=(2.4, *[1.25] * len(others), rows)
    )
    colours = itertools.cycle(PALETTE)
    for i, (name, loss) in enumerate(losses.items()):
        above.plot(
            step, loss, color=next(colours) if i else OTHER, lw=1 if i else 1.8, label=name, zorder=3 - (i > 0)
        )
    main = np.asarray(next(iter(losses.values())))
    peak = step[np.argmax(np.where(np.isnan(main), -np.inf, main))]
    for ax in (above, *middle):
        ax.axvline(peak, color=FLOOR, lw=0.9, ls=(0, (4, 3)))
    above.set(yscale="log", ylabel="nats", title=f"loss, highest at step {peak:,}")
    if len(losses) > 1:
        above.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    for ax, (name, (values, level)) in zip(middle, others.items(), strict=True):
        ax.plot(step, values, color=OTHER, lw=1.2)
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        if level is not None:
            ax.set_yscale("log")
            ax.axhline(level, color=TEST, lw=0.9)

    size = np.stack(list(grad_norms.values()))
    size = np.where(size > 0, size, np.nan)
    quiet = size if start is None else size[:, step < start]
    median = np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in quiet])
    change = np.log10(size / median[:, None])
    rows, cells = np.arange(len(size)), np.ma.masked_invalid(change)
    image = below.pcolormesh(edges(step), edges(rows), cells, cmap=diverging(), norm=around_zero(change))
    below.set_yticks(
        rows, [f"{name}  {brief(np.nan_to_num(m))}" for name, m in zip(grad_norms, median, strict=True)], fontsize=8
    )
    below.set(
        xlabel="step",
        title="norm of the gradient; its median before beside the name"
        if start
        else "norm of the gradient; its median beside the name",
        facecolor=ABSENT,
    )
    below.grid(visible=False)
    below.invert_yaxis()
    below.xaxis.get_major_locator().set_params(integer=True)
    colour_bar(figure, image, below, "powers of ten\nabove the median", over=change)
    return figure


@styled
def exchanged(
    names: Sequence[str], moved: np.ndarray, restored: np.ndarray, before: float, peak: float, title: str
) -> Figure:
    """Draw the test loss with single parameters exchanged between the states before a spike and at its peak.

    Args:
      names: of the parameters, `[n]`.
      moved: `[n]`, nats, with only this one from the peak.
      restored: `[n]`, nats, with only this one put back.
      before: the loss before, nats.
      peak: the loss at the peak.
      title: of the figure.
    """
    figure = new_figure((7.6, 0.26 * len(names) + 1.7), title)
    ax = figure.subplots()
    rows = np.arange(len(names))
    for level, name, colour in ((before, "before", TRAIN), (peak, "at the peak", TEST)):
        ax.axvline(level, color=colour, lw=1, ls=(0, (4, 3)))
        ax.annotate(
            name,
            (level, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
        )
    ax.plot(moved, rows, "o", color=TRAIN, ms=5, label="before, with only this one from the peak")
    ax.plot(restored, rows, "D", color=TEST, ms=4, label="at the peak, with only this one put back")
    ax.set_yticks(rows, names, fontsize=8)
    ax.set(xscale="log", xlabel="test loss, nats")
    ax.invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


@styled
def spike_damage(
    step: np.ndarray,
    loss: np.ndarray,
    errors: np.ndarray,
    digits: Sequence[str],
    classes: Sequence[str],
    title: str,
) -> Figure:
    """Draw which digits and which carry classes break in a spike, step by step.

    Args:
      step: `[T]`, ascending.
      loss: `[T, R]`, test loss of each answer digit, nats.
      errors: `[T, G]`, fraction of errors in each carry class; NaN for a class without problems.
      digits: names of the answer digits, `[R]`.
      classes: names of the carry classes, `[G]`.
      title: of the figure.
    """
    from matplotlib.colors import LogNorm

    figure = new_figure((8.4, 0.24 * (len(digits) + len(classes)) + 2.1), title)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(len(digits), len(classes)))
    top = largest(loss)
    log = LogNorm(max(np.min(loss[loss > 0], initial=top), 1e-8 * top) * (0.99 if top else 1), top, clip=True)
    for ax, values, names, norm, label, heading in (
        (axes[0], loss, digits, log, "nats", "test loss by answer digit"),
        (axes[1], errors, classes, from_zero(errors, 0.5), "fraction", "errors by carry class"),
    ):
        rows = np.arange(len(names))
        cells = np.ma.masked_invalid(values.T)
        image = ax.pcolormesh(edges(step), edges(rows), cells, cmap=sequential(), norm=norm)
        ax.set_yticks(rows, names, fontsize=8)
        ax.set(title=heading, facecolor=ABSENT)
        ax.grid(visible=False)
        ax.invert_yaxis()
        colour_bar(figure, image, ax, label)
    axes[1].set_xlabel("step")
    return figure
