"""Watch a one-layer transformer grok modular arithmetic.

It memorises the train pairs within a few hundred steps, and answers the others rightly only much later.
Expected: `quick` groks addition mod 113 in about a minute on two cores; `mainline`, the published setting, between
steps 5,000 and 15,000, in about a quarter of an hour; `debug` is ten small steps with every shape printed.
"""

import sys

import jax.numpy as jnp
import numpy as np

from jaxadd.cli import experiment
from jaxadd.views import figures, terminal
from jaxadd.runs import train
from jaxadd.config import RunConfig
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.tasks import Modular
from jaxadd.training.step import Trainer

PRESETS = {
    "quick": RunConfig(optimizer=AdamW(lr=3e-3, weight_decay=3.0), steps=1_500),
    "mainline": RunConfig(steps=20_000),
    "debug": RunConfig(
        task=Modular(p=7), model=Transformer(d_model=16, heads=2, d_mlp=32), steps=10, checkpoint_every=10, debug=True
    ),
}


def conclude(trainer: Trainer, record: train.Record) -> experiment.Findings:
    """Draw the first lane's wrong answers over all pairs (a, b)."""
    task = trainer.config.task
    answers = terminal.answers(trainer, record, task.batch(jnp.arange(task.p**2), trainer.data.shared))
    wrong, trained = np.zeros((2, task.p**2), bool)
    wrong[answers.wrong] = True
    trained[np.asarray(trainer.data.lane["train"][0])] = True
    title = f"{task.title}, seed {trainer.config.seeds[0]}"
    return experiment.Findings({"errors": figures.error_map(wrong.reshape(task.p, -1), trained.reshape(task.p, -1), title)})


if __name__ == "__main__":
    sys.exit(experiment.main("experiments.modular_addition", __doc__, PRESETS, conclude))
