"""The claims about the circuit that adds mod P (Nanda et al. 2023), or in any other group.

What they say of numbers is true of the elements of the group in which the operation is a sum or difference, in its
order: w_k a is the angle of the element a at frequency k.
"""

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
from jaxadd.analysis.modular.problem import Problem, whole_problem
from jaxadd.models import Model, Network, structure
from jaxadd.tasks import Modular
from jaxadd.types import Batch, Params


@prepare.register
def _(task: Modular, network: Network, key: jax.Array) -> Prepared:
    """Return the claims about a transformer and a sum or difference in a group; all pairs are the problems."""
    if task.group is None or task.operands != 2 or not structure.is_transformer(network.model):
        return Prepared((), None, None)
    problem = whole_problem(task, network.data.lane)
    targets = jax.device_put(np.asarray(problem.group.elements, np.int32)[np.asarray(problem.answers)])
    pairs = Problems(Batch(problem.inputs, targets[:, None]), problem.inputs)
    return Prepared(entries(task, network, problem, pairs.batch), pairs, pairs)


def entries(task: Modular, network: Network, problem: Problem, pairs: Batch) -> list[Entry]:
    """Return the claims about one network, given the pairs of the problem with their classes."""
    model = network.model
    last, orders = f"blocks.{structure.layers(model) - 1}", problem.orders
    names, answers = fourier.names(orders), problem.answers
    a, b, c = ("a", "b", "c") if problem.group.name == "additive" else ("log a", "log b", "log c")
    total = f"{a} {'+' if task.rule.sign > 0 else '-'} {b}"
    claims = []
    pre, post = f"{last}.mlp.hook_pre", f"{last}.mlp.hook_post"
    read = (post,) if structure.has_neurons(model) else ()
    logits, cache = _run(network.params, model, pairs.inputs, read)
    keys = np.asarray(fourier.keys_of_logits(problem.of_elements(logits[:, 0], 1), answers, orders=orders))
    if read:
        activations = cache[post][:, 0]
        keys = np.asarray(fourier.keys_of_neurons(activations, orders=orders))
        frequency = np.asarray(fourier.clusters(fourier.neuron_fractions(activations, orders)).frequency)
        for k in fourier.frequencies(keys):
            neurons, name = tuple(np.flatnonzero(frequency == k).tolist()), names[k - 1]
            part = Part(Site(pre, neurons=neurons), _plane(problem, k))
            claim = Claim(f"cluster {name}: {len(neurons)} neurons", (part,))
            claims.append(
                Entry(f"neuron cluster {name} reads only cos and sin of w_{name} {a} and w_{name} {b}", (claim,))
            )
        rest = tuple(np.flatnonzero(~np.isin(frequency, fourier.frequencies(keys))).tolist())
        if rest:
            nothing = Claim(f"{len(rest)} neurons", (Part(Site(post, neurons=rest), Same(hypotheses.constant)),))
            claims.append(Entry("neurons outside the clusters are noise", (nothing._replace(against=(Site(post),)),)))
        by_answer = Claim("all neurons", (Part(Site(post), Same(lambda _: answers)),))
        formula = task.rule.written("ab")
        claims.append(Entry(f"neurons carry {formula} mod {task.p} and nothing else of a and b", (by_answer,)))
    if keys.any():
        cubes = Claim(
            f"keys {', '.join(names[k - 1] for k in fourier.frequencies(keys))}",
            (Part(Site("logits"), _cubes(problem, keys)),),
        )
        claims.append(Entry(f"the logits are a sum over key frequencies of cos w_k({total} - {c})", (cubes,)))
        parts = tuple(
            Part(Site("hook_embed", positions=(i,)), _waves_of(problem, fourier.frequencies(keys), i)) for i in (0, 1)
        )
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


def _wave(problem: Problem, frequencies: Sequence[int], tokens: jax.Array) -> jax.Array:
    """Return 1, and cos and sin of w_k times the element of a token, `[B, 1 + 2 · keys]`."""
    angle = np.zeros((max(problem.group.elements) + 1, len(frequencies)))
    angle[list(problem.group.elements)] = np.stack([fourier.angles(problem.orders, k) for k in frequencies], axis=1)
    rows = np.concatenate([np.ones((len(angle), 1)), np.cos(angle), np.sin(angle)], axis=1)
    return jnp.asarray(rows, jnp.float32)[tokens]


def _plane(problem: Problem, k: int) -> Kept:
    """Return the claim that only polynomials in cos and sin of w_k a and w_k b matter, degree one in each number."""

    def functions(inputs: jax.Array) -> jax.Array:
        a, b = (_wave(problem, [k], inputs[:, i]) for i in (0, 1))
        return (a[:, :, None] * b[:, None]).reshape(len(inputs), 9)

    return hypotheses.span(functions)


def _waves_of(problem: Problem, frequencies: Sequence[int], position: int) -> Kept:
    return hypotheses.span(lambda inputs: _wave(problem, frequencies, inputs[:, position]))


def _cubes(problem: Problem, keys: np.ndarray) -> Kept:
    def part(x: jax.Array, _: Any) -> jax.Array:
        numbers = problem.of_elements(x[:, 0], 1)
        kept = fourier.cube_projection(numbers, problem.answers, jnp.asarray(keys), problem.orders)
        kept = kept + jnp.mean(numbers, axis=1, keepdims=True)
        # `=` is no number; its logit is left alone.
        return x.at[:, 0, np.array(problem.group.elements)].set(kept)

    return Kept(part)
