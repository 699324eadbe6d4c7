"""Measures: numbers that are taken of a network's state, each declared once and shown everywhere from there.

A declaration says what a measure is called, how it is defined, its unit, the function that computes it from a shared
state, and in which panel it is drawn over training. The entries of analysis.json, the rows of tables, the curves of
figures and of the page follow from it. A state is any object that holds what several measures need, as cached
properties, so that it is computed once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.models import Model, Network, structure
from jaxadd.optim import scores
from jaxadd.pictures import Lines, Span, Table

EXPLAINED = 0.85
"""The fraction of a neuron's variance above which one frequency or irrep explains it (Nanda et al. 2023)."""


def divide(x: jax.Array, by: jax.Array) -> jax.Array:
    """Divide by what is at least 0; 0 where that is 0, NaN where it is NaN."""
    return jnp.where(by == 0, 0, x / jnp.where(by == 0, 1, by))


def always(model: Model) -> bool:
    """Apply to every model."""
    return True


class Measure(NamedTuple):
    """A declaration of one number, or of several of a kind.

    Attributes:
      name: in analysis.json; of a measure with several entries, a name for all of them.
      definition: one line.
      unit: "nats", "fraction", …
      compute: a function of the state that returns a scalar, or an array or a dict of scalars, one for each entry.
      entry: of a measure with several entries, the name of one in analysis.json, a function of its indices or key or,
        with an axis, of its name.
      axis: what the entries belong to where the task's group has names for these: "frequency", "irrep"; whoever lists
        the entries knows the names. "" for other measures.
      panel: the panel in which it is drawn over training; None where it is not.
      label: in tables and legends; by default the name in words.
      applies: whether the measure is defined for a model.
      comparable: whether lanes may be compared by it; an entry that belongs to one frequency is no such measure.
      pairs: which problems it is of: all, train or test; the last two need a split that is known.
    """

    name: str
    definition: str
    unit: str
    compute: Callable[[Any], Any]
    entry: Callable[..., str] | None = None
    axis: str = ""
    panel: str | None = None
    label: str = ""
    applies: Callable[[Model], bool] = always
    comparable: bool = True
    pairs: str = "all"

    @property
    def words(self) -> str:
        """What the measure is called in tables and legends."""
        return self.label or self.name.replace("_", " ")


def needs_neurons(model: Model) -> bool:
    """Apply to models with neurons: transformers whose blocks have an MLP, and PairMLP."""
    return structure.last_neurons(model) is not None


def needs_direct_neurons(model: Model) -> bool:
    """Apply to models in which the unembedding reads the output of neurons through no norm but the final one."""
    return needs_neurons(model) and (not structure.is_transformer(model) or structure.is_linear(model))


_LOSSES = "loss"  # The panel of losses over training.
_SPLITS = {"all": "all pairs", "train": "the train pairs", "test": "the test pairs"}
_DRAWN = ("train_loss", "test_loss", "restricted_loss_all", "excluded_loss_train")


def defined(measures: tuple[Measure, ...], network: Network) -> tuple[Measure, ...]:
    """Return the measures that are defined for a network: of all problems alone where its split is not known."""
    return tuple(measure for measure in measures if network.split_known or measure.pairs == "all")


def on_pairs(
    loss: Callable[[Any], Any], correct: Callable[[Any], Any], kinds: Mapping[str, str], values: str
) -> tuple[Measure, ...]:
    """Declare loss and accuracy on all, train and test pairs, and the losses of parts of the logits.

    Args:
      loss: of a state, over all classes, one number for each pair.
      correct: of a state, bool, one for each pair.
      kinds: by name of a loss, the logits that it is of; a state has it in `losses`, one number for each pair.
      values: what these logits are over, such as "P numbers".

    A state has `of(numbers, split)`, which returns those of the pairs of a split.
    """

    def loss_on(split: str, pairs: str) -> Measure:
        return Measure(
            name := f"{split}_loss",
            f"mean cross-entropy of {pairs} over all classes, as in training",
            "nats",
            lambda s: jnp.mean(s.of(loss(s), split)),
            panel=_LOSSES if name in _DRAWN else None,
            pairs=split,
        )

    def accuracy_on(split: str, pairs: str) -> Measure:
        return Measure(
            f"{split}_accuracy",
            f"fraction of {pairs} that is correct, among all classes; a tie is an error",
            "fraction",
            lambda s: scores.fraction(s.of(correct(s), split)),
            pairs=split,
        )

    def loss_of(kind: str, logits: str, split: str, pairs: str) -> Measure:
        return Measure(
            name := f"{kind}_{split}",
            f"mean cross-entropy of {pairs} over the {values}, without `=`, of {logits}",
            "nats",
            lambda s: jnp.mean(s.of(s.losses[kind], split)),
            panel=_LOSSES if name in _DRAWN else None,
            pairs=split,
        )

    return (
        *(loss_on(*split) for split in _SPLITS.items()),
        *(accuracy_on(*split) for split in _SPLITS.items()),
        *(loss_of(*kind, *split) for kind in kinds.items() for split in _SPLITS.items()),
    )


def compute(measures: Iterable[Measure], state: Any, model: Model) -> dict[str, Any]:
    """Compute the measures that apply to a model, by name; to be called inside one `jit`."""
    return {measure.name: measure.compute(state) for measure in measures if measure.applies(model)}


Axes = Mapping[str, Sequence[str]]
"""The names of the entries along each axis of `Measure.axis`."""


def flat(measures: Iterable[Measure], values: Mapping[str, Any], axes: Axes | None = None) -> dict[str, float]:
    """Return the measures of one state as plain numbers by the names of their entries, in the order declared.

    Args:
      measures: that were taken.
      values: what `compute` returned.
      axes: the names along the axes that these measures have, of the task's group.
    """
    entries: dict[str, float] = {}
    for measure in measures:
        if measure.name not in values:
            continue
        value = values[measure.name]
        if measure.entry is None:
            entries[measure.name] = float(value)
        elif measure.axis:
            names = (axes or {})[measure.axis]
            entries |= {measure.entry(name): float(x) for name, x in zip(names, value, strict=True)}
        elif isinstance(value, Mapping):
            entries |= {measure.entry(key): float(x) for key, x in value.items()}
        else:
            value = np.asarray(value)
            entries |= {measure.entry(*index): float(value[index]) for index in np.ndindex(value.shape)}
    return entries


def explained(
    measures: Iterable[Measure], names: Iterable[str], values: Mapping[str, Any], axes: Axes | None = None
) -> dict[str, Measure]:
    """Return the declaration of each named entry, for those that have one; `values` and `axes` as for `flat`."""
    by_entry: dict[str, Measure] = {}
    for measure in measures:
        if measure.name in values:
            by_entry |= dict.fromkeys(flat((measure,), values, axes), measure)
    return {name: by_entry[name] for name in names if name in by_entry}


def table(
    title: str,
    lanes: Sequence[Mapping[str, Any]],
    lane: int,
    heading: str,
    declared: Mapping[str, Measure],
    note: str = "",
) -> Table:
    """Return scalar measures as a table: of one lane, with several lanes of all, and what they are.

    Args:
      title: of the table.
      lanes: of each lane, numbers by the name of the entry.
      lane: the one that is listed.
      heading: over its numbers.
      declared: the entries that are listed, and their declarations.
      note: a sentence below the title.
    """
    several = len(lanes) > 1
    columns = ["measure", heading, *([f"all {len(lanes)} seeds, median (range)"] if several else []), "unit"]
    rows = []
    for name, measure in declared.items():
        shared = several and measure.comparable and all(name in numbers for numbers in lanes)
        everyone = [over_lanes([numbers[name] for numbers in lanes])] if shared else [""] * several
        rows.append((name, number(lanes[lane][name]), *everyone, measure.unit, measure.definition))
    return Table(title, (*columns, "definition"), rows, note)


def number(value: float) -> str:
    """Return a number as it is printed, and "not defined" for one that is not."""
    return f"{value:.7g}" if np.isfinite(value) else "not defined"


def over_lanes(values: Sequence[float], write: Callable[[float], str] = "{:.4g}".format) -> str:
    """Return the median over lanes with its range, and how many are finite where not all are."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return "not defined"
    low, middle, high = (write(float(f(finite))) for f in (np.min, np.median, np.max))
    count = "" if len(finite) == len(values) else f", {len(finite)} of {len(values)} defined"
    return (middle if low == high else f"{middle} ({low} to {high})") + count


def curves(
    measures: Iterable[Measure],
    steps: np.ndarray,
    over: Sequence[Mapping[str, np.ndarray]],
    spans: Sequence[Span] = (),
) -> list[Lines]:
    """Describe measures over training, a picture for each panel.

    Args:
      measures: those that have a panel are drawn; a measure with several entries is drawn by `compute`'s caller.
      steps: `[E]`, ascending.
      over: of each lane, the measures by name, `[E]`.
      spans: phases of training, shaded.
    """
    panels: dict[str, list[Measure]] = {}
    for measure in measures:
        if measure.panel and measure.entry is None and measure.name in over[0]:
            panels.setdefault(measure.panel, []).append(measure)
    return [
        Lines(
            panel,
            steps,
            {measure.words: np.stack([lane[measure.name] for lane in over]) for measure in shown},
            shown[0].unit,
            log_x=True,
            log_y=shown[0].unit == "nats",
            spans=spans,
        )
        for panel, shown in panels.items()
    ]
