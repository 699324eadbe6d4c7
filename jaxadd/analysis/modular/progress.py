"""Progress measures of a network that learns an operation mod P: at one state, or over all states of a run.

Definitions: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability". They need an
answer that is a sum or difference of a and b in some group, in whose characters everything is measured: a + b, or
a · b by the discrete logarithm. The P elements of the group are listed in its order, see `tasks.modular.cyclic`;
what is written here of numbers is true of elements, which mod P under addition are the numbers themselves. `MEASURES`
declares everything that is measured here.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxadd.analysis import circuits, fourier
from jaxadd.analysis import measures as declared
from jaxadd.analysis.measures import EXPLAINED, Measure, needs_direct_neurons, needs_neurons, on_pairs
from jaxadd.analysis.modular.tables import Table
from jaxadd.lanes import over_lanes
from jaxadd.models import Model, structure
from jaxadd.optim import losses, scores
from jaxadd.trees import named_leaves
from jaxadd.types import Params

_ROOM = 2**31  # bytes of activations at once, on an accelerator


class State:
    """One state of a network over all pairs. What several measures need is computed once, when it is first used.

    Attributes:
      params: of one network.
      model: its model.
      table: the problem.
      keys: bool `[K]`, the key frequencies.
      pairs: int32 `[n]`, the pairs P·i + j that gradients are taken at; None for all.
      p: the number of elements.
    """

    def __init__(
        self, params: Params, model: Model, table: Table, keys: jax.Array, pairs: jax.Array | None = None
    ) -> None:
        self.params, self.model, self.table, self.keys, self.pairs = params, model, table, jnp.asarray(keys), pairs
        self.p = math.isqrt(len(table.answers))
        chex.assert_shape(table.inputs, (self.p**2, None))
        chex.assert_shape(self.keys, (fourier.count(table.orders),))

    @functools.cached_property
    def _run(self) -> tuple[jax.Array, dict[str, jax.Array]]:
        model, post = self.model, structure.last_neurons(self.model)
        depth = structure.layers(model) if structure.is_transformer(model) else 0
        names = [f"blocks.{i}.attn.hook_pattern" for i in range(depth)]
        logits, cache = model.apply(self.params, self.table.inputs, [*names, *([post] if post else [])])
        return logits[:, 0], cache

    @property
    def class_logits(self) -> jax.Array:
        """The logits of all C classes, `[P², C]`."""
        return self._run[0]

    @property
    def logits(self) -> jax.Array:
        """The logits L of the P numbers, `[P², P]`."""
        return self.table.of_elements(self._run[0], 1)

    @property
    def neurons(self) -> jax.Array:
        """The activations of the last layer's neurons at the last token, `[P², F]`."""
        return structure.neurons_read(self._run[1], self.model)

    @property
    def attention_to_equals(self) -> jax.Array:
        """The mean attention from `=` to itself, `[L, H]`."""
        patterns = [self._run[1][f"blocks.{i}.attn.hook_pattern"] for i in range(structure.layers(self.model))]
        # A block before the last has all three queries, the last one that of `=`.
        return jnp.stack([jnp.mean(pattern[:, :, -1, -1], axis=0) for pattern in patterns])

    @property
    def embedding(self) -> jax.Array:
        """W_E of the numbers, `[P, D]`."""
        return self.table.of_elements(structure.token_vectors(self.params, self.model))

    @functools.cached_property
    def neuron_to_logit(self) -> jax.Array:
        """W_L = W_out W_U of the last layer, to the numbers, `[F, P]`."""
        return self.table.of_elements(circuits.last_neurons_to_logits(self.params, self.model), 1)

    @functools.cached_property
    def explained(self) -> jax.Array:
        """What the best frequency explains of each neuron's variance, `[F]`."""
        return fourier.clusters(fourier.neuron_fractions(self.neurons, self.table.orders)).explained

    @functools.cached_property
    def cosines(self) -> jax.Array:
        """⟨L, c_k⟩ / ‖L‖, `[K]`."""
        return fourier.cosine_similarities(self.logits, self.table.answers, self.table.orders)

    @functools.cached_property
    def means(self) -> jax.Array:
        """The mean of L over the pairs of each answer, `[P, P]`."""
        return fourier.by_answer(self.logits, self.table.answers)

    @functools.cached_property
    def losses(self) -> dict[str, jax.Array]:
        """The loss of every pair, `[P²]`, by the kind of logits; see KINDS."""
        answers, means, logits, orders = self.table.answers, self.means, self.logits, self.table.orders
        keys = self.keys
        rest = jnp.mean(means, axis=0, keepdims=True)  # Waves have mean 0, so this is the mean of what they leave.
        result = {"full_loss": losses.cross_entropy(logits, answers)}
        # The 3-D form is that of Chughtai et al., which has the cubes alone.
        for end, keep, beside in (("", fourier.keep, rest), ("_3d", fourier.keep_cubes, jnp.zeros_like(rest))):
            kept = keep(means, keys, orders)
            restricted = losses.cross_entropy(kept + beside, jnp.arange(self.p))  # One for each answer.
            result[f"restricted_loss{end}"] = restricted[answers]
            result[f"excluded_loss{end}"] = losses.cross_entropy(logits - kept[answers], answers)
        return result

    @functools.cached_property
    def excluded(self) -> jax.Array:
        """The train loss without each single frequency, `[K]`."""
        trained, targets = self.logits[self.table.train], self.table.answers[self.table.train]

        def without(key: jax.Array) -> jax.Array:
            kept = fourier.keep(self.means, key, self.table.orders)
            return jnp.mean(losses.cross_entropy(trained - kept[targets], targets))

        # One frequency after the other: all at once would take K times the room.
        return jax.lax.map(without, jnp.eye(fourier.count(self.table.orders), dtype=bool))

    def of(self, values: jax.Array, split: str) -> jax.Array:
        """Return values `[P²]` of "all", "train" or "test" pairs."""
        return values if split == "all" else values[getattr(self.table, split)]


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
        lambda s: losses.cross_entropy(s.class_logits, s.table.labels),
        lambda s: scores.correct(s.class_logits, s.table.labels),
        KINDS,
        "P numbers",
    ),
    Measure(
        "excluded_loss_k",
        "as excluded_loss_train, for one frequency k = 1 … K",
        "nats",
        lambda s: s.excluded,
        entry=lambda i: f"excluded_loss_{i + 1}",
        panel=ONE_FREQUENCY,
        comparable=False,
        pairs="train",
    ),
    Measure(
        "logit_cosine_k",
        "⟨L, c_k⟩ / ‖L‖, L centred per row, for k = 1 … K",
        "cosine",
        lambda s: s.cosines,
        entry=lambda i: f"logit_cosine_{i + 1}",
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
        lambda s: gini(jnp.linalg.norm(fourier.transform(s.embedding, 0, s.table.orders), axis=1)),
        panel="Gini",
        label="Gini of W_E",
    ),
    Measure(
        "gini_W_L",
        _GINI.format("W_L = W_out W_U of the last layer"),
        _EQUAL,
        lambda s: gini(jnp.linalg.norm(fourier.transform(s.neuron_to_logit, 1, s.table.orders), axis=0)),
        panel="Gini",
        label="Gini of W_L",
        applies=needs_direct_neurons,
    ),
    Measure(
        "embedding_norm_k",
        "norm of W_E of the numbers at frequency k = 0 (constant) … K, cosine and sine together",
        "norm",
        lambda s: fourier.norms(s.embedding, 0, s.table.orders),
        entry=lambda i: f"embedding_norm_{i}",
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


@functools.partial(jax.jit, static_argnames=("model", "declarations"))
def measures(
    params: Params,
    model: Model,
    table: Table,
    keys: jax.Array,
    pairs: jax.Array | None = None,
    *,
    declarations: tuple[Measure, ...] = MEASURES,
) -> dict[str, Any]:
    """Measure one state.

    Args:
      params: of one network.
      model: its model.
      table: the problem.
      keys: bool `[K]`, the key frequencies, by any of the rules in `fourier`.
      pairs: int32 `[n]`, the pairs P·i + j that gradients are taken at, for measures that need some.
      declarations: what is measured.

    Returns:
      float32 by the names declared: scalars; names in `_k` are vectors over frequencies, "attention_to_equals" is
      `[L, H]`, and "sum_of_squares_of" a dict by parameter. What needs an MLP is left out where there is none.
    """
    return declared.compute(declarations, State(params, model, table, keys, pairs), model)


@functools.partial(jax.jit, static_argnames=("model", "declarations"))
def over_states(
    params: Params,
    model: Model,
    table: Table,
    keys: jax.Array,
    *,
    declarations: tuple[Measure, ...] = MEASURES,
) -> dict[str, Any]:
    """Measure E states in one compiled call, as `measures` does one; memory does not grow with E.

    Args:
      params: of one lane, every leaf with a leading axis of E states.
      model: its model.
      table: the problem.
      keys: bool `[K]`, the same for all states: mostly those of the last one.
      declarations: what is measured.

    Returns:
      the same measures, each with a leading axis of E.
    """
    # About eight arrays of each width are alive at once.
    bytes_each = 32 * len(table.answers) * (structure.width(model) + model.sizes.classes)
    one = lambda state, *shared: declared.compute(declarations, State(state, model, *shared), model)
    return over_lanes(one, max(1, _ROOM // bytes_each))(params, shared=(table, keys))


def named(declarations: tuple[Measure, ...], orders: fourier.Orders) -> tuple[Measure, ...]:
    """Return measures whose entries have the names of a group's frequencies, such as "excluded_loss_(0, 1)"."""
    names = fourier.names(orders)

    def renamed(measure: Measure) -> Measure:
        axis = ("0", *names) if measure.name == "embedding_norm_k" else names
        return measure._replace(entry=lambda i: measure.name.removesuffix("k") + axis[i])

    return tuple(renamed(measure) if measure.name.endswith("_k") else measure for measure in declarations)


def flat(
    values: Mapping[str, Any], orders: fourier.Orders, declarations: tuple[Measure, ...] = MEASURES
) -> dict[str, float]:
    """Return the measures of one state as plain numbers by entry, such as "excluded_loss_36", for JSON.

    Args:
      values: of `measures`.
      orders: of the group, whose frequencies have `fourier.names`.
      declarations: what was measured.
    """
    return declared.flat(named(declarations, orders), values)


def gini(x: jax.Array) -> jax.Array:
    """Compute the Gini coefficient of sizes `[N]`: 0 where all are equal, 1 - 1/N where one holds everything.

    With x ascending it is 1 - 2 Σ_i x_i / ‖x‖₁ · (N - i + ½) / N, i from 1 (Hurley & Rickard 2009).
    """
    chex.assert_rank(x, 1)
    count = len(x)
    return 1 - 2 * jnp.sum(jnp.sort(x) * (count - jnp.arange(count) - 0.5)) / count / jnp.sum(x)


def _sums_of_squares(params: Params) -> dict[str, jax.Array]:
    return {name: jnp.sum(w**2) for name, w in named_leaves(params)}
