"""Progress measures of a network that learns an operation mod P: at one state, or over all states of a run.

Definitions: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability". They need an
answer that is a sum or difference of a and b in some group, in whose characters everything is measured: a + b, or
a · b by the discrete logarithm. The P elements of the group are listed in its order, see `tasks.modular.cyclic`;
what is written here of numbers is true of elements, which mod P under addition are the numbers themselves. What is
measured is declared in `declarations`.
"""

import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxadd.analysis import circuits, fourier
from jaxadd.analysis import measures as declared
from jaxadd.analysis.measures import Measure
from jaxadd.analysis.modular.declarations import CLOCKS, MEASURES
from jaxadd.analysis.modular.problem import Problem
from jaxadd.lanes import over_lanes
from jaxadd.models import Model, structure
from jaxadd.optim import losses
from jaxadd.types import Params

_ROOM = 2**31  # bytes of activations at once, on an accelerator


class State:
    """One state of a network over all pairs. What several measures need is computed once, when it is first used.

    Attributes:
      params: of one network.
      model: its model.
      problem: the problem.
      keys: bool `[K]`, the key frequencies.
      pairs: int32 `[n]`, the pairs P·i + j that gradients are taken at; None for all.
      p: the number of elements.
    """

    def __init__(
        self, params: Params, model: Model, problem: Problem, keys: jax.Array, pairs: jax.Array | None = None
    ) -> None:
        self.params, self.model, self.problem, self.keys, self.pairs = (
            params,
            model,
            problem,
            jnp.asarray(keys),
            pairs,
        )
        self.p = math.isqrt(len(problem.answers))
        chex.assert_shape(problem.inputs, (self.p**2, None))
        chex.assert_shape(self.keys, (fourier.count(problem.orders),))

    @functools.cached_property
    def _run(self) -> tuple[jax.Array, dict[str, jax.Array]]:
        model, post = self.model, structure.last_neurons(self.model)
        depth = structure.layers(model) if structure.is_transformer(model) else 0
        names = [f"blocks.{i}.attn.hook_pattern" for i in range(depth)]
        logits, cache = model.apply(self.params, self.problem.inputs, [*names, *([post] if post else [])])
        return logits[:, 0], cache

    @property
    def class_logits(self) -> jax.Array:
        """The logits of all C classes, `[P², C]`."""
        return self._run[0]

    @property
    def logits(self) -> jax.Array:
        """The logits L of the P numbers, `[P², P]`."""
        return self.problem.of_elements(self._run[0], 1)

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
        return self.problem.of_elements(structure.token_vectors(self.params, self.model))

    @functools.cached_property
    def neuron_to_logit(self) -> jax.Array:
        """W_L = W_out W_U of the last layer, to the numbers, `[F, P]`."""
        return self.problem.of_elements(circuits.last_neurons_to_logits(self.params, self.model), 1)

    @functools.cached_property
    def explained(self) -> jax.Array:
        """What the best frequency explains of each neuron's variance, `[F]`."""
        return fourier.clusters(fourier.neuron_fractions(self.neurons, self.problem.orders)).explained

    @functools.cached_property
    def cosines(self) -> jax.Array:
        """⟨L, c_k⟩ / ‖L‖, `[K]`."""
        return fourier.cosine_similarities(self.logits, self.problem.answers, self.problem.orders)

    @functools.cached_property
    def means(self) -> jax.Array:
        """The mean of L over the pairs of each answer, `[P, P]`."""
        return fourier.by_answer(self.logits, self.problem.answers)

    @functools.cached_property
    def losses(self) -> dict[str, jax.Array]:
        """The loss of every pair, `[P²]`, by the kind of logits; see `declarations.KINDS`."""
        answers, means, logits, orders = self.problem.answers, self.means, self.logits, self.problem.orders
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
        trained, targets = self.logits[self.problem.train], self.problem.answers[self.problem.train]

        def without(key: jax.Array) -> jax.Array:
            kept = fourier.keep(self.means, key, self.problem.orders)
            return jnp.mean(losses.cross_entropy(trained - kept[targets], targets))

        # One frequency after the other: all at once would take K times the room.
        return jax.lax.map(without, jnp.eye(fourier.count(self.problem.orders), dtype=bool))

    def of(self, values: jax.Array, split: str) -> jax.Array:
        """Return values `[P²]` of "all", "train" or "test" pairs."""
        return values if split == "all" else values[getattr(self.problem, split)]


@functools.partial(jax.jit, static_argnames=("model", "declarations"))
def measures(
    params: Params,
    model: Model,
    problem: Problem,
    keys: jax.Array,
    pairs: jax.Array | None = None,
    *,
    declarations: tuple[Measure, ...] = MEASURES,
) -> dict[str, Any]:
    """Measure one state.

    Args:
      params: of one network.
      model: its model.
      problem: the problem.
      keys: bool `[K]`, the key frequencies, by any of the rules in `fourier`.
      pairs: int32 `[n]`, the pairs P·i + j that gradients are taken at, for measures that need some.
      declarations: what is measured.

    Returns:
      float32 by the names declared: scalars; `[K]` for measures with the axis "frequency", `[K + 1]` for one with
      "frequency or 0"; "attention_to_equals" is `[L, H]`, and "sum_of_squares_of" a dict by parameter. What needs an
      MLP is left out where there is none.
    """
    return declared.compute(declarations, State(params, model, problem, keys, pairs), model)


@functools.partial(jax.jit, static_argnames=("model", "declarations"))
def over_states(
    params: Params,
    model: Model,
    problem: Problem,
    keys: jax.Array,
    *,
    declarations: tuple[Measure, ...] = MEASURES,
) -> dict[str, Any]:
    """Measure E states in one compiled call, as `measures` does one; memory does not grow with E.

    Args:
      params: of one lane, every leaf with a leading axis of E states.
      model: its model.
      problem: the problem.
      keys: bool `[K]`, the same for all states: mostly those of the last one.
      declarations: what is measured.

    Returns:
      the same measures, each with a leading axis of E.
    """
    # About eight arrays of each width are alive at once.
    bytes_each = 32 * len(problem.answers) * (structure.width(model) + model.sizes.classes)
    one = lambda state, *shared: declared.compute(declarations, State(state, model, *shared), model)
    return over_lanes(one, max(1, _ROOM // bytes_each))(params, shared=(problem, keys))


def clock_measures(
    params: Params, model: Model, problem: Problem, pairs: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Measure one state: scalars by the names in `declarations.CLOCKS`; may be vmapped over states.

    Args:
      params: of one network.
      model: its model.
      problem: the problem.
      pairs: int32 `[n]`, the pairs P·i + j that gradients are taken at, all by default. The gradients take P
        backward passes over the pairs; for preset `mainline`, 500 random pairs give the mean to about 0.01.
    """
    no_keys = jnp.zeros(fourier.count(problem.orders), bool)
    return measures(params, model, problem, no_keys, pairs, declarations=CLOCKS)
