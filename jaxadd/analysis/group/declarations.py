"""What is measured of a network that multiplies in a finite group, declared for `progress.State`."""

import functools
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
_MOST_SINGLES = 2e10  # exponentials, for the excluded loss of every single irrep


@functools.cache
def declared(names: tuple[str, ...]) -> tuple[Measure, ...]:
    """Return everything that is measured of one state, see `measures.Measure`, for irreps of these names.

    The entry of a measure per irrep ends in the irrep's name: "logit_similarity.standard".
    """

    def entry(measure: str) -> Any:
        return lambda k: f"{measure}.{names[k]}"

    def neurons(of: str, words: str) -> Measure:
        return Measure(
            f"neuron_fraction_{of}",
            f"fraction of all neurons' variance that the matrix entries of ρ explain as functions of {words}",
            "fraction",
            lambda s: s.neuron_fractions(of),
            entry=entry(f"neuron_fraction_{of}"),
            applies=needs_neurons,
            comparable=False,
        )

    def matrix(matrix: str, words: str) -> Measure:
        return Measure(
            f"fraction_{matrix}",
            f"fraction of the squares of {words}, a row for each element, in the span of ρ's matrix entries",
            "fraction",
            lambda s: s.fractions(structure.token_matrices(s.params, s.model)[matrix][: s.n]),
            entry=entry(f"fraction_{matrix}"),
            applies=lambda model: matrix in matrix_names(model),
            comparable=False,
        )

    return (
        *on_pairs(lambda s: s.run.loss, lambda s: s.run.correct, KINDS, "n elements"),
        Measure(
            "logit_similarity",
            "cosine between the row-centred logits and tr ρ(s c⁻¹), s the answer",
            "cosine",
            lambda s: s.similarity,
            entry=entry("logit_similarity"),
            panel=SIMILARITY,
            comparable=False,
        ),
        Measure(
            "logit_fraction",
            "fraction of the squares of the row-centred logits in the span of ρ(s)'s matrix entries, s the answer",
            "fraction",
            lambda s: s.logit_fractions,
            entry=entry("logit_fraction"),
            comparable=False,
        ),
        Measure(
            "restricted_loss_of",
            "as restricted_loss_all, for one irrep",
            "nats",
            lambda s: jax.lax.map(lambda one: jnp.mean(s.restricted(s.keep(one))), jnp.eye(s.count, dtype=bool)),
            entry=entry("restricted_loss"),
            comparable=False,
        ),
        Measure(
            "excluded_loss_of",
            "as excluded_loss_all, for one irrep; left out for large groups of many irreps",
            "nats",
            lambda s: jnp.mean(s.excluded(s.singles), axis=1),
            entry=entry("excluded_loss"),
            applies=lambda model: len(names) * model.sizes.classes**3 <= _MOST_SINGLES,
            comparable=False,
        ),
        *(matrix(name, words) for name, words in MATRICES.items()),
        *(neurons(*of) for of in _OPERANDS.items()),
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


@functools.lru_cache(maxsize=64)
def matrix_names(model: Model) -> frozenset[str]:
    """Return which of MATRICES a model has."""
    return frozenset(jax.eval_shape(lambda params: structure.token_matrices(params, model), model.shapes()))
