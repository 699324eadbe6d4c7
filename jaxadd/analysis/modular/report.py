"""What is measured and shown of a network that learns an operation mod P."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, fourier, measures
from jaxadd.analysis.measures import Measure
from jaxadd.analysis.modular import clocks, pairs, progress
from jaxadd.analysis.modular.neurons import commitment, neurons
from jaxadd.analysis.phases import PHASES, Phases, phases
from jaxadd.analysis.report import analyse_task, no_keys, recorded_figures, summarize_task
from jaxadd.analysis.trained import FRAMES, Report, Trained, as_text
from jaxadd.errors import UserError
from jaxadd.models import Model, Network, structure
from jaxadd.pictures import Bars, FigureOf, HeatMaps, Histogram, Level, Lines, Span, Text
from jaxadd.tables import spread
from jaxadd.tasks import Modular
from jaxadd.tasks.modular import CyclicProduct
from jaxadd.types import Params

RULES = ("neurons", "neuron-logit-map", "embedding", "logits")
"""What finds the key frequencies; see `fourier`."""
_NEURONS = 6  # drawn, those that vary most
_PAIRS = 500  # that gradients are taken at
_NAMED_CLUSTERS = 8
_TUNED = 0.5  # of the variance, explained by one frequency; a quadratic neuron of one wave has 0.8 at it
_ROOM = 6_000_000  # numbers in maps over all pairs, of all frames together
_FEW = 10  # saved states, with fewer of which the end of a phase is known coarsely
_PHASE_SERIES = ("train_loss", "test_loss", "excluded_loss_train", "sum_of_squares")
_ALL = (*progress.MEASURES, *clocks.MEASURES)


class _State(NamedTuple):
    """One lane as it is analysed.

    Attributes:
      table: the problem.
      activations: `[P², F]` of the last layer's neurons; None without any.
      rules: the key frequencies by each rule, bool `[K]`.
      chosen: what chose the keys, in words.
      keys: the key frequencies, bool `[K]`.
      values: of all measures.
      numbers: for JSON.
    """

    table: progress.Table
    activations: jax.Array | None
    rules: Mapping[str, jax.Array]
    chosen: str
    keys: jax.Array
    values: Mapping[str, Any]
    numbers: dict[str, Any]


# --- a finished run ---------------------------------------------------------------------------------------


@summarize_task.register
def _(task: Modular, trained: Trained) -> Report:
    """Return the first network's errors over all pairs."""
    return Report.of(blocks=pairs.errors(task, trained, 0))


def _in_order(group: CyclicProduct) -> dict[str, Any]:
    """Return the axes of a map over pairs in the order of the group."""
    return {
        **pairs.over_pairs(group.elements),
        "note": "" if group.name == "additive" else f"Numbers are {_order(group)}.",
    }


def _order(group: CyclicProduct) -> str:
    powers = " and ".join(map(str, group.generators))
    return f"in the order of powers of {powers}"


# --- an analysis ------------------------------------------------------------------------------------------


@analyse_task.register
def _(task: Modular, trained: Trained, lane: int, keys: str | None) -> Report:
    """Measure all lanes in the characters of the operation's group and show one; without a group show its errors."""
    group = task.group
    if group is None or task.operands != 2:
        no_keys(task, keys)
        numbers: dict[str, Any] = {}
        sentence = (
            "Key frequencies and progress measures are defined for a sum or difference in a group, of two operands."
        )
        return Report.of(
            sentence,
            numbers,
            [
                Text("In short", [sentence]),
                *pairs.errors(task, trained, lane),
                *pairs.history(task, trained, lane, numbers),
                *recorded_figures(trained),
            ],
        )
    states = [_measure(task, network, keys) for network in trained.networks]
    state, subject = states[lane], trained.subject(lane)
    frequencies = fourier.frequencies(state.keys)
    listed_keys = lambda mask: _listed(mask, group)
    words = [f"key frequencies by {name}: {listed_keys(mask)}" for name, mask in state.rules.items()]
    if state.chosen not in RULES:
        words.append(f"key frequencies {state.chosen}: {listed_keys(state.keys)}")
    if group.name != "additive":
        orders = " × ".join(f"C{n}" for n in group.orders)
        words.insert(0, f"characters of the units mod {task.p}, {orders}, {_order(group)}")
    figures = [*pairs.errors(task, trained, lane), *_pair_figures(task, trained, lane, state)]
    numbers, steps, norms = dict(state.numbers), np.array([trained.networks[lane].step]), None
    figures += pairs.history(task, trained, lane, numbers)
    if state.activations is not None:
        figures.append(_single_neurons(task, trained, lane, state, numbers))
    if trained.evolves:
        over = [_over_training(trained, s, one) for s, one in enumerate(states)]
        ends = [phases(trained.steps, *(measured[name] for name in _PHASE_SERIES)) for measured in over]
        numbers |= {f"phase_{name}": end for name, end in ends[lane]._asdict().items()}
        words += [_end_of(what, [getattr(e, name) for e in ends]) for name, what in PHASES.items()]
        if len(trained.steps) < _FEW:
            words.append(f"ends of phases are coarse: only {len(trained.steps)} states were saved")
        names = fourier.names(group.orders)
        figures.append(_progress(trained, lane, over, ends[lane], frequencies, names))
        steps, norms = trained.steps, over[lane]["embedding_norm_k"]
    figures.append(_embedding(state, steps, norms, subject))
    listed = measures.explained(
        progress.named(_ALL, group.orders), _listed_entries(state, group.orders), state.values
    )
    table = measures.table("Measures", [s.numbers for s in states], lane, trained.heading(lane), listed)
    return Report.of("\n".join([*words, "", as_text(table)]), numbers, [Text("In short", words), *figures, table])


def _end_of(phase: str, steps: Sequence[int | None]) -> str:
    """Return a sentence on when a phase ended, and in how many lanes it did; None is a lane where it did not."""
    known = [step for step in steps if step is not None]
    if not known:
        return f"{phase} did not end within the record"
    lanes = f" in {len(known)} of {len(steps)} lanes," if len(known) < len(steps) else ""
    return f"{phase} ended{lanes} at step {spread(known)}"


def _listed(keys: jax.Array, group: CyclicProduct) -> str:
    names = fourier.names(group.orders)
    return ", ".join(names[k - 1] for k in fourier.frequencies(keys)) or "none"


def _plain(keys: jax.Array, orders: fourier.Orders) -> list[int | str]:
    """Return frequencies for JSON: whole numbers, or names such as "(0, 1)"."""
    known, names = fourier.frequencies(keys), fourier.names(orders)
    return list(known) if len(orders) == 1 else [names[k - 1] for k in known]


def _measure(task: Modular, network: Network, keys: str | None) -> _State:
    params, model = network.params, network.model
    table = progress.table(task, network.data.lane)
    orders, count = table.orders, len(table.answers)
    logits, activations = _run(params, model, table)
    embedding = table.of_elements(structure.token_vectors(params, model))
    rules = {
        "logits": fourier.keys_of_logits(logits, table.answers, orders=orders),
        "embedding": fourier.keys_of_embedding(embedding, orders=orders),
    }
    numbers: dict[str, Any] = {}
    if activations is not None:
        rules["neurons"] = fourier.keys_of_neurons(activations, orders=orders)
        if measures.needs_direct_neurons(model):
            to_logit = table.of_elements(circuits.last_neurons_to_logits(params, model), 1)
            rules["neuron-logit-map"] = fourier.keys_of_neuron_logit_map(to_logit, orders=orders)
        frequency = np.asarray(fourier.clusters(fourier.neuron_fractions(activations, orders)).frequency)
        counts = zip(*np.unique(frequency, return_counts=True), strict=True)
        names = ("none", *fourier.names(orders))
        numbers |= {f"neurons_{names[k]}": int(n) for k, n in counts}
    chosen, mask = choose_keys(keys, rules, orders)
    some = jax.random.choice(jax.random.key(0), count, (min(_PAIRS, count),), replace=False)
    declared = measures.defined(_ALL, network)
    values = jax.device_get(progress.measures(params, model, table, mask, some, declarations=declared))
    numbers |= progress.flat(values, orders, declared)
    numbers |= {f"key_frequencies_{name.replace('-', '_')}": _plain(found, orders) for name, found in rules.items()}
    return _State(table, activations, rules, chosen, mask, values, numbers)


@functools.partial(jax.jit, static_argnames="model")
def _run(params: Params, model: Model, table: progress.Table) -> tuple[jax.Array, jax.Array | None]:
    """Return the logits of the numbers, `[P², P]`, and the last layer's neurons, `[P², F]`; None without any."""
    name = structure.last_neurons(model)
    logits, cache = model.apply(params, table.inputs, [name] if name else [])
    return table.of_elements(logits[:, 0], 1), structure.neurons_read(cache, model) if name else None


def choose_keys(keys: str | None, rules: Mapping[str, jax.Array], orders: fourier.Orders) -> tuple[str, jax.Array]:
    """Return what chose the key frequencies, in words, and the key frequencies.

    Args:
      keys: one of RULES, or frequencies by their names, such as "3,6,23" or "(0, 1),(1, 2)"; None takes the neurons,
        or the logits without neurons.
      rules: the key frequencies by each rule that applies.
      orders: of the group.

    Raises:
      UserError: `keys` is neither, the rule needs neurons and there are none, or the group has no such frequency.
    """
    if keys is None:
        keys = "neurons" if "neurons" in rules else "logits"
    if keys in rules:
        return keys, rules[keys]
    if keys in RULES:
        raise UserError(f"the rule {keys} needs neurons, and this network has none; use {' or '.join(rules)}")
    try:
        frequencies = fourier.named(keys, orders)
    except UserError:
        some = ",".join(fourier.names(orders)[:2])
        raise UserError(
            f"keys must be a rule ({', '.join(RULES)}) or frequencies {fourier.described(orders)}, with commas "
            f"between them such as '{some}', got {keys!r}"
        ) from None
    return "as given", jnp.asarray(fourier.mask(frequencies, orders))


# --- figures ----------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("model", "neurons"))
def _maps(
    params: Params, model: Model, table: progress.Table, neurons: tuple[int, ...]
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """Return over all pairs the first layer's attention from the last token, the logits' 2-D spectrum, and neurons.

    Returns:
      `[H, P, P, T]`, None without attention; `[P, P]` by component of a and b; and `[n, P, P]`.
    """
    p, orders = math.isqrt(len(table.answers)), table.orders
    attends, post = structure.is_transformer(model), structure.last_neurons(model)
    names = [*(["blocks.0.attn.hook_pattern"] if attends else []), *([post] if post and neurons else [])]
    logits, cache = model.apply(params, table.inputs, names)
    attention = None
    if attends:
        attention = jnp.moveaxis(cache[names[0]][:, :, -1], 0, 1).reshape(-1, p, p, model.sizes.length)
    numbers = table.of_elements(logits[:, 0], 1).reshape(p, p, p)
    spectrum = jnp.linalg.norm(fourier.transform_2d(numbers, orders), axis=-1)
    active = jnp.zeros((0, p, p))
    if neurons:
        active = structure.neurons_read(cache, model)[:, jnp.array(neurons)].T.reshape(-1, p, p)
    return attention, spectrum, active


def _pair_figures(task: Modular, trained: Trained, lane: int, state: _State) -> list[FigureOf]:
    """Describe what is seen over all pairs (a, b): attention, neurons and their spectra, and the logits' spectrum."""
    network, subject, table = trained.networks[lane], trained.subject(lane), state.table
    model, group, p = network.model, table.group, len(table.group.elements)
    attends = structure.is_transformer(model)
    neurons: tuple[int, ...] = ()
    if state.activations is not None:
        neurons = tuple(np.argsort(-np.asarray(jnp.std(state.activations, axis=0)))[:_NEURONS].tolist())
    heads = structure.heads(model) if attends else 0
    most = int(np.clip(_ROOM // (p * p * (heads + 1 + len(neurons))), 1, FRAMES))
    steps, maps = trained.over_states(lane, lambda w: jax.device_get(_maps(w, model, table, neurons)), most)
    spectrum, active = (np.stack([one[i] for one in maps]) for i in (1, 2))
    frequencies = fourier.frequencies(state.keys)
    figures = []
    if attends:
        figures.append(_attention(np.stack([one[0] for one in maps]), steps, subject, task, group))
        readable = structure.is_bilinear(model) and structure.is_linear(model)
        if task.equals != "none" and "hook_pos_embed" in model.names and readable:
            figures.append(_readoff(network, task, table, subject))
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


def _readoff(network: Network, task: Modular, table: progress.Table, subject: str) -> FigureOf:
    # In the first layer all that `=` attends by is its own embedding there; later ones see what was written to it.
    scores = circuits.attention_readoff(network.params, network.model, 0, task.p, 2)
    scores = np.asarray(table.of_elements(scores, 1))
    picture = Bars(
        "Attention scores of = for each number",
        [network.step],
        {f"L0H{h}": row[None] for h, row in enumerate(scores)},
        [str(k) for k in table.group.elements],
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
    """Return where frequencies stand among the components, between cosine and sine."""
    of_row, names = fourier.frequency_of_row(group.orders), fourier.names(group.orders)
    places = ((float(np.mean(np.flatnonzero(of_row == k))), names[k - 1]) for k in frequencies)
    return [Level(0, "const."), *(Level(place, name) for place, name in places)]


def _clusters(activations: jax.Array, subject: str, group: CyclicProduct, threshold: float = 0.85) -> FigureOf:
    """Describe how many neurons are explained how well by one frequency, by that frequency."""
    names = ("none", *fourier.names(group.orders))
    fractions = fourier.neuron_fractions(activations, group.orders)
    frequency, explained = map(np.asarray, fourier.clusters(fractions, threshold))
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
        threshold=threshold,
    )
    return FigureOf("clusters", "Neurons by their best frequency", [picture], subject)


def _single_neurons(task: Modular, trained: Trained, lane: int, state: _State, numbers: dict[str, Any]) -> FigureOf:
    """Describe what single neurons read and write, and when they settled on their frequency."""
    network = trained.networks[lane]
    steps, known = trained.over_states(
        lane, lambda w: jax.device_get(neurons(w, network.model, state.table)), len(trained.steps) + 1
    )
    final, tuned = known[-1], known[-1].explained > _TUNED
    error = np.abs(np.asarray(final.phase_error(task.rule.sign)))[tuned]
    numbers |= {"neuron_concentration": float(np.mean(final.concentration)), "tuned_neurons": int(np.sum(tuned))}
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
    return FigureOf("single_neurons", "What single neurons do", pictures, trained.subject(lane), note)


def _embedding(state: _State, steps: np.ndarray, norms: np.ndarray | None, subject: str) -> FigureOf:
    norms = np.asarray(state.values["embedding_norm_k"])[None] if norms is None else norms
    group = state.table.group
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
        f"{_listed(state.keys, group)}.",
    )
    return FigureOf("embedding", "Fourier norms of the numbers' embeddings", [picture], subject)


# --- over training ----------------------------------------------------------------------------------------

_OVER_TRAINING: tuple[Measure, ...] = tuple(
    measure for measure in progress.MEASURES if measure.panel or measure.name in (*_PHASE_SERIES, "embedding_norm_k")
)


def _over_training(trained: Trained, lane: int, state: _State) -> dict[str, np.ndarray]:
    """Return a lane's measures at all known states, with its final key frequencies."""
    model = trained.networks[lane].model
    return jax.device_get(
        progress.over_states(trained.histories[lane], model, state.table, state.keys, declarations=_OVER_TRAINING)
    )


def _progress(
    trained: Trained,
    lane: int,
    over: Sequence[Mapping[str, np.ndarray]],
    ends: Phases,
    frequencies: Sequence[int],
    names: Sequence[str],
) -> FigureOf:
    """Describe the measures over training, one picture for a panel, with the lane's phases."""
    spans, start = [], 0
    for i, (name, words) in enumerate(PHASES.items()):
        end = getattr(ends, name)
        if end is None and any(later is not None for later in ends[i + 1 :]):
            continue  # There was none: a network may generalise from the start.
        until = int(trained.steps[-1]) if end is None else end
        spans.append(Span(start, until, f"{words}, {'not ended' if end is None else f'to step {end:,}'}"))
        if end is None:
            break
        start = end
    pictures = measures.curves(_OVER_TRAINING, trained.steps, over, spans)
    if frequencies:
        single = {f"k = {names[k - 1]}": over[lane]["excluded_loss_k"][:, k - 1] for k in frequencies}
        one = Lines(progress.ONE_FREQUENCY, trained.steps, single, "nats", log_x=True, log_y=True, spans=spans)
        pictures.insert(1, one)
    several = len(trained.networks) > 1
    note = f"Phases and single frequencies are those of seed {trained.networks[lane].seed}." if several else ""
    return FigureOf("measures", "Progress measures", pictures, trained.title, note)


def _listed_entries(state: _State, orders: fourier.Orders) -> list[str]:
    """Return the entries that a table lists: vectors over frequencies at key frequencies, or not at all."""
    others = {f"excluded_loss_{name}" for name, key in zip(fourier.names(orders), state.keys, strict=True) if not key}
    hidden = ("logit_cosine_", "embedding_norm_", "sum_of_squares.")
    return [name for name in state.numbers if not name.startswith(hidden) and name not in others]
