"""Which optimiser, gradient filter, loss or norm generalises first, when each is tuned alike?

Every recipe gets a random search of the same size, on a seed of its own, over learning rate, weight decay and the
numbers that it has besides. The two best by steps to 99 % test accuracy are then trained on eight other seeds, for a
single seed favours settings at the edge of what training bears; the one that brings more of them there, or else
sooner, stands for the recipe. Expected, before it ran:
AdamW with a high rate and strong decay is hard to beat, and the published speed-ups are against untuned baselines.
`quick` takes about an hour on two cores, `addition` half of it, `debug` a few minutes. Several processes may share
the work: start each with its own --recipes and the same --name, then the same without --recipes for the comparison.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxadd import sweeps
from jaxadd.cli import experiment
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.optim.filters import FixedNorm, GrokfastEMA, GrokfastMA, OrthogonalGradient
from jaxadd.optim.losses import LabelSmoothing, StableMax
from jaxadd.optim.optimizers import AdamW, Lion, Muon
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.sweeps import Axis, Row, Sweep
from jaxadd.sweeps.outcomes import or_never, quantiles
from jaxadd.tasks import Addition, Modular
from jaxadd.views import figures, terminal


def _log(name: str, low: float, high: float) -> Axis:
    return Axis(name, low=low, high=high, log=True)


class Recipe(NamedTuple):
    """What is searched, and what of RunConfig is set.

    Attributes:
      fields: of RunConfig.
      own: numbers searched beside learning rate and weight decay.
      rate: times AdamW's range of learning rates.
      decay: times AdamW's range of weight decays; None where there is none to search.
    """

    fields: Mapping[str, Any] = {}
    own: tuple[Axis, ...] = ()
    rate: float = 1.0
    decay: float | None = 1.0


RECIPES = {
    "AdamW": Recipe(),
    "Lion": Recipe({"optimizer": Lion()}, rate=0.1, decay=3.0),
    "Muon": Recipe({"optimizer": Muon()}, (_log("optimizer.adam_lr", 1e-3, 3e-2),), rate=3.0, decay=0.3),
    "Grokfast EMA": Recipe({"gradient": GrokfastEMA()}, (_log("gradient.gain", 0.3, 5),)),
    "Grokfast window": Recipe({"gradient": GrokfastMA(window=20)}, (_log("gradient.gain", 0.3, 5),)),
    "⊥Grad": Recipe({"gradient": OrthogonalGradient()}),
    "StableMax": Recipe({"loss": StableMax()}),
    "label smoothing": Recipe({"loss": LabelSmoothing()}, (_log("loss.amount", 0.01, 0.3),)),
    "fixed norm": Recipe(
        {"optimizer": AdamW(weight_decay=0.0), "norm": FixedNorm()}, (_log("init_scale", 0.2, 1),), decay=None
    ),
    "small init": Recipe({}, (_log("init_scale", 0.1, 0.5),)),
}
# AdamW's learning rates and weight decays, by task.
_RATES = {"modular": (1e-3, 3e-2), "addition": (5e-4, 1e-2)}
_DECAYS = {"modular": (0.1, 10.0), "addition": (0.01, 3.0)}
FINALISTS = 2
_REACHED = step_of(LEARNED["test"])


@dataclass(frozen=True)
class Contest:
    """Recipes, each searched and then repeated."""

    task: Literal["modular", "addition"] = "modular"
    """mod 113 from 30 % of the sums, or five digits, units first"""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """which take part"""
    points: int = 8
    """settings tried of each recipe"""
    steps: int = 600
    """updates at most"""
    seeds: tuple[int, ...] = tuple(range(8))
    """of the repetition; the search takes the one after the last"""
    tiny: bool = False
    """a network of a few neurons, to see that all runs"""

    def __post_init__(self) -> None:
        if not self.recipes:
            raise UserError(f"no recipe takes part; there are {', '.join(RECIPES)}")
        if len(set(self.recipes)) < len(self.recipes):
            raise UserError(f"every recipe takes part once, got {', '.join(self.recipes)}")
        if self.points < 1:
            raise UserError(f"--points must be at least 1, got {self.points}")
        if unknown := [name for name in self.recipes if name not in RECIPES]:
            raise UserError(f"no recipe is named {', '.join(unknown)}; there are {', '.join(RECIPES)}")

    def base(self, recipe: str) -> RunConfig:
        """Give the run of a recipe before anything is searched."""
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
        return dataclasses.replace(config, **RECIPES[recipe].fields)

    def search(self, recipe: str) -> Sweep:
        """Give the search of a recipe."""
        base, chosen = dataclasses.replace(self.base(recipe), seeds=(max(self.seeds) + 1,)), RECIPES[recipe]
        ranges = [("optimizer.lr", _RATES, chosen.rate), ("optimizer.weight_decay", _DECAYS, chosen.decay)]
        axes = [
            _log(name, *(factor * end for end in by_task[self.task]))
            for name, by_task, factor in ranges
            if factor is not None
        ]
        return Sweep(base, (*axes, *chosen.own), "random", points=self.points)


PRESETS = {
    "quick": Contest(),
    "addition": Contest(task="addition", steps=1_500),
    "debug": Contest(points=2, steps=30, seeds=(0, 1), tiny=True),
}


def contend(contest: Contest, train: Callable[[Sweep, str, str], list[Row]]) -> experiment.Findings:
    """Search and repeat every recipe, each sweep by `train`, and set them beside each other."""
    head = (
        "recipe",
        "finalists",
        "reached",
        "steps, median (quartiles)",
        "seconds",
        "settings that arrive in the search",
    )
    curves, standings = {}, []
    for recipe in contest.recipes:
        name = recipe.replace(" ", "-").replace("⊥", "orthogonal-")
        search = contest.search(recipe)
        tried = train(search, f"{name}/search", f"{recipe}, search")
        best = sorted(tried, key=_merit)[:FINALISTS]
        axes = tuple(Axis(axis.name, tuple(row[axis.name] for row in best)) for axis in search.axes)
        repeated = Sweep(contest.base(recipe), axes, "list")
        rows = train(repeated, f"{name}/finalists", f"{recipe}, finalists")
        each = len(contest.seeds)
        finals = [(row, rows[i * each : (i + 1) * each]) for i, row in enumerate(best)]
        finals.sort(key=lambda final: _standing(final[1]))
        curves[recipe] = sweeps.survival(finals[0][1], _REACHED, contest.steps)
        arrived = f"{sum(row[_REACHED] is not None for row in tried)} of {len(tried)}"
        lines = [
            (recipe if i == 0 else "", _said(row, axes), *_outcome(found), arrived if i == 0 else "")
            for i, (row, found) in enumerate(finals)
        ]
        standings.append((_standing(finals[0][1]), lines))
    table = [head, *itertools.chain.from_iterable(lines for _, lines in sorted(standings))]
    text = (
        f"to 99 % test accuracy, at most {contest.steps:,} steps, {len(contest.seeds)} seeds of the {FINALISTS} best "
        f"of {contest.points} settings each\n{terminal.table(table)}"
    )
    title = f"{contest.base(contest.recipes[0]).task.title}, {len(contest.seeds)} seeds of each recipe"
    return experiment.Findings({"survival": figures.survival(curves, title)}, text)


def _merit(row: Row) -> tuple:
    """Order settings: by the step at which they reach it; the others by what they end with, diverged ones last."""
    (reached,) = or_never([row[_REACHED]])
    return reached, row["status"] == "diverged", -(row["final_test_accuracy"] or 0)


def _standing(rows: Sequence[Row]) -> tuple[int, float]:
    """Order finalists: by the seeds that arrive, then by the median step."""
    steps = [row[_REACHED] for row in rows]
    return steps.count(None), quantiles(steps)[1]


def _said(row: Row, axes: Sequence[Axis]) -> str:
    return ", ".join(f"{axis.name.rpartition('.')[2]} {row[axis.name]:.2g}" for axis in axes)


def _outcome(rows: Sequence[Row]) -> tuple[str, str, str]:
    steps = [row[_REACHED] for row in rows]
    return f"{len(steps) - steps.count(None)} of {len(steps)}", _quartiles(steps, "{:,.0f}"), _seconds(rows)


def _quartiles(values: Sequence[float | None], form: str) -> str:
    low, middle, high = ("never" if np.isinf(v) else form.format(v) for v in quantiles(values))
    return "never" if low == "never" else f"{middle} ({low} to {high})"


def _seconds(rows: Sequence[Row]) -> str:
    return _quartiles([None if row[_REACHED] is None else row["seconds"] for row in rows], "{:.1f}")


if __name__ == "__main__":
    sys.exit(experiment.contest("experiments.time_to_generalise", __doc__, PRESETS, contend))
