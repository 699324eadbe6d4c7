"""Check the pipeline: an MLP reads handwritten digits, trained by the very code that trains the transformers.

Runs on the 8×8 digits that scikit-learn carries, or on MNIST's IDX files in the folder that --task.folder names.
Expected: `quick` reads at least 97 % of the held-out bundled digits, within seconds; `mnist` wants a folder and
reads about 98 % of MNIST's test set within minutes; `debug` is ten small steps with every shape printed.
"""

import sys

from jaxadd import cli, figures, report, runs
from jaxadd.config import RunConfig
from jaxadd.model import MLP
from jaxadd.optimizers import AdamW
from jaxadd.tasks import Digits
from jaxadd.train import Trainer

ADAMW = AdamW(lr=1e-3, b2=0.999, weight_decay=0.01, warmup=0.0)
PRESETS = {
    "quick": RunConfig(
        task=Digits(), model=MLP(), optimizer=ADAMW, steps=3_000, eval_every=50, checkpoint_every=1_000
    ),
    "mnist": RunConfig(
        task=Digits(folder="mnist", batch_size=128),
        model=MLP(hidden=(200, 200)),
        optimizer=ADAMW,
        steps=10_000,
        eval_every=500,
        checkpoint_every=2_000,
    ),
    "debug": RunConfig(
        task=Digits(batch_size=4), model=MLP(hidden=(8,)), optimizer=ADAMW, steps=10, checkpoint_every=10, debug=True
    ),
}


def conclude(trainer: Trainer, record: runs.Record) -> cli.Findings:
    """Draw the misread images of the first lane."""
    answers = report.answers(trainer, record)
    images, targets, claims = (part[answers.wrong] for part in answers[:3])
    title = f"{len(images)} of {len(answers.targets)} test images misread, seed {trainer.config.seeds[0]}"
    return cli.Findings({"misread": figures.misread(images, targets[:, 0], claims[:, 0], title)})


if __name__ == "__main__":
    sys.exit(cli.main("experiments.handwritten_digits", __doc__, PRESETS, conclude))
