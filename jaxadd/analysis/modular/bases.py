"""In which characters a network is simple: the same measures in those of addition and of multiplication."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import fourier
from jaxadd.analysis.modular import progress
from jaxadd.models import Model, Network, structure
from jaxadd.tasks.modular import CyclicProduct, Modular
from jaxadd.types import Params

MEASURED = ("gini_W_E", "gini_W_L", "neuron_variance_explained", "neurons_explained")
"""Measures of `progress` that depend on the characters alone, not on the answers."""


def measures(network: Network, group: CyclicProduct) -> dict[str, float]:
    """Measure one network of two operands in the characters of a group of residues.

    Returns:
      those of MEASURED that apply; "logit_variance_explained", see there; and "key_frequencies_embedding" and, with
      neurons, "key_frequencies_neurons", how many there are by these rules.
    """
    task = network.task
    assert isinstance(task, Modular)
    table = progress.as_if(task, group)
    everything = jnp.ones(fourier.count(group.orders), bool)
    declared = tuple(measure for measure in progress.MEASURES if measure.name in MEASURED)
    values = progress.measures(network.params, network.model, table, everything, declarations=declared)
    numbers = progress.flat(values, declared)
    numbers["logit_variance_explained"] = logit_variance_explained(network, group)
    embedding, activations = _seen(network.params, network.model, table)
    rules = {"embedding": fourier.keys_of_embedding(embedding, orders=group.orders)}
    if activations is not None:
        rules["neurons"] = fourier.keys_of_neurons(activations, orders=group.orders)
    return numbers | {f"key_frequencies_{name}": float(jnp.sum(keys)) for name, keys in rules.items()}


@functools.partial(jax.jit, static_argnames="model")
def _seen(params: Params, model: Model, table: progress.Table) -> tuple[jax.Array, jax.Array | None]:
    embedding = table.of_elements(structure.token_vectors(params, model))
    name = structure.last_neurons(model)
    if name is None:
        return embedding, None
    return embedding, structure.neurons_read(model.apply(params, table.inputs, [name])[1], model)


def logit_variance_explained(network: Network, group: CyclicProduct) -> float:
    """Compute which fraction of the logits' variance Σ_k α_k cos w_k(answer - c) explains, α free, k all frequencies.

    It asks only how the logits depend on the answer and the class, so it is defined for any operation. Rows are the
    task's pairs whose answer is in the group, and classes c its elements, centred per row. Logits that are equal for
    all wrong classes are explained in every group.
    """
    task = network.task
    assert isinstance(task, Modular)
    batch = task.batch(jnp.arange(task.problems), network.data.shared)
    place = np.full(task.p, -1)
    place[list(group.elements)] = np.arange(len(group.elements))
    answers = place[np.asarray(batch.targets)[:, 0]]
    rows = np.flatnonzero(answers >= 0)
    logits = _logits(network.params, network.model, batch.inputs[rows], np.array(group.elements))
    cosines = fourier.answer_cosines(logits, jnp.asarray(answers[rows]), group.orders)
    return float(jnp.sum(cosines**2))


@functools.partial(jax.jit, static_argnames="model")
def _logits(params: Params, model: Model, inputs: jax.Array, classes: jax.Array) -> jax.Array:
    return model.apply(params, inputs)[0][:, 0, classes]
