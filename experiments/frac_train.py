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

from jaxadd import cli, figures, report
from jaxadd.analysis.outcomes import or_never
from jaxadd.arguments import SweepConfig
from jaxadd.config import RunConfig, Stop
from jaxadd.sweeps import Row, Sweep
from jaxadd.tasks import Modular

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


def conclude(sweep: Sweep, folder: Path, rows: Sequence[Row]) -> cli.Findings:
    """Set every share's seeds beside the published run."""
    shares, every = sorted({row[AXIS] for row in rows}), sweep.base.eval_every
    steps = [[row["step_of_test_loss_1"] for row in rows if row[AXIS] == share] for share in shares]
    comparable = sweep.base.task == Modular()
    published = {share: step for share, step in PUBLISHED.items() if comparable and share in shares}
    table = [("share trained on", "step of test loss < 1, median (range)", "published, one run", "inside the range")]
    for share, values in zip(reversed(shares), reversed(steps), strict=True):
        known = or_never(values)
        theirs = published.get(share)
        # A step is known as the first evaluation at or after it.
        inside = "" if theirs is None else "yes" if known.min() - every < theirs <= known.max() else "no"
        table.append((f"{share:g}", report.spread(values), f"{theirs:,}" if theirs else "", inside))
    text = f"{len(sweep.base.seeds)} seeds, evaluated every {every} steps\n{report.table(table)}"
    title = f"a + b mod {sweep.base.task.p}, {len(sweep.base.seeds)} seeds"
    return cli.Findings({"fractions": figures.fractions(shares, steps, published, title)}, text)


if __name__ == "__main__":
    sys.exit(cli.sweep("experiments.frac_train", __doc__, PRESETS, conclude, needs=(AXIS,), stop=STOP))
