"""Causal maps of addition: what breaks, by answer digit and carry class, where a head or neuron group is ablated."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd import losses
from jaxadd.analysis import answers, circuits, interventions
from jaxadd.analysis.carries import CLASSES
from jaxadd.analysis.interventions import Apply, Site
from jaxadd.model import Params
from jaxadd.tasks import Addition

NOTICEABLE = 0.01  # nats; what damages no digit by this much is said to do nothing.


class Unit(NamedTuple):
    """What is mean-ablated at once: its name, such as "L0H2 at =", what it is of, and where."""

    label: str
    owner: str
    site: Site


class Damage(NamedTuple):
    """The rise of the loss, nats, by unit.

    Attributes:
      units: `[U]`.
      loss: `[U, R]`, by answer digit in the order read.
      leak: `[U, R]`, the part of it that is probability outside the naive digit and its successors.
      carry: `[U, R]`, the rest: the carry mistaken.
      by_class: `[U, G]`, mean over digits, by carry class; NaN for a class without problems.
    """

    units: tuple[Unit, ...]
    loss: np.ndarray
    leak: np.ndarray
    carry: np.ndarray
    by_class: np.ndarray


def token_names(task: Addition) -> tuple[str, ...]:
    """Name the T tokens of an input: a4 a3 … + b4 … = A5 …, or ? where the answer is not shown."""
    order = range(task.digits)[::-1] if task.operand_order == "msd" else range(task.digits)
    names = []
    for m in range(task.operands):
        names += [f"{chr(ord('a') + m % 26)}{k}" for k in order] + ["+"]
    names[-1] = "="
    names += [f"A{d}" if task.target == "sequential" else f"? A{d}" for d in task.read_digits[:-1]]
    return tuple(names[: task.sizes.length])


def units(task: Addition, params: Params, groups: Sequence[np.ndarray]) -> tuple[Unit, ...]:
    """List every head at every position, every neuron group at every position read, and every position whole.

    Args:
      task: what the network was trained on.
      params: of one lane.
      groups: of each layer int `[F]`, as `claims.neuron_groups` gives it; empty for layers without neurons.
    """
    names, read, depth = token_names(task), task.sizes.read, circuits.layers(params)
    heads = params["blocks.0"]["attn"]["W_Q"].shape[0]
    listed = []
    for i in range(depth):
        positions = read if i == depth - 1 else range(len(names))
        for h in range(heads):
            owner, name = f"L{i}H{h}", f"blocks.{i}.attn.hook_z"
            listed += [Unit(f"{owner} at {names[t]}", owner, Site(name, (t,), (h,))) for t in positions]
        for k in sorted(set(groups[i].tolist()) - {-1}) if len(groups) else []:
            owner, neurons = f"L{i} neurons of column {k}", tuple(np.flatnonzero(groups[i] == k).tolist())
            site = functools.partial(Site, f"blocks.{i}.mlp.hook_post", heads=None, neurons=neurons)
            listed += [Unit(f"{owner} at {names[t]}", owner, site(positions=(t,))) for t in read]
        before = f"blocks.{i}.hook_resid_pre"
        listed += [
            Unit(f"layer {i + 1}'s input at {n}", f"layer {i + 1}'s input", Site(before, (t,)))
            for t, n in enumerate(names)
        ]
    return tuple(listed)


def measure(task: Addition, params: Params, apply: Apply, operands: jax.Array, of: Sequence[Unit]) -> Damage:
    """Mean-ablate every unit, one at a time, in one compiled call.

    Args:
      task: what the network was trained on.
      params: of one lane.
      apply: the model's.
      operands: problems, int `[B, M, N]`; classes are as frequent as they are here.
      of: the units.
    """
    batch = task.batch(operands)
    marked = interventions.masks([u.site for u in of], params, apply, batch.inputs, task.sizes.read)
    clean, damaged = _losses(params, operands, marked, task, apply)
    rise = {name: np.asarray(damaged[name] - clean[name]) for name in clean}
    return Damage(tuple(of), rise["loss"], rise["leak"], rise["carry_loss"], rise["by_class"])


@functools.partial(jax.jit, static_argnums=(3, 4))
def _losses(params, operands, marked, task, apply):
    batch, facts, at = task.batch(operands), task.features(operands), np.asarray(task.read_digits)
    candidates = min(task.operands, task.base) if task.operation == "add" else 1

    def measured(logits: jax.Array) -> dict[str, jax.Array]:
        loss = losses.cross_entropy(logits, batch.targets)
        parts = answers.split(logits, facts.naive[:, at], facts.carry_in[:, at], candidates)
        by_class = answers.mean_by(jnp.mean(loss, axis=1), facts.kind, len(CLASSES))
        return {
            "loss": jnp.mean(loss, axis=0),
            "leak": parts["leak"],
            "carry_loss": parts["carry_loss"],
            "by_class": by_class,
        }

    clean = measured(apply(params, batch.inputs)[0])
    return clean, interventions.each(params, apply, batch.inputs, marked, interventions.mean, measured)


def sentences(task: Addition, found: Damage) -> list[str]:
    """Say in a few words what each head and neuron group is for, such as "L0H2 at =: column 3 carry".

    Every place of it that raises the loss of some digit by NOTICEABLE is named with the digit that suffers most;
    "carry" where most of that digit's rise is a mistaken carry, "sum" where it is the digit itself.
    """
    said = []
    for owner in dict.fromkeys(u.owner for u in found.units):
        places = []
        for i, unit in enumerate(found.units):
            worst = int(np.argmax(found.loss[i]))
            if unit.owner != owner or found.loss[i, worst] < NOTICEABLE:
                continue
            what = "carry" if found.carry[i, worst] > found.leak[i, worst] else "sum"
            where = unit.label.removeprefix(f"{owner} ")
            places.append(f"{where}: column {task.read_digits[worst]} {what} (+{found.loss[i, worst]:.2g} nats)")
        said.append(f"{owner} " + ("; ".join(places) if places else "does nothing that shows"))
    return said
