"""Figures of n-digit addition: the loss of every digit, its probabilities, and cascades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.analysis.shelves import smooth
from jaxadd.views.figures.style import (
    FLOOR,
    OTHER,
    TEST,
    TRAIN,
    from_first_evaluation,
    line,
    new_figure,
    panels,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxadd.analysis.shelves import Shelf
    from jaxadd.types import Metrics


@styled
def digit_curves(
    metrics: Metrics,
    digits: Sequence[int],
    floors: Sequence[Mapping[str, float]],
    shelves: Sequence[Sequence[Shelf]],
    title: str,
) -> Figure:
    """Draw the train loss of every answer digit with its exact floors, and name the shelves it rests on.

    Args:
      metrics: as in `fit.Result`; with several lanes the median is drawn, over a band of all of them.
      digits: the answer digit at each position read, `[R]`.
      floors: of each digit, nats by name.
      shelves: of each digit, those found in the first lane.
      title: of the figure.
    """
    columns = min(3, len(digits))
    rows = -(-len(digits) // columns)
    figure = new_figure((4.4 * columns, 3.3 * rows + 0.4), title)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for r, (ax, digit) in enumerate(zip(axes, digits, strict=False)):
        loss = metrics["train_position_loss"][:, :, r]
        smoothed = {"step": metrics["step"], "loss": smooth(loss, metrics["step"])}
        ax.set(xscale="log", yscale="log", ylim=(2e-3, 4), title=f"A{digit}")
        for name, level, high in _placed(floors[r]):
            ax.axhline(level, color=FLOOR, lw=0.8, ls=(0, (4, 3)), zorder=1)
            ax.text(
                1.1,
                level * (1.04 if high else 0.96),
                f"{name} {level:.3g}",
                fontsize=7,
                color=FLOOR,
                va="bottom" if high else "top",
            )
        ax.plot(metrics["step"] + 1, loss[0], color=TRAIN, lw=0.3, alpha=0.35)
        line(ax, smoothed, "loss", TRAIN)
        for shelf in shelves[r]:
            ax.plot([shelf.start + 1, shelf.end + 1], [shelf.level] * 2, color=TEST, lw=4, alpha=0.55, zorder=3)
            words = f"{shelf.name or 'no floor'}\nsteps {shelf.start:,} to {shelf.end:,}"
            ax.text(
                (shelf.start + 1) ** 0.5 * (shelf.end + 1) ** 0.5,
                shelf.level * 0.86,
                words,
                fontsize=7,
                color=TEST,
                ha="center",
                va="top",
            )
    for ax in axes[len(digits) :]:
        ax.set_axis_off()
    for r in range(len(digits)):
        if r % columns == 0:
            axes[r].set_ylabel("train loss, nats")
        if r + columns >= len(digits):
            axes[r].set_xlabel("step + 1")
            axes[r].tick_params(labelbottom=True)
    return figure


def _placed(floors: Mapping[str, float], lowest: float = 2e-3) -> list[tuple[str, float, bool]]:
    """List the floors that are drawn, by level, with whether the label goes above the line: below in a close pair."""
    levels = sorted(((level, name) for name, level in floors.items() if level > lowest), reverse=True)
    placed: list[tuple[str, float, bool]] = []
    for level, name in levels:
        close = bool(placed) and level > 0.7 * placed[-1][1] and placed[-1][2]
        placed.append((name, level, not close))
    return placed


@styled
def offsets(metrics: Metrics, digits: Sequence[int], title: str) -> Figure:
    """Draw the mean probability of naive digit + o over steps, o = 0, 1 and the rest, for every answer digit.

    Args:
      metrics: of an addition run; the median over lanes is drawn.
      digits: the answer digit at each position read, `[R]`.
      title: of the figure.
    """
    figure = new_figure((2.2 * len(digits) + 1.2, 3.1), title)
    axes = figure.subplots(1, len(digits), squeeze=False, sharey=True)[0]
    probability = np.nanmedian(metrics["evaluation/offset"], axis=0)  # [E, R, base]
    step = metrics["evaluation/step"] + 1
    for r, (ax, digit) in enumerate(zip(axes, digits, strict=True)):
        naive, next_one = probability[:, r, 0], probability[:, r, 1]
        parts = {"naive digit": naive, "naive + 1": next_one, "any other": 1 - naive - next_one}
        ax.stackplot(step, *parts.values(), labels=parts, colors=(TRAIN, TEST, "#d9d9d9"))
        ax.set(xscale="log", ylim=(0, 1), title=f"A{digit}", xlabel="step + 1")
        from_first_evaluation(ax, step)
    axes[0].set_ylabel("mean probability")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def confusions(metrics: Metrics, digits: Sequence[int], title: str, snapshots: int = 7) -> Figure:
    """Draw a strip of confusion matrices over training for every answer digit: mean probability by true digit.

    Args:
      metrics: of an addition run; the first lane is drawn.
      digits: the answer digit at each position read, `[R]`.
      title: of the figure.
      snapshots: evaluations shown: the first, and others evenly spaced in the logarithm of the step.
    """
    confusion, step = metrics["evaluation/confusion"][0], metrics["evaluation/step"]
    known = np.flatnonzero(~np.isnan(confusion).all(axis=(1, 2, 3)))
    wanted = np.geomspace(known[min(1, len(known) - 1)] or 1, known[-1] or 1, snapshots - 1)
    shown = np.unique([known[0], *(known[np.argmin(np.abs(known - e))] for e in wanted)])
    figure = new_figure((1.35 * len(shown) + 1.2, 1.4 * len(digits) + 0.9), title)
    axes = figure.subplots(len(digits), len(shown), squeeze=False)
    for r, digit in enumerate(digits):
        for ax, e in zip(axes[r], shown, strict=True):
            image = ax.imshow(confusion[e, r], vmin=0, vmax=1, cmap="magma_r")
            ax.grid(visible=False)
            ax.set(xticks=[], yticks=[], facecolor="#eeeeee")
        axes[r, 0].set_ylabel(f"A{digit}: true digit", fontsize=8)
    for ax, e in zip(axes[0], shown, strict=True):
        ax.set_title(f"step {step[e]:,}", fontsize=9)
    figure.supxlabel(
        "digit given the probability, from 0 at the left; true digit from 0 at the top; grey: no example", fontsize=9
    )
    figure.colorbar(image, ax=axes, shrink=0.6, label="mean probability")
    return figure


@styled
def cascades(metrics: Metrics, title: str) -> Figure:
    """Draw exact match over steps: of uniform problems, and of cascades forced from the units on, by length."""
    figure, (ax,) = panels(1, title, log_steps=True, width=6)
    line(ax, metrics, "test_accuracy", OTHER, "uniform")
    from matplotlib import colormaps

    accuracy = metrics["evaluation/accuracy_by_cascade"]
    for length in range(accuracy.shape[-1]):
        lane = {"step": metrics["evaluation/step"], "accuracy": accuracy[..., length]}
        colour = colormaps["viridis_r"](0.15 + 0.75 * length / max(1, accuracy.shape[-1] - 1))
        line(ax, lane, "accuracy", colour, f"cascade over {length}")
    step = metrics["evaluation/step"] + 1
    ax.set(ylim=(-0.03, 1.03), ylabel="exact match")
    from_first_evaluation(ax, step)
    ax.legend(fontsize=8, loc="upper left")
    return figure
