"""The claims people make about networks that add, ready to be tested on any run.

An entry is one sentence and its candidates: a claim about a certain neuron cluster has one, "a head carries column
3's sum" has one for every head and position. The best candidate is chosen on problems of its own, and scored on
others.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, fourier, hypotheses
from jaxadd.analysis.hypotheses import Claim, Kept, Part, Same, Score
from jaxadd.analysis.interventions import Apply, Site
from jaxadd.model import Params
from jaxadd.tasks import Addition, Batch, Modular

_EXAMPLES = 512  # Problems of addition to choose by, and as many to score by.


class Entry(NamedTuple):
    """A claim people make: what it says, and what on this network may bear it out."""

    text: str
    candidates: tuple[Claim, ...]


class Finding(NamedTuple):
    """An entry's outcome on one network: the best candidate's name and its score on problems of its own."""

    text: str
    claim: str
    score: Score


def assess(task: Modular | Addition, params: Params, apply: Apply, key: jax.Array) -> list[Finding]:
    """Test every registered claim that applies to a network.

    Args:
      task: what it was trained on.
      params: of one lane.
      apply: the model's.
      key: of the problems drawn and their partners.
    """
    read = task.sizes.read
    draw_keys, choose_key, score_key = jax.random.split(key, 3)
    if isinstance(task, Modular):
        batch = task.batch(jnp.arange(task.p**2), task.data((0,)).shared)
        choosing = scoring = (batch, batch.inputs)
        entries = modular(task, params, apply)
    else:
        first, second = (task.draw(k, _EXAMPLES) for k in jax.random.split(draw_keys))
        choosing, scoring = (task.batch(first), first), (task.batch(second), second)
        entries = addition(task, params, apply, choosing[0], first)
    entries = [e for e in entries if e.candidates]
    several = [claim for entry in entries if len(entry.candidates) > 1 for claim in entry.candidates]
    chosen: dict[str, Claim] = {}
    if several:
        found = hypotheses.scrub(params, apply, *choosing, several, choose_key, read=read, draws=1)
        # The nats that the feature saves: a head that hardly matters is no candidate, however well it scores.
        saved = np.asarray(jnp.mean(found.random - found.scrubbed, axis=1))
        of = iter(saved)
        for entry in entries:
            if len(entry.candidates) > 1:
                values = [next(of) for _ in entry.candidates]
                chosen[entry.text] = entry.candidates[int(np.argmax(values))]
    claims = [chosen.get(entry.text, entry.candidates[0]) for entry in entries]
    scores: dict[int, Score] = {}
    for group in _groups(claims):
        measured = hypotheses.scrub(params, apply, *scoring, [claims[i] for i in group], score_key, read=read)
        scores |= dict(zip(group, hypotheses.score(measured), strict=True))
    return [Finding(e.text, c.name, scores[i]) for i, (e, c) in enumerate(zip(entries, claims, strict=True))]


def _groups(claims: Sequence[Claim]) -> list[list[int]]:
    """Put claims that can share a compilation together; one that keeps a part of X stays alone."""
    groups: dict[Any, list[int]] = {}
    for i, claim in enumerate(claims):
        kept = any(isinstance(part.through, Kept) for part in claim.parts)
        groups.setdefault(i if kept else ("same", len(claim.parts), len(claim.against)), []).append(i)
    return list(groups.values())


# --- modular addition ------------------------------------------------------------------------------------


def modular(task: Modular, params: Params, apply: Apply) -> list[Entry]:
    """List the claims about the mainline's circuit (Nanda et al. 2023) for one network; none for other operations."""
    if task.operation not in ("add", "subtract"):
        return []
    p, last = task.p, f"blocks.{circuits.layers(params) - 1}"
    pairs = task.batch(jnp.arange(p**2), {})
    answers = pairs.targets[:, 0]
    sign = "+" if task.operation == "add" else "-"
    entries = []
    logits, seen = jax.jit(lambda w: apply(w, pairs.inputs, [f"{last}.mlp.hook_post"] if "mlp" in w[last] else []))(
        params
    )
    keys = np.asarray(fourier.keys_of_logits(logits[:, 0, :p], answers))
    if seen:
        activations = seen[f"{last}.mlp.hook_post"][:, 0]
        keys = np.asarray(fourier.keys_of_neurons(activations))
        frequency = np.asarray(fourier.clusters(fourier.neuron_shares(activations)).frequency)
        pre, post = f"{last}.mlp.hook_pre", f"{last}.mlp.hook_post"
        for k in fourier.frequencies(keys):
            neurons = tuple(np.flatnonzero(frequency == k).tolist())
            claim = Claim(f"cluster {k}: {len(neurons)} neurons", (Part(Site(pre, neurons=neurons), _plane(p, k)),))
            entries.append(Entry(f"neuron cluster {k} reads only cos and sin of w_{k} a and w_{k} b", (claim,)))
        rest = tuple(np.flatnonzero(~np.isin(frequency, fourier.frequencies(keys))).tolist())
        if rest:
            nothing = Claim(f"{len(rest)} neurons", (Part(Site(post, neurons=rest), Same(hypotheses.constant)),))
            entries.append(
                Entry("neurons outside the clusters are noise", (nothing._replace(against=(Site(post),)),))
            )
        by_answer = Claim("all neurons", (Part(Site(post), Same(lambda _: answers)),))
        entries.append(Entry(f"neurons carry a {sign} b mod {p} and nothing else of a and b", (by_answer,)))
    if keys.any():
        cubes = Claim(
            f"keys {', '.join(map(str, fourier.frequencies(keys)))}",
            (Part(Site("logits"), _cubes(answers, keys, p)),),
        )
        entries.append(Entry(f"the logits are a sum over key frequencies of cos w_k(a {sign} b - c)", (cubes,)))
        parts = tuple(Part(Site("hook_embed", positions=(i,)), _waves_of(p, keys, i)) for i in (0, 1))
        entries.append(Entry("of the embedding only the key frequencies matter", (Claim("W_E of a and b", parts),)))
    pattern = f"{last}.attn.hook_pattern"
    noise = Claim("all heads", (Part(Site(pattern, sources=(2,)), Same(hypotheses.constant)),), (Site(pattern),))
    return [*entries, Entry("attention to = is noise", (noise,))]


def _wave(p: int, frequencies: Sequence[int], token: jax.Array) -> jax.Array:
    """Give cos and sin of w_k times a token, `[B, 2 · keys]`."""
    angle = 2 * np.pi / p * (token[:, None] * jnp.asarray(frequencies, jnp.int32) % p)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)


def _plane(p: int, k: int) -> Kept:
    """Keep what is a polynomial of degree two in cos and sin of w_k a and w_k b, one of each at most."""

    def functions(inputs: jax.Array) -> jax.Array:
        a, b = (jnp.pad(_wave(p, [k], inputs[:, i]), [(0, 0), (1, 0)], constant_values=1) for i in (0, 1))
        return (a[:, :, None] * b[:, None]).reshape(len(inputs), 9)

    return hypotheses.span(functions)


def _waves_of(p: int, keys: np.ndarray, position: int) -> Kept:
    def functions(inputs: jax.Array) -> jax.Array:
        waves = _wave(p, fourier.frequencies(keys), inputs[:, position])
        return jnp.pad(waves, [(0, 0), (1, 0)], constant_values=1)

    return hypotheses.span(functions)


def _cubes(answers: jax.Array, keys: np.ndarray, p: int) -> Kept:
    def part(x: jax.Array, _: Any) -> jax.Array:
        numbers = x[:, 0, :p]
        kept = fourier.cube_projection(numbers, answers, keys) + jnp.mean(numbers, axis=1, keepdims=True)
        return x.at[:, 0, :p].set(kept)  # `=` is no number; its logit is left alone.

    return Kept(part)


# --- n-digit addition ------------------------------------------------------------------------------------


def addition(task: Addition, params: Params, apply: Apply, batch: Batch, operands: jax.Array) -> list[Entry]:
    """List the claims about circuits that add digit by digit, for one network."""
    depth, read = circuits.layers(params), task.sizes.read
    columns = range(task.digits)
    heads = params["blocks.0"]["attn"]["W_Q"].shape[0]

    def one(name: str, site: Site, feature: Callable) -> Claim:
        return Claim(name, (Part(site, Same(feature)),))

    def by_head(feature: Callable) -> tuple[Claim, ...]:
        return tuple(
            one(f"L{i}H{h} at A{digit}", Site(f"blocks.{i}.attn.hook_z", (position,), (h,)), feature)
            for i in range(depth)
            for h in range(heads)
            for digit, position in zip(task.read_digits, read, strict=True)
        )

    entries = [Entry(f"a head carries column {k}'s sum", by_head(_column(task, "sum", k))) for k in columns]
    if task.operation == "add":
        entries += [
            Entry(f"a head carries the carry into column {k}", by_head(_column(task, "carry_in", k)))
            for k in range(1, task.digits + 1)
            if k < task.answer_length
        ]
    for i in range(depth):
        if "mlp" not in params[f"blocks.{i}"]:
            continue
        groups = neuron_groups(task, params, apply, batch, operands, i)
        for k in columns:
            if not (neurons := tuple(np.flatnonzero(groups == k).tolist())):
                continue
            sites = {
                d: Site(f"blocks.{i}.mlp.hook_post", (at,), None, neurons)
                for d, at in zip(task.read_digits, read, strict=True)
            }
            for words, feature in (
                (f"generate/propagate of column {k}", _generate_propagate(task, k)),
                (f"column {k}'s sum", _column(task, "sum", k)),
            ):
                claims = tuple(one(f"{len(neurons)} neurons at A{d}", site, feature) for d, site in sites.items())
                entries.append(Entry(f"layer {i + 1}'s neuron group {k} carries {words}", claims))
    if depth == 2 and task.operation == "add":
        entries.append(Entry("layer 1 adds, layer 2 carries", (_adds_then_carries(task, params),)))
    outputs = {d: Site("logits", (at,)) for d, at in zip(task.read_digits, read, strict=True)}
    for words, name in (("true", "answer"), ("naive", "naive")):
        parts = tuple(Part(site, Same(_column(task, name, d))) for d, site in outputs.items())
        entries.append(
            Entry(f"each answer's logits know the {words} digit and nothing else", (Claim("logits", parts),))
        )
    return entries


def neuron_groups(
    task: Addition, params: Params, apply: Apply, batch: Batch, operands: jax.Array, layer: int
) -> np.ndarray:
    """Assign each neuron of a layer to the column whose sum explains most of its variance where digits are read.

    Returns:
      int `[F]`, a column, or -1 for a neuron that is never active there.
    """
    name = f"blocks.{layer}.mlp.hook_post"
    sums = task.features(operands).sum[:, : task.digits]
    explained, total = _explained(params, batch.inputs, sums, apply, name, task.sizes.read, int(jnp.max(sums)) + 1)
    return np.where(np.asarray(total) > 0, np.argmax(np.asarray(explained), axis=0), -1)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _explained(params, inputs, sums, apply, name, read, values):
    """Give the variance `[N, F]` that each column's sum explains, over all positions read, and the whole `[F]`."""
    seen = apply(params, inputs, [name])[1][name]
    x = seen if seen.shape[1] == len(read) else seen[:, jnp.asarray(read)]
    x = x - jnp.mean(x, axis=0)

    def of(column: jax.Array) -> jax.Array:
        member = jax.nn.one_hot(column, values)
        means = jnp.einsum("bv,brf->vrf", member, x) / jnp.maximum(jnp.sum(member, axis=0), 1)[:, None, None]
        return jnp.einsum("v,vrf->f", jnp.sum(member, axis=0), means**2)

    return jax.lax.map(of, sums.T), jnp.sum(x**2, axis=(0, 1))


def _column(task: Addition, feature: str, column: int) -> Callable[[jax.Array], jax.Array]:
    return lambda operands: getattr(task.features(operands), feature)[:, column]


def _generate_propagate(task: Addition, column: int) -> Callable[[jax.Array], jax.Array]:
    def feature(operands: jax.Array) -> jax.Array:
        facts = task.features(operands)
        return facts.generate[:, column] + 2 * facts.propagate[:, column].astype(jnp.int32)

    return feature


def _adds_then_carries(task: Addition, params: Params) -> Claim:
    """Claim that at each answer digit all that layer 1 adds is the column's sum, and layer 2's heads the carry."""
    parts = []
    for digit, position in zip(task.read_digits, task.sizes.read, strict=True):
        adds = ["blocks.0.hook_attn_out", *(["blocks.0.hook_mlp_out"] if "mlp" in params["blocks.0"] else [])]
        parts += [Part(Site(name, (position,)), Same(_column(task, "sum", digit))) for name in adds]
        parts.append(Part(Site("blocks.1.attn.hook_z", (position,)), Same(_column(task, "carry_in", digit))))
    return Claim("every answer digit at once", tuple(parts))
