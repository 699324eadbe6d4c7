"""Test the claims people make about networks: a registry of them by task, and a test of all that apply.

A claim is one sentence with its candidates: a claim about a certain neuron cluster has one, "a head carries column
3's sum" has one for every head and position. The best candidate is chosen on some problems, and scored on others.
What is claimed of a task's networks is registered in `analysis.modular.claims`, `analysis.addition.claims` and so on
with `@prepare.register`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import hypotheses
from jaxadd.analysis.hypotheses import Claim, Kept, Score
from jaxadd.models import Network
from jaxadd.tasks import Task
from jaxadd.types import Batch


class Entry(NamedTuple):
    """A claim people make: what it says, and its candidates in this network."""

    text: str
    candidates: tuple[Claim, ...]


class Problems(NamedTuple):
    """Problems to test claims on: as examples, and as what the claims' features are functions of."""

    batch: Batch
    features: Any


class Prepared(NamedTuple):
    """The claims about one network, and the problems to test them on.

    Attributes:
      entries: none where nothing is claimed of such networks.
      choosing: problems by which the best candidate of an entry is chosen.
      scoring: problems on which it is scored.
    """

    entries: Sequence[Entry]
    choosing: Problems | None
    scoring: Problems | None


class Finding(NamedTuple):
    """An entry's outcome on one network: the best candidate, and its score on problems that did not choose it."""

    text: str
    claim: str
    score: Score


@functools.singledispatch
def prepare(task: Task, network: Network, key: jax.Array) -> Prepared:
    """Return what is claimed of networks that learned a task; nothing for a task that has nothing registered."""
    return Prepared((), None, None)


def assess(network: Network, key: jax.Array) -> list[Finding]:
    """Test every registered claim that applies to a network.

    Args:
      network: a trained network.
      key: a typed key, of the problems drawn and their partners.
    """
    draw_keys, choose_key, score_key = jax.random.split(key, 3)
    entries, choosing, scoring = prepare(network.task, network, draw_keys)
    entries = [entry for entry in entries if entry.candidates]
    if not entries or choosing is None or scoring is None:
        return []
    scrub = functools.partial(hypotheses.scrub, network.params, network.model)
    several = [claim for entry in entries if len(entry.candidates) > 1 for claim in entry.candidates]
    chosen: dict[str, Claim] = {}
    if several:
        measured = scrub(choosing.batch, choosing.features, several, choose_key, draws=1)
        # The nats that the feature saves: a head that hardly matters is no candidate, however well it scores.
        saved = iter(np.asarray(jnp.mean(measured.random - measured.scrubbed, axis=1)))
        for entry in entries:
            if len(entry.candidates) > 1:
                values = [next(saved) for _ in entry.candidates]
                # One that is not defined is no candidate.
                chosen[entry.text] = entry.candidates[int(np.argmax(np.nan_to_num(values, nan=-np.inf)))]
    claims = [chosen.get(entry.text, entry.candidates[0]) for entry in entries]
    scores: dict[int, Score] = {}
    for group in _groups(claims):
        measured = scrub(scoring.batch, scoring.features, [claims[i] for i in group], score_key)
        scores |= dict(zip(group, hypotheses.score(measured), strict=True))
    return [Finding(e.text, c.name, scores[i]) for i, (e, c) in enumerate(zip(entries, claims, strict=True))]


def _groups(claims: Sequence[Claim]) -> list[list[int]]:
    """Group claims that can use the same compiled program; one that keeps a part of X stays alone."""
    groups: dict[Any, list[int]] = {}
    for i, claim in enumerate(claims):
        kept = any(isinstance(part.through, Kept) for part in claim.parts)
        groups.setdefault(i if kept else ("same", len(claim.parts), len(claim.against)), []).append(i)
    return list(groups.values())
