"""Train one transformer on n-digit addition, and see each answer digit come off its shelves.

Expected, on two quiet cores: `sequential`, one layer on five digits, has 97 to 99 % of sums right after a minute
and guesses at long carry cascades; `parallel` is the same without sight of the answer; `digitwise` is the control
without carries; `cascades`, two layers and enriched data, has over 99.9 % of uniform sums and 99 % of forced cascades
of every length right, in a third of an hour; `debug` is ten small steps with every shape printed.
"""

import sys
from dataclasses import replace

import jax
import numpy as np

from jaxadd.cli import experiment
from jaxadd.views import figures, terminal
from jaxadd.runs import train
from jaxadd.analysis import shelves
from jaxadd.config import RunConfig
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.tasks import Addition, Mixture
from jaxadd.training.step import Trainer

UNIFORM, FORCED = 20_000, 2_000

ONE_LAYER = RunConfig(
    task=Addition(), optimizer=AdamW(weight_decay=0.1), steps=6_000, eval_every=50, checkpoint_every=1_000
)
PRESETS = {
    "sequential": ONE_LAYER,
    "parallel": replace(ONE_LAYER, task=Addition(target="parallel")),
    "digitwise": replace(ONE_LAYER, task=Addition(operation="digitwise")),
    "cascades": replace(
        ONE_LAYER,
        task=Addition(mixture=Mixture(uniform=0.5, enriched=0.3, cascades=0.2)),
        model=Transformer(layers=2),
        steps=20_000,
        eval_every=100,
    ),
    "debug": replace(
        ONE_LAYER,
        task=Addition(digits=2, batch_size=4, test_examples=8, cascade_examples=4),
        model=Transformer(d_model=16, heads=2, d_mlp=32),
        steps=10,
        eval_every=5,
        checkpoint_every=10,
        debug=True,
    ),
}


def conclude(trainer: Trainer, record: train.Record) -> experiment.Findings:
    """Draw what each digit learns and when, and count right answers on many problems of every kind."""
    task, metrics, title = trainer.config.task, record.metrics, terminal.title(trainer.config)
    levels = [task.floors(digit) for digit in task.read_digits]
    found = [
        [shelves.find(lane[:, r], metrics["step"], level) for lane in metrics["train_position_loss"]]
        for r, level in enumerate(levels)
    ]
    first = f"{task.title}, seed {trainer.config.seeds[0]}"
    drawn = {
        "digits": figures.digit_curves(metrics, task.read_digits, levels, [lanes[0] for lanes in found], title),
        "offsets": figures.offsets(metrics, task.read_digits, f"{title}: probability by offset from the naive digit"),
        "confusion": figures.confusions(metrics, task.read_digits, first),
        "cascades": figures.cascades(metrics, title),
    }
    heading = ("seed", "uniform", *(f"cascade {n}" for n in range(task.digits)))
    exact = exact_matches(trainer, record)
    rows = [
        (str(seed), *(f"{share:.2%}" for share in lane))
        for seed, lane in zip(trainer.config.seeds, exact, strict=True)
    ]
    rested = [("digit", "seed", "shelf", "nats", "steps")]
    for digit, lanes in zip(task.read_digits, found, strict=True):
        for seed, lane in zip(trainer.config.seeds, lanes, strict=True):
            for shelf in lane:
                steps = f"{shelf.start:,} to {shelf.end:,}" + ("" if shelf.left else ", not left")
                rested.append((f"A{digit}", str(seed), shelf.name or "no floor", f"{shelf.level:.3f}", steps))
    text = (
        f"shelves of the train loss, named by the nearest exact floor\n{terminal.table(rested)}\n\n"
        f"exact match of {UNIFORM:,} new uniform problems, and {FORCED:,} with a cascade from the units on over "
        f"each number of columns\n{terminal.table([heading, *rows])}"
    )
    return experiment.Findings(drawn, text)


def exact_matches(trainer: Trainer, record: train.Record) -> np.ndarray:
    """Count right answers to new problems, the same for all runs of a size: `[S, 1 + N]`.

    The first column is of UNIFORM uniform problems, the others of FORCED with a cascade from the units on over 0
    to N - 1 columns.
    """
    task, key = trainer.config.task, jax.random.key(2**32 - 1)
    kinds = [task.draw(key, UNIFORM, Mixture())]
    kinds += [task.cascade(jax.random.fold_in(key, n), FORCED, n) for n in range(task.digits)]
    return np.stack([terminal.accuracy(trainer, record, task.batch(kind)) for kind in kinds], axis=1)


if __name__ == "__main__":
    sys.exit(experiment.main("experiments.digit_addition", __doc__, PRESETS, conclude))
