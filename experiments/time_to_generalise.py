"""Which optimiser, gradient filter, loss or norm generalises first, when each is tuned alike?

Every recipe gets a random search of the same size over its own two numbers, on a seed of its own; the best by steps
to 99 % test accuracy is then trained on eight other seeds. Expected, before it ran: AdamW with a high rate and strong
decay is hard to beat, and the published speed-ups are against untuned baselines. `quick` takes about 40 minutes on
two cores, `debug` a few.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxadd import cli, figures, report, sweeps
from jaxadd.analysis.outcomes import kaplan_meier
from jaxadd.config import RunConfig, Stop, with_values
from jaxadd.errors import UserError
from jaxadd.losses import LabelSmoothing, StableMax
from jaxadd.model import Transformer
from jaxadd.optimizers import AdamW, FixedNorm, GrokfastEMA, GrokfastMA, Lion, Muon, OrthogonalGradient
from jaxadd.sweeps import Axis, Row, Sweep
from jaxadd.tasks import Addition, Modular


def _log(name: str, low: float, high: float) -> Axis:
    return Axis(name, low=low, high=high, log=True)


_RATE = _log("optimizer.lr", 1e-3, 3e-2)
_DECAY = _log("optimizer.weight_decay", 0.3, 10)
# What of RunConfig a recipe sets, and the two numbers that are searched.
RECIPES: Mapping[str, tuple[Mapping[str, Any], tuple[Axis, Axis]]] = {
    "AdamW": ({}, (_RATE, _DECAY)),
    "Lion": ({"optimizer": Lion()}, (_log("optimizer.lr", 1e-4, 3e-3), _log("optimizer.weight_decay", 1, 30))),
    "Muon": ({"optimizer": Muon()}, (_log("optimizer.lr", 3e-3, 1e-1), _log("optimizer.weight_decay", 0.1, 3))),
    "Grokfast EMA": ({"gradient": GrokfastEMA()}, (_RATE, _log("gradient.gain", 0.3, 5))),
    "Grokfast window": ({"gradient": GrokfastMA(window=20)}, (_RATE, _log("gradient.gain", 0.3, 5))),
    "⊥Grad": ({"gradient": OrthogonalGradient()}, (_RATE, _DECAY)),
    "StableMax": ({"loss": StableMax()}, (_RATE, _DECAY)),
    "label smoothing": ({"loss": LabelSmoothing()}, (_RATE, _log("loss.amount", 0.01, 0.3))),
    "fixed norm": (
        {"optimizer": AdamW(weight_decay=0.0), "norm": FixedNorm()},
        (_RATE, _log("init_scale", 0.2, 1)),
    ),
    "small init": ({}, (_RATE, _log("init_scale", 0.2, 1))),
}


@dataclass(frozen=True)
class Contest:
    """Recipes, each searched and then repeated."""

    task: Literal["modular", "addition"] = "modular"
    """mod 113 from 30 % of the sums, or five digits, units first"""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """which take part"""
    points: int = 6
    """settings tried of each recipe"""
    steps: int = 1_000
    """updates at most"""
    seeds: tuple[int, ...] = tuple(range(8))
    """of the repetition; the search takes the one after the last"""
    tiny: bool = field(default=False)
    """a network of a few neurons, to see that all runs"""

    def __post_init__(self) -> None:
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
            stop=Stop("test_accuracy", 0.99),
        )
        if self.tiny:
            task = Modular(p=7, train_fraction=0.6) if self.task == "modular" else Addition(digits=1, batch_size=16)
            config = dataclasses.replace(config, task=task, model=Transformer(d_model=16, heads=2, d_mlp=32))
        return dataclasses.replace(config, **RECIPES[recipe][0])

    def search(self, recipe: str) -> Sweep:
        """Give the search of a recipe."""
        seeds = (max(self.seeds) + 1,)
        return Sweep(
            dataclasses.replace(self.base(recipe), seeds=seeds), RECIPES[recipe][1], "random", points=self.points
        )


PRESETS = {
    "quick": Contest(),
    "addition": Contest(task="addition", steps=1_500),
    "debug": Contest(points=2, steps=30, seeds=(0, 1), tiny=True),
}


def contend(contest: Contest, folder: Path, watching: Any) -> cli.Findings:
    """Search and repeat every recipe, and set them beside each other."""
    columns = ("steps, median (quartiles)", "seconds, median (quartiles)", "steps in the search")
    table = [("recipe", "found", "reached", *columns)]
    curves, rows = {}, {}
    for recipe in contest.recipes:
        name = recipe.replace(" ", "-").replace("⊥", "orthogonal-")
        search = contest.search(recipe)
        tried = sweeps.run(search, folder / name / "search", watching=watching(f"{recipe}, search "))
        best = min(tried, key=_merit)
        setting = {axis.name: best[axis.name] for axis in search.axes}
        final = Sweep(with_values(contest.base(recipe), setting))
        rows[recipe] = found = sweeps.run(final, folder / name / "seeds", watching=watching(f"{recipe} "))
        steps = [row[_REACHED] for row in found]
        spent = [row["seconds"] if row[_REACHED] is not None else None for row in found]
        curves[recipe] = kaplan_meier(steps, [row["steps"] for row in found])
        said = ", ".join(f"{k.rpartition('.')[2]} {v:.2g}" for k, v in setting.items())
        searched = report.spread([row[_REACHED] for row in tried])
        reached = f"{sum(step is not None for step in steps)} of {len(steps)}"
        table.append((recipe, said, reached, _quartiles(steps, "{:,.0f}"), _quartiles(spent, "{:.1f}"), searched))
    head, *body = table
    order = sorted(range(len(body)), key=lambda i: _middle([r[_REACHED] for r in rows[contest.recipes[i]]]))
    text = (
        f"to 99 % test accuracy, at most {contest.steps:,} steps, {len(contest.seeds)} seeds of the best of "
        f"{contest.points} settings each\n{report.table([head, *(body[i] for i in order)])}"
    )
    title = f"{contest.base(contest.recipes[0]).task.title}, {len(contest.seeds)} seeds of each recipe"
    return cli.Findings({"survival": figures.survival(curves, title)}, text)


_REACHED = "step_of_test_accuracy_0.99"


def _merit(row: Row) -> tuple:
    """Order settings: those that reach it by when, the others by the test loss that they end with."""
    reached, loss = row[_REACHED], row["final_test_loss"]
    return (np.inf if reached is None else reached, np.inf if loss is None else loss)


def _middle(values: Sequence[float | None]) -> float:
    return float(np.median([np.inf if v is None else v for v in values]))


def _quartiles(values: Sequence[float | None], form: str) -> str:
    known = np.array([np.inf if v is None else v for v in values], float)
    quartiles = np.quantile(known, (0.25, 0.5, 0.75), method="nearest")
    low, middle, high = ("never" if np.isinf(v) else form.format(v) for v in quartiles)
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(cli.contest("experiments.time_to_generalise", __doc__, PRESETS, contend))
