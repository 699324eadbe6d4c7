"""One network that learned an operation mod P, as it is analysed: its key frequencies and all measures."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, fourier, measures
from jaxadd.analysis.modular import declarations, progress
from jaxadd.analysis.modular.problem import Problem, whole_problem
from jaxadd.errors import UserError
from jaxadd.models import Model, Network, structure
from jaxadd.tasks.modular import CyclicProduct
from jaxadd.types import Params

RULES = ("neurons", "neuron-logit-map", "embedding", "logits")
"""What finds the key frequencies; see `fourier`."""
_PAIRS = 500  # that gradients are taken at


class Measured(NamedTuple):
    """One network as it is analysed.

    Attributes:
      problem: the problem.
      activations: `[P², F]` of the last layer's neurons; None without any.
      rules: the key frequencies by each rule, bool `[K]`.
      chosen: what chose the keys, in words.
      keys: the key frequencies, bool `[K]`.
      values: of all measures.
      numbers: for JSON.
    """

    problem: Problem
    activations: jax.Array | None
    rules: Mapping[str, jax.Array]
    chosen: str
    keys: jax.Array
    values: Mapping[str, Any]
    numbers: dict[str, Any]


def listed(keys: jax.Array, group: CyclicProduct) -> str:
    """Return the names of the frequencies in a mask, bool `[K]`, with commas between them, or "none"."""
    names = fourier.names(group.orders)
    return ", ".join(names[k - 1] for k in fourier.frequencies(keys)) or "none"


def _plain(keys: jax.Array, orders: fourier.Orders) -> list[int | str]:
    """Return frequencies for JSON: whole numbers, or names such as "(0, 1)"."""
    known, names = fourier.frequencies(keys), fourier.names(orders)
    return list(known) if len(orders) == 1 else [names[k - 1] for k in known]


def measure(network: Network, keys: str | None = None) -> Measured:
    """Measure a network that learned a sum or difference in a group: all that `jaxadd analyse` says of it in numbers.

    Args:
      network: with a task of two operands.
      keys: as for `choose_keys`.
    """
    params, model = network.params, network.model
    problem = whole_problem(network.task, network.data.lane)
    orders, count = problem.orders, len(problem.answers)
    logits, activations = _run(params, model, problem)
    embedding = problem.of_elements(structure.token_vectors(params, model))
    rules = {
        "logits": fourier.keys_of_logits(logits, problem.answers, orders=orders),
        "embedding": fourier.keys_of_embedding(embedding, orders=orders),
    }
    numbers: dict[str, Any] = {}
    if activations is not None:
        rules["neurons"] = fourier.keys_of_neurons(activations, orders=orders)
        if measures.needs_direct_neurons(model):
            to_logit = problem.of_elements(circuits.last_neurons_to_logits(params, model), 1)
            rules["neuron-logit-map"] = fourier.keys_of_neuron_logit_map(to_logit, orders=orders)
        frequency = np.asarray(fourier.clusters(fourier.neuron_fractions(activations, orders)).frequency)
        counts = zip(*np.unique(frequency, return_counts=True), strict=True)
        names = ("none", *fourier.names(orders))
        numbers |= {f"neurons_{names[k]}": int(n) for k, n in counts}
    chosen, mask = choose_keys(keys, rules, orders)
    some = jax.random.choice(jax.random.key(0), count, (min(_PAIRS, count),), replace=False)
    declared = measures.defined(declarations.ALL, network)
    values = jax.device_get(progress.measures(params, model, problem, mask, some, declarations=declared))
    numbers |= measures.flat(declared, values, problem.axes)
    numbers |= {f"key_frequencies_{name.replace('-', '_')}": _plain(found, orders) for name, found in rules.items()}
    return Measured(problem, activations, rules, chosen, mask, values, numbers)


@functools.partial(jax.jit, static_argnames="model")
def _run(params: Params, model: Model, problem: Problem) -> tuple[jax.Array, jax.Array | None]:
    """Return the logits of the numbers, `[P², P]`, and the last layer's neurons, `[P², F]`; None without any."""
    name = structure.last_neurons(model)
    logits, cache = model.apply(params, problem.inputs, [name] if name else [])
    return problem.of_elements(logits[:, 0], 1), structure.neurons_read(cache, model) if name else None


def choose_keys(keys: str | None, rules: Mapping[str, jax.Array], orders: fourier.Orders) -> tuple[str, jax.Array]:
    """Return what chose the key frequencies, in words, and the key frequencies.

    Args:
      keys: one of RULES, or frequencies by their names, such as "3,6,23" or "(0, 1),(1, 2)"; None takes the neurons,
        or the logits without neurons.
      rules: the key frequencies by each rule that applies.
      orders: of the group.

    Raises:
      UserError: `keys` is neither, the rule needs neurons and there are none, or the group has no such frequency.
    """
    if keys is None:
        keys = "neurons" if "neurons" in rules else "logits"
    if keys in rules:
        return keys, rules[keys]
    if keys in RULES:
        raise UserError(f"the rule {keys} needs neurons, and this network has none; use {' or '.join(rules)}")
    try:
        frequencies = fourier.read_frequencies(keys, orders)
    except UserError:
        some = ",".join(fourier.names(orders)[:2])
        raise UserError(
            f"keys must be a rule ({', '.join(RULES)}) or frequencies {fourier.described(orders)}, with commas "
            f"between them such as '{some}', got {keys!r}"
        ) from None
    return "as given", jnp.asarray(fourier.mask(frequencies, orders))
