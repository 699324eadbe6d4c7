"""Train one setting over many seeds, and over any axes besides: when does each network learn?

Each seed has its own initial parameters, batches and split. Expected of `mainline`, the setting of Nanda et al.
(2023), addition mod 113 from 30 % of its sums: every seed generalises, between steps 5,000 and 15,000; of `quick`, a
higher rate and more decay: at 500 to 1,000; of `fast`, the quickest setting in which all arrive: at 100 to 250. A
lane ends once it answers 99 % of the test set correctly. On two cores `mainline` takes forty minutes, `quick` three
and `fast` one; on a CPU lanes are trained in turn, on an accelerator side by side. `addition` and `digits` are other
tasks, and `debug` takes seconds.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxadd import sweeps
from jaxadd.cli.arguments import SweepConfig, kebab
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig, Stop
from jaxadd.models import MLP, Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.sweeps import Row, Sweep
from jaxadd.tables import quantiles, spread, table
from jaxadd.tasks import Addition, HandwrittenDigits, Modular
from jaxadd.views import figures
from jaxadd.views.figures.sweeps import NAMED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EIGHT = tuple(range(8))
TABLED = 40  # The most settings that a table shows.
PRESETS = {
    "mainline": SweepConfig(RunConfig(steps=30_000, seeds=EIGHT, checkpoint_every=2_500, stop=LEARNED["test"])),
    "quick": SweepConfig(
        RunConfig(optimizer=AdamW(lr=3e-3, weight_decay=3.0), steps=1_500, seeds=EIGHT, stop=LEARNED["test"])
    ),
    "fast": SweepConfig(
        RunConfig(optimizer=AdamW(lr=1e-2, weight_decay=3.0), steps=1_000, seeds=EIGHT, stop=LEARNED["test"])
    ),
    "addition": SweepConfig(
        RunConfig(
            task=Addition(answer_order="lsd"),
            optimizer=AdamW(weight_decay=0.1),
            steps=3_000,
            seeds=EIGHT,
            eval_every=25,
            stop=LEARNED["test"],
        )
    ),
    "digits": SweepConfig(
        RunConfig(
            task=HandwrittenDigits(),
            model=MLP(),
            optimizer=AdamW(),
            steps=2_000,
            seeds=EIGHT,
            stop=Stop("test_accuracy", 0.95),
        )
    ),
    "debug": SweepConfig(
        RunConfig(
            task=Modular(p=7, train_fraction=0.6),
            model=Transformer(d_model=16, heads=2, d_mlp=32),
            optimizer=AdamW(lr=1e-2),
            steps=60,
            seeds=(0, 1, 2, 3),
            eval_every=5,
            checkpoint_every=20,
            stop=LEARNED["test"],
        )
    ),
}


def conduct(config: SweepConfig, session: Session) -> Findings | None:
    """Train every lane, and show when those of each setting learn."""
    sweep = config.sweep()
    rows = session.sweep(sweep)
    return None if rows is None else summarize(sweep, session.folder, rows)


def summarize(sweep: Sweep, folder: Path, rows: Sequence[Row]) -> Findings:
    """Show when the lanes of each setting learned: a table, curves, and survival curves.

    Args:
      sweep: over any axes.
      folder: of the sweep.
      rows: one per lane.
    """
    base, axes = sweep.base, [axis.name for axis in sweep.axes]
    stop = base.stop if base.stop.metric != "none" else LEARNED["test"]
    learned = step_of(stop)
    groups = by_setting(rows, axes)
    if len(groups) > NAMED:
        step = lambda group: tuple(quantiles([row[learned] for row in group[1]], (0.5, 0.25, 0)))
        groups = dict(sorted(groups.items(), key=step))
    names = [key for key in rows[0] if key.startswith("step_of_")]
    cells = [("setting", "lanes", "diverged", *(name.removeprefix("step_of_").replace("_", " ") for name in names))]
    for name, members in list(groups.items())[:TABLED]:
        steps = (spread([row[key] for row in members]) for key in names)
        cells.append((name, str(len(members)), str(sum(row["status"] == "diverged" for row in members)), *steps))
    text = f"first step of each threshold: median (range), how many reached it\n{table(cells)}"
    if len(groups) > TABLED:
        text += f"\n{len(groups) - TABLED} settings that are later follow in sweep.csv"
    seconds = sum(row["seconds"] for row in rows)
    rate = sum(row["steps"] for row in rows) / max(seconds, 1e-9)
    text += f"\n{len(rows)} lanes in {seconds:,.0f} s of training alone: {rate:,.0f} lane-steps a second"
    # The title of the task may name a number that is an axis.
    varies = any(name.startswith("task.") for name in axes)
    task = kebab(type(base.task).__name__).replace("-", " ") if varies else base.task.title
    by = f" by {', '.join(name.rpartition('.')[2] for name in axes)}" if axes else ""
    title = f"{task}{by}, {len(base.seeds)} seeds" + (" a setting" if axes else "")
    level = f"{stop.threshold:.0%}" if stop.metric.endswith("accuracy") else f"{stop.threshold:g} nats"
    reached = {name: sweeps.survival(members, learned, base.steps) for name, members in groups.items()}
    survival = figures.survival(reached, title, f"{level} {stop.metric.replace('_', ' ')}")
    return Findings({"curves": _curves(folder, groups, title), "survival": survival}, text)


def by_setting(rows: Sequence[Row], axes: Sequence[str]) -> dict[str, list[Row]]:
    """Group lanes by their values on the axes, written with four digits where that distinguishes all of them."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in axes), []).append(row)

    def label(values: tuple, form: str) -> str:
        shown = (format(value, form) if isinstance(value, float) else str(value) for value in values)
        return ", ".join(f"{name} {value}" for name, value in zip(axes, shown, strict=True)) or "all"

    for form in (".4g", ".17g"):
        labels = [label(values, form) for values in groups]
        if len(set(labels)) == len(groups):
            break
    return dict(zip(labels, groups.values(), strict=True))


def _curves(folder: Path, groups: Mapping[str, Sequence[Row]], title: str) -> "Figure":
    """Draw the train and test set of one setting, or the test set of several."""
    curves = sweeps.lane_curves(folder, "train_loss", "test_loss", "train_accuracy", "test_accuracy")

    def of_parts(metric: str) -> dict[str, list]:
        return {part: list(curves[f"{part}_{metric}"].values()) for part in ("train", "test")}

    def of_settings(metric: str) -> dict[str, list]:
        lanes = curves[f"test_{metric}"]
        return {
            name: [lanes[row["lane"]] for row in members if row["lane"] in lanes] for name, members in groups.items()
        }

    if len(groups) == 1:
        return figures.lane_bands(of_parts("loss"), of_parts("accuracy"), title)
    return figures.lane_bands(of_settings("loss"), of_settings("accuracy"), f"{title}, test set")


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
