"""Hypotheses tested with a number: "activation X matters only through feature f(problem)".

The test replaces X, for every problem, by X on another random problem with the same f (causal scrubbing: Chan et al.
2022), and compares with replacing it by X on any other problem:

    score = 1 - (L_scrubbed - L) / (L_random - L)

1 says that f is all that matters of X; 0 that knowing f helps no more than knowing nothing. Where even L_random is
hardly above L, X does not matter and no claim about it can be tested. Where a loss is not finite, nothing is defined.

A continuous feature (a cosine) has no two problems that share it exactly, or too many. There the part of X that
is a least-squares combination of given functions of the problem is kept, and the rest comes from any other problem.
Both are one formula, X' = kept + (X - kept)[partner]: with labels nothing is kept and partners share the label.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.interventions import Site, masks, patch, where
from jaxadd.errors import UserError
from jaxadd.lanes import over_lanes
from jaxadd.models import Model
from jaxadd.optim import losses, scores
from jaxadd.types import Batch, Params

HOLDS, FAILS = 0.9, 0.5  # A claim holds where its interval lies above, and fails where it lies below.
MATTERS = 0.01  # nats by which L_random must exceed L; below that an activation does not matter.


class Same(NamedTuple):
    """X matters only through a feature that problems share exactly.

    Attributes:
      feature: a function of the problems that returns int `[B]`, or int `[B, m]` for several at once.
    """

    feature: Callable[[Any], jax.Array]


class Kept(NamedTuple):
    """X matters only through a part of it.

    Attributes:
      part: a function of (X `[B, ...]`, problems) that returns that part, `[B, ...]`; see `span`.
    """

    part: Callable[[jax.Array, Any], jax.Array]


class Part(NamedTuple):
    """One activation, and all of it that is claimed to matter."""

    site: Site
    through: Same | Kept


class Claim(NamedTuple):
    """A hypothesis: every one of its parts holds, all at once.

    Attributes:
      name: a short one, unique in a table.
      parts: what is replaced; several compose.
      against: what L_random resamples, the parts' own sites by default; for a claim that X is noise, more than X.
    """

    name: str
    parts: tuple[Part, ...]
    against: tuple[Site, ...] = ()


class Losses(NamedTuple):
    """The loss of every problem, nats, means over positions and draws.

    Attributes:
      clean: `[B]`, of the network as it is.
      scrubbed: `[n, B]`, by claim.
      random: `[n, B]`.
      partnered: `[n]`, the fraction of problems that have every label in common with another; others keep their X.
    """

    clean: jax.Array
    scrubbed: jax.Array
    random: jax.Array
    partnered: jax.Array


class Score(NamedTuple):
    """The outcome of a claim's test on one network.

    Attributes:
      score: 1 - (scrubbed - loss) / (random - loss); NaN where the activation does not matter, and where a loss is
        not finite.
      low: lower end of the bootstrap interval over problems, 95 % by default.
      high: its upper end.
      loss: mean clean loss, nats.
      scrubbed: mean scrubbed loss, nats.
      random: mean randomly resampled loss, nats.
      partnered: as in `Losses`.
    """

    score: float
    low: float
    high: float
    loss: float
    scrubbed: float
    random: float
    partnered: float

    @property
    def verdict(self) -> str:
        """The outcome in words, by the thresholds HOLDS, FAILS and MATTERS.

        "holds", "fails", "in part", "does not matter", or "not defined" where a loss is not finite.
        """
        if not np.all(np.isfinite([self.loss, self.scrubbed, self.random])):
            return "not defined"
        if not self.random - self.loss > MATTERS:
            return "does not matter"
        return "holds" if self.low >= HOLDS else "fails" if self.high < FAILS else "in part"


def span(functions: Callable[[Any], jax.Array]) -> Kept:
    """Return the claim that only a linear combination, by least squares over the batch, of functions matters.

    Args:
      functions: returns float `[B, m]`; with a column of ones where the mean of X is to be kept.
    """

    def part(x: jax.Array, problems: Any) -> jax.Array:
        values = functions(problems)
        chex.assert_rank(values, 2)
        flat = x.reshape(len(x), -1)
        return (values @ (jnp.linalg.pinv(values) @ flat)).reshape(x.shape)

    return Kept(part)


def constant(problems: Any) -> jax.Array:
    """Return the feature that is the same for all problems: `Same(constant)` claims that nothing about X matters."""
    return jnp.zeros(jax.tree.leaves(problems)[0].shape[0], jnp.int32)


def partners(key: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Assign to every problem a random other one with the same labels: a derangement within each class.

    Args:
      key: a typed key.
      labels: int `[B, m]`.

    Returns:
      int32 `[B]`, and bool `[B]`: whether there was another; where not, a problem is its partner.
    """
    chex.assert_rank(labels, 2)
    count = len(labels)
    order = jnp.lexsort((jax.random.permutation(key, count), *labels.T))
    sorted_labels = labels[order]
    starts = jnp.concatenate([jnp.ones(1, bool), jnp.any(sorted_labels[1:] != sorted_labels[:-1], axis=1)])
    ends = jnp.concatenate([starts[1:], jnp.ones(1, bool)])
    first = jax.lax.cummax(jnp.where(starts, jnp.arange(count), 0))
    # The next of the same class in this random order; the last of a class takes its first.
    following = order[jnp.where(ends, first, jnp.minimum(jnp.arange(count) + 1, count - 1))]
    return jnp.zeros(count, jnp.int32).at[order].set(following.astype(jnp.int32)), jnp.zeros(count, bool).at[
        order
    ].set(~(starts & ends))


def scrub(
    params: Params,
    model: Model,
    batch: Batch,
    problems: Any,
    claims: Sequence[Claim],
    key: jax.Array,
    *,
    draws: int = 4,
) -> Losses:
    """Scrub and randomly resample the activations of n claims, all in one compiled call.

    Claims with the same number of parts share a compilation, whatever their sites and features are.

    Args:
      params: of one network.
      model: its model.
      batch: inputs `[B, T]` and targets `[B, R]`.
      problems: what the claims' features are functions of, a pytree of arrays with a leading axis B.
      claims: `Kept` parts hold an array of the activation's size each, so such claims are best given one at a time.
      key: a typed key; every part and draw gets partners of its own.
      draws: independent resamplings to average over.
    """
    if not claims:
        raise UserError("there is no claim to test")
    scrubbed = [claim.parts for claim in claims]
    free = [tuple(Part(s, Same(constant)) for s in c.against or [p.site for p in c.parts]) for c in claims]
    names = tuple(sorted({part.site.name for parts in (*scrubbed, *free) for part in parts}))
    clean = _clean(params, batch.inputs, names, model)
    run = functools.partial(_resampled, params, batch, clean, key, model=model, draws=draws)
    shown = (params, model, batch.inputs)
    with_claims, partnered = run(*_stack(scrubbed, problems, clean, shown))
    freely, _ = run(*_stack(free, problems, clean, shown))
    loss = _loss(clean["logits"], batch.targets)
    return Losses(loss, with_claims, freely, partnered)


@jax.jit
def _loss(logits, targets):
    return jnp.mean(losses.cross_entropy(logits, targets), axis=-1)


@functools.partial(jax.jit, static_argnames=("names", "model"))
def _clean(params, inputs, names, model):
    return model.apply(params, inputs, {*names, "logits"})[1]


def _stack(claims: Sequence[tuple[Part, ...]], problems: Any, clean: Mapping[str, jax.Array], shown: tuple) -> tuple:
    """Return n claims of J parts at most as arrays: masks `{name: [n, J, ...]}`, labels `[n, J, B, m]`, what is kept.

    Parts that a claim lacks are nowhere.
    """
    count = max(len(parts) for parts in claims)
    flat = [part for parts in claims for part in parts]
    marked = masks([part.site for part in flat], *shown)
    place = np.concatenate([i * count + np.arange(len(parts)) for i, parts in enumerate(claims)])
    shape = (len(claims), count)
    places = {}
    for name, rows in marked.items():
        full = np.zeros((len(claims) * count, *rows.shape[1:]), bool)
        full[place] = rows
        places[name] = jax.device_put(full.reshape(*shape, *rows.shape[1:]))

    examples = len(clean["logits"])
    labels = [
        np.asarray(part.through.feature(problems)).reshape(examples, -1)
        if isinstance(part.through, Same)
        else np.zeros((examples, 1), int)
        for part in flat
    ]
    if other := [
        values.dtype for values in labels if not np.issubdtype(values.dtype, np.integer) and values.dtype != bool
    ]:
        raise UserError(f"a feature that problems share must be whole numbers, got {other[0]}; use span() for others")
    width = max(values.shape[1] for values in labels)
    table = np.zeros((len(claims) * count, examples, width), np.int32)
    for i, values in zip(place, labels, strict=True):
        table[i, :, : values.shape[1]] = values

    filled: dict[str, np.ndarray] = {}
    for i, part in zip(place, flat, strict=True):
        if isinstance(part.through, Kept):
            name = part.site.name
            rows = filled.setdefault(name, np.zeros((len(claims) * count, *clean[name].shape), np.float32))
            rows[i] = part.through.part(clean[name], problems)
    kept = {name: jnp.asarray(values.reshape(*shape, *values.shape[1:])) for name, values in filled.items()}
    return places, jnp.asarray(table.reshape(*shape, examples, width)), kept


@functools.partial(jax.jit, static_argnames=("model", "draws"))
def _resampled(params, batch, clean, key, places, labels, kept, *, model, draws):
    """Return mean losses `[n, B]` and the fraction of problems with partners `[n]`."""
    n, parts = labels.shape[:2]

    def one(place, labels, kept, key):
        drawn = [partners(jax.random.fold_in(key, j), labels[j]) for j in range(parts)]
        edits = {}
        for name, marks in place.items():

            def edit(x, name=name, marks=marks):
                for j, (partner, _) in enumerate(drawn):
                    stays = kept[name][j] if name in kept else 0
                    # From the clean network: what stands upstream of X has been replaced already.
                    x = where(marks[j], patch(stays + (clean[name] - stays)[partner]))(x)
                return x

            edits[name] = edit
        logits, _ = model.apply(params, batch.inputs, (), edits)
        loss = jnp.mean(losses.cross_entropy(logits, batch.targets), axis=-1)
        # A part that is nowhere has partners, as all its labels are 0.
        return loss, scores.fraction(jnp.all(jnp.stack([has for _, has in drawn]), axis=0))

    def claim(index, place, labels, kept):
        keys = jax.random.split(jax.random.fold_in(key, index), draws)
        loss, partnered = over_lanes(functools.partial(one, place, labels, kept), width=1)(keys)
        return jnp.mean(loss, axis=0), partnered[0]

    return over_lanes(claim, width=8)(jnp.arange(n), places, labels, kept)


def score(measured: Losses, *, replicates: int = 1000, level: float = 0.95, seed: int = 0) -> list[Score]:
    """Compute the score of every claim, with a bootstrap interval over problems.

    Args:
      measured: what `scrub` returned.
      replicates: bootstrap samples.
      level: of the interval, a fraction.
      seed: of the samples, the same for all claims.
    """
    clean, scrubbed, random = (np.asarray(x, np.float64) for x in measured[:3])
    draw = np.random.default_rng(seed)
    samples = np.stack(
        [np.bincount(draw.integers(0, len(clean), len(clean)), minlength=len(clean)) for _ in range(replicates)]
    )
    weights = samples / len(clean)
    results = []
    for i in range(len(scrubbed)):
        rise, gap = scrubbed[i] - clean, random[i] - clean
        matters = np.all(np.isfinite([rise, gap])) and gap.mean() > MATTERS
        value = 1 - rise.mean() / gap.mean() if matters else np.nan
        again = 1 - (weights @ rise) / np.maximum(weights @ gap, 1e-12) if matters else np.full(replicates, np.nan)
        low, high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2])
        means = (clean.mean(), scrubbed[i].mean(), random[i].mean(), np.asarray(measured.partnered)[i])
        results.append(Score(*map(float, (value, low, high, *means))))
    return results


def assess(
    params: Params,
    model: Model,
    batch: Batch,
    problems: Any,
    claim: Claim,
    key: jax.Array,
    *,
    draws: int = 4,
) -> Score:
    """Test one claim; arguments as for `scrub`."""
    return score(scrub(params, model, batch, problems, [claim], key, draws=draws))[0]
