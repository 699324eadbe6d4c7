"""Check the pipeline: an MLP reads handwritten digits, trained by the very code that trains the transformers.

Runs on the 8×8 digits that scikit-learn carries, or on MNIST's IDX files in the folder that --task.folder names.
Expected: `quick` reads at least 97 % of the held-out bundled digits, within seconds; `mnist` wants a folder and
reads about 98 % of MNIST's test set within minutes; `debug` is ten small steps with every shape printed.
"""

import sys

from jaxadd.cli import experiment
from jaxadd.views import figures, terminal
from jaxadd.runs import train
from jaxadd.config import RunConfig
from jaxadd.models import MLP
from jaxadd.optim.optimizers import AdamW
from jaxadd.tasks import HandwrittenDigits
from jaxadd.training.step import Trainer

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
        task=HandwrittenDigits(batch_size=4), model=MLP(hidden=(8,)), optimizer=ADAMW, steps=10, checkpoint_every=10, debug=True
    ),
}


def conclude(trainer: Trainer, record: train.Record) -> experiment.Findings:
    """Draw the misread images of the first lane."""
    answers = terminal.answers(trainer, record)
    images, targets, claims = (part[answers.wrong] for part in answers[:3])
    title = f"{len(images)} of {len(answers.targets)} test images misread, seed {trainer.config.seeds[0]}"
    return experiment.Findings({"misread": figures.misread(images, targets[:, 0], claims[:, 0], title)})


if __name__ == "__main__":
    sys.exit(experiment.main("experiments.handwritten_digits", __doc__, PRESETS, conclude))
