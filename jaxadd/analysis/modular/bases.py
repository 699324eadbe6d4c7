"""In which characters a network is simple: the same measures in those of addition and of multiplication."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import fourier
from jaxadd.analysis.measures import flat
from jaxadd.analysis.modular import progress
from jaxadd.analysis.modular.declarations import MEASURES
from jaxadd.analysis.modular.problem import Problem, as_if
from jaxadd.models import Model, Network, structure
from jaxadd.tasks.modular import CyclicProduct, Modular
from jaxadd.types import Params

MEASURED = ("gini_W_E", "gini_W_L", "neuron_variance_explained", "neurons_explained")
"""Measures that depend on the characters alone, not on the answers."""


def measures(network: Network, group: CyclicProduct) -> dict[str, float]:
    """Measure one network of two operands in the characters of a group of residues.

    Returns:
      those of MEASURED that apply; what `logits_explained` returns; and how many key frequencies there are by two
      rules, "key_frequencies_embedding" and, with neurons, "key_frequencies_neurons".
    """
    task = network.task
    assert isinstance(task, Modular)
    problem = as_if(task, group)
    everything = jnp.ones(fourier.count(group.orders), bool)
    declared = tuple(measure for measure in MEASURES if measure.name in MEASURED)
    values = progress.measures(network.params, network.model, problem, everything, declarations=declared)
    numbers = flat(declared, values, problem.axes)
    numbers |= logits_explained(network, group)
    embedding, activations = _seen(network.params, network.model, problem)
    rules = {"embedding": fourier.keys_of_embedding(embedding, orders=group.orders)}
    if activations is not None:
        rules["neurons"] = fourier.keys_of_neurons(activations, orders=group.orders)
    return numbers | {f"key_frequencies_{name}": float(jnp.sum(keys)) for name, keys in rules.items()}


@functools.partial(jax.jit, static_argnames="model")
def _seen(params: Params, model: Model, problem: Problem) -> tuple[jax.Array, jax.Array | None]:
    embedding = problem.of_elements(structure.token_vectors(params, model))
    name = structure.last_neurons(model)
    if name is None:
        return embedding, None
    return embedding, structure.neurons_read(model.apply(params, problem.inputs, [name])[1], model)


def logits_explained(network: Network, group: CyclicProduct) -> dict[str, float]:
    """Compute how much of the logits depends on the answer minus the class alone, in a group, for any operation.

    Rows are the task's pairs whose answer is in the group, classes c its elements.

    Returns:
      "logit_variance_explained", the fraction of the logits' variance, centred per row, that Σ_k α_k cos w_k(answer -
      c) explains, α free, k all frequencies. A logit that is larger for the correct class alone is explained in every
      group: with n of K frequencies of one group, n/K of the variance is explained in another.
      "incorrect_logits_explained", the fraction of the variance of the logits of incorrect classes, centred per row,
      that a function of answer - c explains; near 0 in a group to which they are not related.
    """
    task = network.task
    assert isinstance(task, Modular)
    batch = task.batch(np.arange(task.problems, dtype=np.int32), network.data.shared)
    place = np.full(task.p, -1)
    place[list(group.elements)] = np.arange(len(group.elements))
    answers = place[np.asarray(batch.targets)[:, 0]]
    rows = np.flatnonzero(answers >= 0)
    values = _explained(network.params, network.model, np.asarray(batch.inputs)[rows], answers[rows], group)
    return {name: float(value) for name, value in values.items()}


@functools.partial(jax.jit, static_argnames=("model", "group"))
def _explained(
    params: Params, model: Model, inputs: jax.Array, answers: jax.Array, group: CyclicProduct
) -> dict[str, jax.Array]:
    logits = model.apply(params, inputs)[0][:, 0, np.array(group.elements)]
    cosines = fourier.answer_cosines(logits, answers, group.orders)
    wrong = jnp.take_along_axis(logits, jnp.asarray(fourier.combine(group.orders, 1))[answers], axis=1)[:, 1:]
    wrong = wrong - jnp.mean(wrong, axis=1, keepdims=True)
    by_offset = jnp.mean(wrong, axis=0)
    return {
        "logit_variance_explained": jnp.sum(cosines**2),
        "incorrect_logits_explained": len(inputs) * jnp.sum(by_offset**2) / jnp.sum(wrong**2),
    }
