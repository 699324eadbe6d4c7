"""Figures of one network that learned an operation mod P: what is seen over all pairs, its neurons, its embedding."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, fourier
from jaxadd.analysis.measures import EXPLAINED
from jaxadd.analysis.modular import pairs
from jaxadd.analysis.modular.measured import Measured, listed
from jaxadd.analysis.modular.neurons import commitment, neurons
from jaxadd.analysis.modular.problem import Problem
from jaxadd.analysis.trained import FRAMES, Trained
from jaxadd.models import Model, Network, structure
from jaxadd.pictures import Bars, FigureOf, HeatMaps, Histogram, Level
from jaxadd.tasks import Modular
from jaxadd.tasks.modular import CyclicProduct
from jaxadd.types import Params

_NEURONS = 6  # drawn, those that vary most
_NAMED_CLUSTERS = 8
_ALL_NAMED = 12  # frequencies of a group, up to which all are named on the axes of spectra
_TUNED = 0.5  # of the variance, explained by one frequency; a quadratic neuron of one wave has 0.8 at it
_ROOM = 6_000_000  # numbers in maps over all pairs, of all frames together


def _in_order(group: CyclicProduct) -> dict[str, Any]:
    """Return the axes of a map over pairs in the order of the group."""
    return {
        **pairs.over_pairs(group.elements),
        "note": "" if group.name == "additive" else f"Numbers are {order_in_words(group)}.",
    }


def order_in_words(group: CyclicProduct) -> str:
    """Return in words in which order a group of units is listed."""
    powers = " and ".join(map(str, group.generators))
    return f"in the order of powers of {powers}"


@functools.partial(jax.jit, static_argnames=("model", "neurons"))
def _maps(
    params: Params, model: Model, problem: Problem, neurons: tuple[int, ...]
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """Return over all pairs the first layer's attention from the last token, the logits' 2-D spectrum, and neurons.

    Returns:
      `[H, P, P, T]`, None without attention; `[P, P]` by component of a and b; and `[n, P, P]`.
    """
    p, orders = math.isqrt(len(problem.answers)), problem.orders
    attends, post = structure.is_transformer(model), structure.last_neurons(model)
    names = [*(["blocks.0.attn.hook_pattern"] if attends else []), *([post] if post and neurons else [])]
    logits, cache = model.apply(params, problem.inputs, names)
    attention = None
    if attends:
        attention = jnp.moveaxis(cache[names[0]][:, :, -1], 0, 1).reshape(-1, p, p, model.sizes.length)
    numbers = problem.of_elements(logits[:, 0], 1).reshape(p, p, p)
    spectrum = jnp.linalg.norm(fourier.transform_2d(numbers, orders), axis=-1)
    active = jnp.zeros((0, p, p))
    if neurons:
        active = structure.neurons_read(cache, model)[:, jnp.array(neurons)].T.reshape(-1, p, p)
    return attention, spectrum, active


def pair_figures(task: Modular, trained: Trained, lane: int, state: Measured) -> list[FigureOf]:
    """Describe what is seen over all pairs (a, b): attention, neurons and their spectra, and the logits' spectrum."""
    network, subject, problem = trained.networks[lane], trained.subject(lane), state.problem
    model, group, p = network.model, problem.group, len(problem.group.elements)
    attends = structure.is_transformer(model)
    neurons: tuple[int, ...] = ()
    if state.activations is not None:
        neurons = tuple(np.argsort(-np.asarray(jnp.std(state.activations, axis=0)))[:_NEURONS].tolist())
    heads = structure.heads(model) if attends else 0
    most = int(np.clip(_ROOM // (p * p * (heads + 1 + len(neurons))), 1, FRAMES))
    steps, maps = trained.over_states(lane, lambda w: jax.device_get(_maps(w, model, problem, neurons)), most)
    spectrum, active = (np.stack([one[i] for one in maps]) for i in (1, 2))
    frequencies = fourier.frequencies(state.keys)
    figures = []
    if attends:
        figures.append(_attention(np.stack([one[0] for one in maps]), steps, subject, task, group))
        readable = structure.is_bilinear(model) and structure.is_linear(model)
        if task.equals != "none" and "hook_pos_embed" in model.names and readable:
            figures.append(_readoff(network, task, problem, subject))
    waves = fourier.row_names(group.orders)
    logits = HeatMaps(
        "2-D Fourier spectrum of the logits",
        steps,
        {"norm over classes": spectrum},
        waves,
        waves,
        xlabel="frequency along b",
        ylabel="frequency along a",
        unit="norm over classes",
        power=0.5,
        marks=_marks(frequencies, group),
    )
    figures.append(FigureOf("logits", "2-D Fourier spectrum of the logits", [logits], subject))
    if state.activations is not None:
        figures += [
            _neurons(neurons, active, steps, subject, group),
            _clusters(state.activations, subject, group),
        ]
    return figures


def _attention(
    attention: np.ndarray, steps: np.ndarray, subject: str, task: Modular, group: CyclicProduct
) -> FigureOf:
    heads, last = range(attention.shape[1]), task.position_names[-1]
    pictures = [
        HeatMaps(
            f"Attention from {last} to a",
            steps,
            {f"L0H{h}": attention[:, h, ..., 0] for h in heads},
            unit="attention to a",
            limits=(0, 1),
            **_in_order(group),
        ),
        HeatMaps(
            f"Attention from {last} to {last}",
            steps[-1:],
            {f"L0H{h}": attention[-1:, h, ..., -1] for h in heads},
            unit=f"attention to {last}",
            **_in_order(group),
        ),
    ]
    return FigureOf("attention_pairs", "Attention over all pairs", pictures, subject)


def _readoff(network: Network, task: Modular, problem: Problem, subject: str) -> FigureOf:
    # In the first layer all that `=` attends by is its own embedding there; later ones see what was written to it.
    scores = circuits.attention_readoff(network.params, network.model, 0, task.p, 2)
    scores = np.asarray(problem.of_elements(scores, 1))
    picture = Bars(
        "Attention scores of = for each number",
        [network.step],
        {f"L0H{h}": row[None] for h, row in enumerate(scores)},
        [str(k) for k in problem.group.elements],
        xlabel="number attended to",
        ylabel="score",
        note="q · k of the first layer, without the position of the number.",
    )
    return FigureOf("readoff", "Attention scores of = for each number", [picture], subject)


def _neurons(
    neurons: Sequence[int], active: np.ndarray, steps: np.ndarray, subject: str, group: CyclicProduct
) -> FigureOf:
    """Describe a few neurons over all pairs, and the 2-D transform of each, cut where nothing is left."""
    spectra = np.stack([np.abs(np.asarray(fourier.transform_2d(m, group.orders))) for m in active[-1]])
    known = np.where(np.isfinite(spectra), spectra, 0)
    end = max(_extent(power) for power in known)
    ridges = np.maximum(known.max(axis=1), known.max(axis=2))[:, 1:]
    of_row = fourier.frequency_of_row(group.orders)[1:]
    best = sorted({int(of_row[np.argmax(ridge)]) for ridge in ridges if ridge.any()})
    waves = fourier.row_names(group.orders)[:end]
    names = [f"neuron {i}" for i in neurons]
    pictures = [
        HeatMaps(
            "Activations over all pairs",
            steps,
            {name: active[:, n] for n, name in enumerate(names)},
            unit="activation",
            separate=True,
            **_in_order(group),
        ),
        HeatMaps(
            "Their 2-D Fourier transforms",
            steps[-1:],
            {name: spectra[n : n + 1, :end, :end] for n, name in enumerate(names)},
            waves,
            waves,
            xlabel="frequency along b",
            ylabel="frequency along a",
            unit="norm",
            power=0.5,
            separate=True,
            marks=[mark for mark in _marks(best, group) if mark.value < end],
            note="Up to the last component that reaches 5 % of the largest.",
        ),
    ]
    return FigureOf("neurons", "The neurons that vary most", pictures, subject)


def _extent(power: np.ndarray) -> int:
    """Return the number of components to show so that none of those left out reaches 5 % of the largest."""
    present = np.flatnonzero(np.maximum(power.max(0), power.max(1)) >= max(0.05 * power.max(), 1e-30))
    # A margin, so that the last one does not stand at the edge; and a whole number of frequencies.
    return min(len(power), 2 * (int(present.max(initial=8)) // 2 + 3) + 1)


def _marks(frequencies: Sequence[int], group: CyclicProduct) -> list[Level]:
    """Return where frequencies stand among the components, between cosine and sine; where there are few, of all."""
    count = fourier.count(group.orders)
    frequencies = range(1, count + 1) if count <= _ALL_NAMED else frequencies
    of_row, names = fourier.frequency_of_row(group.orders), fourier.names(group.orders)
    places = ((float(np.mean(np.flatnonzero(of_row == k))), names[k - 1]) for k in frequencies)
    return [Level(0, "const."), *(Level(place, name) for place, name in places)]


def _clusters(activations: jax.Array, subject: str, group: CyclicProduct) -> FigureOf:
    """Describe how many neurons are explained how well by one frequency, by that frequency."""
    names = ("none", *fourier.names(group.orders))
    fractions = fourier.neuron_fractions(activations, group.orders)
    frequency, explained = map(np.asarray, fourier.clusters(fractions))
    found, counts = np.unique(frequency[frequency > 0], return_counts=True)
    largest_first = found[np.argsort(-counts, kind="stable")]
    named = largest_first if len(found) <= _NAMED_CLUSTERS else largest_first[: _NAMED_CLUSTERS - 1]
    parts = {f"none: {np.sum(frequency == 0):,}": frequency == 0}
    parts |= {f"k = {names[k]}: {np.sum(frequency == k):,}": frequency == k for k in sorted(named)}
    if len(named) < len(found):
        rest = (frequency > 0) & ~np.isin(frequency, named)
        parts[f"{len(found) - len(named)} others: {np.sum(rest):,}"] = rest
    edges = np.linspace(0, 1, 41)
    picture = Histogram(
        "Neurons by their best frequency",
        edges,
        {name: np.histogram(explained[part & np.isfinite(explained)], edges)[0] for name, part in parts.items()},
        xlabel="fraction of variance explained by the neuron's best frequency",
        ylabel="neurons",
        threshold=EXPLAINED,
    )
    return FigureOf("clusters", "Neurons by their best frequency", [picture], subject)


def single_neurons(
    task: Modular, trained: Trained, lane: int, state: Measured
) -> tuple[dict[str, float | int], FigureOf]:
    """Describe what single neurons read and write, and when they settled on their frequency; return numbers too."""
    network = trained.networks[lane]
    steps, known = trained.over_states(
        lane, lambda w: jax.device_get(neurons(w, network.model, state.problem)), len(trained.steps) + 1
    )
    final, tuned = known[-1], known[-1].explained > _TUNED
    error = np.abs(np.asarray(final.phase_error(task.rule.sign)))[tuned]
    numbers = {"neuron_concentration": float(np.mean(final.concentration)), "tuned_neurons": int(np.sum(tuned))}
    pictures = [
        Histogram(
            "Inverse participation ratio",
            np.linspace(0, 1, 41),
            {
                "neurons": np.histogram(final.concentration[np.isfinite(final.concentration)], np.linspace(0, 1, 41))[
                    0
                ]
            },
            xlabel="Σ|û|⁴ / (Σ|û|²)² of what a neuron reads",
            ylabel="neurons",
        )
    ]
    if np.isfinite(error).any():
        error = error[np.isfinite(error)]
        numbers["neuron_phase_error"] = float(np.median(error))
        edges = np.linspace(0, np.pi, 37)
        pictures.append(
            Histogram(
                "Phase written against phases read",
                edges,
                {"tuned neurons": np.histogram(error, edges)[0]},
                xlabel=f"|ψ - (φ {'+' if task.rule.sign > 0 else '-'} χ)|, radians",
                ylabel="neurons",
                note="0 for neurons that add.",
            )
        )
    if len(steps) > 1:
        since = commitment(np.stack([one.frequency for one in known]), steps)[tuned]
        since = since[np.isfinite(since)]
        if len(since):
            numbers["neuron_commitment_median"] = float(np.median(since))
        edges = np.linspace(0, max(1, steps[-1]), min(41, len(steps) + 1))
        pictures.append(
            Histogram(
                "Step of commitment",
                edges,
                {"tuned neurons": np.histogram(since, edges)[0]},
                xlabel="step, of the saved states",
                ylabel="neurons",
            )
        )
    note = (
        f"Tuned neurons: one frequency explains more than {_TUNED}. Commitment: from there they keep their frequency."
    )
    return numbers, FigureOf("single_neurons", "What single neurons do", pictures, trained.subject(lane), note)


def embedding(state: Measured, steps: np.ndarray, norms: np.ndarray | None, subject: str) -> FigureOf:
    """Describe the norms of the embedding by frequency, `[E, K + 1]` at E steps; None takes those of the state."""
    norms = np.asarray(state.values["embedding_norm_k"])[None] if norms is None else norms
    group = state.problem.group
    names = fourier.names(group.orders)
    picture = Bars(
        "Fourier norms of the numbers' embeddings",
        steps,
        {"norm": norms},
        ["0", *names],
        xlabel="frequency k",
        ylabel="norm",
        highlight=[names[k - 1] for k in fourier.frequencies(state.keys)],
        note=f"Key frequencies {state.chosen if state.chosen == 'as given' else f'by {state.chosen}'}: "
        f"{listed(state.keys, group)}.",
    )
    return FigureOf("embedding", "Fourier norms of the numbers' embeddings", [picture], subject)
