"""What is measured and drawn of a network that adds modulo P."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, fourier
from jaxadd.analysis.modular import clocks, progress
from jaxadd.analysis.phases import PHASES, Phases, phases
from jaxadd.analysis.report import Examination, circuit_figures, thin, training_curves, weights_and_logits
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.subjects import Subject
from jaxadd.types import Batch, Params
from jaxadd.views import figures, html, terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RULES = ("neurons", "neuron_logit_map", "embedding", "logits")  # that find the key frequencies
_NEURONS = 6  # drawn, those that vary most
_CURVES = ("train_loss", "test_loss", "restricted_loss_all", "excluded_loss_train")
_SHARES = ("gini_W_E", "gini_W_L", "logit_variance_explained", "neuron_variance_explained")


class _State(NamedTuple):
    """One lane at the state that is examined: its whole table, key frequencies by rule, and numbers for JSON."""

    params: Params
    table: progress.Table
    logits: jax.Array
    pattern: np.ndarray
    activations: jax.Array | None
    rules: dict[str, jax.Array]
    rule: str
    keys: jax.Array
    numbers: dict[str, Any]


def examine_modular(subject: Subject, lane: int, rule: str | None = None) -> Examination:
    """Examine one lane of modular addition, and measure the others beside it.

    Args:
      subject: what is examined.
      lane: which is drawn, and whose numbers are given.
      rule: by which the key frequencies are found, see `fourier`; by default neurons, or logits where there are none.

    Raises:
      ValueError: the operation is no sum, or the rule needs neurons and there are none.
    """
    states = [_measure(subject, s, rule) for s in range(len(subject.seeds))]
    mine, p = states[lane], subject.task.p
    found = fourier.frequencies(mine.keys)
    text = [
        f"key frequencies by {name}: {', '.join(map(str, fourier.frequencies(mask))) or 'none'}"
        for name, mask in mine.rules.items()
    ]
    drawn = _figures_of_state(subject, mine, found)
    numbers, steps = dict(mine.numbers), np.zeros(1, int)
    norms = np.asarray(fourier.norms(mine.params["embed"]["W_E"][:p]))[None]
    blocks = training_curves(subject.metrics)
    if subject.history is not None and len(subject.steps) > 1:
        over, ends = _over_training(subject, states)
        steps, norms = subject.steps, over[lane]["embedding_norm_k"]
        numbers |= {f"phase_{name}": end for name, end in ends[lane]._asdict().items()}
        text += [
            f"{words} ended at step {terminal.spread([getattr(e, name) for e in ends])}"
            for name, words in PHASES.items()
        ]
        shown = _CURVES + tuple(n for n in ("sum_of_squares", *_SHARES) if n in over[lane])
        series = {name: np.stack([o[name] for o in over]) for name in shown}
        single = {f"excluded_loss_{k}": over[lane]["excluded_loss_k"][None, :, k - 1] for k in found}
        drawn["measures"] = figures.measures(steps, series | single, ends[lane], subject.title)
        blocks += _blocks_of_training(subject, lane, mine, series, ends[lane])
    drawn["embedding"] = figures.embedding_norms(steps, norms, found, subject.title)
    at = thin(len(steps), 200)
    blocks.append(
        html.Spectra(
            "Fourier norms of W_E",
            steps[at],
            {"norm of the numbers' embeddings": norms[at]},
            labels=[str(k) for k in range(norms.shape[1])],
            xlabel="frequency k",
            highlight=[str(k) for k in found],
            note=f"Key frequencies by {mine.rule}: {', '.join(map(str, found)) or 'none'}.",
        )
    )
    pairs = jax.random.choice(jax.random.key(0), p * p, (min(2000, p * p),), replace=False)
    batch = Batch(mine.table.inputs[pairs], mine.table.answers[pairs][:, None])
    more, shown_parts = weights_and_logits(subject, lane, batch, ["answer"])
    table = _table(subject, lane, states, found)
    text += ["", terminal.table(table)]
    blocks = [
        html.Text("In short", text[: text.index("")]),
        *blocks,
        *shown_parts,
        html.Table("Measures", table[0], table[1:], note="Defined in jaxadd.analysis.progress and clocks."),
    ]
    return Examination(numbers, "\n".join(text), drawn | more, blocks)


def _measure(subject: Subject, lane: int, rule: str | None) -> _State:
    task, apply, p = subject.task, subject.model.apply, subject.task.p
    params, pairs = take((subject.params, subject.lane), lane)
    table = progress.table(task, pairs)
    last = circuits.layers(params) - 1
    post = f"blocks.{last}.mlp.hook_post"
    names = ["blocks.0.attn.hook_pattern", *([post] if post in subject.model.names else [])]
    logits, seen = jax.jit(lambda w: apply(w, table.inputs, names))(params)
    logits = logits[:, 0, :p]
    rules = {
        "logits": fourier.keys_of_logits(logits, table.answers),
        "embedding": fourier.keys_of_embedding(params["embed"]["W_E"][:p]),
    }
    numbers: dict[str, Any] = {}
    activations = None
    if post in seen:
        activations = seen[post][:, 0]
        rules["neurons"] = fourier.keys_of_neurons(activations)
        rules["neuron_logit_map"] = fourier.keys_of_neuron_logit_map(circuits.neuron_to_logit(params, last)[:, :p])
        frequency = np.asarray(fourier.clusters(fourier.neuron_shares(activations)).frequency)
        counts = zip(*np.unique(frequency, return_counts=True), strict=True)
        numbers |= {f"neurons_{'none' if k == 0 else k}": int(n) for k, n in counts}
    rule = rule or ("neurons" if "neurons" in rules else "logits")
    if rule not in rules:
        raise UserError(f"rule {rule} needs neurons, and this network has none; use {' or '.join(rules)}")
    keys = rules[rule]
    numbers |= progress.flat(jax.device_get(progress.measures(params, apply, table, keys)))
    numbers |= {f"key_frequencies_{name}": list(fourier.frequencies(mask)) for name, mask in rules.items()}
    some = jax.random.choice(jax.random.key(0), p * p, (min(500, p * p),), replace=False)
    numbers |= {k: float(v) for k, v in clocks.measures(params, apply, table, some).items()}
    pattern = np.asarray(seen["blocks.0.attn.hook_pattern"])[:, :, -1]  # [P², H, 3]
    return _State(params, table, logits, pattern, activations, rules, rule, keys, numbers)


def _most_varied(activations: jax.Array) -> np.ndarray:
    return np.argsort(-np.asarray(jnp.std(activations, axis=0)))[:_NEURONS]


def _figures_of_state(subject: Subject, state: _State, found: Sequence[int]) -> dict[str, Figure]:
    p, title = subject.task.p, subject.title
    pattern = state.pattern.transpose(1, 0, 2).reshape(-1, p, p, 3)
    spectrum = np.linalg.norm(fourier.transform_2d(state.logits.reshape(p, p, p)), axis=-1)
    drawn = {
        "attention": figures.attention_over_pairs(pattern, title),
        "logits": figures.logit_spectrum(spectrum, found, title),
    }
    # In the first layer all that `=` attends by is its own embedding there; later ones see what was written to it.
    scores = [circuits.attention_readoff(state.params, 0, p, 2)]
    drawn |= circuit_figures(state.params, scores, title)
    if state.activations is not None:
        clusters = fourier.clusters(fourier.neuron_shares(state.activations))
        drawn["clusters"] = figures.neuron_clusters(*map(np.asarray, clusters), title)
        best = _most_varied(state.activations)
        maps = np.asarray(state.activations[:, best]).T.reshape(len(best), p, p)
        spectra = np.stack([np.abs(fourier.transform_2d(m)) for m in maps])
        drawn["neurons"] = figures.neuron_maps(maps, spectra, [f"neuron {i}" for i in best], title)
    return drawn


def _over_training(subject: Subject, states: Sequence[_State]) -> tuple[list[dict[str, np.ndarray]], list[Phases]]:
    """Give every lane's measures at all saved states, with its final key frequencies, and its phases."""
    over, ends = [], []
    for s, state in enumerate(states):
        measured = jax.device_get(
            progress.over_states(take(subject.history, s), subject.model.apply, state.table, state.keys)
        )
        over.append(measured)
        named = ("train_loss", "test_loss", "excluded_loss_train", "sum_of_squares")
        ends.append(phases(subject.steps, *(measured[name] for name in named)))
    return over, ends


def _blocks_of_training(
    subject: Subject, lane: int, state: _State, series: dict[str, np.ndarray], ends: Phases
) -> list[html.Block]:
    p, steps = subject.task.p, subject.steps
    named = {name.replace("_", " "): series[name] for name in _CURVES}
    shares = {name.replace("_", " "): series[name] for name in _SHARES if name in series}
    shades, start = [], 0
    for name, words in PHASES.items():
        if (end := getattr(ends, name)) is not None:
            shades.append((start, end, words))
            start = end
    blocks: list[html.Block] = [
        html.Lines("Progress measures", steps, named, "nats", log_y=True, shades=shades),
        html.Lines("Concentration and variance explained", steps, shares, "share", shades=shades),
    ]
    at = thin(len(steps))
    neurons = () if state.activations is None else tuple(_most_varied(state.activations)[:4].tolist())
    post = f"blocks.{circuits.layers(state.params) - 1}.mlp.hook_post"
    names = ["blocks.0.attn.hook_pattern", *([post] if neurons else [])]

    @jax.jit
    def look(params: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits, seen = subject.model.apply(params, state.table.inputs, names)
        to_a = seen[names[0]][:, :, -1, 0].T.reshape(-1, p, p)
        spectrum = jnp.linalg.norm(fourier.transform_2d(logits[:, 0, :p].reshape(p, p, p)), axis=-1)
        active = seen[post][:, 0, jnp.array(neurons)].T.reshape(-1, p, p) if neurons else jnp.zeros((0, p, p))
        return to_a, spectrum, active

    history = take(subject.history, lane)
    seen = [jax.device_get(look(take(history, i))) for i in at]
    attention, spectrum, active = (np.stack(parts) for parts in zip(*seen, strict=True))
    numbers = [str(k) for k in range(p)]
    waves = ["constant", *(f"{wave} {k}" for k in range(1, p // 2 + 1) for wave in ("cos", "sin"))][:p]
    over_pairs = {"row_labels": numbers, "column_labels": numbers, "xlabel": "b", "ylabel": "a"}
    heads = {f"L0H{h}": attention[:, h] for h in range(attention.shape[1])}
    blocks += [
        html.HeatMaps("Attention from = to a, over all pairs", steps[at], heads, limits=(0, 1), **over_pairs),
        html.HeatMaps(
            "2-D Fourier spectrum of the logits",
            steps[at],
            {"norm over classes": spectrum},
            row_labels=waves,
            column_labels=waves,
            xlabel="component along b",
            ylabel="component along a",
            power=0.5,
        ),
    ]
    if neurons:
        maps = {f"neuron {i}": active[:, n] for n, i in enumerate(neurons)}
        blocks.append(html.HeatMaps("Neurons, over all pairs", steps[at], maps, **over_pairs))
    return blocks


def _table(subject: Subject, lane: int, states: Sequence[_State], found: Sequence[int]) -> list[tuple[str, ...]]:
    """List the scalar measures: of the lane, and with several lanes of all."""

    def listed(name: str) -> bool:
        if isinstance(states[lane].numbers[name], list):
            return False
        if name.startswith(("logit_cosine_", "embedding_norm_", "sum_of_squares.")):
            return False
        k = name.removeprefix("excluded_loss_")
        return not k.isdecimal() or int(k) in found

    names = [name for name in states[lane].numbers if listed(name)]
    rows = [("measure", f"seed {subject.seeds[lane]}")]
    rows += [(name, f"{states[lane].numbers[name]:.7g}") for name in names]
    if len(states) == 1:
        return rows
    # What belongs to single frequencies differs from lane to lane.
    shared = [name for name in names if all(name in state.numbers for state in states)]
    spreads = {name: terminal.spread([state.numbers[name] for state in states], "{:.4g}") for name in shared}
    heading = f"all {len(states)} seeds, median (range)"
    return [(*rows[0], heading), *((*row, spreads.get(row[0], "")) for row in rows[1:])]
