"""What is measured and drawn of a network that adds numbers of N digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, claims
from jaxadd.analysis.addition import ablation
from jaxadd.analysis.report import Examination, circuit_figures, thin, training_curves, weights_and_logits
from jaxadd.lanes import take
from jaxadd.subjects import Subject
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.carries import CLASSES
from jaxadd.types import Params
from jaxadd.views import figures, html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXAMPLES = 512  # problems to ablate on, half of them with forced cascades of every length
_UNITS = 40  # drawn, those that damage most


def examine_addition(subject: Subject, lane: int) -> Examination:
    """Examine one lane of n-digit addition: what every head, neuron group and position is for."""
    task, apply, params = subject.task, subject.model.apply, take(subject.params, lane)
    digits = [f"A{d}" for d in task.read_digits]
    operands = _problems(task)
    batch = task.batch(operands)
    groups = [
        claims.neuron_groups(task, params, apply, batch, operands, i)
        for i in range(circuits.layers(params))
        if "mlp" in params[f"blocks.{i}"]
    ]
    units = ablation.units(task, params, groups)
    found = ablation.measure(task, params, apply, operands, units)
    said = ablation.sentences(task, found)
    numbers: dict[str, Any] = {
        f"damage.{unit.label}.{digit}": float(found.loss[i, r])
        for i, unit in enumerate(units)
        for r, digit in enumerate(digits)
    }
    worst = found.loss.max(axis=1)
    order = np.argsort(-worst)[:_UNITS]
    # Where nothing shows, what damages most is drawn all the same.
    shown = np.sort(order[: max(5, int(np.sum(worst[order] > ablation.NOTICEABLE)))])
    labels = [units[i].label for i in shown]
    loss, by_class = (np.asarray(x)[shown] for x in (found.loss, found.by_class))
    more, parts = weights_and_logits(subject, lane, batch, digits)
    drawn = {
        "damage": figures.damage_map(loss, by_class, labels, digits, CLASSES, None, subject.title),
        "attention": figures.attention_maps(
            circuits.mean_attention(params, apply, batch.inputs, task.sizes.read),
            digits,
            ablation.token_names(task),
            subject.title,
        ),
        **_circuits(task, params, subject.title),
        **more,
    }
    blocks = [
        html.Text("What every part is for, by mean ablation", said),
        *training_curves(subject.metrics),
        *_blocks_of_training(subject, lane, digits),
        *_attention_blocks(subject, lane, batch.inputs, digits),
        html.HeatMaps(
            "Damage by mean ablation",
            [int(subject.steps[-1]) if len(subject.steps) else 0],
            {"rise of the loss, nats": np.concatenate([loss, by_class], axis=1)[None]},
            row_labels=labels,
            column_labels=[*digits, *CLASSES],
            xlabel="answer digit; then carry class, mean over digits",
            diverging=True,
            power=0.5,
            note="Each part's activation is replaced by its mean over problems. Those that damage most.",
        ),
        *parts,
    ]
    return Examination(numbers, "\n".join(said), drawn, blocks)


def _problems(task: Addition) -> jax.Array:
    """Draw uniform problems and as many with cascades of every length, int `[B, M, N]`."""
    uniform, *keys = jax.random.split(jax.random.key(1), task.digits + 1)
    drawn = [task.draw(uniform, _EXAMPLES // 2)]
    if task.operation == "add":
        each = max(1, _EXAMPLES // 2 // task.digits)
        drawn += [task.cascade(key, each, length) for length, key in enumerate(keys)]
    return jnp.concatenate(drawn)


def _circuits(task: Addition, params: Params, title: str) -> dict[str, Figure]:
    """Draw QK between the tokens' embeddings and OV, of every layer; positions add to the scores beside them."""
    tokens = [str(d) for d in range(task.base)] + ["+", "=", "?"][: len(params["embed"]["W_E"]) - task.base]
    scores = [circuits.qk(params, i) for i in range(circuits.layers(params))]
    if task.base > 16:  # Too many to name.
        return circuit_figures(params, scores, title)
    return circuit_figures(params, scores, title, tokens=tokens, classes=tokens[: task.base])


def _blocks_of_training(subject: Subject, lane: int, digits: Sequence[str]) -> list[html.Block]:
    """Show what was recorded in training: each digit's loss and answers; nothing where it is not known."""
    task, metrics = subject.task, subject.metrics
    if not metrics:
        return []
    at = thin(len(metrics["step"]), 4_000)
    losses = metrics["train_position_loss"][:, at]
    steps = metrics["evaluation/step"]
    frames = thin(len(steps), 60)
    confusion, offset = (metrics[f"evaluation/{name}"][lane, frames] for name in ("confusion", "offset"))
    by_cascade = metrics["evaluation/accuracy_by_cascade"]
    by_class = metrics["evaluation/accuracy_by_class"]
    numerals = [str(d) for d in range(task.base)]
    return [
        html.Lines(
            "Train loss of each answer digit",
            metrics["step"][at],
            {name: losses[..., r] for r, name in enumerate(digits)},
            "nats",
            log_y=True,
        ),
        html.Lines(
            "Sums answered rightly, by length of a forced carry cascade",
            steps,
            {f"{n} columns": by_cascade[..., n] for n in range(by_cascade.shape[-1])},
            "share",
        ),
        html.Lines(
            "Sums answered rightly, by carry class",
            steps,
            {name: by_class[..., g] for g, name in enumerate(CLASSES) if np.isfinite(by_class[..., g]).any()},
            "share",
        ),
        html.HeatMaps(
            "Confusion: mean probability of each digit, by true digit",
            steps[frames],
            {name: confusion[:, r] for r, name in enumerate(digits)},
            row_labels=numerals,
            column_labels=numerals,
            xlabel="probability given to",
            ylabel="true digit",
            limits=(0, 1),
        ),
        html.Spectra(
            "Probability by offset from the naive digit",
            steps[frames],
            {name: offset[:, r] for r, name in enumerate(digits)},
            labels=numerals,
            xlabel="offset",
            note="The naive digit leaves the carry out; the right one is 0 or, with a carry in, 1 away.",
        ),
    ]


def _attention_blocks(subject: Subject, lane: int, inputs: jax.Array, digits: Sequence[str]) -> list[html.Block]:
    """Show the mean attention of every head, at the saved states where there are some."""
    if subject.history is None:
        steps, states = np.zeros(1, int), [take(subject.params, lane)]
    else:
        at = thin(len(subject.steps))
        history = take(subject.history, lane)
        steps, states = subject.steps[at], [take(history, i) for i in at]
    attention = lambda params: circuits.mean_attention(params, subject.model.apply, inputs, subject.task.sizes.read)  # noqa: E731
    maps = np.stack([attention(params) for params in states])  # [E, L, H, R, T]
    heads = {f"L{i}H{h}": maps[:, i, h] for i, h in np.ndindex(maps.shape[1:3])}
    return [
        html.HeatMaps(
            "Mean attention from where digits are read",
            steps,
            heads,
            row_labels=digits,
            column_labels=ablation.token_names(subject.task),
            xlabel="to",
            ylabel="from",
            limits=(0, 1),
        )
    ]
