"""Measures per irrep of a network that multiplies in a finite group: at one state, or over all states of a run.

Definitions: Chughtai et al. 2023, "A toy model of universality". Logits are those of the n elements. They are read as
a function of the answer s of a pair, such as a·b, and of c: tr ρ(s c⁻¹) is tr(ρ(a) ρ(b) ρ(c⁻¹)) for a product. Each
answer has n pairs, one for each a, so a projection along s is one of the mean over these pairs. What is measured is
declared in `declarations`.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxadd.analysis import measures as declared
from jaxadd.analysis.group.declarations import MEASURES
from jaxadd.analysis.group.problem import Problem
from jaxadd.analysis.measures import Measure, divide
from jaxadd.lanes import over_lanes
from jaxadd.models import Model, structure
from jaxadd.optim import losses, scores
from jaxadd.types import Params

KEY = 0.05  # The logit similarity above which an irrep is a key irrep.
_ROOM = 2**24  # numbers in the logits and activations that are computed at once


class Pass(NamedTuple):
    """Sums over all pairs, from one pass of the network.

    Attributes:
      loss: `[n²]`, of each pair over all classes, as in training.
      correct: bool `[n²]`.
      full: `[n²]`, the loss over the n elements.
      means: `[n, n]`, the mean of the logits over the pairs of each answer.
      square: the sum of squares of the logits, centred per row.
      neurons: by "a", "b" and "ab", the mean activation `[n, F]` for each left element, right element and answer;
        empty without neurons, as all that follows.
      variance: `[F]`, of each neuron's activation.
      before: the same means of what goes into the neurons.
    """

    loss: jax.Array
    correct: jax.Array
    full: jax.Array
    means: jax.Array
    square: jax.Array
    neurons: dict[str, jax.Array]
    variance: jax.Array
    before: dict[str, jax.Array]


class State:
    """One state of a network over all pairs. What several measures need is computed once, when it is first used.

    Attributes:
      params: of one network.
      model: its model.
      problem: the problem.
      keys: bool `[K]`, the irreps of restricted and excluded loss; None takes those of a logit similarity above KEY.
      n: the order of the group.
    """

    def __init__(self, params: Params, model: Model, problem: Problem, keys: jax.Array | None = None) -> None:
        self.params, self.model, self.problem = params, model, problem
        self.n, self.count = len(problem.basis), len(problem.characters)
        chex.assert_shape(problem.inputs, (self.n**2, model.sizes.length))
        self.keys = self.similarity > KEY if keys is None else jnp.asarray(keys)
        chex.assert_shape(self.keys, (self.count,))

    # --- all pairs, some at a time ---------------------------------------------------------------------------

    @property
    def _rows(self) -> int:
        """How many left elements are computed at once: a divisor of n."""
        width = self.n * (self.model.sizes.classes + structure.width(self.model))
        return max(r for r in range(1, self.n + 1) if self.n % r == 0 and (r == 1 or r * width <= _ROOM))

    def _blocks(self, values: jax.Array) -> jax.Array:
        return values.reshape(self.n // self._rows, self._rows * self.n, *values.shape[1:])

    def _logits(self, inputs: jax.Array, names: tuple[str, ...] = ()) -> tuple[jax.Array, list[jax.Array]]:
        logits, cache = self.model.apply(self.params, inputs, names)
        return logits[:, 0], [cache[name].reshape(len(inputs), -1) for name in names]

    @functools.cached_property
    def run(self) -> Pass:
        """The sums over all pairs."""
        n, p, rows = self.n, self.problem, self._rows
        post = structure.last_neurons(self.model)
        names = () if post is None else (post.replace("hook_post", "hook_pre"), post)

        def compute(part: tuple[jax.Array, ...]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
            """Return what is summed over all pairs, and what is known of these pairs or left elements alone."""
            inputs, answers, labels = part
            logits, active = self._logits(inputs, names)
            elements = logits[:, :n]
            centred = elements - jnp.mean(elements, axis=1, keepdims=True)
            added = {"means": jnp.zeros((n, n)).at[answers].add(elements) / n, "square": jnp.sum(centred**2)}
            out = {
                "loss": losses.cross_entropy(logits, labels),
                "correct": scores.correct(logits, labels),
                "full": losses.cross_entropy(elements, answers),
            }
            for name, x in zip(("pre", "post"), active, strict=False):
                by_pair = x.reshape(rows, n, -1)
                out[f"{name}_a"] = jnp.mean(by_pair, axis=1)
                added[f"{name}_b"] = jnp.sum(by_pair, axis=0) / n
                added[f"{name}_ab"] = jnp.zeros((n, x.shape[1])).at[answers].add(x) / n
                added[f"{name}_squares"] = jnp.sum(x**2, axis=0) / n**2
            return added, out

        def block(sums: dict[str, jax.Array], part: tuple[jax.Array, ...]) -> tuple[dict, dict]:
            added, out = compute(part)
            return jax.tree.map(jnp.add, sums, added), out

        parts = tuple(self._blocks(x) for x in (p.inputs, p.answers, p.labels))
        shapes = jax.eval_shape(compute, tuple(x[0] for x in parts))[0]
        sums, out = jax.lax.scan(block, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), parts)
        out = {name: x.reshape(-1, *x.shape[2:]) for name, x in out.items()}
        flat = out["loss"], out["correct"], out["full"], sums["means"], sums["square"]
        if post is None:
            return Pass(*flat, {}, jnp.zeros(0), {})
        active, before = (
            {"a": out[f"{name}_a"], "b": sums[f"{name}_b"], "ab": sums[f"{name}_ab"]} for name in ("post", "pre")
        )
        variance = sums["post_squares"] - jnp.mean(active["a"], axis=0) ** 2
        return Pass(*flat, active, variance, before)

    # --- logits ----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _centred(self) -> jax.Array:
        """The mean of the row-centred logits over the pairs of each answer, `[n, n]`."""
        return self.run.means - jnp.mean(self.run.means, axis=1, keepdims=True)

    @functools.cached_property
    def similarity(self) -> jax.Array:
        """The cosine between the row-centred logits and tr ρ(s c⁻¹), `[K]`."""
        p = self.problem
        by_quotient = jnp.zeros(self.n).at[p.quotients].add(self._centred)
        products = self.n * jnp.matmul(p.characters, by_quotient, precision="highest")
        norms = jnp.linalg.norm(p.characters, axis=1) * self.n
        return divide(products, norms * jnp.sqrt(self.run.square))

    @functools.cached_property
    def logit_fractions(self) -> jax.Array:
        """The fraction of the row-centred logits' squares in the span of each irrep's entries of ρ(s), `[K]`."""
        return divide(self.n * self.squares(self._centred), self.run.square)

    def squares(self, values: jax.Array) -> jax.Array:
        """Return the sum of squares of functions on the group `[n, ...]` in each irrep's span, `[K]`."""
        return jnp.zeros(self.count).at[self.problem.irrep].add(jnp.sum(self._coefficients(values) ** 2, axis=1))

    def _coefficients(self, values: jax.Array) -> jax.Array:
        return jnp.matmul(self.problem.basis.T, values.reshape(self.n, -1), precision="highest")

    def keep(self, irreps: jax.Array) -> jax.Array:
        """Return the part of the mean logits `[n, n]`, a row for each answer, in the span of some irreps."""
        kept = jnp.where(irreps[self.problem.irrep][:, None], self._coefficients(self.run.means), 0)
        return jnp.matmul(self.problem.basis, kept, precision="highest")

    def keep_traces(self, irreps: jax.Array) -> jax.Array:
        """Return the part of the mean logits `[n, n]` along tr ρ(s c⁻¹) of some irreps."""
        characters = self.problem.characters
        scale = self.similarity * jnp.sqrt(self.run.square) / (self.n * jnp.linalg.norm(characters, axis=1))
        weights = jnp.matmul(jnp.where(irreps, scale, 0), characters, precision="highest")
        return weights[self.problem.quotients]

    def restricted(self, kept: jax.Array) -> jax.Array:
        """Return the loss of each answer, `[n]`, of kept logits and the mean over (a, b) of the rest."""
        rest = jnp.mean(self.run.means - kept, axis=0, keepdims=True)
        return losses.cross_entropy(kept + rest, jnp.arange(self.n))

    def excluded(self, kept: jax.Array) -> jax.Array:
        """Return the loss of each pair, `[X, n²]`, of the logits without each of X parts `[X, n, n]`."""

        def block(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            inputs, answers = part
            elements = self._logits(inputs)[0][:, : self.n]
            return jax.lax.map(lambda one: losses.cross_entropy(elements - one[answers], answers), kept)

        found = jax.lax.map(block, (self._blocks(self.problem.inputs), self._blocks(self.problem.answers)))
        return jnp.moveaxis(found, 1, 0).reshape(len(kept), -1)

    @functools.cached_property
    def kept(self) -> dict[str, jax.Array]:
        """What is kept and excluded, `[n, n]` by answer, by the end of the measure's name."""
        return {"": self.keep(self.keys), "_trace": self.keep_traces(self.keys)}

    @functools.cached_property
    def losses(self) -> dict[str, jax.Array]:
        """The loss of every pair, `[n²]`, by the kind of logits; see `declarations.KINDS`."""
        excluded = self.excluded(jnp.stack(list(self.kept.values())))
        result = {"full_loss": self.run.full}
        for (end, kept), without in zip(self.kept.items(), excluded, strict=True):
            result[f"restricted_loss{end}"] = self.restricted(kept)[self.problem.answers]
            result[f"excluded_loss{end}"] = without
        return result

    @functools.cached_property
    def singles(self) -> jax.Array:
        """The part of the mean logits in each irrep's span, `[K, n, n]`."""
        return jax.lax.map(self.keep, jnp.eye(self.count, dtype=bool))

    def of(self, values: jax.Array, split: str) -> jax.Array:
        """Return values `[n²]` of "all", "train" or "test" pairs."""
        return values if split == "all" else values[getattr(self.problem, split)]

    # --- weights and neurons ---------------------------------------------------------------------------------

    def fractions(self, values: jax.Array) -> jax.Array:
        """Return the fraction of the squares of functions on the group `[n, ...]` in each irrep's span, `[K]`."""
        return divide(self.squares(values), jnp.sum(values**2))

    def neuron_fractions(self, of: str) -> jax.Array:
        """Return the fraction of all neurons' variance that entries of ρ(a), ρ(b) or ρ(s) explain, `[K]`."""
        values = self.run.neurons[of]
        centred = values - jnp.mean(values, axis=0, keepdims=True)
        return divide(self.squares(centred) / self.n, jnp.sum(self.run.variance))


@functools.partial(jax.jit, static_argnames=("model", "declarations"))
def measures(
    params: Params,
    model: Model,
    problem: Problem,
    keys: jax.Array | None = None,
    *,
    declarations: tuple[Measure, ...] = MEASURES,
) -> dict[str, Any]:
    """Measure one state.

    Args:
      params: of one network.
      model: its model.
      problem: the problem.
      keys: bool `[K]`, the irreps of restricted and excluded loss; None takes those of a logit similarity above KEY.
      declarations: what is measured.

    Returns:
      float32 by the names declared: scalars, and `[K]` for measures per irrep.
    """
    return declared.compute(declarations, State(params, model, problem, keys), model)


@functools.partial(jax.jit, static_argnames=("model", "declarations"))
def over_states(
    params: Params,
    model: Model,
    problem: Problem,
    keys: jax.Array,
    *,
    declarations: tuple[Measure, ...] = MEASURES,
) -> dict[str, Any]:
    """Measure E states in one compiled call, as `measures` does one; leaves of `params` have a leading E axis."""
    one = lambda state, *shared: declared.compute(declarations, State(state, model, *shared), model)
    return over_lanes(one, 1)(params, shared=(problem, keys))


@functools.partial(jax.jit, static_argnames="model")
def overview(params: Params, model: Model, problem: Problem) -> Pass:
    """Return the sums over all pairs of one state."""
    return State(params, model, problem, jnp.zeros(len(problem.characters), bool)).run
