"""Watch a one-layer transformer grok modular arithmetic.

It memorises the train pairs within a few hundred steps and answers the others only much later.
Expected: `quick` groks at 113 in about a minute on two cores; `mainline`, the published setting, between steps
5,000 and 15,000, in about a quarter of an hour; `debug` is ten small steps with every shape printed.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd import cli, figures, runs
from jaxadd.config import RunConfig
from jaxadd.model import Transformer
from jaxadd.optimizers import AdamW
from jaxadd.tasks import Modular
from jaxadd.train import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRESETS = {
    "quick": RunConfig(optimizer=AdamW(lr=3e-3, weight_decay=3.0), steps=2_000),
    "mainline": RunConfig(steps=25_000),
    "debug": RunConfig(
        task=Modular(p=7),
        model=Transformer(d_model=16, heads=2, d_mlp=32),
        steps=10,
        checkpoint_every=10,
        debug=True,
    ),
}


def draw(trainer: Trainer, record: runs.Record) -> Mapping[str, "Figure"]:
    """Draw loss and accuracy, norms, and the wrong answers of the first lane over all pairs (a, b)."""
    config, task = record.config, record.config.task
    seeds = f"seed {config.seeds[0]}" if len(config.seeds) == 1 else f"{len(config.seeds)} seeds, median and range"
    title = f"{task.operation} mod {task.p}, {task.train_fraction:.0%} trained on, {seeds}"
    wrong = wrong_pairs(trainer, record)
    trained = np.zeros(task.p**2, bool)
    trained[np.asarray(trainer.data.lane["train"][0])] = True
    shape = (task.p, task.p)
    return {
        "curves": figures.curves(record.metrics, title),
        "norms": figures.norms(record.metrics, title),
        "errors": figures.error_map(
            wrong.reshape(shape),
            trained.reshape(shape),
            f"answers to {task.operation} mod {task.p}, seed {config.seeds[0]}",
        ),
    }


def wrong_pairs(trainer: Trainer, record: runs.Record) -> np.ndarray:
    """Compute which of all P² pairs the first lane answers wrongly: bool `[P²]`."""
    task = record.config.task
    params = jax.tree.map(lambda x: x[0], runs.nest(record.params, trainer.abstract_state().params))
    batch = task.batch(jnp.arange(task.p**2), trainer.data.shared)
    logits, _ = jax.jit(trainer.model.apply)(params, batch.inputs)
    return np.asarray(jnp.any(logits.argmax(-1) != batch.targets, axis=-1))


if __name__ == "__main__":
    sys.exit(cli.main("experiments.modular_addition", __doc__, PRESETS, draw))
