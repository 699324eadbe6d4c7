"""Which settings comprehend, grok, memorise, or learn nothing: learning rate × weight decay × share trained on.

Addition mod P, three seeds at each point. A setting comprehends where the test set is learned (99 %) at most 1,000
steps after the train set, groks where it is later, memorises where it never is within the run (after Liu et al. 2022,
"Towards understanding grokking", who take 90 % and 100,000 steps). Expected: with weight decay 0 it memorises at
30 %; more decay and a higher rate generalise sooner, until training breaks. `quick`, P = 53, takes about ten minutes
on two cores; `mainline`, P = 113, wants an accelerator.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxadd.cli import experiment
from jaxadd.cli.arguments import SweepConfig
from jaxadd.config import RunConfig
from jaxadd.models import Transformer
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.sweeps import Row, Sweep
from jaxadd.sweeps.outcomes import OUTCOMES, outcome, quantiles
from jaxadd.tasks import Modular
from jaxadd.views import figures, terminal

X, Y, PANEL = "optimizer.lr", "optimizer.weight_decay", "task.train_fraction"
STOP = LEARNED["test"]
PRESETS = {
    "quick": SweepConfig(
        RunConfig(
            task=Modular(p=53),
            model=Transformer(d_model=64, heads=4, d_mlp=256),
            steps=3_000,
            seeds=(0, 1, 2),
            checkpoint_every=1_000,
            stop=STOP,
        ),
        (f"{X}=1e-3,3e-3,1e-2,3e-2", f"{Y}=0,0.3,1,3", f"{PANEL}=0.3,0.5"),
    ),
    "mainline": SweepConfig(
        RunConfig(steps=20_000, seeds=(0, 1, 2), checkpoint_every=5_000, stop=STOP),
        (f"{X}=3e-4,1e-3,3e-3,1e-2,3e-2", f"{Y}=0,0.1,0.3,1,3,10", f"{PANEL}=0.25,0.3,0.4,0.6"),
    ),
    "debug": SweepConfig(
        RunConfig(
            task=Modular(p=7, train_fraction=0.6),
            model=Transformer(d_model=16, heads=2, d_mlp=32),
            steps=60,
            seeds=(0, 1),
            checkpoint_every=60,
            stop=STOP,
        ),
        (f"{X}=1e-3,1e-1", f"{Y}=0,1", f"{PANEL}=0.5,0.7"),
    ),
}


def conclude(sweep: Sweep, folder: Path, rows: Sequence[Row]) -> experiment.Findings:
    """Draw the diagrams, and count outcomes."""
    x, y, panels = (sorted({row[name] for row in rows}) for name in (X, Y, PANEL))
    steps = np.full((len(panels), len(y), len(x)), np.inf)
    shares = np.zeros((*steps.shape, len(OUTCOMES)))
    table = [("share trained on", "weight decay", "lr", "step to 99 % test", *OUTCOMES, "diverged")]
    for k, i, j in np.ndindex(steps.shape):
        lanes = [row for row in rows if (row[PANEL], row[Y], row[X]) == (panels[k], y[i], x[j])]
        reached = [(row[step_of(LEARNED["train"])], row[step_of(LEARNED["test"])]) for row in lanes]
        steps[k, i, j] = quantiles([test for _, test in reached])[1]
        found = [outcome(*pair) for pair in reached]
        shares[k, i, j] = [found.count(name) / len(found) for name in OUTCOMES]
        counts = (str(found.count(name)) for name in OUTCOMES)
        diverged = str(sum(row["status"] == "diverged" for row in lanes))
        spread = terminal.spread([test for _, test in reached])
        table.append((f"{panels[k]:g}", f"{y[i]:g}", f"{x[j]:g}", spread, *counts, diverged))
    title = f"a + b mod {sweep.base.task.p}, {len(sweep.base.seeds)} seeds, at most {sweep.base.steps:,} steps"
    names = ("learning rate", "weight decay")
    figure = figures.phase_diagram(steps, shares, x, y, names, title, ("share trained on", panels))
    return experiment.Findings({"phases": figure}, terminal.table(table))


if __name__ == "__main__":
    sys.exit(
        experiment.sweep(
            "experiments.phase_diagram",
            __doc__,
            PRESETS,
            conclude,
            needs=(X, Y, PANEL),
            stop=STOP,
        )
    )
