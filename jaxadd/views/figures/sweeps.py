"""Figures of sweeps: curves of many lanes, survival curves, phase diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxadd.sweeps.outcomes import OUTCOMES, Survival
from jaxadd.tables import quantiles
from jaxadd.views.colours import ABSENT, OUTCOME_COLOURS
from jaxadd.views.figures.style import (
    PALETTE,
    colour_bar,
    log_axis,
    new_figure,
    panels,
    plain_ticks,
    sequential,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Sequence[tuple[np.ndarray, np.ndarray]]
"""Of each lane its steps and values."""
NAMED = 12  # Curves that a legend can name.
_BANDS = 4  # Curves whose bands can be told apart.
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@styled
def lane_bands(loss: Mapping[str, Curves], accuracy: Mapping[str, Curves], title: str) -> Figure:
    """Draw loss and accuracy of many lanes: the median, and bands of the middle half and of nine tenths.

    Args:
      loss: by name, such as "train" and "test".
      accuracy: the same names.
      title: of the figure.
    """
    figure, (left, right) = panels(2, title, width=5.0)
    for ax, curves in ((left, loss), (right, accuracy)):
        for lanes, look in zip(curves.values(), _looks(list(curves)), strict=True):
            _bands(ax, lanes, look, bands=len(curves) <= _BANDS)
        steps = [step for lanes in curves.values() for step, _ in lanes]
        if any(map(len, steps)):
            log_axis(ax, np.unique(np.concatenate(steps)))
    left.set(yscale="log", ylabel="cross-entropy, nats", title="loss")
    plain_ticks(left.yaxis)
    right.set(ylim=(-0.03, 1.03), ylabel="fraction correct", title="accuracy")
    named = {"title": "median, 25 to 75 %, 5 to 95 %" if len(loss) <= _BANDS else "median", "fontsize": 8}
    if len(loss) <= 2:
        left.legend(title_fontsize=8, **named)
        return figure
    handles, labels = left.get_legend_handles_labels()
    columns = 1 if max(map(len, labels)) > 40 else 2
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(labels) // columns) + 0.3)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title_fontsize=8, **named)
    return figure


class _Look(NamedTuple):
    """How one of several curves is drawn; label None leaves it out of the legend."""

    colour: Any
    line: str
    label: str | None


def _looks(names: Sequence[str]) -> list[_Look]:
    """Return the colour, line and name of each curve; where they are many, colours by their order and two names."""
    from matplotlib import colormaps

    count = len(names)
    if count <= NAMED:
        lines = ("-", "--", ":", "-.")
        return [_Look(PALETTE[i % len(PALETTE)], lines[i // len(PALETTE) % 4], name) for i, name in enumerate(names)]
    shown = {0: f"1 of {count}: {names[0]}", count - 1: f"{count} of {count}: {names[-1]}"}
    return [_Look(colormaps["viridis"](0.9 * i / (count - 1)), "-", shown.get(i)) for i in range(count)]


def _bands(ax: Axes, lanes: Curves, look: _Look, *, bands: bool) -> None:
    lanes = [(step, values) for step, values in lanes if len(step)]
    if not lanes:
        return
    last = max(step[-1] for step, _ in lanes)
    grid = np.unique(np.geomspace(1, last + 1, 300).round()) - 1
    # A lane that ended early keeps its last value.
    values = np.stack([np.interp(grid, step, value) for step, value in lanes])
    low, quarter, middle, upper, high = np.quantile(values, _QUANTILES, axis=0)
    if len(lanes) > 1 and bands:
        ax.fill_between(grid, low, high, color=look.colour, alpha=0.13, lw=0)
        ax.fill_between(grid, quarter, upper, color=look.colour, alpha=0.28, lw=0)
    ax.plot(grid, middle, look.line, color=look.colour, lw=1.4, label=look.label)


@styled
def survival(curves: Mapping[str, Survival], title: str, what: str = "99 % test accuracy") -> Figure:
    """Draw the fraction of lanes that have not yet reached a threshold over steps; ticks where lanes are censored.

    Args:
      curves: by name of a group of lanes.
      title: of the figure.
      what: is reached.
    """
    figure = new_figure((7.6, 4.0), title)
    ax = figure.subplots()
    end = max(max(c.step[-1], *c.censored, 1) if c.censored.size else c.step[-1] for c in curves.values())
    for curve, (colour, line, name) in zip(curves.values(), _looks(list(curves)), strict=True):
        step = np.append(curve.step, end)
        share, low, high = (np.append(x, x[-1]) for x in (curve.fraction, curve.low, curve.high))
        ax.step(step, share, line, where="post", color=colour, lw=1.6, label=name)
        if len(curves) <= _BANDS:
            ax.fill_between(step, low, high, step="post", color=colour, alpha=0.15, lw=0)
        if curve.censored.size:
            at = np.unique(curve.censored)
            ax.plot(
                at,
                curve.fraction[np.searchsorted(curve.step, at, side="right") - 1],
                "|",
                color=colour,
                ms=11,
                mew=1.6,
            )
    ax.set(xlabel="step", ylabel=f"fraction of lanes not yet at\n{what}", ylim=(-0.03, 1.03), xlim=(0, end * 1.02))
    if len(curves) > 1 or any(c.censored.size for c in curves.values()):
        labels = ax.get_legend_handles_labels()[1]
        beside = max(map(len, labels)) <= 30
        if not beside:
            figure.set_figheight(figure.get_figheight() + 0.2 * len(labels) + 0.3)
        figure.legend(
            loc="outside right center" if beside else "outside lower center",
            title="| ended without it",
            title_fontsize=8,
            fontsize=8,
        )
    return figure


@styled
def phase_diagram(
    steps: np.ndarray,
    outcomes: np.ndarray,
    x: Sequence,
    y: Sequence,
    names: tuple[str, str],
    title: str,
    panels_by: tuple[str, Sequence] | None = None,
    what: str = "99 % test accuracy",
) -> Figure:
    """Draw two axes of a sweep against each other: steps to grok above, the most frequent outcome below.

    Args:
      steps: `[K, Y, X]`, the median step over lanes; inf for never.
      outcomes: `[K, Y, X, 4]`, the fraction of lanes with each of OUTCOMES.
      x: values of the axis to the right.
      y: values of the axis upwards.
      names: of both.
      title: of the figure.
      panels_by: name and values `[K]` of a third axis.
      what: is reached.
    """
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator

    count = len(steps)
    figure = new_figure((2.0 + 2.7 * count, 6.0), title)
    axes = figure.subplots(2, count, squeeze=False, sharex=True, sharey=True)
    known = steps[np.isfinite(steps)]
    norm = LogNorm(max(known.min(), 1), max(known.max(), known.min() + 1)) if known.size else LogNorm(1, 10)
    for k in range(count):
        above, below = axes[:, k]
        for ax in (above, below):
            ax.grid(visible=False)
            ax.set_xticks(range(len(x)), [f"{v:g}" for v in x], rotation=45)
            ax.set_yticks(range(len(y)), [f"{v:g}" for v in y])
        above.set_facecolor(ABSENT)
        drawn = above.imshow(
            np.ma.masked_invalid(steps[k]), origin="lower", norm=norm, cmap=sequential(), aspect="auto"
        )
        winner = np.argmax(outcomes[k], axis=-1)
        below.imshow(winner, origin="lower", cmap=ListedColormap(OUTCOME_COLOURS), vmin=-0.5, vmax=3.5, aspect="auto")
        for i, j in np.ndindex(winner.shape):
            most = outcomes[k, i, j].max()
            if most < 1:
                below.text(j, i, f"{most:.0%}", ha="center", va="center", fontsize=7)
        below.set_xlabel(names[0])
        if panels_by:
            above.set_title(f"{panels_by[0]} {panels_by[1][k]}")
    for row in axes[:, 0]:
        row.set_ylabel(names[1])
    if known.size:
        label = f"median step to {what}\n(grey: most lanes never)"
        colour_bar(figure, drawn, axes[0, -1], label, ticks=LogLocator(subs=(1, 2, 5)), format="{x:,.0f}")
    else:
        figure.suptitle(f"{title}\nhere no setting reached {what}", size="medium")
    figure.legend(
        handles=[Patch(color=c, label=o) for c, o in zip(OUTCOME_COLOURS, OUTCOMES, strict=True)],
        loc="outside lower center",
        ncols=4,
        fontsize=8,
    )
    return figure


@styled
def time_by_lanes(lanes: Sequence[int], seconds: Sequence[float], title: str) -> Figure:
    """Draw how long a step of all lanes takes by their number, beside as many single ones in turn.

    Args:
      lanes: numbers of lanes, ascending.
      seconds: of one step of all of them.
      title: of the figure.
    """
    from matplotlib.ticker import LogLocator

    figure = new_figure((5.6, 4.0), title)
    ax = figure.subplots()
    milliseconds = 1e3 * np.asarray(seconds)
    alone = milliseconds[0] / lanes[0] * np.asarray(lanes)
    ax.plot(lanes, alone, "--", color=PALETTE[1], lw=1.2, label=f"{lanes[0]} at once, again and again")
    ax.plot(lanes, milliseconds, "o-", color=PALETTE[0], ms=4, lw=1.4, label="all at once")
    ax.set(xscale="log", yscale="log", xlabel="networks S", ylabel="time of one step of all, ms")
    ax.set_xticks(lanes, [f"{count:,}" for count in lanes])
    ax.minorticks_off()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend()
    return figure


@styled
def fractions(
    fraction: Sequence[float],
    steps: Sequence[Sequence[float | None]],
    published: Mapping[float, int],
    title: str,
    what: str = "test loss < 1",
) -> Figure:
    """Draw the step to something by train fraction: every seed, the median, and published single runs.

    Args:
      fraction: ascending.
      steps: of each, the seeds'; None for never.
      published: step by fraction.
      title: of the figure.
      what: is reached.
    """
    from matplotlib.ticker import LogLocator

    figure = new_figure((6.4, 4.2), title)
    ax = figure.subplots()
    for x, values in zip(fraction, steps, strict=True):
        known = [v for v in values if v is not None]
        ax.plot(
            [x] * len(known),
            known,
            "o",
            ms=4,
            color=PALETTE[0],
            alpha=0.6,
            label="a seed" if x == fraction[0] else None,
        )
        if never := len(values) - len(known):
            ax.margins(y=0.12)  # Room for this above the highest seed.
            ax.annotate(
                f"{never} never",
                (x, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, -4),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=7,
                color=PALETTE[0],
            )
    middle = [quantiles(values)[1] for values in steps]
    ax.plot(fraction, np.where(np.isfinite(middle), middle, np.nan), color=PALETTE[0], lw=1.4, label="median")
    ax.plot(list(published), list(published.values()), "x", ms=7, color=PALETTE[1], label="published, one run each")
    if not (published or any(step is not None for values in steps for step in values)):
        ax.set_ylim(1, 100)  # A logarithmic axis without a point has no range of its own.
    room = 0.1 * (max(fraction) - min(fraction)) or 0.05
    ax.set_xlim(min(fraction) - room, max(fraction) + room)
    ax.set(yscale="log", xlabel="fraction of the pairs trained on", ylabel=f"step of {what}")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()
    ax.legend()
    return figure
