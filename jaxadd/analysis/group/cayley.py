"""The Cayley table that a network has learned, read off its answers: is it a group, and which one?"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.models import Model
from jaxadd.tasks.group.finite import commuting, is_latin, not_associative, violation
from jaxadd.tasks.group.task import Group, Known, of_table
from jaxadd.types import Params

_TRIPLES = 2 * 10**7  # The most that are all tried.
_SAMPLE = 10**6  # Tried otherwise.
_ROOM = 2**24  # logits computed at once


class Cayley(NamedTuple):
    """What is known of a table `[n, n]`.

    Attributes:
      latin: whether every row and every column has every element once.
      associative: whether (a·b)·c = a·(b·c) for all triples; exact.
      associative_fraction: the fraction of the triples tried for which it holds.
      triples: how many triples were tried for that fraction.
      sampled: whether these were drawn, because n³ are too many.
      identity: the element e with e·a = a·e = a for all a; None where there is none.
      commuting: the fraction of pairs with a·b = b·a.
      violation: the first axiom of a group that is violated, with an example; None for a group.
      known: the group; None where it is none.
    """

    latin: bool
    associative: bool
    associative_fraction: float
    triples: int
    sampled: bool
    identity: int | None
    commuting: float
    violation: str | None
    known: Known | None


def learned(params: Params, model: Model) -> np.ndarray:
    """Return a network's answers, int32 `[n, n]`: of n elements, the one with the largest logit for each pair.

    Args:
      params: of one network.
      model: for inputs (a, b) or (a, b, =), of n or n + 1 tokens; n is the number of tokens without =.
    """
    n = (model.sizes.vocabulary or 0) - (model.sizes.length == 3)
    rows = max(1, min(n, _ROOM // (n * model.sizes.classes)))
    parts = [_answers(params, model, jnp.arange(i, min(i + rows, n)), n) for i in range(0, n, rows)]
    return np.concatenate([np.asarray(part) for part in parts])


@functools.partial(jax.jit, static_argnames=("model", "n"))
def _answers(params: Params, model: Model, rows: jax.Array, n: int) -> jax.Array:
    a, b = jnp.repeat(rows, n), jnp.tile(jnp.arange(n), len(rows))
    inputs = jnp.stack([a, b, jnp.full_like(a, n)][: model.sizes.length], axis=1)
    logits = model.apply(params, inputs)[0][:, 0, :n]
    return jnp.argmax(logits, axis=1).reshape(len(rows), n).astype(jnp.int32)


def describe(table: np.ndarray, task: Group) -> Cayley:
    """Return what is known of a table `[n, n]`, by its own order of elements.

    Args:
      table: int, entries from 0 to n - 1.
      task: a task, whose table may be this one.
    """
    chex.assert_shape(table, (len(table), len(table)))
    n = len(table)
    if sampled := n**3 > _TRIPLES:
        a, b, c = np.random.default_rng(0).integers(0, n, (3, _SAMPLE))
        fraction = float(np.mean(table[table[a, b], c] == table[a, table[b, c]]))
    else:
        fraction = float(np.mean([np.mean(table[table[a]] == table[a][table]) for a in range(n)]))
    numbers = np.arange(n)
    neutral = np.flatnonzero((table == numbers).all(axis=1) & (table == numbers[:, None]).all(axis=0))
    problem = violation(table, task.group.elements)
    return Cayley(
        latin=is_latin(table),
        associative=not_associative(table) is None,
        associative_fraction=fraction,
        triples=_SAMPLE if sampled else n**3,
        sampled=sampled,
        identity=int(neutral[0]) if neutral.size else None,
        commuting=commuting(table),
        violation=problem,
        known=of_table(table, task).known if problem is None else None,
    )
