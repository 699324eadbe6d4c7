"""What is measured and shown of a network that multiplies in a finite group."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import measures, performance
from jaxadd.analysis.errors import error_map
from jaxadd.analysis.group import cayley, declarations, progress, tables
from jaxadd.analysis.group.cayley import Cayley
from jaxadd.analysis.group.irreps import Irrep, meaning
from jaxadd.analysis.group.subgroups import MOST, ON_COSETS, Subgroups, concentrations, subgroups
from jaxadd.analysis.measures import EXPLAINED
from jaxadd.analysis.report import analyse_task, caution, label_noise, no_keys, summarize_task
from jaxadd.analysis.trained import Report, Trained, as_text
from jaxadd.models import Network
from jaxadd.pictures import Bars, FigureOf, HeatMaps, Histogram, Lines, Picture, Table, Text
from jaxadd.tasks import Group

_ROUNDING = 1e-7  # What is smaller in a table is rounding of float32, and is written as 0
_LISTED = 16  # irreps in a table or map
_NAMED = 8  # irreps with a colour of their own
_NOTHING = "none"
_OPERANDS = {"a": "a", "b": "b", "ab": "answer"}


class _Neurons(NamedTuple):
    """What single neurons do.

    Attributes:
      explained: float32 `[F, K]`, the fraction of each neuron's variance that each irrep explains.
      irrep: int `[F]`, the irrep that explains most, where that is enough; -1 for others.
      classes: conjugacy classes of subgroups.
      subgroup: int `[F]`, the class of the largest subgroups whose cosets a neuron reads; -1 for none.
    """

    explained: np.ndarray
    irrep: np.ndarray
    classes: Sequence[Subgroups]
    subgroup: np.ndarray


class State(NamedTuple):
    """One network as it is analysed.

    Attributes:
      irreps: of its group, K.
      keys: bool `[K]`, the key irreps: those of a logit similarity above `progress.KEY`.
      values: of all measures.
      numbers: for JSON.
      table: of its answers; None for another operation than the product, of which they are no group's.
      neurons: what they do; None without any.
    """

    irreps: tuple[Irrep, ...]
    keys: np.ndarray
    values: Mapping[str, Any]
    numbers: dict[str, Any]
    table: Cayley | None
    neurons: _Neurons | None

    @property
    def key_names(self) -> list[str]:
        """The names of the key irreps."""
        return [irrep.name for irrep, key in zip(self.irreps, self.keys, strict=True) if key]


# --- a finished run ---------------------------------------------------------------------------------------


@summarize_task.register
def _(task: Group, trained: Trained) -> Report:
    """Return the key irreps of each network, and the first network's errors over all pairs."""
    problem, declared = _problem(task, trained.networks[0])
    needed = tuple(one for one in declared if one.name in ("logit_similarity", "test_accuracy"))
    names = [irrep.name for irrep in tables.irreps(task.known)]
    lines, listed = [], np.zeros(len(names), bool)
    for network in trained.networks:
        own = problem._replace(train=network.data.lane["train"], test=network.data.lane["test"])
        values = progress.measures(network.params, network.model, own, declarations=needed)
        keys = np.asarray(values["logit_similarity"]) > progress.KEY
        listed |= keys
        lines.append(f"seed {network.seed}: {_keys_in_words(names, keys, values)}")
    lines += _meaning(task, np.array(names)[listed].tolist())
    return Report.of("\n".join(lines), blocks=[_errors(task, trained, 0)])


def _keys_in_words(names: Sequence[str], keys: np.ndarray, values: Mapping[str, Any]) -> str:
    """Return the key irreps, and whether they say anything of how the network computes: it has to generalise."""
    said = f"key irreps (logit similarity above {progress.KEY:g}): {_listed(names, keys)}"
    return "; ".join(filter(None, (said, caution(values, "irreps"))))


def _problem(task: Group, network: Network) -> tuple[tables.Problem, tuple[measures.Measure, ...]]:
    names = tuple(irrep.name for irrep in tables.irreps(task.known))
    return tables.problem(task, network.data.lane), measures.defined(declarations.declared(names), network)


def _meaning(task: Group, names: Sequence[str]) -> list[str]:
    """Return a sentence on what the names of irreps mean, if they are not all standard."""
    return list(filter(None, [meaning(names, task.known.reference)]))


def _listed(names: Sequence[str], keys: np.ndarray) -> str:
    return ", ".join(np.array(names)[np.asarray(keys)]) or _NOTHING


def _errors(task: Group, trained: Trained, lane: int) -> FigureOf:
    network = trained.networks[lane]
    seen = progress.overview(network.params, network.model, tables.problem(task, network.data.lane))
    return error_map(trained, lane, np.asarray(seen.correct), task.group.elements)


# --- an analysis ------------------------------------------------------------------------------------------


@analyse_task.register
def _(task: Group, trained: Trained, lane: int, keys: str | None) -> Report:
    """Measure all lanes, and show one."""
    no_keys(task, keys)
    states = [measure(network) for network in trained.networks]
    state, subject = states[lane], trained.subject(lane)
    names = [irrep.name for irrep in state.irreps]
    words = [
        (f"seed {network.seed}: " if len(states) > 1 else "") + _keys_in_words(names, one.keys, one.values)
        for network, one in zip(trained.networks, states, strict=True)
    ]
    words += [] if state.table is None else _table_in_words(state.table, task)
    words += [] if state.neurons is None else _neurons_in_words(state.neurons, names)
    words += label_noise(task)
    words += _meaning(task, names)  # The figures name all irreps.
    figures = [_errors(task, trained, lane)]
    steps, over = np.array([trained.networks[lane].step]), [state.values]
    if trained.evolves:
        over = [_over_training(task, trained, s, one) for s, one in enumerate(states)]
        steps = trained.steps
        figures.append(_progress(trained, lane, over, names, state))
    figures.append(_irreps(state, over[lane], steps, subject))
    if state.neurons is not None:
        figures.append(_neurons(state.neurons, names, trained.networks[lane].step, subject))
    _, declared = _problem(task, trained.networks[lane])
    scalars = tuple(measure for measure in declared if measure.entry is None)
    entries = measures.explained(scalars, state.numbers, state.values)
    table = measures.table("Measures", [one.numbers for one in states], lane, trained.heading(lane), entries)
    by_irrep = _by_irrep(task, state)
    text = "\n".join([*words, "", as_text(by_irrep), "", as_text(table)])
    return Report.of(text, state.numbers, [Text("In short", words), *figures, by_irrep, table])


def measure(network: Network) -> State:
    """Measure a network that learned a `Group`: everything that `jaxadd analyse` says of it in numbers."""
    task = network.task
    assert isinstance(task, Group)
    problem, declared = _problem(task, network)
    irreps = tables.irreps(task.known)
    values = jax.device_get(progress.measures(network.params, network.model, problem, declarations=declared))
    keys = values["logit_similarity"] > progress.KEY
    neurons = _of_neurons(task, network, problem) if measures.needs_neurons(network.model) else None
    learned = cayley.learned(network.params, network.model)
    table = cayley.describe(learned, task) if task.operation == "product" else None
    names = np.array([irrep.name for irrep in irreps])
    numbers: dict[str, Any] = {"key_irreps": names[keys].tolist()}
    numbers |= {} if table is None else _table_numbers(table)
    numbers |= measures.flat(declared, values)
    if neurons is not None:
        groups = [one.name for one in neurons.classes]
        for what, found, of in (("irrep", neurons.irrep, names), ("cosets", neurons.subgroup, groups)):
            for k, count in zip(*np.unique(found, return_counts=True), strict=True):
                numbers[f"neurons_by_{what}.{_NOTHING if k < 0 else of[k]}"] = int(count)
        if neurons.classes:
            numbers["neurons_on_cosets"] = float(np.mean(neurons.subgroup >= 0))
        numbers["neurons_of_one_irrep"] = float(np.mean(neurons.irrep >= 0))
    return State(irreps, keys, values, numbers, table, neurons)


def _table_numbers(table: Cayley) -> dict[str, Any]:
    return {
        "table_latin_square": table.latin,
        "table_associative": table.associative,
        "table_associative_fraction": table.associative_fraction,
        "table_triples_tried": table.triples,
        "table_identity": table.identity,
        "table_commuting_fraction": table.commuting,
        "table_group": None if table.known is None else table.known.group.name,
    }


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


def _of_neurons(task: Group, network: Network, problem: tables.Problem) -> _Neurons:
    explained = np.clip(np.asarray(progress.neurons_by_irrep(network.params, network.model, problem)), 0, 1)
    best = explained.argmax(axis=1)
    irrep = np.where(explained.max(axis=1) > EXPLAINED, best, -1)
    known = task.known
    classes = [one._replace(members=one.members[:, known.to]) for one in subgroups(known.reference)]
    before = progress.overview(network.params, network.model, problem).before
    found = concentrations(known.group, classes, *(np.asarray(before[of]) for of in "ab")) >= ON_COSETS
    rank = np.arange(1, len(classes) + 1)[:, None] * found
    subgroup = rank.max(axis=0, initial=0) - 1
    return _Neurons(explained, irrep, classes, subgroup)


def _neurons_in_words(neurons: _Neurons, names: Sequence[str]) -> list[str]:
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


def _shown(state: State) -> list[int]:
    """Return the irreps that are listed: those of the largest logit similarity, in the order of all."""
    similarity = np.nan_to_num(state.values["logit_similarity"])
    return sorted(np.argsort(-similarity, kind="stable")[:_LISTED].tolist())


def _by_irrep(task: Group, state: State) -> Table:
    """Return the measures of each irrep as a table, with a note on their names."""
    values, shown = state.values, _shown(state)
    columns = {
        name: values[measure]
        for measure, name in {
            "logit_similarity": "logit similarity",
            "restricted_loss_of": "restricted loss",
            "excluded_loss_of": "excluded loss",
            **{f"fraction_{name}": f"of {name.replace('_W_in', ' W_in')}" for name in declarations.MATRICES},
            **{f"neuron_fraction_{of}": f"of neurons, {words}" for of, words in _OPERANDS.items()},
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


# --- figures ----------------------------------------------------------------------------------------------


def _irreps(state: State, over: Mapping[str, np.ndarray], steps: np.ndarray, subject: str) -> FigureOf:
    """Describe how much of the logits, weights and neurons is in each irrep."""
    names, shown = [irrep.name for irrep in state.irreps], _shown(state)
    said = caution(state.values, "irreps")
    by_step = lambda name: np.asarray(over[name]).reshape(len(steps), -1)
    parts = {f"fraction_{name}": name.replace("_W_in", " W_in") for name in declarations.MATRICES}
    parts |= {f"neuron_fraction_{of}": f"neurons, {words}" for of, words in _OPERANDS.items()}
    parts = {name: words for name, words in parts.items() if name in over}
    pictures: list[Picture] = [
        Bars(
            "Similarity of the logits to each irrep",
            steps,
            {"logits": by_step("logit_similarity")},
            names,
            xlabel="irrep",
            ylabel="cosine",
            highlight=state.key_names,
            note=f"{said.capitalize()}." if said else "",
        ),
        HeatMaps(
            "What is in each irrep",
            steps,
            {"fraction": np.stack([by_step(name)[:, shown] for name in parts], axis=2)},
            [names[k] for k in shown],
            list(parts.values()),
            ylabel="irrep",
            unit="fraction",
            numbers=True,
            least=5e-4,
            limits=(0, 1),
            power=0.5,
            note="Of the matrices' squares, and of the variance of all neurons as functions of a, b or the answer.",
        ),
    ]
    return FigureOf("irreps", "Irreps", pictures, subject)


def _neurons(neurons: _Neurons, names: Sequence[str], step: int, subject: str) -> FigureOf:
    """Describe neurons by both accounts: the irrep that explains them, and the cosets that they read."""
    kinds, counts = np.unique(neurons.irrep, return_counts=True)
    common = [k for k in kinds[np.argsort(-counts, kind="stable")] if k >= 0][:_NAMED]
    edges = np.linspace(0, 1, 41)
    best = neurons.explained.max(axis=1)
    parts = {f"none: {np.sum(neurons.irrep < 0)}": neurons.irrep < 0}
    parts |= {f"{names[k]}: {np.sum(neurons.irrep == k)}": neurons.irrep == k for k in common}
    if (rest := (neurons.irrep >= 0) & ~np.isin(neurons.irrep, common)).any():
        parts[f"others: {rest.sum()}"] = rest
    pictures: list[Picture] = [
        Histogram(
            "Neurons by their best irrep",
            edges,
            {name: np.histogram(best[part], edges)[0] for name, part in parts.items()},
            xlabel="fraction of variance explained by the neuron's best irrep",
            ylabel="neurons",
            threshold=EXPLAINED,
        )
    ]
    rows, columns = np.unique(neurons.irrep), np.unique(neurons.subgroup)
    both = np.array([[np.sum((neurons.irrep == i) & (neurons.subgroup == j)) for j in columns] for i in rows])
    pictures.append(
        HeatMaps(
            "Neurons by irrep and by cosets",
            [step],
            {"neurons": both[None].astype(np.float32)},
            [_NOTHING if k < 0 else names[k] for k in rows],
            [_NOTHING if k < 0 else neurons.classes[k].name for k in columns],
            xlabel="largest subgroups whose cosets are read",
            ylabel="irrep",
            unit="neurons",
            numbers=True,
        )
    )
    return FigureOf("neurons", "What single neurons read", pictures, subject)


# --- over training ----------------------------------------------------------------------------------------


def _over_training(task: Group, trained: Trained, lane: int, state: State) -> dict[str, np.ndarray]:
    """Return a lane's measures at all known states, with the key irreps of the end."""
    network = trained.networks[lane]
    problem, declared = _problem(task, network)
    drawn = tuple(m for m in declared if m.panel or m.name.startswith(("fraction_", "neuron_fraction_")))
    return jax.device_get(
        progress.over_states(
            trained.histories[lane], network.model, problem, jnp.asarray(state.keys), declarations=drawn
        )
    )


def _progress(
    trained: Trained, lane: int, over: Sequence[Mapping[str, np.ndarray]], names: Sequence[str], state: State
) -> FigureOf:
    """Describe the measures over training."""
    declared = declarations.declared(tuple(names))
    pictures = measures.curves(declared, trained.steps, over)
    shown = [int(k) for k in np.flatnonzero(state.keys)] or range(min(len(names), _NAMED))
    similar = {names[k]: over[lane]["logit_similarity"][:, k] for k in shown}
    pictures.insert(1, Lines(declarations.SIMILARITY, trained.steps, similar, "cosine", log_x=True))
    several = len(trained.networks) > 1
    note = f"Similarities are those of seed {trained.networks[lane].seed}." if several else ""
    return FigureOf("measures", "Progress measures", pictures, trained.title, note)
