"""Progress measures of a network that learns a + b or a - b mod P: at one state, or over all states of a run.

Definitions: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability"; they need an
answer that is a sum of a and b. `MEASURES` names and defines everything that is measured.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, fourier
from jaxadd.errors import UserError
from jaxadd.lanes import over_lanes
from jaxadd.models import Model, structure
from jaxadd.optim import losses, scores
from jaxadd.tasks import Modular
from jaxadd.trees import named_leaves
from jaxadd.types import Params

_EXPLAINED = 0.85  # of a neuron's variance, by one frequency
_ROOM = 2**31  # bytes of activations at once, on an accelerator


class Measure(NamedTuple):
    """What one measure is: its definition in one line, its unit, and the number of the first entry of a vector."""

    definition: str
    unit: str
    first: int | None = None


def _measures() -> Iterator[tuple[str, Measure]]:
    splits = {"all": "all pairs", "train": "the train pairs", "test": "the test pairs"}
    for split, pairs in splits.items():
        yield f"{split}_loss", Measure(f"mean cross-entropy of {pairs} over all classes, as in training", "nats")
        yield f"{split}_accuracy", Measure(f"{pairs} answered rightly, among all classes; a tie is wrong", "share")
    kinds = {
        "full": "the logits L as they are",
        "restricted": "Σ_k P_k L + the mean over (a, b) of the rest, over the key frequencies k",
        "restricted_3d": "Σ_k ⟨L, c_k⟩ c_k + the mean over (a, b) of the rest, c_k ∝ cos w_k(a + b - c)",
        "excluded": "L - Σ_k P_k L, over the key frequencies k",
        "excluded_3d": "L - Σ_k ⟨L, c_k⟩ c_k, over the key frequencies k",
    }
    for kind, logits in kinds.items():
        name, _, dimensions = kind.partition("_")
        for split, pairs in splits.items():
            key = "_".join(filter(None, (name, "loss", dimensions, split)))
            yield key, Measure(f"mean cross-entropy of {pairs} over the P numbers, without `=`, of {logits}", "nats")
    yield "excluded_loss_k", Measure("as excluded_loss_train, for each single frequency k = 1 … P//2", "nats", 1)
    yield "logit_cosine_k", Measure("⟨L, c_k⟩ / ‖L‖, L centred per row, for k = 1 … P//2", "cosine", 1)
    text = (
        "share of the logits' variance, centred per row, that Σ_k α_k c_k explains, α free, over the key frequencies"
    )
    yield "logit_variance_explained", Measure(text, "share")
    text = "Gini coefficient of the norms of {}, in the Fourier basis, one norm per cosine, sine and the constant"
    yield "gini_W_E", Measure(text.format("W_E of the numbers"), "0 equal to 1 concentrated")
    yield "gini_W_L", Measure(text.format("W_L = W_out W_U of the last block"), "0 equal to 1 concentrated")
    text = "norm of W_E of the numbers at frequency k = 0 (constant) … P//2, cosine and sine together"
    yield "embedding_norm_k", Measure(text, "norm", 0)
    text = "mean over the last block's neurons of the variance explained by one frequency, dead neurons counting 0"
    yield "neuron_variance_explained", Measure(text, "share")
    text = f"the last block's neurons of whose variance one frequency explains more than {_EXPLAINED}"
    yield "neurons_explained", Measure(text, "share")
    yield (
        "attention_to_equals",
        Measure("mean attention from `=` to itself; attention_to_equals.L0H2: of a head", "share"),
    )
    yield "sum_of_squares", Measure("of all parameters; sum_of_squares.embed.W_E and so on: of one parameter", "sum")


MEASURES: Mapping[str, Measure] = dict(_measures())


class Table(NamedTuple):
    """The whole problem: all pairs in lexicographic order, pair (a, b) at P·a + b.

    Attributes:
      inputs: int32 `[P², 3]`, tokens (a, b, =).
      answers: int32 `[P²]`, a + b or a - b mod P.
      train: int32 `[n]`, the pairs trained on.
      test: int32 `[P² - n]`, the others.
    """

    inputs: jax.Array
    answers: jax.Array
    train: jax.Array
    test: jax.Array


def table(task: Modular, lane: Mapping[str, jax.Array]) -> Table:
    """List the problem of one lane, `lane` being its train and test pairs, from `task.data(seeds).lane`.

    Raises:
      UserError: for a task whose answer is no sum of a and b.
    """
    if not isinstance(task, Modular) or task.operation not in ("add", "subtract"):
        got = f"operation {task.operation}" if isinstance(task, Modular) else type(task).__name__
        raise UserError(
            "restricted and excluded loss, key frequencies and the other progress measures need a Modular task whose "
            f"operation is add or subtract, got {got}"
        )
    chex.assert_rank([lane["train"], lane["test"]], 1)
    batch = task.batch(jnp.arange(task.p**2, dtype=jnp.int32), {})
    return Table(batch.inputs, batch.targets[:, 0], lane["train"], lane["test"])


@functools.partial(jax.jit, static_argnames="model")
def measures(params: Params, model: Model, table: Table, keys: jax.Array) -> dict[str, jax.Array]:
    """Measure one state.

    Args:
      params: of one network.
      model: its model.
      table: the problem.
      keys: bool `[P//2]`, the key frequencies, by any of the rules in `fourier`.

    Returns:
      float32 by the names in MEASURES: scalars; names in `_k` are vectors over frequencies, `attention_to_equals` is
      `[L, H]`, and "sum_of_squares." followed by a parameter's name is that of the parameter. What needs an MLP is
      left out where there is none.
    """
    p = math.isqrt(len(table.answers))
    keys = jnp.asarray(keys)
    chex.assert_shape(table.inputs, (p * p, 3))
    chex.assert_shape(keys, (p // 2,))
    depth = structure.layers(model)
    last = depth - 1
    has_mlp = structure.has_neurons(model)
    patterns, neurons = [f"blocks.{i}.attn.hook_pattern" for i in range(depth)], f"blocks.{last}.mlp.hook_post"
    logits, seen = model.apply(params, table.inputs, names=[*patterns, neurons] if has_mlp else patterns)
    logits = logits[:, 0]

    found = _by_split("loss", losses.cross_entropy(logits, table.answers), table, first=True)
    found |= _by_split("accuracy", scores.correct(logits, table.answers), table, first=True)
    found |= _losses_by_wave(logits[:, :p], table, keys)
    cosines = fourier.cosine_similarities(logits[:, :p], table.answers)
    embedding = params["embed"]["W_E"][:p]
    found |= {
        "logit_cosine_k": cosines,
        "logit_variance_explained": jnp.sum(jnp.where(keys, cosines, 0) ** 2),
        "gini_W_E": gini(jnp.linalg.norm(fourier.transform(embedding), axis=1)),
        "embedding_norm_k": fourier.norms(embedding),
        # A block before the last has all three queries, the last one that of `=`.
        "attention_to_equals": jnp.stack([jnp.mean(seen[name][:, :, -1, -1], axis=0) for name in patterns]),
    }
    if has_mlp:
        to_logits = circuits.neuron_to_logit(params, model, last)[:, :p]
        share = fourier.clusters(fourier.neuron_shares(seen[neurons][:, 0])).share
        found |= {
            "gini_W_L": gini(jnp.linalg.norm(fourier.transform(to_logits, axis=1), axis=0)),
            "neuron_variance_explained": jnp.mean(share),
            "neurons_explained": scores.fraction(share > _EXPLAINED),
        }
    return found | _sums_of_squares(params)


@functools.partial(jax.jit, static_argnames="model")
def over_states(params: Params, model: Model, table: Table, keys: jax.Array) -> dict[str, jax.Array]:
    """Measure N states in one compiled call, as `measures` does one; memory does not grow with N.

    Args:
      params: of one lane, every leaf with a leading axis of N states.
      model: its model.
      table: the problem.
      keys: bool `[P//2]`, the same for all states: mostly those of the last one.

    Returns:
      the same measures, each with a leading axis of N.
    """
    config = structure.transformer(model)
    width = config.d_model + model.sizes.classes + config.layers * config.d_mlp
    bytes_each = 32 * len(table.answers) * width  # About eight arrays of each width are alive at once.
    one = lambda state, *shared: measures(state, model, *shared)  # noqa: E731
    return over_lanes(one, max(1, _ROOM // bytes_each))(params, shared=(table, keys))


def flat(found: Mapping[str, Any]) -> dict[str, float]:
    """Write the measures of one state as plain numbers, for JSON.

    A vector over frequencies becomes one entry for each, `excluded_loss_36` of `excluded_loss_k`; attention becomes
    `attention_to_equals.L0H2`. The other names stay.
    """
    entries = {}
    for name, value in found.items():
        value = np.asarray(value)
        if name == "attention_to_equals":
            entries |= {f"{name}.L{i}H{h}": float(value[i, h]) for i, h in np.ndindex(value.shape)}
        elif value.ndim:
            chex.assert_rank(value, 1)
            stem, first = name.removesuffix("_k"), MEASURES[name].first
            entries |= {f"{stem}_{first + i}": float(x) for i, x in enumerate(value)}
        else:
            entries[name] = float(value)
    return entries


def gini(x: jax.Array) -> jax.Array:
    """Compute the Gini coefficient of sizes `[N]`: 0 where all are equal, 1 - 1/N where one holds everything.

    With x ascending it is 1 - 2 Σ_i x_i / ‖x‖₁ · (N - i + ½) / N, i from 1 (Hurley & Rickard 2009).
    """
    chex.assert_rank(x, 1)
    count = len(x)
    return 1 - 2 * jnp.sum(jnp.sort(x) * (count - jnp.arange(count) - 0.5)) / count / jnp.sum(x)


def _by_split(name: str, values: jax.Array, table: Table, *, first: bool = False) -> dict[str, jax.Array]:
    """Average values `[P²]` over all, train and test pairs, whose name comes last, or `first`."""
    mean = scores.fraction if values.dtype == bool else jnp.mean
    means = {"all": mean(values), "train": mean(values[table.train]), "test": mean(values[table.test])}
    return {f"{split}_{name}" if first else f"{name}_{split}": mean for split, mean in means.items()}


def _losses_by_wave(logits: jax.Array, table: Table, keys: jax.Array) -> dict[str, jax.Array]:
    """Compute full, restricted and excluded losses of the logits `[P², P]`."""
    answers, train = table.answers, table.train
    means = fourier.by_answer(logits, answers)
    rest = jnp.mean(means, axis=0)  # The waves have mean 0, so this is the mean of what they leave.
    found = _by_split("full_loss", losses.cross_entropy(logits, answers), table)
    for dimensions, kept in (("", fourier.keep(means, keys)), ("_3d", fourier.keep_cubes(means, keys))):
        restricted = losses.cross_entropy(kept + rest, jnp.arange(len(means)))  # One for each answer.
        excluded = losses.cross_entropy(logits - kept[answers], answers)
        found |= _by_split(f"restricted_loss{dimensions}", restricted[answers], table)
        found |= _by_split(f"excluded_loss{dimensions}", excluded, table)
    trained, targets = logits[train], answers[train]

    def without(key: jax.Array) -> jax.Array:
        return jnp.mean(losses.cross_entropy(trained - fourier.keep(means, key)[targets], targets))

    # One frequency after the other: all at once would take P//2 times the room.
    return found | {"excluded_loss_k": jax.lax.map(without, jnp.eye(len(keys), dtype=bool))}


def _sums_of_squares(params: Params) -> dict[str, jax.Array]:
    sums = {f"sum_of_squares.{name}": jnp.sum(w**2) for name, w in named_leaves(params)}
    return {"sum_of_squares": sum(sums.values())} | sums
