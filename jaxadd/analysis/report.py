"""Reports: what is measured and shown of trained networks, by task, as plain data.

Two questions are answered for every task; a task that registers more gets more:

- `summarize`: what a finished run shows at once, registered with `@summarize_task.register`;
- `analyse`: what `jaxadd analyse` shows, registered with `@analyse_task.register`.

What holds for any network (how good it is, its curves, attention, circuits, attribution, lens) is here; what is
specific to a task is in `analysis.modular`, `analysis.addition` and so on.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxadd.models import Network
from jaxadd.pictures import Block, FigureOf
from jaxadd.tasks import Task
from jaxadd.types import Metrics, Params


class Trained(NamedTuple):
    """The trained networks of one task, and what is known of their training.

    Attributes:
      networks: one per lane, all of the same model and task.
      title: for figures.
      metrics: what was recorded in training, see `training.loop.Result`; empty where that is not known.
      steps: `[E]`, the steps whose states are known, ascending; empty for a checkpoint from elsewhere.
      histories: for each lane the parameters at these steps, leaves with a leading E axis; empty where unknown.
    """

    networks: tuple[Network, ...]
    title: str
    metrics: Metrics = {}
    steps: np.ndarray = np.zeros(0, int)
    histories: tuple[Params, ...] = ()


class Report(NamedTuple):
    """What is known of trained networks.

    Attributes:
      text: printed.
      numbers: plain values by documented names, for JSON.
      figures: drawn as PNG.
      blocks: of the page, in order.
    """

    text: str
    numbers: Mapping[str, Any] = {}
    figures: Sequence[FigureOf] = ()
    blocks: Sequence[Block] = ()


def training_figures(metrics: Metrics, title: str, *, log_steps: bool = True) -> list[FigureOf]:
    """Describe what all runs have: curves of loss and accuracy, and norms of gradient, update and weights."""
    return []


def summarize(trained: Trained) -> Report:
    """Return what a finished run shows at once."""
    report = summarize_task(trained.networks[0].task, trained)
    return report._replace(figures=[*training_figures(trained.metrics, trained.title), *report.figures])


@functools.singledispatch
def summarize_task(task: Task, trained: Trained) -> Report:
    """Return what a finished run of a task shows beside its curves; nothing where nothing is registered."""
    return Report("")


def analyse(trained: Trained, lane: int = 0, keys: str | None = None) -> Report:
    """Return everything that is measured and shown of trained networks.

    Args:
      trained: the networks.
      lane: the one that is drawn, and whose numbers are reported.
      keys: how key frequencies are chosen, for a task that has them: a rule of `fourier`, or a list such as "3,6,23".
    """
    raise NotImplementedError
