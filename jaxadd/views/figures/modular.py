"""Figures of a network that adds modulo P: what is periodic in it.

Spectra are in the order of `fourier.basis`: the constant, cos 1, sin 1, cos 2, …, and even P ends with a cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadd.views.figures.style import (
    COLUMNS,
    FLOOR,
    PALETTE,
    SEQUENTIAL,
    TEST,
    colour_bar,
    edges,
    frequency_colours,
    from_first_evaluation,
    from_zero,
    head_panels,
    heat,
    largest,
    new_figure,
    styled,
    together,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def embedding_norms(steps: np.ndarray, norms: np.ndarray, keys: Sequence[int], title: str) -> Figure:
    """Draw the Fourier norms of W_E over training, and beside them the last, with the key frequencies marked.

    Args:
      steps: `[E]`, ascending; with one, its norms alone are drawn.
      norms: `[E, P//2 + 1]`, entry k of frequency k, entry 0 of the constant.
      keys: the key frequencies.
      title: of the figure.
    """
    count, evolves = norms.shape[1], len(steps) > 1
    height = float(np.clip(0.075 * count + 1.3, 3, 7))
    figure = new_figure((8.4 if evolves else 4.4, height), title)
    if evolves:
        over, last = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.4))
        image = over.pcolormesh(
            edges(steps + 1, log=True),
            edges(np.arange(count)),
            np.ma.masked_invalid(norms).T,
            cmap=SEQUENTIAL,
            norm=from_zero(norms),
        )
        over.set(xscale="log", xlabel="step + 1", title="over training")
        over.grid(visible=False)
        from_first_evaluation(over, steps + 1)
        colour_bar(figure, image, [over, last], "norm", shrink=0.6)
    else:
        last = over = figure.subplots()
    over.set_ylabel("frequency k")
    colours = [TEST if k in set(keys) else "#b8c4d6" for k in range(count)]
    last.barh(range(count), norms[-1], height=0.85, color=colours)
    last.set(
        xlabel="norm", title=f"step {steps[-1]:,}", ylim=(-0.7, count - 0.3), xlim=(0, 1.25 * largest(norms[-1]))
    )
    last.grid(visible=False, axis="y")
    for group in together(sorted(keys), gap=count / (9 * height)):
        named = [sorted(keys)[i] for i in group]
        last.annotate(
            ", ".join(map(str, named)),
            (np.nanmax(norms[-1, named]), np.mean(named)),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=TEST,
        )
    return figure


@styled
def neuron_maps(activations: np.ndarray, spectra: np.ndarray, labels: Sequence[str], title: str) -> Figure:
    """Draw what a few neurons do over all pairs (a, b), and below it the 2-D Fourier transform of that.

    The transform is shown up to the last component that reaches 5 % of the largest; colours follow its square root.

    Args:
      activations: `[n, P, P]` by a and b, colours from 0 on; the first 8 neurons are drawn.
      spectra: `[n, P, P]`, their 2-D transforms or the absolute values of these.
      labels: of the neurons, `[n]`.
      title: of the figure.
    """
    shown = min(len(activations), 8)
    columns = min(shown, 4)
    bands = -(-shown // columns)
    figure = new_figure((3.1 * columns + 0.2, 4.55 * bands + 0.6), title, "compressed")
    axes = figure.subplots(2 * bands, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (activation, spectrum, label) in enumerate(zip(activations[:shown], spectra, labels, strict=False)):
        band, column = divmod(i, columns)
        above, below = axes[2 * band : 2 * band + 2, column]
        image = heat(above, activation, norm=from_zero(activation), size=7)
        above.set(title=label, xlabel="b", ylabel="a", aspect="equal")
        colour_bar(figure, image, above, "activation")
        power = np.abs(np.where(np.isfinite(spectrum), spectrum, 0))
        image = heat(below, power[: (end := _extent(power)), :end], norm=from_zero(power, 0.5), size=7)
        below.set(xlabel="frequency along b", ylabel="frequency along a", aspect="equal")
        ridge = np.maximum(power.max(0), power.max(1))[1:]
        _name_components(below, [int(np.argmax(ridge)) // 2 + 1] if ridge.any() else [], end)
        colour_bar(figure, image, below, "norm")
        for ax in (above, below):
            ax.set_axis_on()
    return figure


def _extent(power: np.ndarray) -> int:
    """Give the number of components to show so that none of those left out reaches 5 % of the largest."""
    there = np.flatnonzero(np.maximum(power.max(0), power.max(1)) >= 0.05 * largest(power))
    # A margin, so that the last one does not stand at the edge; and a whole number of frequencies.
    return min(len(power), 2 * (int(there.max(initial=8)) // 2 + 3) + 1)


def _name_components(ax: Axes, frequencies: Sequence[int], count: int, inches: float = 1.7) -> None:
    """Mark the constant and some frequencies on both axes of a spectrum of `count` components."""
    places = [0.0, *(2 * k - 0.5 for k in sorted(frequencies))]
    names = ["const.", *map(str, sorted(frequencies))]
    for axis, room in ((ax.xaxis, 0.32), (ax.yaxis, 0.12)):
        groups = together(places, gap=count * room / inches)
        axis.set_ticks(
            [np.mean([places[i] for i in group]) for group in groups],
            [", ".join(names[i] for i in group) for group in groups],
        )


@styled
def neuron_clusters(frequency: np.ndarray, share: np.ndarray, title: str, threshold: float = 0.85) -> Figure:
    """Draw how many neurons are explained how well by one frequency, coloured by that frequency.

    Args:
      frequency: int `[F]`, 0 for a neuron of none, as in `fourier.Clusters`.
      share: `[F]` in [0, 1], what the best frequency explains of each neuron's variance.
      title: of the figure.
      threshold: the share above which a neuron belongs to its frequency, drawn as a line.
    """
    found, counts = np.unique(frequency[frequency > 0], return_counts=True)
    parts = {f"none: {np.sum(frequency == 0):,}": (frequency == 0, "#c9c9c9")}
    largest_first = found[np.argsort(-counts, kind="stable")]
    named = largest_first if len(found) <= len(PALETTE) else largest_first[: len(PALETTE) - 1]
    for k, colour in frequency_colours(named).items():
        parts[f"k = {k}: {np.sum(frequency == k):,}"] = (frequency == k, colour)
    if len(named) < len(found):
        rest = (frequency > 0) & ~np.isin(frequency, named)
        parts[f"{len(found) - len(named)} others: {np.sum(rest):,}"] = (rest, "#8a8a8a")
    figure = new_figure((6.4, 3.8), title)
    ax = figure.subplots()
    ax.hist(
        [share[of] for of, _ in parts.values()],
        bins=np.linspace(0, 1, 41),
        stacked=True,
        color=[colour for _, colour in parts.values()],
        label=list(parts),
    )
    ax.axvline(threshold, color=FLOOR, lw=0.9, ls=(0, (4, 3)))
    ax.set(xlim=(0, 1), xlabel="share of variance explained by the neuron's best frequency", ylabel="neurons")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", title="frequency: neurons")
    return figure


@styled
def attention_over_pairs(pattern: np.ndarray, title: str) -> Figure:
    """Draw, for every head, the attention from `=` to the token a over all pairs (a, b).

    Args:
      pattern: `[H, P, P]` by a and b, or `[H, P, P, 3]` with the attention to a, b and `=`: then that to `=` is
        drawn too, on a scale of its own.
      title: of the figure.
    """
    parts = {"attention to a": pattern}
    if pattern.ndim == 4:
        parts = {"attention to a": pattern[..., 0], "attention to =": pattern[..., 2]}
    heads = len(pattern)
    columns, bands = min(heads, COLUMNS), -(-heads // COLUMNS)
    figure = new_figure((2.1 * columns + 1.2, 2.25 * bands * len(parts) + 0.6), title, "compressed")
    for (label, values), axes in zip(parts.items(), head_panels(figure, heads, "b", "a", len(parts)), strict=True):
        norm = from_zero(np.ones(1) if label == "attention to a" else values)
        for head, ax in enumerate(axes):
            image = heat(ax, values[head], norm=norm, size=7)
            ax.set(title=f"head {head}", aspect="equal")
        colour_bar(figure, image, axes, label, shrink=0.8, aspect=20 * bands)
    return figure


@styled
def logit_spectrum(norms: np.ndarray, keys: Sequence[int], title: str) -> Figure:
    """Draw the 2-D Fourier transform of the logits over (a, b): its norm over the classes, colours by square root.

    Args:
      norms: `[P, P]`, by component of a and of b.
      keys: the key frequencies, named on both axes.
      title: of the figure.
    """
    figure = new_figure((6.8, 6), title, "compressed")
    ax = figure.subplots()
    image = heat(ax, norms, norm=from_zero(norms, 0.5))
    _name_components(ax, keys, len(norms), inches=4.8)
    ax.set(xlabel="frequency along b", ylabel="frequency along a", aspect="equal")
    colour_bar(
        figure, image, ax, "norm over classes", shrink=0.8, format="{x:,.0f}" if largest(norms) >= 10 else None
    )
    return figure
