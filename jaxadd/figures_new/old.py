"""Every picture. Functions take a run's metrics or predictions and give a matplotlib Figure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadd.analysis.shelves import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxadd.analysis.shelves import Shelf
    from jaxadd.fit import Metrics

TRAIN, TEST, OTHER, FLOOR = "#3b6fb6", "#d1495b", "#4a4a4a", "#7d7d7d"
_ARMS = ("#3b6fb6", "#8fb4dd", "#d1495b", "#edae49")
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


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in this module's style, and leave the user's own matplotlib settings as they are."""

    @functools.wraps(draw)
    def styled(*arguments: Any, **keywords: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*arguments, **keywords)

    return styled


@_styled
def curves(metrics: Metrics, title: str, *, log_steps: bool = True) -> Figure:
    """Draw train and test loss (log) and accuracy over steps.

    Args:
      metrics: as in `fit.Result`; with several lanes the median is drawn, over a band of all of them.
      title: of the figure.
      log_steps: draw steps on a logarithmic axis.
    """
    figure, (loss, accuracy) = _panels(2, title, log_steps)
    for name, colour in (("train", TRAIN), ("test", TEST)):
        _line(loss, metrics, f"{name}_loss", colour, name)
        _line(accuracy, metrics, f"{name}_accuracy", colour, name)
    loss.set(yscale="log", ylabel="cross-entropy, nats", title="loss")
    accuracy.set(ylim=(-0.03, 1.03), ylabel="share answered rightly", title="accuracy")
    loss.legend()
    return figure


@_styled
def norms(metrics: Metrics, title: str, *, log_steps: bool = True) -> Figure:
    """Draw the norms of gradient, update and weights over steps; arguments as for `curves`."""
    figure, axes = _panels(3, title, log_steps)
    for ax, name in zip(axes, ("grad_norm", "update_norm", "weight_norm"), strict=True):
        _line(ax, metrics, name, OTHER)
        ax.set(title=name.replace("grad", "gradient").replace("_", " "), ylabel="Euclidean norm")
        if name != "weight_norm":
            ax.set_yscale("log")
    return figure


@_styled
def error_map(wrong: np.ndarray, trained: np.ndarray, title: str) -> Figure:
    """Draw which pairs (a, b) a network answers wrongly.

    Args:
      wrong: bool `[P, P]`, by a and b.
      trained: bool `[P, P]`, the pairs of the train set.
      title: of the figure.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure = _figure((5.6, 6.2), title)
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


@_styled
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
    figure = _figure((8.4, 1.35 * rows + 0.5), title)
    for ax in figure.subplots(rows, 8, squeeze=False).flat:
        ax.set_axis_off()
    for ax, image, target, claim in zip(figure.axes, images[:shown], targets, claims, strict=False):
        side = round(len(image) ** 0.5)
        ax.imshow(image.reshape(side, -1), cmap="Greys", vmin=0, vmax=1)
        ax.set_title(f"{target}, read as {claim}", fontsize=8)
    return figure


@_styled
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
    figure = _figure((4.4 * columns, 3.3 * rows + 0.4), title)
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
        _line(ax, smoothed, "loss", TRAIN)
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


@_styled
def offsets(metrics: Metrics, digits: Sequence[int], title: str) -> Figure:
    """Draw the mean probability of naive digit + o over steps, o = 0, 1 and the rest, for every answer digit.

    Args:
      metrics: of an addition run; the median over lanes is drawn.
      digits: the answer digit at each position read, `[R]`.
      title: of the figure.
    """
    figure = _figure((2.2 * len(digits) + 1.2, 3.1), title)
    axes = figure.subplots(1, len(digits), squeeze=False, sharey=True)[0]
    probability = np.nanmedian(metrics["evaluation/offset"], axis=0)  # [E, R, base]
    step = metrics["evaluation/step"] + 1
    for r, (ax, digit) in enumerate(zip(axes, digits, strict=True)):
        naive, next_one = probability[:, r, 0], probability[:, r, 1]
        parts = {"naive digit": naive, "naive + 1": next_one, "any other": 1 - naive - next_one}
        ax.stackplot(step, *parts.values(), labels=parts, colors=(TRAIN, TEST, "#d9d9d9"))
        ax.set(xscale="log", ylim=(0, 1), title=f"A{digit}", xlabel="step + 1")
        _from_first_evaluation(ax, step)
    axes[0].set_ylabel("mean probability")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@_styled
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
    figure = _figure((1.35 * len(shown) + 1.2, 1.4 * len(digits) + 0.9), title)
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


@_styled
def cascades(metrics: Metrics, title: str) -> Figure:
    """Draw exact match over steps: of uniform problems, and of cascades forced from the units on, by length."""
    figure, (ax,) = _panels(1, title, log_steps=True, width=6)
    _line(ax, metrics, "test_accuracy", OTHER, "uniform")
    from matplotlib import colormaps

    accuracy = metrics["evaluation/accuracy_by_cascade"]
    for length in range(accuracy.shape[-1]):
        lane = {"step": metrics["evaluation/step"], "accuracy": accuracy[..., length]}
        colour = colormaps["viridis_r"](0.15 + 0.75 * length / max(1, accuracy.shape[-1] - 1))
        _line(ax, lane, "accuracy", colour, f"cascade over {length}")
    step = metrics["evaluation/step"] + 1
    ax.set(ylim=(-0.03, 1.03), ylabel="exact match")
    _from_first_evaluation(ax, step)
    ax.legend(fontsize=8, loc="upper left")
    return figure


@_styled
def arms(metrics: Mapping[str, Metrics], steps: Mapping[str, np.ndarray], threshold: float, title: str) -> Figure:
    """Compare the runs of a study: exact match over steps, and when each digit is learned.

    Args:
      metrics: of each arm by name; median and range over lanes are drawn.
      steps: of each arm `[S, A]`, the step at which a lane learned an answer digit; inf for never, drawn as a cross
        at the end.
      threshold: the loss at which a digit counts as learned, nats.
      title: of the figure.
    """
    figure, (match, learned) = _panels(2, title, log_steps=True, width=5.5)
    for i, (name, colour) in enumerate(zip(metrics, _ARMS, strict=False)):
        _line(match, metrics[name], "test_accuracy", colour, name)
        count = steps[name].shape[1]
        for digit in range(count):
            place = count - 1 - digit + (i - (len(metrics) - 1) / 2) * 0.17
            values, end = steps[name][:, digit], metrics[name]["step"][-1]
            for part, mark in ((values[np.isfinite(values)], "o"), (values[np.isinf(values)], "x")):
                at = np.minimum(part, end)
                learned.plot(at, np.full(len(at), place), mark, ms=3.5, color=colour, alpha=0.6)
    match.set(ylim=(-0.03, 1.03), ylabel="exact match, uniform problems", title="all digits right")
    match.legend(loc="upper left", fontsize=8)
    learned.set(title=f"each seed's step to {threshold:g} nats", xlabel="step")
    learned.set_yticks(range(count), [f"A{digit}" for digit in reversed(range(count))])
    learned.invert_yaxis()
    return figure


@_styled
def loss_grid(metrics: Mapping[str, Metrics], title: str) -> Figure:
    """Draw the smoothed train loss of several one-digit runs, each in a panel of its own, a line per lane."""
    columns = min(6, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = _figure((2.3 * columns, 1.9 * rows + 0.6), title)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax in axes[len(metrics) :]:
        ax.set_axis_off()
    for ax, (name, run) in zip(axes, metrics.items(), strict=False):
        smoothed = smooth(run["train_position_loss"][:, :, 0], run["step"])
        ax.plot(run["step"] + 1, smoothed.T, color=TRAIN, lw=0.9, alpha=0.7)
        ax.axhline(np.log(2), color=FLOOR, lw=0.8, ls=(0, (4, 3)))
        ax.set(xscale="log", yscale="log", ylim=(1e-3, 4))
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
    figure.supxlabel("step + 1; dashes at log 2", fontsize=9)
    figure.supylabel("nats", fontsize=9)
    return figure


@_styled
def loss_split(metrics: Mapping[str, Metrics], uncertainty: float, title: str) -> Figure:
    """Draw what the loss of one digit consists of over steps: leak, carry loss, and the floor of the latter.

    Args:
      metrics: of one-digit addition runs by name; medians over lanes are drawn.
      uncertainty: the exact floor of the carry loss where the carry is unknown, nats.
      title: of the figure.
    """
    figure, axes = _panels(len(metrics), title, log_steps=True)
    for ax, (name, run) in zip(axes, metrics.items(), strict=True):
        lanes = {n: run[f"evaluation/{n}"][:, :, 0] for n in ("digit_loss", "leak", "carry_loss")}
        lanes["step"] = run["evaluation/step"]
        _line(ax, lanes, "digit_loss", OTHER, "loss")
        _line(ax, lanes, "leak", TRAIN, "leak: outside naive, naive + 1")
        _line(ax, lanes, "carry_loss", TEST, "carry loss")
        ax.axhline(uncertainty, color=FLOOR, lw=0.8, ls=(0, (4, 3)), label=f"floor, carry unknown: {uncertainty:.3f}")
        ax.set(title=name, ylim=(0, 2.6))
    axes[0].set_ylabel("nats")
    axes[0].legend(fontsize=8)
    return figure


@_styled
def shelf_law(points: Mapping[str, Mapping[int, Mapping[int, Sequence[int | None] | None]]], title: str) -> Figure:
    """Draw steps to leave a shelf by base, a line through the medians for each digit and a dot for each lane.

    Args:
      points: shelf name, digit and base to the steps of each lane, None for never or for no such shelf.
      title: of the figure.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import NullFormatter

    figure, axes = _panels(len(points), title, log_steps=True, width=5)
    for ax, (name, digits) in zip(axes, points.items(), strict=True):
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
        ax.set(title=f"{name} shelf", xlabel="base", yscale="log")
        ax.set_xticks(bases, bases)
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("steps to leave")
    axes[0].legend()
    return figure


def _from_first_evaluation(ax: Axes, step: np.ndarray) -> None:
    """Begin the logarithmic axis at the first evaluation after the start: before it there is one point, far off."""
    from matplotlib.ticker import NullFormatter

    if len(step) > 2:
        ax.set_xlim(step[1], step[-1])
    # The numbers between the powers of ten would run into each other.
    ax.xaxis.set_minor_formatter(NullFormatter())


def _panels(count: int, title: str, log_steps: bool, width: float = 4.2) -> tuple[Figure, np.ndarray]:
    figure = _figure((width * count, 3.6), title)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax in axes:
        ax.set(xlabel="step + 1" if log_steps else "step", xscale="log" if log_steps else "linear")
    return figure, axes


def _figure(size: tuple[float, float], title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=150)
    figure.suptitle(title)
    return figure


def _line(ax: Axes, metrics: Metrics, name: str, colour: str, label: str | None = None) -> None:
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
    ax.plot(step, np.nanmedian(values, axis=0), color=colour, lw=1.4, label=label)
