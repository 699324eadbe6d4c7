"""Figures of circuits: where heads attend, what they read and write, and who wrote the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.views.figures.style import (
    COLUMNS,
    FLOOR,
    PALETTE,
    around_zero,
    colour_bar,
    diverging,
    from_zero,
    head_panels,
    heat,
    largest,
    matrix,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def attention_maps(pattern: np.ndarray, queries: Sequence[str], tokens: Sequence[str], title: str) -> Figure:
    """Draw the mean attention of every head, from the positions read to all tokens.

    Args:
      pattern: `[L, H, R, T]`, means over problems.
      queries: names of the positions read, `[R]`, such as "A5", the digit that is answered there.
      tokens: names of the tokens, `[T]`, such as "a4" or "=".
      title: of the figure.
    """
    layers, heads = pattern.shape[:2]
    columns, bands = min(heads, COLUMNS), -(-heads // COLUMNS)
    width, height = _cells(queries, tokens)
    figure = new_figure((columns * width + 1.5, max(2, layers * bands * (height + 0.2) + 0.8)), title, "compressed")
    drawn = head_panels(figure, heads, "to", "from", layers)
    norm = from_zero(pattern)
    for layer, axes in enumerate(drawn):
        for head, ax in enumerate(axes):
            image = heat(ax, pattern[layer, head], queries, tokens, norm=norm, size=7)
            ax.set(title=f"L{layer}H{head}", aspect="equal")
            ax.tick_params(axis="x", labelrotation=_turn(tokens))
    colour_bar(figure, image, [ax for axes in drawn for ax in axes], "mean attention", aspect=25)
    return figure


@styled
def attention_change(
    before: np.ndarray, after: np.ndarray, queries: Sequence[str], tokens: Sequence[str], title: str
) -> Figure:
    """Draw the mean attention of every head before and after something, such as a loss spike, and the difference.

    Args:
      before: `[L, H, R, T]`, means over problems.
      after: `[L, H, R, T]`.
      queries: names of the positions read, `[R]`.
      tokens: names of the tokens, `[T]`.
      title: of the figure.
    """
    layers, heads = before.shape[:2]
    width, height = _cells(queries, tokens)
    figure = new_figure((3 * width + 2.6, layers * heads * (height - 0.04) + 1), title, "compressed")
    axes = figure.subplots(layers * heads, 3, squeeze=False, sharex=True, sharey=True)
    shared, change = from_zero(np.stack([before, after])), around_zero(after - before)
    for row, (layer, head) in zip(axes, np.ndindex(layers, heads), strict=True):
        one, other = before[layer, head], after[layer, head]
        for ax, values in zip(row, (one, other), strict=False):
            image = heat(ax, values, queries, tokens, norm=shared, size=7)
        difference = heat(row[2], other - one, queries, tokens, cmap=diverging(), norm=change, size=7)
        row[0].set_ylabel(f"L{layer}H{head}")
        for ax in row:
            ax.set_aspect("equal")
            ax.tick_params(axis="x", labelrotation=_turn(tokens))
    for ax, name in zip(axes[0], ("before", "after", "after - before"), strict=True):
        ax.set_title(name)
    shrink = min(1, 3 / (layers * heads * height))
    colour_bar(figure, image, list(axes[:, :2].flat), "mean attention", shrink=shrink)
    colour_bar(figure, difference, list(axes[:, 2]), "difference", shrink=shrink)
    return figure


def _cells(rows: Sequence[str], columns: Sequence[str], side: float = 0.155) -> tuple[float, float]:
    """Give the width and height in inches of a panel with square cells, its labels included, that is not tiny."""
    return max(1.6, side * len(columns) + 0.3), max(0.5, side * len(rows) + 0.25)


def _turn(tokens: Sequence[str]) -> int:
    """Turn the names of tokens by so many degrees: names longer than "a4" do not fit side by side."""
    return 90 if max(map(len, tokens)) > 2 else 0


@styled
def circuit_matrices(
    qk: np.ndarray,
    ov: np.ndarray,
    title: str,
    *,
    tokens: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Figure:
    """Draw what every head of a layer attends to and what it then writes: QK, colours by square root, and OV.

    Args:
      qk: `[H, V, V]`, scores by query and key; or `[H, V]`, the scores of one query, drawn as a line.
      ov: `[H, V, C]`, direct effect on the logits by the token attended to.
      title: of the figure.
      tokens: their names, `[V]`; by default they are numbered.
      classes: names of the classes, `[C]`; by default they are numbered.
    """
    heads = len(qk)
    columns, bands = min(heads, COLUMNS), -(-heads // COLUMNS)
    figure = new_figure((2.5 * columns + 1.2, bands * (4.7 if qk.ndim == 3 else 4) + 0.6), title)
    above, below = figure.subfigures(2, 1, height_ratios=(1 if qk.ndim == 3 else 0.7, 1))
    (axes,) = head_panels(above, heads, *(("key", "query") if qk.ndim == 3 else ("token attended to", "score")))
    if qk.ndim == 3:
        _matrices(axes, qk, tokens, tokens, "QK score", 0.5)
    else:
        for ax, scores in zip(axes, qk, strict=True):
            ax.axhline(0, color=FLOOR, lw=0.8)
            ax.plot(scores, color=PALETTE[0], lw=1, marker="o", ms=2)
            ax.tick_params(labelsize=7)
            if tokens is not None:
                ax.set_xticks(range(len(tokens)), tokens)
    for head, ax in enumerate(axes):
        ax.set_title(f"QK, head {head}")
    (axes,) = head_panels(below, heads, "class", "token attended to")
    _matrices(axes, ov, tokens, classes, "OV, logit")
    for head, ax in enumerate(axes):
        ax.set_title(f"OV, head {head}")
    return figure


def _matrices(
    axes: Sequence[Axes],
    values: np.ndarray,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    label: str,
    power: float = 1,
) -> None:
    """Draw a signed matrix for every head on one scale of colours."""
    norm = around_zero(values, power)
    for ax, head in zip(axes, values, strict=True):
        image = heat(ax, head, rows, columns, cmap=diverging(), norm=norm, size=7)
    colour_bar(axes[0].figure, image, axes, label, shrink=0.8)


@styled
def composition(
    scores: np.ndarray,
    writers: Sequence[str],
    readers: Sequence[str],
    title: str,
    *,
    chance: float | None = None,
    label: str = "composition score",
) -> Figure:
    """Draw how much of what each part writes each later part reads.

    Args:
      scores: `[writers, readers]`, NaN for a pair that cannot compose; parts without any pair are left out. Where
        some are negative, as deviations from chance are, colours go to both sides of 0.
      writers: their names.
      readers: their names.
      title: of the figure.
      chance: the score of parts that know nothing of each other, marked on the colour bar.
      label: of the colour bar.
    """
    known = np.isfinite(scores)
    rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
    shown = scores[np.ix_(rows, columns)]
    names = [writers[i] for i in rows], [readers[i] for i in columns]
    signed = bool(np.any(shown < 0))
    figure = new_figure((0.42 * len(columns) + 2.8, 0.3 * len(rows) + 2), title)
    ax = figure.subplots()
    image = matrix(ax, shown, *names, signed=signed, power=0.5 if signed else 1)
    ax.set(xlabel="reads", ylabel="writes")
    bar = colour_bar(
        figure, image, ax, label if chance is None else f"{label}; line: chance, {chance:.3f}", over=shown
    )
    if chance is not None:
        bar.ax.axhline(chance, color="#222222", lw=1.5)
    return figure


@styled
def attribution(values: np.ndarray, components: Sequence[str], digits: Sequence[str], title: str) -> Figure:
    """Draw what each component contributes directly to the correct logit, by answer digit.

    Args:
      values: `[n, R]`, nats, as of `attribution_by_digit`; colours follow the square root.
      components: their names, `[n]`.
      digits: names of the answer digits, `[R]`.
      title: of the figure.
    """
    figure = new_figure((0.55 * len(digits) + 3.2, 0.24 * len(components) + 1.4), title)
    ax = figure.subplots()
    image = matrix(ax, values, components, digits, signed=True, power=0.5, least=5e-4)
    ax.set_xlabel("answer digit")
    colour_bar(figure, image, ax, "correct logit minus\nmean of the others, nats", over=values)
    return figure


@styled
def logit_lens(loss: np.ndarray, points: Sequence[str], digits: Sequence[str], title: str) -> Figure:
    """Draw the loss of each answer digit when the logits are read off the residual stream at points on its way.

    Args:
      loss: `[points, R]`, mean cross-entropy, nats.
      points: their names, in order.
      digits: names of the answer digits, `[R]`.
      title: of the figure.
    """
    from matplotlib.colors import LogNorm

    # Six decades are enough to tell learned from not; below them all cells are equally light.
    top = largest(loss)
    least = np.min(loss[loss > 0], initial=top)
    figure = new_figure((0.6 * len(digits) + 3.2, 0.3 * len(points) + 1.4), title)
    ax = figure.subplots()
    norm = LogNorm(vmin=max(least, 1e-6 * top) * (1 if least < top else 0.1), vmax=top, clip=True)
    image = matrix(ax, loss, points, digits, norm=norm)
    ax.set_xlabel("answer digit")
    colour_bar(figure, image, ax, "loss, nats")
    return figure
