"""When does a network generalise, by the share of the sums that it is trained on?

Addition mod 113 in the published setting (Nanda et al. 2023), every share with five seeds, each until its test loss
falls below 1; beside them the single runs that were published. Expected: in 120 to 300 steps from 60 % on, ever
later below, in thousands at 30 %; the published values lie inside the range of the seeds. `quick` stops at 40 % and
takes a quarter of an hour on two cores, `published` goes down to 25 %, for hours there.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from jaxadd.cli import experiment
from jaxadd.cli.arguments import SweepConfig
from jaxadd.config import RunConfig, Stop
from jaxadd.runs.summary import STATUS, step_of
from jaxadd.sweeps import Row, Sweep
from jaxadd.tasks import Modular
from jaxadd.training.step import RUNNING
from jaxadd.views import figures, terminal

# The first step with a test loss below 1, one run each, read off the released curves.
PUBLISHED = {
    0.95: 123, 0.9: 156, 0.8: 177, 0.7: 129, 0.6: 270, 0.5: 744, 0.4: 2_615, 0.3: 7_583, 0.28: 14_465, 0.25: 21_419,
}  # fmt: skip
AXIS = "task.train_fraction"
STOP = Stop("test_loss", 1.0)
BASE = RunConfig(steps=40_000, seeds=tuple(range(5)), checkpoint_every=2_500, stop=STOP)


def _axis(fractions: Sequence[float]) -> tuple[str]:
    return (f"{AXIS}={','.join(map(str, fractions))}",)


PRESETS = {
    "quick": SweepConfig(BASE, _axis([f for f in PUBLISHED if f >= 0.4])),
    "published": SweepConfig(BASE, _axis(list(PUBLISHED))),
    "debug": SweepConfig(
        replace(BASE, steps=30, seeds=(0, 1), checkpoint_every=30, task=Modular(p=11)), _axis([0.95, 0.9])
    ),
}


def conclude(sweep: Sweep, folder: Path, rows: Sequence[Row]) -> experiment.Findings:
    """Set every share's seeds beside the published run."""
    shares, every, reached = sorted({row[AXIS] for row in rows}), sweep.base.eval_every, step_of(STOP)
    lanes = [[row for row in rows if row[AXIS] == share] for share in shares]
    steps = [[row[reached] for row in members] for members in lanes]
    published = {share: step for share, step in PUBLISHED.items() if _is_published(sweep.base) and share in shares}
    table = [("share trained on", "step of test loss < 1, median (range)", "published, one run", "inside the range")]
    for share, values, members in zip(reversed(shares), reversed(steps), reversed(lanes), strict=True):
        theirs, short = published.get(share), any(row["status"] == STATUS[RUNNING] for row in members)
        inside = "" if theirs is None else inside_range(theirs, values, every, sweep.base.steps if short else None)
        table.append((f"{share:g}", terminal.spread(values), f"{theirs:,}" if theirs else "", inside))
    text = f"{len(sweep.base.seeds)} seeds, evaluated every {every} steps\n{terminal.table(table)}"
    title = f"a + b mod {sweep.base.task.p}, {len(sweep.base.seeds)} seeds"
    return experiment.Findings({"fractions": figures.fractions(shares, steps, published, title)}, text)


def _is_published(base: RunConfig) -> bool:
    """Tell whether a run is of the published setting, for however long and on whatever seeds."""
    own = {name: getattr(base, name) for name in ("steps", "seeds", "eval_every", "checkpoint_every", "debug")}
    return replace(BASE, **own) == base


def inside_range(
    theirs: int, steps: Sequence[int | None], every: int, censored: int | None
) -> Literal["yes", "no", "not known"]:
    """Tell whether a step lies in the range of others, as far as it is known.

    Args:
      theirs: the step.
      steps: of lanes that arrived, as the first evaluation at or after it; None of those that did not.
      every: steps between evaluations.
      censored: where lanes ended that had not arrived, and might have later; None where there are none: those that
        diverged never would.
    """
    arrived = [step for step in steps if step is not None]
    if censored is not None and theirs > censored:
        return "not known"  # Those that had not arrived come later than that, nobody knows when.
    if not arrived or theirs <= min(arrived) - every:
        return "no"
    last = max(arrived) if censored is None else censored
    return "yes" if theirs <= last else "no"


if __name__ == "__main__":
    sys.exit(experiment.sweep("experiments.frac_train", __doc__, PRESETS, conclude, needs=(AXIS,), stop=STOP))
