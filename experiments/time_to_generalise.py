"""Which optimiser, gradient filter, loss or norm generalises first, when each is tuned alike?

Every method gets a random search of the same size, on a seed of its own, over learning rate, weight decay and the
numbers that it has besides. Its two best settings by steps to 99 % test accuracy are then trained on eight other
seeds, for a single seed favours settings at the edge of what training bears; the one that brings more of them there,
or else sooner, stands for the method. Expected, before it ran: AdamW with a high rate and strong decay is hard to
beat, and the published speed-ups are against untuned baselines. `quick` takes about an hour on two cores, `addition`
half of it, `debug` a few minutes. Several processes may divide the work: start each with its own --methods and the
same --name, then the same without --methods for the comparison.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxadd import sweeps
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.errors import UserError, check_names
from jaxadd.models import Transformer
from jaxadd.optim.filters import FixedNorm, GrokfastEMA, GrokfastMA, OrthogonalGradient
from jaxadd.optim.losses import LabelSmoothing, StableMax
from jaxadd.optim.optimizers import AdamW, Lion, Muon
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.sweeps import Axis, Row, Sweep
from jaxadd.tables import or_never, quantiles, table
from jaxadd.tasks import Addition, Modular
from jaxadd.views import figures


def _log(name: str, low: float, high: float) -> Axis:
    return Axis(name, low=low, high=high, log=True)


class Method(NamedTuple):
    """A way to train: which fields of RunConfig it sets, and what is searched.

    Attributes:
      title: in tables and figures.
      fields: of RunConfig, with their values.
      axes: numbers searched beside learning rate and weight decay.
      rate: multiplies AdamW's range of learning rates.
      decay: multiplies AdamW's range of weight decays; None for a method without.
    """

    title: str
    fields: Mapping[str, Any] = {}
    axes: tuple[Axis, ...] = ()
    rate: float = 1.0
    decay: float | None = 1.0


METHODS = {
    "adamw": Method("AdamW"),
    "lion": Method("Lion", {"optimizer": Lion()}, rate=0.1, decay=3.0),
    "muon": Method("Muon", {"optimizer": Muon()}, (_log("optimizer.adam_lr", 1e-3, 3e-2),), rate=3.0, decay=0.3),
    "grokfast-ema": Method("Grokfast EMA", {"gradient": GrokfastEMA()}, (_log("gradient.gain", 0.3, 5),)),
    "grokfast-ma": Method("Grokfast window", {"gradient": GrokfastMA(window=20)}, (_log("gradient.gain", 0.3, 5),)),
    "orthogonal-gradient": Method("⊥Grad", {"gradient": OrthogonalGradient()}),
    "stable-max": Method("StableMax", {"loss": StableMax()}),
    "label-smoothing": Method("label smoothing", {"loss": LabelSmoothing()}, (_log("loss.amount", 0.01, 0.3),)),
    "fixed-norm": Method(
        "fixed norm",
        {"optimizer": AdamW(weight_decay=0.0), "norm": FixedNorm()},
        (_log("init_scale", 0.2, 1),),
        decay=None,
    ),
    "small-init": Method("small init", {}, (_log("init_scale", 0.1, 0.5),)),
}
# AdamW's learning rates and weight decays, by task.
_RATES = {"modular": (1e-3, 3e-2), "addition": (5e-4, 1e-2)}
_DECAYS = {"modular": (0.1, 10.0), "addition": (0.01, 3.0)}
BEST = 2  # Settings of each method that are trained on all seeds.
_REACHED = step_of(LEARNED["test"])

Train = Callable[[Sweep, str, str], list[Row]]
"""Trains a sweep in a folder of that name, with a label before its bars; returns a row per lane."""


@dataclass(frozen=True)
class Comparison:
    """Methods, each searched and then repeated on other seeds."""

    task: Literal["modular", "addition"] = "modular"
    """what is learned: addition mod 113 from 30 % of the sums, or five digits, units first"""
    methods: tuple[str, ...] = tuple(METHODS)
    """methods that are compared"""
    points: int = 8
    """settings tried of each method"""
    steps: int = 600
    """the most updates of a lane"""
    seeds: tuple[int, ...] = tuple(range(8))
    """seeds that the best settings are trained on; the search takes the one after the last"""
    tiny: bool = False
    """train a network of a few neurons, to see that everything runs"""

    def __post_init__(self) -> None:
        check_names("method", self.methods, METHODS)
        if self.points < 1:
            raise UserError(f"--points must be at least 1, got {self.points}")

    def base(self, method: str) -> RunConfig:
        """Return the run of a method before anything is searched."""
        task = Modular() if self.task == "modular" else Addition(answer_order="lsd")
        config = RunConfig(
            task=task,
            optimizer=AdamW(lr=1e-2, weight_decay=1.0),
            steps=self.steps,
            seeds=self.seeds,
            checkpoint_every=max(1, self.steps // 2),
            stop=LEARNED["test"],
        )
        if self.tiny:
            task = Modular(p=7, train_fraction=0.6) if self.task == "modular" else Addition(digits=1, batch_size=16)
            config = dataclasses.replace(config, task=task, model=Transformer(d_model=16, heads=2, d_mlp=32))
        return dataclasses.replace(config, **METHODS[method].fields)

    def search(self, method: str) -> Sweep:
        """Return the search of a method's settings."""
        base, chosen = dataclasses.replace(self.base(method), seeds=(max(self.seeds) + 1,)), METHODS[method]
        ranges = [("optimizer.lr", _RATES, chosen.rate), ("optimizer.weight_decay", _DECAYS, chosen.decay)]
        axes = [
            _log(name, *(factor * end for end in by_task[self.task]))
            for name, by_task, factor in ranges
            if factor is not None
        ]
        return Sweep(base, (*axes, *chosen.axes), "random", points=self.points)


PRESETS = {
    "quick": Comparison(),
    "addition": Comparison(task="addition", steps=1_500),
    "debug": Comparison(points=2, steps=30, seeds=(0, 1), tiny=True),
}


def conduct(comparison: Comparison, session: Session) -> Findings:
    """Search and repeat every method, and compare them."""

    def train(sweep: Sweep, name: str, label: str) -> list[Row]:
        rows = session.sweep(sweep, name, label)
        assert rows is not None, "a process on its own trains all lanes"
        return rows

    return compare(comparison, train)


def compare(comparison: Comparison, train: Train) -> Findings:
    """Search and repeat every method, each sweep by `train`, and compare them: the first to arrive comes first."""
    heading = (
        "method",
        "best settings",
        "reached",
        "steps, median (quartiles)",
        "seconds",
        "settings that arrive in the search",
    )
    count = len(comparison.seeds)
    curves, ranked = {}, []
    for name in comparison.methods:
        title, search = METHODS[name].title, comparison.search(name)
        tried = train(search, f"{name}/search", f"{title}, search")
        best = sorted(tried, key=_merit)[:BEST]
        axes = tuple(Axis(axis.name, tuple(row[axis.name] for row in best)) for axis in search.axes)
        repeated = Sweep(comparison.base(name), axes, "list")
        rows = train(repeated, f"{name}/best", f"{title}, best settings")
        settings = [(row, rows[i * count : (i + 1) * count]) for i, row in enumerate(best)]
        settings.sort(key=lambda setting: _rank(setting[1]))
        curves[title] = sweeps.survival(settings[0][1], _REACHED, comparison.steps)
        arrived = f"{sum(row[_REACHED] is not None for row in tried)} of {len(tried)}"
        cells = [
            (title if i == 0 else "", _values(row, axes), *_outcome(lanes), arrived if i == 0 else "")
            for i, (row, lanes) in enumerate(settings)
        ]
        ranked.append((_rank(settings[0][1]), cells))
    text = (
        f"to 99 % test accuracy, at most {comparison.steps:,} steps, {count} seeds of the {BEST} best of "
        f"{comparison.points} settings each\n"
        f"{table([heading, *itertools.chain.from_iterable(cells for _, cells in sorted(ranked))])}"
    )
    title = f"{comparison.base(comparison.methods[0]).task.title}, {count} seeds of each method"
    return Findings({"survival": figures.survival(curves, title)}, text)


def _merit(row: Row) -> tuple:
    """Order settings: by the step at which they arrive; the others by their final accuracy, diverged ones last."""
    (reached,) = or_never([row[_REACHED]])
    return reached, row["status"] == "diverged", -(row["final_test_accuracy"] or 0)


def _rank(rows: Sequence[Row]) -> tuple[int, float]:
    """Order best settings: by the number of seeds that arrive, then by the median step."""
    steps = [row[_REACHED] for row in rows]
    return steps.count(None), quantiles(steps)[1]


def _values(row: Row, axes: Sequence[Axis]) -> str:
    return ", ".join(f"{axis.name.rpartition('.')[2]} {row[axis.name]:.2g}" for axis in axes)


def _outcome(rows: Sequence[Row]) -> tuple[str, str, str]:
    steps = [row[_REACHED] for row in rows]
    seconds = [None if row[_REACHED] is None else row["seconds"] for row in rows]
    reached = f"{len(steps) - steps.count(None)} of {len(steps)}"
    return reached, _quartiles(steps, "{:,.0f}"), _quartiles(seconds, "{:.1f}")


def _quartiles(values: Sequence[float | None], form: str) -> str:
    low, middle, high = ("never" if np.isinf(v) else form.format(v) for v in quantiles(values))
    return "never" if low == "never" else f"{middle} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
