"""What all figures share: colours, style, the drawing of lanes over steps, and heat maps."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap, FuncNorm, Normalize
    from matplotlib.figure import Figure

    from jaxadd.types import Metrics

TRAIN, TEST, OTHER, FLOOR = "#3b6fb6", "#d1495b", "#4a4a4a", "#7d7d7d"
ARMS = ("#3b6fb6", "#8fb4dd", "#d1495b", "#edae49")
PALETTE = (TRAIN, TEST, "#edae49", "#66a182", "#8d6a9f", "#2e4057", "#8fb4dd", "#b5835a")
SEQUENTIAL = "magma_r"
ABSENT = "#eeeeee"
COLUMNS = 4  # panels of heads beside each other
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


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in this module's style, and leave the user's own matplotlib settings as they are."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, **keywords: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*arguments, **keywords)

    return drawn


def panels(count: int, title: str, log_steps: bool, width: float = 4.2) -> tuple[Figure, np.ndarray]:
    """Begin a figure with a row of panels over steps; `width` is that of one, inches."""
    figure = new_figure((width * count, 3.6), title)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax in axes:
        ax.set(xlabel="step + 1" if log_steps else "step", xscale="log" if log_steps else "linear")
    return figure, axes


def new_figure(size: tuple[float, float], title: str, layout: str = "constrained") -> Figure:
    """Begin an empty figure of a size in inches; layout "compressed" is for panels whose sides have a fixed ratio."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout, dpi=150)
    figure.suptitle(title)
    return figure


def line(ax: Axes, metrics: Metrics, name: str, colour: str, label: str | None = None) -> None:
    """Draw a measure `[S, T]` over steps: the median over lanes, and a band of all of them; NaN is not drawn."""
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
    mark = {"marker": "o", "ms": 4} if len(step) == 1 else {}  # A line through one point cannot be seen.
    ax.plot(step, np.nanmedian(values, axis=0), color=colour, lw=1.4, label=label, **mark)


def plain_ticks(axis: Axis) -> None:
    """Write a logarithmic axis that spans little more than a decade with plain numbers, and no other axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    if high < 30 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def from_first_evaluation(ax: Axes, step: np.ndarray) -> None:
    """Begin the logarithmic axis at the first evaluation after the start: before it there is one point, far off."""
    from matplotlib.ticker import NullFormatter

    if len(step) > 2:
        ax.set_xlim(step[1], step[-1])
    # The numbers between the powers of ten would run into each other.
    ax.xaxis.set_minor_formatter(NullFormatter())


def head_panels(figure: Figure, heads: int, xlabel: str, ylabel: str, groups: int = 1) -> list[list[Axes]]:
    """Lay out a panel for each head, `COLUMNS` in a row, in groups below each other that begin a new row each.

    Numbers and names of the axes are at the outermost panels: the lowest of each column, the first of each row.

    Returns:
      the H axes of every group.
    """
    columns, bands = min(heads, COLUMNS), -(-heads // COLUMNS)
    axes = figure.subplots(groups * bands, columns, squeeze=False, sharex=True, sharey=True)
    found = [list(axes[group * bands : (group + 1) * bands].flat) for group in range(groups)]
    for ax in itertools.chain.from_iterable(group[heads:] for group in found):
        ax.remove()
    for ax in found[-1][max(0, heads - columns) : heads]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return [group[:heads] for group in found]


def heat(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    cmap: str | Colormap = SEQUENTIAL,
    norm: Normalize,
    size: float = 8,
) -> ScalarMappable:
    """Draw a matrix, first row at the top, grey where it is NaN; `size` is of the ticks, points."""
    image = ax.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
    ax.grid(visible=False)
    ax.set_facecolor(ABSENT)
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        if names is not None:
            axis.set_ticks(range(len(names)), names)
    ax.tick_params(labelsize=size)
    return image


def matrix(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    signed: bool = False,
    power: float = 1,
    over: np.ndarray | None = None,
    norm: Normalize | None = None,
    least: float = 0,
    size: float = 7,
) -> ScalarMappable:
    """Draw a small matrix with the names of its rows and columns and with its numbers in the cells.

    Args:
      ax: to draw in.
      values: `[rows, columns]`, NaN for no value.
      rows: their names.
      columns: their names, upright where they are long.
      signed: give colours to both sides of 0.
      power: of the value that colours follow.
      over: all values that share the scale of colours; `values` by default.
      norm: the scale of colours, where it is neither of these two.
      least: numbers below it are written as 0.
      size: of the numbers, points; names are one point larger.
    """
    norm = norm or (around_zero if signed else from_zero)(values if over is None else over, power)
    image = heat(ax, values, rows, columns, cmap=diverging() if signed else SEQUENTIAL, norm=norm, size=size + 1)
    if max(map(len, columns)) > 4:
        ax.tick_params(axis="x", labelrotation=90)
    ax.tick_params(length=2)
    write_values(ax, values, image, size=size, least=least)
    return image


def write_values(ax: Axes, values: np.ndarray, image: ScalarMappable, *, size: float = 7, least: float = 0) -> None:
    """Write every number of a matrix into its cell, none where it is NaN, and 0 for one smaller than `least`."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            brightness = np.dot(image.to_rgba(value)[:3], (0.3, 0.59, 0.11))
            colour = "white" if brightness < 0.5 else "#222222"
            text, colour = (brief(value), colour) if abs(value) >= least else ("0", "#b0b0b0")
            ax.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def brief(value: float) -> str:
    """Write a number in a few characters, to one significant digit at least: 1234, 56.7, 0.89, 0.012, 3e-5."""
    size = abs(value)
    if size != 0 and not 9.5e-4 <= size < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:.{0 if size == 0 or size >= 100 else 1 if size >= 10 else 2 if size >= 0.0995 else 3}f}"


def colour_bar(
    figure: Figure,
    image: ScalarMappable,
    axes: Axes | Sequence[Axes],
    label: str,
    *,
    over: np.ndarray | None = None,
    **keywords: Any,
) -> Colorbar:
    """Add a colour bar beside the axes that share it; given `over`, show only the part that these values take."""
    bar = figure.colorbar(image, ax=axes, **keywords)
    bar.set_label(label, size=8)
    bar.ax.tick_params(labelsize=7)
    bar.ax.minorticks_off()
    if over is not None and np.isfinite(over).any():
        bar.ax.set_ylim(min(0, np.nanmin(over)), max(0, np.nanmax(over)) or None)
    return bar


def largest(values: np.ndarray) -> float:
    """Give the largest absolute value, of a colour scale: not NaN, and 1 where there is nothing but zeros."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def from_zero(values: np.ndarray, power: float = 1) -> Normalize:
    """Scale colours from 0 to the largest value; a `power` below 1 shows small ones."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(power, vmin=0, vmax=largest(values))


def around_zero(values: np.ndarray, power: float = 1) -> FuncNorm:
    """Scale colours evenly to both sides of 0, to go with `diverging`; a `power` below 1 shows small values."""
    from matplotlib.colors import FuncNorm

    reach = largest(values)
    functions = (lambda x: np.sign(x) * np.abs(x) ** power, lambda x: np.sign(x) * np.abs(x) ** (1 / power))
    return FuncNorm(functions, vmin=-reach, vmax=reach)


def diverging() -> Colormap:
    """Build the colours of signed values: blue below 0, white at 0, red above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("below and above", ["#16324f", TRAIN, "#ffffff", TEST, "#6d1023"])


def frequency_colours(frequencies: Iterable[int]) -> dict[int, str]:
    """Give each frequency its colour, ascending, the same in all figures of one set; they repeat after eight."""
    return {k: PALETTE[i % len(PALETTE)] for i, k in enumerate(sorted(frequencies))}


def together(places: Sequence[float], gap: float) -> list[list[int]]:
    """Group ascending places, by index, that are nearer than `gap` to the one before, so that they share a label."""
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        if groups and place - places[groups[-1][-1]] < gap:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def edges(places: np.ndarray, *, log: bool = False) -> np.ndarray:
    """Give the edges `[n + 1]` of cells around ascending places, halfway between them, also on a logarithmic axis."""
    if log:
        return np.exp(edges(np.log(places)))
    middle = (places[1:] + places[:-1]) / 2
    first, last = (middle[0], middle[-1]) if len(middle) else (places[0] + 0.5, places[0] - 0.5)
    return np.concatenate([[2 * places[0] - first], middle, [2 * places[-1] - last]])
