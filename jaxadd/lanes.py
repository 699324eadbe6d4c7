"""Mapping a function over lanes: those of a run, saved states of one network, interventions on it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxadd.errors import UserError


def side_by_side() -> bool:
    """Return whether lanes are computed at the same time, so that a lane that is done costs as much as the others."""
    return jax.default_backend() != "cpu"


def over_lanes(function: Callable, width: int | None = None) -> Callable:
    """Map a function over the leading axis of its arguments.

    An accelerator computes `width` lanes at once, all of them by default. A CPU computes one after the other: the
    arrays of a lane then stay in its cache, matrix products stay large, and lane i computes what it would alone.

    Args:
      function: called as `function(*lane, *shared)`.
      width: number of lanes that an accelerator computes at once, where all together would not fit its memory.

    Returns:
      `mapped(*arguments, shared=())`, whose results have the same leading axis; the arguments in `shared` are the
      same for all lanes.
    """

    def mapped(*arguments: Any, shared: tuple = ()) -> Any:
        one = lambda lane: function(*lane, *shared)
        if not side_by_side():
            return jax.lax.map(one, arguments)
        if width is None or len(jax.tree.leaves(arguments)[0]) <= width:
            return jax.vmap(one)(arguments)
        return jax.lax.map(one, arguments, batch_size=width)

    return mapped


def take(tree: Any, lane: Any) -> Any:
    """Return one lane, or an array of them, of a tree whose leaves have a leading axis of lanes."""
    leaves = jax.tree.leaves(tree)
    on_device = all(isinstance(x, jax.Array) and not is_traced(x) for x in leaves)
    together = on_device and len({frozenset(x.sharding.device_set) for x in leaves}) == 1
    if together and isinstance(lane, int | np.integer):
        return _take_compiled(tree, int(lane))
    return _take(tree, lane)


def is_traced(array: Any) -> bool:
    """Return whether an array stands for one whose values are not known, such as an argument within `jax.jit`."""
    return isinstance(array, jax.core.Tracer)


def _take(tree: Any, lane: Any) -> Any:
    return jax.tree.map(lambda x: x[lane], tree)


_take_compiled = jax.jit(_take)  # One program for all leaves and lanes, in place of two for every shape.


def find(seeds: Sequence[int], seed: int | None) -> int:
    """Return the index of the lane with a seed, the first for None; raises UserError where no lane has it."""
    if seed is None:
        return 0
    if seed not in seeds:
        raise UserError(f"this run has no seed {seed}; it has {', '.join(map(str, seeds))}")
    return list(seeds).index(seed)
