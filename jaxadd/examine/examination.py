"""What an examination gives, and what those of all tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxadd import figures, page
from jaxadd.analysis import attribution, circuits
from jaxadd.fit import Metrics
from jaxadd.lanes import take
from jaxadd.model import Params
from jaxadd.subjects import Subject
from jaxadd.tasks import Batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAMES = 40  # of what evolves, in the page
_POINTS = 5_000  # of a curve, in the page


class Examination(NamedTuple):
    """What was found out about one network.

    Attributes:
      numbers: plain values by documented names, for JSON.
      text: what is printed.
      figures: by file name.
      blocks: of the page, see `jaxadd.page`.
    """

    numbers: Mapping[str, Any]
    text: str
    figures: Mapping[str, Figure]
    blocks: Sequence[page.Block]


def thin(count: int, most: int = FRAMES) -> np.ndarray:
    """Choose places of `count` to show, `most` at most, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def training_curves(metrics: Metrics) -> list[page.Block]:
    """Show loss and accuracy of all lanes; nothing for a network whose training is not known."""
    if not metrics:
        return []
    at = thin(len(metrics["step"]), _POINTS)
    measured = ~np.isnan(metrics["test_loss"]).all(axis=0)
    at = np.union1d(at, np.flatnonzero(measured)[thin(int(measured.sum()), _POINTS)])
    pick = lambda kind: {part: metrics[f"{part}_{kind}"][:, at] for part in ("train", "test")}  # noqa: E731
    step = metrics["step"][at]
    return [
        page.Lines("Loss", step, pick("loss"), "cross-entropy, nats", log_y=True),
        page.Lines("Accuracy", step, pick("accuracy"), "share answered rightly"),
    ]


def weights_and_logits(
    subject: Subject, lane: int, batch: Batch, digits: Sequence[str]
) -> tuple[dict[str, Figure], list[page.Block]]:
    """Show who composes with whom, who writes the correct logit, and the logit lens.

    Args:
      subject: what is examined.
      lane: of it.
      batch: problems to average over.
      digits: names of the answer digits, `[R]`.
    """
    params, apply, read = take(subject.params, lane), subject.model.apply, subject.task.sizes.read
    composed = circuits.composition(params)
    names = circuits.composition_labels(params)
    drawn = {}
    if np.isfinite(composed.score).any():
        chance = 1 / np.sqrt(params["embed"]["W_E"].shape[1])
        drawn["composition"] = figures.composition(
            np.asarray(composed.score), *names, subject.title, chance=float(chance)
        )
    parts = attribution.attribution_by_digit(params, apply, batch, read)
    lens = attribution.lens_by_digit(params, apply, batch, read)
    wrote = np.stack([np.asarray(x) for x in parts.values()])
    loss = np.stack([np.asarray(x.loss) for x in lens.values()])
    points = [name.replace("blocks.", "L").replace(".hook_resid_", " ") for name in lens]
    drawn["attribution"] = figures.attribution(wrote, list(parts), digits, subject.title)
    drawn["lens"] = figures.logit_lens(loss, points, digits, subject.title)
    one = [int(subject.steps[-1]) if len(subject.steps) else 0]
    blocks = [
        page.HeatMaps(
            "Who writes the correct logit",
            one,
            {"correct logit minus mean of the others, nats": wrote[None]},
            row_labels=list(parts),
            column_labels=digits,
            xlabel="answer digit",
            diverging=True,
            power=0.5,
            note="Direct contributions only: what goes through later heads and neurons is theirs.",
        ),
        page.HeatMaps(
            "Logit lens",
            one,
            {"log10 of the loss": np.log10(np.maximum(loss, 1e-30))[None]},
            row_labels=points,
            column_labels=digits,
            xlabel="answer digit",
            note="The loss when logits are read off the residual stream at points on its way.",
        ),
    ]
    return drawn, blocks


def circuit_figures(
    params: Params, scores: Sequence[np.ndarray], title: str, **names: Sequence[str]
) -> dict[str, Figure]:
    """Draw the QK scores given, `[H, V]` or `[H, V, V]`, and the OV circuits of every layer."""
    many = len(scores) > 1
    return {
        f"circuits_layer{i + 1}" if many else "circuits": figures.circuit_matrices(
            np.asarray(qk),
            np.asarray(circuits.ov(params, i)),
            f"{title}, layer {i + 1}" if many else title,
            **names,
        )
        for i, qk in enumerate(scores)
    }
