"""What is shown of a network that reads handwritten digits: the images it misreads."""

import numpy as np

from jaxadd.analysis.report import summarize_task
from jaxadd.analysis.trained import Report, Trained
from jaxadd.pictures import FigureOf, HeatMaps
from jaxadd.tasks import HandwrittenDigits

_SHOWN = 24


@summarize_task.register
def _(task: HandwrittenDigits, trained: Trained) -> Report:
    """Return the first test images that the first network misreads."""
    network = trained.networks[0]
    batch = task.test_batch(network.data)
    answers, targets = (np.asarray(x)[:, 0] for x in (network.answer(batch.inputs), batch.targets))
    errors = np.flatnonzero(answers != targets)
    title = f"{len(errors):,} of {len(targets):,} test images misread"
    if not errors.size:
        return Report(title)
    side = round(batch.inputs.shape[1] ** 0.5)
    images = {
        f"{targets[i]} read as {'nothing' if answers[i] < 0 else answers[i]} (image {i})": np.asarray(
            batch.inputs[i]
        ).reshape(1, side, -1)
        for i in errors[:_SHOWN]
    }
    picture = HeatMaps(title, [network.step], images, (), (), limits=(0, 1))
    return Report.of(title, blocks=[FigureOf("misread", title, [picture], trained.subject(0))])
