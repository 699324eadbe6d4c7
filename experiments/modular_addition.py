"""Watch a one-layer transformer grok modular arithmetic.

It memorises the train pairs within a few hundred steps, and answers the others correctly only much later. Expected:
`quick` groks addition mod 113 in about a minute on two cores; `mainline`, the setting of Nanda et al. (2023), mostly
between steps 5,000 and 15,000, in about a quarter of an hour; `debug` is ten small steps with every shape printed.
"""

import sys

from jaxadd.cli.experiment import Session, main
from jaxadd.config import RunConfig
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.tasks import Modular

PRESETS = {
    "quick": RunConfig(optimizer=AdamW(lr=3e-3, weight_decay=3.0), steps=1_500),
    "mainline": RunConfig(steps=20_000),
    "debug": RunConfig(
        task=Modular(p=7), model=Transformer(d_model=16, heads=2, d_mlp=32), steps=10, checkpoint_every=10, debug=True
    ),
}


def conduct(config: RunConfig, session: Session) -> None:
    """Train one run, and show its curves and its errors over all pairs."""
    session.run(config)


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
