"""The claims about circuits that add digit by digit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.addition.neurons import neuron_groups
from jaxadd.analysis.claims import Entry, Prepared, Problems, prepare
from jaxadd.analysis.hypotheses import Claim, Part, Same
from jaxadd.analysis.interventions import Site
from jaxadd.models import Model, Network, structure
from jaxadd.tasks import Addition

_EXAMPLES = 512  # Problems to choose by, and as many to score by.


@prepare.register
def _(task: Addition, network: Network, key: jax.Array) -> Prepared:
    """Return the claims for addition; choosing and scoring use different uniform problems."""
    first, second = (task.draw(k, _EXAMPLES) for k in jax.random.split(key))
    choosing, scoring = Problems(task.batch(first), first), Problems(task.batch(second), second)
    return Prepared(entries(task, network, choosing), choosing, scoring)


def entries(task: Addition, network: Network, problems: Problems) -> list[Entry]:
    """Return the claims about one network; `problems` decide which neurons belong to which column."""
    model = network.model
    depth, read = structure.layers(model), task.sizes.read
    columns = range(task.digits)

    def one(name: str, site: Site, feature: Callable) -> Claim:
        return Claim(name, (Part(site, Same(feature)),))

    def by_head(feature: Callable) -> tuple[Claim, ...]:
        return tuple(
            one(f"L{i}H{h} at A{digit}", Site(f"blocks.{i}.attn.hook_z", (position,), (h,)), feature)
            for i in range(depth)
            for h in range(structure.heads(model))
            for digit, position in zip(task.read_digits, read, strict=True)
        )

    claims = [Entry(f"a head carries column {k}'s sum", by_head(_column(task, "sum", k))) for k in columns]
    if task.operation == "add":
        claims += [
            Entry(f"a head carries the carry into column {k}", by_head(_column(task, "carry_in", k)))
            for k in range(1, task.digits + 1)
            if k < task.answer_length
        ]
    for i in range(depth):
        if not structure.has_neurons(model):
            continue
        groups = neuron_groups(network, problems.features, i)
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
                each = tuple(one(f"{len(neurons)} neurons at A{d}", site, feature) for d, site in sites.items())
                claims.append(Entry(f"layer {i + 1}'s neuron group {k} carries {words}", each))
    if depth == 2 and task.operation == "add":
        claims.append(Entry("layer 1 adds, layer 2 carries", (_adds_then_carries(task, model),)))
    outputs = {d: Site("logits", (at,)) for d, at in zip(task.read_digits, read, strict=True)}
    for words, name in (("true", "answer"), ("naive", "naive")):
        parts = tuple(Part(site, Same(_column(task, name, d))) for d, site in outputs.items())
        claims.append(
            Entry(f"each answer's logits know the {words} digit and nothing else", (Claim("logits", parts),))
        )
    return claims


def _column(task: Addition, feature: str, column: int) -> Callable[[jax.Array], jax.Array]:
    return lambda operands: getattr(task.features(operands), feature)[:, column]


def _generate_propagate(task: Addition, column: int) -> Callable[[jax.Array], jax.Array]:
    def feature(operands: jax.Array) -> jax.Array:
        facts = task.features(operands)
        return facts.generate[:, column] + 2 * facts.propagate[:, column].astype(jnp.int32)

    return feature


def _adds_then_carries(task: Addition, model: Model) -> Claim:
    """Claim that at each answer digit all that layer 1 adds is the column's sum, and layer 2's heads the carry."""
    parts = []
    for digit, position in zip(task.read_digits, task.sizes.read, strict=True):
        adds = ["blocks.0.hook_attn_out", *(["blocks.0.hook_mlp_out"] if structure.has_neurons(model) else [])]
        parts += [Part(Site(name, (position,)), Same(_column(task, "sum", digit))) for name in adds]
        parts.append(Part(Site("blocks.1.attn.hook_z", (position,)), Same(_column(task, "carry_in", digit))))
    return Claim("every answer digit at once", tuple(parts))
