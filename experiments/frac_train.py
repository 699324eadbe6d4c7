"""When does a network generalise, by the fraction of the sums that it is trained on?

Addition mod 113 in the setting of Nanda et al. (2023), every fraction with five seeds, each until its test loss falls
below 1; beside them the single runs that were published. Expected: in 120 to 300 steps from 60 % on, ever later
below, in thousands at 30 %; the published values lie inside the range of the seeds. `quick` stops at 40 % and takes a
quarter of an hour on two cores, `published` goes down to 25 %, for hours there; `debug` takes seconds.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from jaxadd.cli.arguments import SweepConfig
from jaxadd.cli.experiment import Findings, Session, main, require
from jaxadd.config import RunConfig, Stop
from jaxadd.runs.summary import STATUS, step_of
from jaxadd.sweeps import Row, Sweep
from jaxadd.tables import spread, table
from jaxadd.tasks import Modular
from jaxadd.training.step import RUNNING
from jaxadd.views import figures

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


def conduct(config: SweepConfig, session: Session) -> Findings | None:
    """Train every fraction's seeds, and set them beside the published run."""
    sweep = config.sweep()
    require(sweep, [AXIS], STOP)
    rows = session.sweep(sweep)
    return None if rows is None else compare(sweep, rows)


def compare(sweep: Sweep, rows: Sequence[Row]) -> Findings:
    """Set every fraction's seeds beside the published run.

    Args:
      sweep: over fractions.
      rows: one per lane.
    """
    base, fractions = sweep.base, sorted({row[AXIS] for row in rows})
    lanes = {fraction: [row for row in rows if row[AXIS] == fraction] for fraction in fractions}
    steps = {fraction: [row[step_of(STOP)] for row in members] for fraction, members in lanes.items()}
    published = {f: step for f, step in PUBLISHED.items() if f in lanes} if is_published(base) else {}
    cells = [
        ("fraction trained on", "step of test loss < 1, median (range)", "published, one run", "inside the range")
    ]
    for fraction in reversed(fractions):
        step, unfinished = published.get(fraction), any(row["status"] == STATUS[RUNNING] for row in lanes[fraction])
        censored = base.steps if unfinished else None
        inside = "" if step is None else inside_range(step, steps[fraction], base.eval_every, censored)
        cells.append((f"{fraction:g}", spread(steps[fraction]), f"{step:,}" if step else "", inside))
    text = f"{len(base.seeds)} seeds, evaluated every {base.eval_every} steps\n{table(cells)}"
    title = f"a + b mod {base.task.p}, {len(base.seeds)} seeds"
    drawn = figures.fractions(fractions, list(steps.values()), published, title)
    return Findings({"fractions": drawn}, text)


def is_published(base: RunConfig) -> bool:
    """Whether a run has the published setting, for any number of steps and any seeds."""
    free = ("steps", "seeds", "eval_every", "checkpoint_every", "debug")
    return replace(BASE, **{name: getattr(base, name) for name in free}) == base


def inside_range(
    step: int, steps: Sequence[int | None], every: int, censored: int | None
) -> Literal["yes", "no", "not known"]:
    """Return whether a step lies in the range of those of lanes, as far as it is known.

    Args:
      step: to compare.
      steps: of lanes that reached the threshold, as the first evaluation at or after it; None for those that did not.
      every: steps between evaluations.
      censored: where lanes ended that might have reached it later; None where there are none. A lane that diverged
        never would.
    """
    reached = [step for step in steps if step is not None]
    if censored is not None and step > censored:
        return "not known"  # The lanes that had not reached it come later, nobody knows when.
    if not reached or step <= min(reached) - every:
        return "no"
    last = max(reached) if censored is None else censored
    return "yes" if step <= last else "no"


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
