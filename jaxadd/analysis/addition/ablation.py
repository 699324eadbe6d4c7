"""Ablation effects in addition: which answer digits and carry classes each part of a network matters for."""

import functools
from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import interventions
from jaxadd.analysis.interventions import Site
from jaxadd.models import Network, structure
from jaxadd.optim import losses, scores
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.carries import CLASSES

NOTICEABLE = 0.01  # nats; a component that raises no digit's loss by this much has no noticeable effect.


class Component(NamedTuple):
    """What is mean-ablated at once.

    Attributes:
      label: its name, such as "L0H2 at =".
      part_of: the head, group of neurons or layer input that it belongs to, such as "L0H2".
      site: where it is.
    """

    label: str
    part_of: str
    site: Site


class Effects(NamedTuple):
    """Ablation effects: the rise of the loss, nats, by component.

    Attributes:
      components: `[U]`.
      loss: `[U, R]`, by answer digit in the order read.
      leak: `[U, R]`, the part of it that is probability outside the naive digit and its successors.
      carry: `[U, R]`, the rest: the carry mistaken.
      by_class: `[U, G]`, mean over digits, by carry class; NaN for a class without problems.
    """

    components: tuple[Component, ...]
    loss: np.ndarray
    leak: np.ndarray
    carry: np.ndarray
    by_class: np.ndarray


def components(network: Network, groups: Sequence[np.ndarray]) -> tuple[Component, ...]:
    """Return heads at every position, neuron groups at every position read, and the layer's input at every position.

    Args:
      network: trained on addition.
      groups: for each layer int `[F]`, as `neurons.neuron_groups` returns it; empty for layers without neurons.
    """
    names, read, depth = network.task.position_names, network.task.sizes.read, structure.layers(network.model)
    listed = []
    for i in range(depth):
        positions = read if i == depth - 1 else range(len(names))
        for h in range(structure.heads(network.model)):
            part_of, name = f"L{i}H{h}", f"blocks.{i}.attn.hook_z"
            listed += [Component(f"{part_of} at {names[t]}", part_of, Site(name, (t,), (h,))) for t in positions]
        for k in sorted(set(groups[i].tolist()) - {-1}) if len(groups) else []:
            part_of, neurons = f"L{i} neurons of column {k}", tuple(np.flatnonzero(groups[i] == k).tolist())
            site = functools.partial(Site, f"blocks.{i}.mlp.hook_post", heads=None, neurons=neurons)
            listed += [Component(f"{part_of} at {names[t]}", part_of, site(positions=(t,))) for t in read]
        before = f"blocks.{i}.hook_resid_pre"
        listed += [
            Component(f"layer {i + 1}'s input at {n}", f"layer {i + 1}'s input", Site(before, (t,)))
            for t, n in enumerate(names)
        ]
    return tuple(listed)


def measure(network: Network, operands: jax.Array, ablated: Sequence[Component]) -> Effects:
    """Mean-ablate every component, one at a time, in one compiled call.

    Args:
      network: trained on addition.
      operands: problems, int `[B, M, N]`; classes are as frequent as they are here.
      ablated: the components.
    """
    task = cast(Addition, network.task)
    inputs = task.batch(operands).inputs
    marked = interventions.masks([component.site for component in ablated], network.params, network.model, inputs)
    clean, without = _losses(network.params, network.model, task, operands, marked)
    rise = {name: np.asarray(without[name] - clean[name][None]) for name in clean}
    return Effects(tuple(ablated), rise["loss"], rise["leak"], rise["carry_loss"], rise["by_class"])


@functools.partial(jax.jit, static_argnames=("model", "task"))
def _losses(params, model, task, operands, marked):
    batch, facts, at = task.batch(operands), task.features(operands), np.asarray(task.read_digits)
    candidates = min(task.operands, task.base) if task.operation == "add" else 1

    def measured(logits: jax.Array) -> dict[str, jax.Array]:
        loss = losses.cross_entropy(logits, batch.targets)
        parts = scores.split(logits, facts.naive[:, at], facts.carry_in[:, at], candidates)
        by_class = scores.mean_by(jnp.mean(loss, axis=1), facts.kind, len(CLASSES))
        return {
            "loss": jnp.mean(loss, axis=0),
            "leak": parts["leak"],
            "carry_loss": parts["carry_loss"],
            "by_class": by_class,
        }

    clean = measured(model.apply(params, batch.inputs)[0])
    return clean, interventions.each(params, model, batch.inputs, marked, interventions.mean, measured)


_IN_ONE_LINE = 3  # Positions of a part.
_UNDEFINED = "not defined (the loss is not finite)"


def sentences(task: Addition, effects: Effects) -> list[str]:
    """Describe in a few words what each head and neuron group is for, such as "L0H2 at =: column 3 carry".

    Every part of it that raises the loss of some digit by NOTICEABLE is named with the digit whose loss rises most;
    "carry" where most of that rise is a mistaken carry, "sum" where it is the digit itself. Where a loss is not
    finite, with or without the part, its effect is not defined.
    """
    lines, defined = [], np.isfinite(effects.loss).all(axis=1)
    for part_of in dict.fromkeys(component.part_of for component in effects.components):
        members = [i for i, component in enumerate(effects.components) if component.part_of == part_of]
        if not defined[members].any():
            lines.append(f"{part_of}: {_UNDEFINED}")
            continue
        parts = []
        for i in members:
            where = effects.components[i].label.removeprefix(f"{part_of} ")
            if not defined[i]:
                parts.append(f"{where}: {_UNDEFINED}")
                continue
            largest = int(np.argmax(effects.loss[i]))
            if effects.loss[i, largest] < NOTICEABLE:
                continue
            what = "carry" if effects.carry[i, largest] > effects.leak[i, largest] else "sum"
            digit = task.read_digits[largest]
            parts.append(f"{where}: column {digit} {what} (+{effects.loss[i, largest]:.3g} nats)")
        if len(parts) > _IN_ONE_LINE:
            lines += [part_of, *(f"  {part}" for part in parts)]
        else:
            lines.append(f"{part_of} " + ("; ".join(parts) if parts else "has no noticeable effect"))
    return lines
