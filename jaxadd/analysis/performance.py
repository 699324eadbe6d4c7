"""How good a network is: loss and accuracy on its test set, and on its train set where that is fixed."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import measures
from jaxadd.analysis.trained import Trained
from jaxadd.models import Model, Network
from jaxadd.optim import losses, scores
from jaxadd.pictures import Table
from jaxadd.tasks import Addition, HandwrittenDigits, Task
from jaxadd.tasks.listed import Listed
from jaxadd.types import Batch, Data, Params

_AT_ONCE = 4096  # examples


class Performance(NamedTuple):
    """The performance on a set of examples.

    Attributes:
      examples: their number.
      loss: mean cross-entropy over examples and answers, nats; infinite or NaN where a logit is not finite.
      accuracy: fraction of examples all of whose answers are correct.
      loss_by_answer: float64 `[R]`, nats.
      accuracy_by_answer: float64 `[R]`; answers before it are given, where the input holds them.
    """

    examples: int
    loss: float
    accuracy: float
    loss_by_answer: np.ndarray
    accuracy_by_answer: np.ndarray


@functools.singledispatch
def train_set(task: Task, data: Data) -> Batch | None:
    """Return all examples of one lane that a network is trained on; None where they are no fixed set, or not known.

    By default the train batch where every step has the same one. A task that draws its batches from a fixed train set
    registers itself here.
    """
    one, other = (task.train_batch(data, jax.random.key(i), jnp.int32(i)) for i in range(2))
    same = jax.tree.map(lambda a, b: a.shape == b.shape and bool(jnp.array_equal(a, b)), one, other)
    return one if all(same) else None


@train_set.register
def _(task: Listed, data: Data) -> Batch | None:
    return task.labelled(data.lane["train"], data) if len(data.lane["train"]) else None


@train_set.register
def _(task: Addition, data: Data) -> Batch | None:
    return None if task.finite is None else task.batch(data.lane["train"])


@train_set.register
def _(task: HandwrittenDigits, data: Data) -> Batch | None:
    return task.test_batch(data._replace(lane={**data.lane, "test": data.lane["train"]}))


def measure(params: Params, model: Model, batch: Batch) -> Performance:
    """Measure the performance of one network on a batch of any size; answers that are given are the true ones."""
    count, answers = batch.targets.shape
    loss, correct, exact = np.zeros(answers), np.zeros(answers, int), 0
    on_host = jax.device_get(batch)
    for start in range(0, count, _AT_ONCE):
        part = Batch(*(x[start : start + _AT_ONCE] for x in on_host))
        values, hits = (np.asarray(x) for x in _outcomes(params, model, part))
        loss += values.astype(np.float64).sum(axis=0)
        correct += hits.sum(axis=0)
        exact += int(hits.all(axis=1).sum())
    by_answer = loss / count
    return Performance(count, float(by_answer.mean()), exact / count, by_answer, correct / count)


@functools.partial(jax.jit, static_argnames="model")
def _outcomes(params: Params, model: Model, batch: Batch) -> tuple[jax.Array, jax.Array]:
    logits, _ = model.apply(params, batch.inputs)
    return losses.cross_entropy(logits, batch.targets), scores.correct(logits, batch.targets)


def of(network: Network) -> dict[str, Performance]:
    """Measure the performance of a network on its task's "train" set, where that is fixed, and "test" set.

    Where the split is not known, on "all" problems.
    """
    data = network.data
    held_out = "test" if network.split_known else "all"
    sets = {"train": train_set(network.task, data), held_out: network.task.test_batch(data)}
    return {name: measure(network.params, network.model, batch) for name, batch in sets.items() if batch is not None}


def numbers(performance: Mapping[str, Performance], answers: Sequence[str]) -> dict[str, float]:
    """Return the performance as plain numbers: "test_loss", and of each of several answers "test_loss.A5"."""
    entries: dict[str, float] = {}
    for name, part in performance.items():
        entries |= {f"{name}_loss": part.loss, f"{name}_accuracy": part.accuracy}
        if len(answers) > 1:
            entries |= {f"{name}_loss.{a}": float(x) for a, x in zip(answers, part.loss_by_answer, strict=True)}
            entries |= {
                f"{name}_accuracy.{a}": float(x) for a, x in zip(answers, part.accuracy_by_answer, strict=True)
            }
    return entries


def tables(trained: Trained, lanes: Sequence[Mapping[str, Performance]], lane: int) -> list[Table]:
    """Return the performance as tables: of one lane, with several lanes of all, and of each of several answers.

    Args:
      trained: the networks.
      lanes: what `of` returned for each.
      lane: the one that is listed.
    """
    answers, shown = trained.networks[lane].task.answer_names, lanes[lane]
    correct = "accuracy" if len(answers) == 1 else "exact match"
    several = len(lanes) > 1
    everyone = f"of all {len(lanes)} seeds, median (range)"
    columns = ["examples", "number", "loss, nats", correct]
    columns += [f"loss {everyone}", f"{correct} {everyone}"] if several else []
    rows = []
    for name, part in shown.items():
        row = [name, f"{part.examples:,}", measures.number(part.loss), percent(part.accuracy)]
        if several:
            row.append(measures.over_lanes([p[name].loss for p in lanes]))
            row.append(measures.over_lanes([p[name].accuracy for p in lanes], percent))
        rows.append(row)
    title = ": ".join(filter(None, ("How good it is", trained.name(lane))))
    note = "" if "train" in shown else "Training drew new examples at every step, or its train set is not known."
    if not trained.networks[lane].split_known:
        note = "The train split is not known, so these are all problems; some of them were trained on."
    result = [Table(title, columns, rows, note)]
    if len(answers) > 1:
        by_answer = [
            [answer]
            + [
                text
                for p in shown.values()
                for text in (measures.number(p.loss_by_answer[r]), percent(p.accuracy_by_answer[r]))
            ]
            for r, answer in enumerate(answers)
        ]
        heads = [f"{name} {what}" for name in shown for what in ("loss, nats", "accuracy")]
        result.append(Table("How good each answer is", ["answer", *heads], by_answer))
    return result


def percent(fraction: float) -> str:
    """Return a fraction in percent, "100 %" for exactly 1 alone."""
    if not np.isfinite(fraction):
        return "none"
    text = f"{100 * fraction:.2f}"
    if text == "100.00":
        return "100 %" if fraction == 1 else f"{100 * fraction:.6f}".rstrip("0") + " %"
    return f"{text} %"
