"""What is measured of a network that multiplies in a finite group, declared for `progress.State`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxadd.analysis.measures import Measure, needs_neurons, on_pairs
from jaxadd.models import Model, structure

KINDS = {
    "full_loss": "the logits L as they are",
    "restricted_loss": "the part of L that entries of ρ(s) span, s the answer, + the mean over (a, b) of the rest, "
    "over the key irreps",
    "restricted_loss_trace": "the part of L along tr ρ(s c⁻¹) + the mean over (a, b) of the rest, over the key "
    "irreps",
    "excluded_loss": "L without the part that entries of ρ(s) span, over the key irreps",
    "excluded_loss_trace": "L without the part along tr ρ(s c⁻¹), over the key irreps",
}
"""Losses over the n elements, and the logits that they are of."""
SIMILARITY = "logit similarity"
_OPERANDS = {"a": "a", "b": "b", "ab": "the answer"}
"""What functions on the group are functions of."""
MATRICES = {
    "W_E": "W_E",
    "W_a": "the embedding of a",
    "W_b": "the embedding of b",
    "W_a_W_in": "the embedding of a as neurons read it",
    "W_b_W_in": "the embedding of b as neurons read it",
    "W_in_a": "what neurons read of a",
    "W_in_b": "what neurons read of b",
    "W_U": "W_U",
}
"""The matrices of `structure.token_matrices`, in words."""
PARTS = {
    **{f"fraction_{name}": name.replace("_W_in", " W_in") for name in MATRICES},
    **{f"neuron_fraction_{of}": f"neurons, {words.removeprefix('the ')}" for of, words in _OPERANDS.items()},
}
"""The measures of what is in each irrep, of matrices and of neurons, as they are called in tables and figures."""
_MOST_SINGLES = 2e10  # exponentials, for the excluded loss of every single irrep


def _by_irrep(
    name: str,
    definition: str,
    unit: str,
    compute: Callable[[Any], Any],
    entries: str = "",
    **more: Any,
) -> Measure:
    """Declare a measure per irrep, whose entry ends in the irrep's name: "logit_similarity.standard"."""
    begin = entries or name
    return Measure(
        name, definition, unit, compute, lambda irrep: f"{begin}.{irrep}", "irrep", comparable=False, **more
    )


def _of_matrix(matrix: str, words: str) -> Measure:
    return _by_irrep(
        f"fraction_{matrix}",
        f"fraction of the squares of {words}, a row for each element, in the span of ρ's matrix entries",
        "fraction",
        lambda s: s.fractions(structure.token_matrices(s.params, s.model)[matrix][: s.n]),
        applies=lambda model: matrix in matrix_names(model),
    )


def _of_neurons(of: str, words: str) -> Measure:
    return _by_irrep(
        f"neuron_fraction_{of}",
        f"fraction of all neurons' variance that the matrix entries of ρ explain as functions of {words}",
        "fraction",
        lambda s: s.neuron_fractions(of),
        applies=needs_neurons,
    )


@functools.lru_cache(maxsize=64)
def matrix_names(model: Model) -> frozenset[str]:
    """Return which of MATRICES a model has."""
    return frozenset(jax.eval_shape(lambda params: structure.token_matrices(params, model), model.shapes()))


MEASURES: tuple[Measure, ...] = (
    *on_pairs(lambda s: s.run.loss, lambda s: s.run.correct, KINDS, "n elements"),
    _by_irrep(
        "logit_similarity",
        "cosine between the row-centred logits and tr ρ(s c⁻¹), s the answer",
        "cosine",
        lambda s: s.similarity,
        panel=SIMILARITY,
    ),
    _by_irrep(
        "logit_fraction",
        "fraction of the squares of the row-centred logits in the span of ρ(s)'s matrix entries, s the answer",
        "fraction",
        lambda s: s.logit_fractions,
    ),
    _by_irrep(
        "restricted_loss_of",
        "as restricted_loss_all, for one irrep",
        "nats",
        lambda s: jax.lax.map(lambda one: jnp.mean(s.restricted(s.keep(one))), jnp.eye(s.count, dtype=bool)),
        entries="restricted_loss",
    ),
    _by_irrep(
        "excluded_loss_of",
        "as excluded_loss_all, for one irrep; left out for large groups of many irreps",
        "nats",
        lambda s: jnp.mean(s.excluded(s.singles), axis=1),
        entries="excluded_loss",
    ),
    *(_of_matrix(*matrix) for matrix in MATRICES.items()),
    *(_of_neurons(*of) for of in _OPERANDS.items()),
    Measure(
        "logit_variance_explained",
        "fraction of the logits' squares, centred per row, that Σ_ρ α_ρ tr ρ(s c⁻¹) explains, α free, over the "
        "key irreps",
        "fraction",
        lambda s: jnp.sum(jnp.where(s.keys | jnp.isnan(s.similarity), s.similarity, 0) ** 2),
        panel="variance explained",
    ),
    Measure(
        "sum_of_squares",
        "sum of squares of all parameters",
        "sum",
        lambda s: sum(jnp.sum(w**2) for w in jax.tree.leaves(s.params)),
        panel="sum of squares",
    ),
)
"""Everything that is measured of one state; see `measures.Measure`."""


def affordable(irreps: int, model: Model) -> tuple[Measure, ...]:
    """Return MEASURES, without the excluded loss of single irreps where there are many and the group is large."""
    if irreps * model.sizes.classes**3 <= _MOST_SINGLES:
        return MEASURES
    return tuple(measure for measure in MEASURES if measure.name != "excluded_loss_of")
