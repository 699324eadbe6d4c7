"""Check the pipeline: an MLP reads handwritten digits, trained by the very code that trains the transformers.

Runs on the 8×8 digits that scikit-learn carries, or on MNIST's IDX files in the folder that --task.folder names.
Expected: `quick` reads at least 97 % of the held-out bundled digits, within seconds; `mnist` needs a folder and reads
about 98 % of MNIST's test set within minutes; `debug` is ten small steps with every shape printed.
"""

import sys

from jaxadd.cli.experiment import Session, main
from jaxadd.config import RunConfig
from jaxadd.models import MLP
from jaxadd.optim.optimizers import AdamW
from jaxadd.tasks import HandwrittenDigits

ADAMW = AdamW(lr=1e-3, b2=0.999, weight_decay=0.01, warmup=0.0)
PRESETS = {
    "quick": RunConfig(
        task=HandwrittenDigits(), model=MLP(), optimizer=ADAMW, steps=3_000, eval_every=50, checkpoint_every=1_000
    ),
    "mnist": RunConfig(
        task=HandwrittenDigits(folder="mnist", batch_size=128),
        model=MLP(hidden=(200, 200)),
        optimizer=ADAMW,
        steps=10_000,
        eval_every=500,
        checkpoint_every=2_000,
    ),
    "debug": RunConfig(
        task=HandwrittenDigits(batch_size=4),
        model=MLP(hidden=(8,)),
        optimizer=ADAMW,
        steps=10,
        checkpoint_every=10,
        debug=True,
    ),
}


def conduct(config: RunConfig, session: Session) -> None:
    """Train one run, and show its curves and the images that it misreads."""
    session.run(config)


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
