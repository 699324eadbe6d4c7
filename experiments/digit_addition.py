"""Train one transformer on n-digit addition, and see each digit come off its shelf.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxadd import cli, runs
from jaxadd.config import RunConfig
from jaxadd.model import Transformer
from jaxadd.optimizers import AdamW
from jaxadd.tasks import Addition, Mixture
from jaxadd.train import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_LAYER = RunConfig(
    task=Addition(), optimizer=AdamW(weight_decay=0.1), steps=6_000, eval_every=50, checkpoint_every=1_000
)
PRESETS = {
    "sequential": ONE_LAYER,
    "parallel": replace(ONE_LAYER, task=Addition(target="parallel")),
    "cascades": replace(
        ONE_LAYER,
        task=Addition(mixture=Mixture(uniform=0.5, enriched=0.3, cascades=0.2)),
        model=Transformer(layers=2),
        steps=20_000,
        checkpoint_every=1_000,
        eval_every=100,
    ),
}


def draw(trainer: Trainer, record: runs.Record) -> Mapping[str, "Figure"]:
    """Draw."""
    return {}


if __name__ == "__main__":
    sys.exit(cli.main("experiments.digit_addition", __doc__, PRESETS, draw))
