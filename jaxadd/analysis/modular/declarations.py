"""What is measured of a network that learns an operation mod P, declared for `progress.State`.

Progress measures are those of Nanda et al. 2023, and what tells Clock from Pizza that of Zhong et al. 2023.
"""

import chex
import jax
import jax.numpy as jnp

from jaxadd.analysis import fourier
from jaxadd.analysis.measures import EXPLAINED, Measure, needs_direct_neurons, needs_neurons, on_pairs
from jaxadd.analysis.modular import clocks
from jaxadd.models import structure
from jaxadd.optim import losses, scores
from jaxadd.trees import named_leaves
from jaxadd.types import Params


def gini(x: jax.Array) -> jax.Array:
    """Compute the Gini coefficient of sizes `[N]`: 0 where all are equal, 1 - 1/N where one holds everything.

    With x ascending it is 1 - 2 Σ_i x_i / ‖x‖₁ · (N - i + ½) / N, i from 1 (Hurley & Rickard 2009).
    """
    chex.assert_rank(x, 1)
    count = len(x)
    return 1 - 2 * jnp.sum(jnp.sort(x) * (count - jnp.arange(count) - 0.5)) / count / jnp.sum(x)


def _sums_of_squares(params: Params) -> dict[str, jax.Array]:
    return {name: jnp.sum(w**2) for name, w in named_leaves(params)}


KINDS = {
    "full_loss": "the logits L as they are",
    "restricted_loss": "Σ_k P_k L + the mean over (a, b) of the rest, over the key frequencies k",
    "restricted_loss_3d": "Σ_k ⟨L, c_k⟩ c_k alone, c_k ∝ cos w_k(a + b - c)",
    "excluded_loss": "L - Σ_k P_k L, over the key frequencies k",
    "excluded_loss_3d": "L - Σ_k ⟨L, c_k⟩ c_k, over the key frequencies k",
}
"""Losses over the P numbers, and the logits that they are of."""
ONE_FREQUENCY, _VARIANCE = "excluded loss of one frequency", "variance explained"
_GINI = "Gini coefficient of the norms of {}, in the basis of characters, one norm per cosine, sine and the constant"
_EQUAL = "0: all equal, 1: concentrated"


MEASURES: tuple[Measure, ...] = (
    *on_pairs(
        lambda s: losses.cross_entropy(s.class_logits, s.problem.labels),
        lambda s: scores.correct(s.class_logits, s.problem.labels),
        KINDS,
        "P numbers",
    ),
    Measure(
        "excluded_loss_k",
        "as excluded_loss_train, for one frequency k = 1 … K",
        "nats",
        lambda s: s.excluded,
        entry=lambda k: f"excluded_loss_{k}",
        axis="frequency",
        panel=ONE_FREQUENCY,
        comparable=False,
        pairs="train",
    ),
    Measure(
        "logit_cosine_k",
        "⟨L, c_k⟩ / ‖L‖, L centred per row, for k = 1 … K",
        "cosine",
        lambda s: s.cosines,
        entry=lambda k: f"logit_cosine_{k}",
        axis="frequency",
        comparable=False,
    ),
    Measure(
        "logit_variance_explained",
        "fraction of the logits' variance, centred per row, that Σ_k α_k c_k explains, α free, over the key "
        "frequencies",
        "fraction",
        lambda s: jnp.sum(jnp.where(s.keys | jnp.isnan(s.cosines), s.cosines, 0) ** 2),
        panel=_VARIANCE,
    ),
    Measure(
        "neuron_variance_explained",
        "mean over the last layer's neurons of the variance explained by one frequency, dead neurons counting 0",
        "fraction",
        lambda s: jnp.mean(s.explained),
        panel=_VARIANCE,
        applies=needs_neurons,
    ),
    Measure(
        "neurons_explained",
        f"fraction of the last layer's neurons of whose variance one frequency explains more than {EXPLAINED}",
        "fraction",
        lambda s: jnp.where(jnp.any(jnp.isnan(s.explained)), jnp.nan, scores.fraction(s.explained > EXPLAINED)),
        applies=needs_neurons,
    ),
    Measure(
        "gini_W_E",
        _GINI.format("W_E of the numbers"),
        _EQUAL,
        lambda s: gini(jnp.linalg.norm(fourier.transform(s.embedding, 0, s.problem.orders), axis=1)),
        panel="Gini",
        label="Gini of W_E",
    ),
    Measure(
        "gini_W_L",
        _GINI.format("W_L = W_out W_U of the last layer"),
        _EQUAL,
        lambda s: gini(jnp.linalg.norm(fourier.transform(s.neuron_to_logit, 1, s.problem.orders), axis=0)),
        panel="Gini",
        label="Gini of W_L",
        applies=needs_direct_neurons,
    ),
    Measure(
        "embedding_norm_k",
        "norm of W_E of the numbers at frequency k = 0 (constant) … K, cosine and sine together",
        "norm",
        lambda s: fourier.norms(s.embedding, 0, s.problem.orders),
        entry=lambda k: f"embedding_norm_{k}",
        axis="frequency or 0",
    ),
    Measure(
        "attention_to_equals",
        "mean attention from `=` to itself, by head",
        "fraction",
        lambda s: s.attention_to_equals,
        entry=lambda i, h: f"attention_to_equals.L{i}H{h}",
        applies=lambda model: structure.is_transformer(model) and model.sizes.length == 3,
    ),
    Measure(
        "sum_of_squares",
        "sum of squares of all parameters",
        "sum",
        lambda s: sum(_sums_of_squares(s.params).values()),
        panel="sum of squares",
    ),
    Measure(
        "sum_of_squares_of",
        "sum of squares of one parameter",
        "sum",
        lambda s: _sums_of_squares(s.params),
        entry=lambda name: f"sum_of_squares.{name}",
    ),
)
"""Everything that is measured of one state; see `measures.Measure`."""

CLOCKS: tuple[Measure, ...] = (
    Measure(
        "distance_irrelevance",
        "mean over a - b of the std over a + b of the correct logit, by its std over all pairs",
        "0: Pizza, 1: Clock",
        lambda s: clocks.distance_irrelevance(s.logits, s.problem.answers, s.problem.orders),
    ),
    Measure(
        "gradient_symmetricity",
        "mean over triples (a, b, c) of the cosine of the gradients of logit c by the embeddings of a and b",
        "1 where only their sum matters, as in a Pizza",
        lambda s: clocks.gradient_symmetricity(
            s.params, s.model, s.problem.inputs, s.pairs, jnp.asarray(s.problem.group.elements)
        ),
        applies=structure.is_transformer,
    ),
    Measure(
        "circularity",
        "mean over the first 4 principal components of W_E of the fraction of their best frequency",
        "fraction",
        lambda s: clocks.circularity(s.embedding, s.problem.orders),
    ),
)
"""What is measured of one state; a `progress.State`, whose `pairs` are those that gradients are taken at."""

ALL = (*MEASURES, *CLOCKS)
"""Everything that is measured of one network."""
