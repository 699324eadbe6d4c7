"""The claims about the circuit that adds mod P (Nanda et al. 2023)."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import fourier, hypotheses
from jaxadd.analysis.claims import Entry, Prepared, Problems, prepare
from jaxadd.analysis.hypotheses import Claim, Kept, Part, Same
from jaxadd.analysis.interventions import Site
from jaxadd.models import Model, Network, structure
from jaxadd.tasks import Modular
from jaxadd.types import Params


@prepare.register
def _(task: Modular, network: Network, key: jax.Array) -> Prepared:
    """Return the claims for a sum or difference, none for other operations; all pairs are the problems."""
    if task.operation not in ("add", "subtract"):
        return Prepared((), None, None)
    batch = task.batch(jnp.arange(task.p**2), {})
    problems = Problems(batch, batch.inputs)
    return Prepared(entries(task, network, problems), problems, problems)


def entries(task: Modular, network: Network, problems: Problems) -> list[Entry]:
    """Return the claims about one network that adds or subtracts mod P, given all pairs."""
    model = network.model
    p, last, pairs = task.p, f"blocks.{structure.layers(model) - 1}", problems.batch
    answers = pairs.targets[:, 0]
    sign = "+" if task.operation == "add" else "-"
    claims = []
    pre, post = f"{last}.mlp.hook_pre", f"{last}.mlp.hook_post"
    names = (post,) if structure.has_neurons(model) else ()
    logits, cache = _run(network.params, model, pairs.inputs, names)
    keys = np.asarray(fourier.keys_of_logits(logits[:, 0, :p], answers))
    if names:
        activations = cache[post][:, 0]
        keys = np.asarray(fourier.keys_of_neurons(activations))
        frequency = np.asarray(fourier.clusters(fourier.neuron_fractions(activations)).frequency)
        for k in fourier.frequencies(keys):
            neurons = tuple(np.flatnonzero(frequency == k).tolist())
            claim = Claim(f"cluster {k}: {len(neurons)} neurons", (Part(Site(pre, neurons=neurons), _plane(p, k)),))
            claims.append(Entry(f"neuron cluster {k} reads only cos and sin of w_{k} a and w_{k} b", (claim,)))
        rest = tuple(np.flatnonzero(~np.isin(frequency, fourier.frequencies(keys))).tolist())
        if rest:
            nothing = Claim(f"{len(rest)} neurons", (Part(Site(post, neurons=rest), Same(hypotheses.constant)),))
            claims.append(Entry("neurons outside the clusters are noise", (nothing._replace(against=(Site(post),)),)))
        by_answer = Claim("all neurons", (Part(Site(post), Same(lambda _: answers)),))
        claims.append(Entry(f"neurons carry a {sign} b mod {p} and nothing else of a and b", (by_answer,)))
    if keys.any():
        cubes = Claim(
            f"keys {', '.join(map(str, fourier.frequencies(keys)))}",
            (Part(Site("logits"), _cubes(answers, keys, p)),),
        )
        claims.append(Entry(f"the logits are a sum over key frequencies of cos w_k(a {sign} b - c)", (cubes,)))
        parts = tuple(Part(Site("hook_embed", positions=(i,)), _waves_of(p, keys, i)) for i in (0, 1))
        claims.append(Entry("of the embedding only the key frequencies matter", (Claim("W_E of a and b", parts),)))
    if task.equals == "none":
        return claims
    pattern = f"{last}.attn.hook_pattern"
    noise = Claim("all heads", (Part(Site(pattern, sources=(2,)), Same(hypotheses.constant)),), (Site(pattern),))
    return [*claims, Entry("attention to = is noise", (noise,))]


@functools.partial(jax.jit, static_argnames=("model", "names"))
def _run(
    params: Params, model: Model, inputs: jax.Array, names: tuple[str, ...]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    return model.apply(params, inputs, names)


def _wave(p: int, frequencies: Sequence[int], token: jax.Array) -> jax.Array:
    """Return cos and sin of w_k times a token, `[B, 2 · keys]`."""
    angle = 2 * np.pi / p * (token[:, None] * jnp.asarray(frequencies, jnp.int32)[None] % p)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)


def _plane(p: int, k: int) -> Kept:
    """Return the claim that only polynomials in cos and sin of w_k a and w_k b matter, degree one in each number."""

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
        kept = fourier.cube_projection(numbers, answers, jnp.asarray(keys)) + jnp.mean(numbers, axis=1, keepdims=True)
        return x.at[:, 0, :p].set(kept)  # `=` is no number; its logit is left alone.

    return Kept(part)
