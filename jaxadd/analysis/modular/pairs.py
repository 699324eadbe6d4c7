"""Which pairs a network answers correctly, and since when: errors, accuracy by residue, and graduation.

A pair graduates at the first evaluation from which it is answered correctly for good. Test pairs are recorded in
training where the task's `record_pairs` is set, at every evaluation; all pairs are known at saved states.
"""

import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np

from jaxadd.analysis.errors import error_map
from jaxadd.analysis.trained import Trained
from jaxadd.models import Model
from jaxadd.optim import scores
from jaxadd.pictures import Bars, FigureOf, HeatMaps
from jaxadd.tasks.modular import Modular
from jaxadd.tasks.modular.task import unpacked
from jaxadd.types import Params


def graduation(correct: np.ndarray, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the step from which each problem is answered correctly for good.

    Args:
      correct: bool `[E, n]`, at E evaluations.
      steps: `[E]`, ascending.

    Returns:
      float64 `[n]`; NaN for a problem with an error at the last evaluation.
    """
    chex.assert_shape(correct, (len(steps), None))
    wrong = ~np.asarray(correct)
    last = np.where(wrong.any(axis=0), len(steps) - 1 - np.argmax(wrong[::-1], axis=0), -1)
    return np.append(np.asarray(steps, float), np.nan)[last + 1]


def by_residue(correct: np.ndarray, answers: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the accuracy of each residue: as the first operand, as the second, and as the answer.

    Args:
      correct: bool `[M²]`, of all pairs, in order.
      answers: int `[M²]`, an index of a residue, below P.

    Returns:
      float64 `[M]` under "a" and "b", `[P]` under "answer"; NaN where no pair has this answer.
    """
    count = int(np.sqrt(len(correct)))
    grid = np.asarray(correct, float).reshape(count, count)
    hits, pairs = (np.bincount(answers, weights) for weights in (grid.reshape(-1), None))
    known = np.divide(hits, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return {"a": grid.mean(axis=1), "b": grid.mean(axis=0), "answer": known}


@functools.partial(jax.jit, static_argnames="model")
def correct_at(params: Params, model: Model, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return which problems a network answers correctly, bool `[B]`."""
    return scores.correct(model.apply(params, inputs)[0], targets)[:, 0]


def over_pairs(elements: Sequence[int]) -> dict[str, Any]:
    """Return the axes of a map over pairs of residues."""
    numbers = [str(k) for k in elements]
    return {"row_labels": numbers, "column_labels": numbers, "xlabel": "b", "ylabel": "a"}


def errors(task: Modular, trained: Trained, lane: int) -> list[FigureOf]:
    """Describe the errors over all pairs; problems of more operands have no map."""
    if task.operands != 2:
        return []
    network = trained.networks[lane]
    batch = task.batch(np.arange(task.problems, dtype=np.int32), network.data.shared)
    correct = np.asarray(correct_at(network.params, network.model, batch.inputs, batch.targets))
    return [error_map(trained, lane, correct, list(map(str, task.elements.tolist())))]


def history(task: Modular, trained: Trained, lane: int) -> tuple[dict[str, float], list[FigureOf]]:
    """Describe the accuracy of each residue, and when each pair graduates, as far as it is known.

    Args:
      task: of two operands; of more there is no map.
      trained: the networks.
      lane: of the networks.

    Returns:
      "graduation_median" and "graduation_last", steps of the test pairs, where these were recorded and one graduated;
      and the figures.
    """
    numbers: dict[str, float] = {}
    if task.operands != 2:
        return numbers, []
    network, subject, data = trained.networks[lane], trained.subject(lane), trained.networks[lane].data
    model, elements = network.model, task.elements.tolist()
    batch = task.batch(np.arange(task.problems, dtype=np.int32), data.shared)
    steps, known = trained.over_states(
        lane, lambda w: np.asarray(correct_at(w, model, batch.inputs, batch.targets)), len(trained.steps) + 1
    )
    correct, answers = np.stack(known), np.asarray(batch.targets)[:, 0]
    of_state = [by_residue(one, answers) for one in correct[[*_few(len(steps))]]]
    names = {"a": elements, "b": elements, "answer": range(len(of_state[0]["answer"]))}
    figures = [
        FigureOf(
            "residues",
            "Accuracy of each residue",
            [
                Bars(
                    f"Accuracy of each residue as {'the answer' if part == 'answer' else part}",
                    steps[[*_few(len(steps))]],
                    {"accuracy": np.stack([one[part] for one in of_state])},
                    [str(k) for k in labels],
                    xlabel=part,
                    ylabel="fraction correct",
                )
                for part, labels in names.items()
            ],
            subject,
        )
    ]
    maps = []
    if (recorded := trained.metrics.get("evaluation/correct_pairs")) is not None:
        test = np.asarray(data.lane["test"])
        measured = ~np.isnan(recorded[lane]).any(axis=1)
        since = graduation(
            unpacked(recorded[lane][measured], len(test)), trained.metrics["evaluation/step"][measured]
        )
        grid = np.full(task.problems, np.nan)
        grid[test] = since
        maps.append(_map("Test pairs, by the evaluations in training", grid, network.step, elements))
        if np.isfinite(since).any():
            numbers = {"graduation_median": float(np.nanmedian(since)), "graduation_last": float(np.nanmax(since))}
    if len(steps) > 1:
        maps.append(_map("All pairs, by the saved states", graduation(correct, steps), network.step, elements))
    if maps:
        figures.append(FigureOf("graduation", "Step from which a pair is correct for good", maps, subject))
    return numbers, figures


def _few(count: int, most: int = 40) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _map(title: str, since: np.ndarray, step: int, elements: Sequence[int]) -> HeatMaps:
    count = len(elements)
    return HeatMaps(
        title,
        [step],
        {"step": since.reshape(1, count, count).astype(np.float32)},
        unit="step",
        note="Grey: not measured, or an error at the end.",
        **over_pairs(elements),
    )
