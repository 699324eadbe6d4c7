"""What is measured and shown of a network that multiplies in a finite group."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import measures, performance
from jaxadd.analysis.errors import error_map
from jaxadd.analysis.group import declarations, figures, progress
from jaxadd.analysis.group.cayley import Cayley
from jaxadd.analysis.group.irreps import meaning
from jaxadd.analysis.group.measured import NOTHING, Measured, measure
from jaxadd.analysis.group.neurons import Neurons
from jaxadd.analysis.group.problem import Problem, whole_problem
from jaxadd.analysis.group.subgroups import MOST, ON_COSETS
from jaxadd.analysis.measures import EXPLAINED
from jaxadd.analysis.report import analyse_task, caution, label_noise, no_keys, summarize_task
from jaxadd.analysis.trained import Report, Trained, as_text
from jaxadd.pictures import FigureOf, Lines, Table, Text
from jaxadd.tasks import Group

_ROUNDING = 1e-7  # What is smaller in a table is rounding of float32, and is written as 0

# --- a finished run ---------------------------------------------------------------------------------------


@summarize_task.register
def _(task: Group, trained: Trained) -> Report:
    """Return the key irreps of each network, and the first network's errors over all pairs."""
    problem = whole_problem(task, trained.networks[0].data.lane)
    declared = measures.defined(declarations.MEASURES, trained.networks[0])
    needed = tuple(one for one in declared if one.name in ("logit_similarity", "test_accuracy"))
    names = problem.names
    lines, listed = [], np.zeros(len(names), bool)
    for network in trained.networks:
        own = replace(problem, train=network.data.lane["train"], test=network.data.lane["test"])
        values = progress.measures(network.params, network.model, own, declarations=needed)
        keys = np.asarray(values["logit_similarity"]) > progress.KEY
        listed |= keys
        lines.append(f"seed {network.seed}: {_keys_in_words(names, keys, values)}")
    lines += _meaning(task, np.array(names)[listed].tolist())
    return Report.of("\n".join(lines), blocks=[_errors(task, trained, 0, problem)])


def _keys_in_words(names: Sequence[str], keys: np.ndarray, values: Mapping[str, Any]) -> str:
    """Return the key irreps, and whether they say anything of how the network computes: it has to generalise."""
    said = f"key irreps (logit similarity above {progress.KEY:g}): {_listed(names, keys)}"
    return "; ".join(filter(None, (said, caution(values, "irreps"))))


def _meaning(task: Group, names: Sequence[str]) -> list[str]:
    """Return a sentence on what the names of irreps mean, if they are not all standard."""
    return list(filter(None, [meaning(names, task.known.reference)]))


def _listed(names: Sequence[str], keys: np.ndarray) -> str:
    return ", ".join(np.array(names)[np.asarray(keys)]) or NOTHING


def _errors(task: Group, trained: Trained, lane: int, problem: Problem) -> FigureOf:
    network = trained.networks[lane]
    seen = progress.overview(network.params, network.model, problem)
    return error_map(trained, lane, np.asarray(seen.correct), task.group.elements)


# --- an analysis ------------------------------------------------------------------------------------------


@analyse_task.register
def _(task: Group, trained: Trained, lane: int, keys: str | None) -> Report:
    """Measure all lanes, and show one."""
    no_keys(task, keys)
    states = [measure(network) for network in trained.networks]
    state, subject = states[lane], trained.subject(lane)
    names = state.problem.names
    words = [
        (f"seed {network.seed}: " if len(states) > 1 else "") + _keys_in_words(names, one.keys, one.values)
        for network, one in zip(trained.networks, states, strict=True)
    ]
    words += [] if state.table is None else _table_in_words(state.table, task)
    words += [] if state.neurons is None else _neurons_in_words(state.neurons, names)
    words += label_noise(task)
    words += _meaning(task, names)  # The figures name all irreps.
    drawn = [_errors(task, trained, lane, state.problem)]
    steps, over = np.array([trained.networks[lane].step]), [state.values]
    if trained.evolves:
        over = [_over_training(trained, s, one) for s, one in enumerate(states)]
        steps = trained.steps
        drawn.append(_progress(trained, lane, over, state))
    drawn.append(figures.irreps(state, over[lane], steps, subject))
    if state.neurons is not None:
        drawn.append(figures.single_neurons(state.neurons, names, trained.networks[lane].step, subject))
    scalars = [measure for measure in declarations.MEASURES if measure.entry is None]
    entries = measures.explained(scalars, state.numbers, state.values)
    table = measures.table("Measures", [one.numbers for one in states], lane, trained.heading(lane), entries)
    by_irrep = _by_irrep(task, state)
    text = "\n".join([*words, "", as_text(by_irrep), "", as_text(table)])
    return Report.of(text, state.numbers, [Text("In short", words), *drawn, by_irrep, table])


def _table_in_words(table: Cayley, task: Group) -> list[str]:
    latin = "is a Latin square" if table.latin else "is no Latin square"
    associative = (
        "associative"
        if table.associative
        else f"associative for {performance.percent(table.associative_fraction)} of "
        + (f"{table.triples:,} triples drawn" if table.sampled else f"all {table.triples:,} triples")
    )
    commuting = f"{performance.percent(table.commuting)} of pairs commute"
    identity = "no identity" if table.identity is None else f"the identity {task.group.elements[table.identity]}"
    which = (
        f"it is no group: {table.violation}"
        if table.known is None
        else f"it is the table of {table.known.group.name}"
        + ("" if table.known.named is not None else ", of no family that has a name here")
    )
    return [f"the table of its answers {latin}, has {identity} and is {associative}; {commuting}", which]


def _neurons_in_words(neurons: Neurons, names: Sequence[str]) -> list[str]:
    count = len(neurons.irrep)
    words = [
        f"{np.sum(neurons.irrep >= 0)} of {count} neurons have over {EXPLAINED:.0%} of their variance in one irrep"
        f"{_counts(neurons.irrep, names)}"
    ]
    if not neurons.classes:
        return [*words, f"cosets are not looked for: the group has more than {MOST:,} cyclic subgroups"]
    return [
        *words,
        f"{np.sum(neurons.subgroup >= 0)} of {count} neurons read cosets, concentrated to {ON_COSETS:g} or more"
        f"{_counts(neurons.subgroup, [one.name for one in neurons.classes], 'of ')}",
    ]


def _counts(found: np.ndarray, names: Sequence[str], before: str = "") -> str:
    kinds, counts = np.unique(found[found >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return ": " + ", ".join(f"{counts[i]} {before}{names[kinds[i]]}" for i in order) if len(kinds) else ""


def _by_irrep(task: Group, state: Measured) -> Table:
    """Return the measures of each irrep as a table, with a note on their names."""
    values, shown = state.values, figures.shown(state)
    columns = {
        name: values[measure]
        for measure, name in {
            "logit_similarity": "logit similarity",
            "restricted_loss_of": "restricted loss",
            "excluded_loss_of": "excluded loss",
            **{measure: f"of {words}" for measure, words in declarations.PARTS.items()},
        }.items()
        if measure in values
    }
    rows = [
        [
            state.irreps[k].name,
            str(state.irreps[k].dimension),
            state.irreps[k].kind,
            *(f"{0 if abs(column[k]) < _ROUNDING else column[k]:.4g}" for column in columns.values()),
        ]
        for k in shown
    ]
    left = len(state.irreps) - len(shown)
    note = " ".join(_meaning(task, [state.irreps[k].name for k in shown]))
    note += f" The {left} other irreps have a smaller logit similarity." if left else ""
    if state.neurons is not None:
        note += (
            " Columns of neurons are fractions of all neurons' variance, in what depends on a, on b or on the answer "
            "alone."
        )
    return Table("Irreps", ["irrep", "dimension", "kind", *columns], rows, note.strip())


# --- over training ----------------------------------------------------------------------------------------


def _over_training(trained: Trained, lane: int, state: Measured) -> dict[str, np.ndarray]:
    """Return a lane's measures at all known states, with the key irreps of the end."""
    network, keys = trained.networks[lane], jnp.asarray(state.keys)
    declared = measures.defined(declarations.MEASURES, network)
    drawn = tuple(measure for measure in declared if measure.panel or measure.name in declarations.PARTS)
    return jax.device_get(
        progress.over_states(trained.histories[lane], network.model, state.problem, keys, declarations=drawn)
    )


def _progress(trained: Trained, lane: int, over: Sequence[Mapping[str, np.ndarray]], state: Measured) -> FigureOf:
    """Describe the measures over training."""
    names = state.problem.names
    pictures = measures.curves(declarations.MEASURES, trained.steps, over)
    shown = [int(k) for k in np.flatnonzero(state.keys)] or range(min(len(names), figures.NAMED))
    similar = {names[k]: over[lane]["logit_similarity"][:, k] for k in shown}
    pictures.insert(1, Lines(declarations.SIMILARITY, trained.steps, similar, "cosine", log_x=True))
    several = len(trained.networks) > 1
    note = f"Similarities are those of seed {trained.networks[lane].seed}." if several else ""
    return FigureOf("measures", "Progress measures", pictures, trained.title, note)
