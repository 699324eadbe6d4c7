"""What all figures use: colours, style, curves of lanes over steps, heat maps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxadd.pictures import START, band, log_from, log_label
from jaxadd.views.colours import ABSENT, DIVERGING, LINES, SEQUENTIAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap, FuncNorm, Normalize
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.ticker import Locator

    from jaxadd.types import Metrics

OTHER, FLOOR = "#4a4a4a", "#7d7d7d"
PALETTE = (*LINES[:2], *LINES[3:])
ARMS = (PALETTE[0], PALETTE[6], PALETTE[1], PALETTE[2])
_STYLE: dict[Any, Any] = {
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
    """Draw in this module's style, and leave the user's matplotlib settings as they are."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, **keywords: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*arguments, **keywords)

    return drawn


def panels(count: int, title: str, width: float = 4.2) -> tuple[Figure, np.ndarray]:
    """Begin a figure with a row of panels over steps; `width` is that of one, inches."""
    figure = new_figure((width * count, 3.6), title)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax in axes:
        ax.set_xlabel("step")
    return figure, axes


def new_figure(
    size: tuple[float, float],
    title: str,
    layout: Literal["constrained", "compressed"] = "constrained",
    title_size: float = 12,
) -> Figure:
    """Begin an empty figure of a size in inches; layout "compressed" is for panels whose sides have a fixed ratio."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout, dpi=150)
    figure.suptitle(title, fontsize=title_size)
    return figure


def curve(
    ax: Axes, x: np.ndarray, values: np.ndarray, colour: Any, label: str | None = None, *, log_y: bool = False
) -> None:
    """Draw values `[T]` or `[S, T]` over x: the median over lanes, and a band of all of them; NaN is not drawn."""
    if log_y:  # What is 0, such as the update of a warm-up's first step, has no place on a logarithmic axis.
        values = np.where(np.asarray(values) > 0, values, np.nan)
    low, middle, high = band(values)
    known = ~np.isnan(middle)
    if np.ndim(values) > 1 and len(values) > 1:
        ax.fill_between(x[known], low[known], high[known], color=colour, alpha=0.2, lw=0)
    alone = known.sum() == 1  # A line through one point cannot be seen.
    ax.plot(x[known], middle[known], color=colour, lw=1.4, label=label, marker="o" if alone else None, ms=4)


def line(ax: Axes, metrics: Metrics, name: str, colour: str, label: str | None = None) -> None:
    """Draw a measure of a run over steps, on a logarithmic axis; see `curve` and `log_axis`."""
    curve(ax, metrics["step"], metrics[name], colour, label)
    log_axis(ax, metrics["step"])


def plain_ticks(axis: Axis) -> None:
    """Write a logarithmic axis that spans little more than a decade with plain numbers, and no other axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    if high < 30 * low:
        # Below a ratio of 5, fewer than two of 1, 2 and 5 may be on the axis.
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high >= 5 * low else MaxNLocator(4, steps=(1, 2, 5, 10)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def log_axis(ax: Axes, x: np.ndarray, label: str = "step") -> None:
    """Make the x axis logarithmic over ascending values; from 0 to the next value it is linear, as its label says.

    Args:
      ax: the axes.
      x: `[T]`, such as steps.
      label: what they are; "" where a label is shared with other axes, which is then that of `log_label`.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    if label:
        ax.set_xlabel(log_label(label, x))
    begin, start, end = x[0], log_from(x), x[-1]
    if start is None:
        ax.locator_params(axis="x", nbins=5)
        return
    if begin < start:
        # Matplotlib gives the linear part linscale / 0.9 decades.
        room = START / (1 - START) * np.log10(end / start)
        ax.set_xscale("symlog", linthresh=start, linscale=0.9 * room)
    else:
        ax.set_xscale("log")
    ax.set_xlim(begin, end)
    named = _ticks(start, end)
    ax.xaxis.set_major_locator(FixedLocator([*([begin] * bool(begin < start)), *named]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: step_name(value)))
    decades = 10.0 ** np.arange(np.floor(np.log10(start)), np.ceil(np.log10(end)))
    between = np.outer(decades, np.arange(1, 10)).ravel()
    ax.xaxis.set_minor_locator(FixedLocator(between[(between >= start) & (between <= end)]))
    # The numbers between the powers of ten would run into each other.
    ax.xaxis.set_minor_formatter(NullFormatter())


def _ticks(low: float, high: float) -> np.ndarray:
    """Return which values of a logarithmic axis are named: powers of ten, and others where these are few."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if high < 5 * low:  # Fewer than two of 1, 2 and 5 may be on the axis.
        locator: Locator = MaxNLocator(4, steps=(1, 2, 5, 10))
    else:
        locator = LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,), numticks=8)
    found = np.asarray(locator.tick_values(low, high))
    return found[(found >= low) & (found <= high)]


def step_name(value: float) -> str:
    """Return a value of a logarithmic axis as it is written: 0, 10, 2,000, and powers of ten from 10⁵ on."""
    power = round(np.log10(value)) if value > 0 else 0
    return rf"$10^{{{power}}}$" if value >= 1e5 and 10**power == value else f"{value:,g}"


def heat(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    cmap: str | Colormap | None = None,
    norm: Normalize,
    size: float = 8,
) -> ScalarMappable:
    """Draw a matrix, first row at the top, grey where it is NaN; `size` is of the ticks, points.

    Colours are those of `sequential` by default.
    """
    cmap = sequential() if cmap is None else cmap
    image = ax.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
    ax.grid(visible=False)
    ax.set_facecolor(ABSENT)
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        if names is not None:
            axis.set_ticks(range(len(names)), names)
    ax.tick_params(labelsize=size)
    return image


def write_values(ax: Axes, values: np.ndarray, image: ScalarMappable, *, size: float = 7, least: float = 0) -> None:
    """Write every number of a matrix into its cell, none where it is NaN, and 0 for one smaller than `least`.

    Where all are whole, as counts are, they are written as such.
    """
    write = "{:,.0f}".format if (values[np.isfinite(values)] % 1 == 0).all() else brief
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            brightness = np.dot(image.to_rgba(value)[:3], (0.3, 0.59, 0.11))
            colour = "white" if brightness < 0.5 else "#222222"
            text, colour = (write(value), colour) if abs(value) >= least else ("0", "#b0b0b0")
            ax.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def brief(value: float) -> str:
    """Return a number in a few characters, to one significant digit at least: 1234, 56.7, 0.89, 0.012, 3e-5."""
    size = abs(value)
    if size != 0 and not 9.5e-4 <= size < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:.{0 if size == 0 or size >= 100 else 1 if size >= 10 else 2 if size >= 0.0995 else 3}f}"


def colour_bar(
    figure: FigureBase,
    image: ScalarMappable,
    axes: Axes | Sequence[Axes],
    label: str,
    *,
    over: np.ndarray | None = None,
    **keywords: Any,
) -> Colorbar:
    """Add a colour bar beside its axes, or in `cax`; given `over`, show only the part that these values take."""
    bar = figure.colorbar(image, ax=None if "cax" in keywords else axes, **keywords)
    bar.set_label(label, size=8)
    bar.ax.tick_params(labelsize=7)
    bar.ax.minorticks_off()
    if over is not None and np.isfinite(over).any():
        bar.ax.set_ylim(min(0, np.nanmin(over)), max(0, np.nanmax(over)) or None)
    return bar


def largest(values: np.ndarray) -> float:
    """Return the largest absolute value, of a colour scale: not NaN, and 1 where there is nothing but zeros."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def from_zero(values: np.ndarray, power: float = 1) -> Normalize:
    """Return the scale of colours from 0 to the largest value; a `power` below 1 shows small ones."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(power, vmin=0, vmax=largest(values))


def around_zero(values: np.ndarray, power: float = 1) -> FuncNorm:
    """Return the scale of colours alike on both sides of 0, for `diverging`; a `power` below 1 shows small values."""
    from matplotlib.colors import FuncNorm

    reach = largest(values)
    functions = (lambda x: np.sign(x) * np.abs(x) ** power, lambda x: np.sign(x) * np.abs(x) ** (1 / power))
    return FuncNorm(functions, vmin=-reach, vmax=reach)


def scale_of(colours: Sequence[str]) -> Colormap:
    """Return a scale of colours, given a few of them; see `views.colours`."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("scale", list(colours))


def sequential() -> Colormap:
    """Return the colours of values from the least to the largest."""
    return scale_of(SEQUENTIAL)


def diverging() -> Colormap:
    """Return the colours of signed values, with those of 0 in the middle."""
    return scale_of(DIVERGING)


def together(places: Sequence[float], gap: float) -> list[list[int]]:
    """Group ascending places, by index, that are nearer than `gap` to the one before, to be named together."""
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        if groups and place - places[groups[-1][-1]] < gap:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def edges(places: np.ndarray) -> np.ndarray:
    """Return the edges `[n + 1]` of cells around ascending places, halfway between them."""
    middle = (places[1:] + places[:-1]) / 2
    first, last = (middle[0], middle[-1]) if len(middle) else (places[0] + 0.5, places[0] - 0.5)
    return np.concatenate([[2 * places[0] - first], middle, [2 * places[-1] - last]])


def log_edges(x: np.ndarray) -> np.ndarray:
    """Return the edges of cells around ascending values, halfway between them as `log_axis` draws them."""
    start = log_from(x)
    if start is None:
        return edges(x)
    room = START / (1 - START) * np.log(x[-1] / start)
    with np.errstate(divide="ignore"):
        cells = edges(np.where(x < start, room * x / start, room + np.log(x / start)))
    return np.where(cells < room, start * cells / room, start * np.exp(cells - room))
