"""Which settings comprehend, grok, memorise, or learn nothing: learning rate × weight decay × fraction trained on.

Addition mod P, three seeds at each point. A setting comprehends where the test set is learned (99 %) at most 1,000
steps after the train set, groks where it is later, memorises where it never is within the run (after Liu et al. 2022,
"Towards understanding grokking", who take 90 % and 100,000 steps). Expected: with weight decay 0 it memorises at 30
%; more decay and a higher rate generalise sooner, until training breaks. `quick`, P = 53, takes about ten minutes on
two cores; `mainline`, P = 113, needs an accelerator; `debug` takes seconds.
"""

import sys
from collections.abc import Sequence

import numpy as np

from jaxadd.cli.arguments import SweepConfig
from jaxadd.cli.experiment import Findings, Session, main, require
from jaxadd.config import RunConfig
from jaxadd.models import Transformer
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.sweeps import Row, Sweep
from jaxadd.sweeps.outcomes import OUTCOMES, outcome
from jaxadd.tables import quantiles, spread, table
from jaxadd.tasks import Modular
from jaxadd.views import figures

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


def conduct(config: SweepConfig, session: Session) -> Findings | None:
    """Train every setting, draw the diagrams, and count outcomes."""
    sweep = config.sweep()
    require(sweep, [X, Y, PANEL], STOP)
    rows = session.sweep(sweep)
    return None if rows is None else diagram(sweep, rows)


def diagram(sweep: Sweep, rows: Sequence[Row]) -> Findings:
    """Draw the diagrams, and count outcomes.

    Args:
      sweep: a grid over the three axes.
      rows: one per lane.
    """
    x, y, panels = (sorted({row[name] for row in rows}) for name in (X, Y, PANEL))
    steps = np.full((len(panels), len(y), len(x)), np.inf)
    frequency = np.zeros((*steps.shape, len(OUTCOMES)))
    cells = [("fraction trained on", "weight decay", "lr", "step to 99 % test", *OUTCOMES, "diverged")]
    for k, i, j in np.ndindex(steps.shape):
        lanes = [row for row in rows if (row[PANEL], row[Y], row[X]) == (panels[k], y[i], x[j])]
        train, test = ([row[step_of(LEARNED[part])] for row in lanes] for part in ("train", "test"))
        steps[k, i, j] = quantiles(test)[1]
        outcomes = [outcome(*pair) for pair in zip(train, test, strict=True)]
        counts = [outcomes.count(name) for name in OUTCOMES]
        frequency[k, i, j] = np.array(counts) / len(lanes)
        diverged = sum(row["status"] == "diverged" for row in lanes)
        setting = (f"{panels[k]:g}", f"{y[i]:g}", f"{x[j]:g}")
        cells.append((*setting, spread(test), *map(str, counts), str(diverged)))
    title = f"a + b mod {sweep.base.task.p}, {len(sweep.base.seeds)} seeds, at most {sweep.base.steps:,} steps"
    names = ("learning rate", "weight decay")
    figure = figures.phase_diagram(steps, frequency, x, y, names, title, ("fraction trained on", panels))
    return Findings({"phases": figure}, table(cells))


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
