"""Figures of the progress measures over training."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.analysis.phases import PHASES
from jaxadd.views.figures.style import (
    OTHER,
    PALETTE,
    TEST,
    TRAIN,
    frequency_colours,
    from_first_evaluation,
    line,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHADES = ("#f3e3c3", "#d9e6d3", "#dcd6ea")
_ONE = "excluded loss of one frequency"
_PANELS = {"loss": "loss", "sum_of_squares": "sum of squares", "gini": "Gini", "explained": "variance explained"}


@styled
def measures(
    steps: np.ndarray,
    series: Mapping[str, np.ndarray],
    phases: Sequence[int | None],
    title: str,
    *,
    log_steps: bool = True,
) -> Figure:
    """Draw measures over training with its phases shaded: the median over lanes, and a band of all of them.

    A measure goes to the panel its name belongs to: losses, excluded loss of one frequency ("excluded_loss_36"),
    sum of squares, Gini, variance explained; any other has a panel of its own.

    Args:
      steps: `[E]`, ascending.
      series: of each measure by name, `[S, E]`, NaN where it was not taken.
      phases: the steps at which memorisation, circuit formation and clean-up end, as of `phases`; None for one
        that did not, or that was skipped where a later one ended.
      title: of the figure.
      log_steps: draw steps on a logarithmic axis.
    """
    groups: dict[str, list[str]] = {panel: [] for panel in ("loss", _ONE, *_PANELS.values())}
    for name in series:
        groups.setdefault(_panel_of(name), []).append(name)
    order = [panel for panel, names in groups.items() if names]
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    figure = new_figure((4.2 * columns, 3.1 * rows + 0.8), title)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for ax in axes[len(order) :]:
        ax.set_axis_off()
    for i, (ax, panel) in enumerate(zip(axes, order, strict=False)):
        ax.set(title=panel, xscale="log" if log_steps else "linear")
        if "loss" in panel:
            ax.set(yscale="log", ylabel="nats")
        for name, (label, colour) in _lines(groups[panel], panel).items():
            line(ax, {"step": steps, name: series[name]}, name, colour, label)
        if len(groups[panel]) > 1:
            ax.legend(fontsize=8)
        from_first_evaluation(ax, steps + log_steps)
        if not log_steps:
            ax.locator_params(axis="x", nbins=4)
        if i + columns >= len(order):
            ax.set_xlabel("step + 1" if log_steps else "step")
            ax.tick_params(labelbottom=True)
    _shade(figure, axes[: len(order)], phases, steps, log_steps)
    return figure


def _panel_of(name: str) -> str:
    if name.startswith("excluded_loss") and name.rpartition("_")[2].isdecimal():
        return _ONE
    return next((panel for part, panel in _PANELS.items() if part in name), _words(name))


def _lines(names: Sequence[str], panel: str) -> dict[str, tuple[str, str]]:
    """Give each measure of a panel its label and colour."""
    if panel == _ONE:
        frequency = {name: int(name.rpartition("_")[2]) for name in names}
        colours = frequency_colours(frequency.values())
        return {name: (f"k = {k}", colours[k]) for name, k in frequency.items()}
    known = {"train_loss": TRAIN, "test_loss": TEST}
    others = itertools.cycle((OTHER, *PALETTE[2:]))
    return {name: (_words(name), known.get(name) or next(others)) for name in names}


def _words(name: str) -> str:
    """Write the name of a measure in words; that of a matrix stays as it is."""
    return re.sub("(?<!W)_", " ", name)


def _shade(
    figure: Figure, axes: Sequence[Axes], phases: Sequence[int | None], steps: np.ndarray, log_steps: bool
) -> None:
    """Shade the phases, up to the last step for the one that did not end, and name them with their ends below."""
    from matplotlib.patches import Patch

    handles, start = [], 0
    for i, (name, colour, end) in enumerate(zip(PHASES.values(), _SHADES, phases, strict=True)):
        lasting = end is None
        if lasting and any(later is not None for later in phases[i + 1 :]):
            continue  # There was none: a network may generalise from the start.
        until = steps[-1] if lasting else end
        for ax in axes:
            ax.axvspan(start + log_steps, until + log_steps, color=colour, alpha=0.6, lw=0, zorder=0)
        handles.append(Patch(color=colour, label=f"{name}, {'not ended' if lasting else f'to step {end:,}'}"))
        if lasting:
            break
        start = end
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
