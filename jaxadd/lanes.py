"""One way to do the same for many: lanes of a run, states of a training, interventions at a network."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxadd.errors import UserError


def side_by_side() -> bool:
    """Tell whether lanes are computed at the same time, so that one that is done costs what the others do."""
    return jax.default_backend() != "cpu"


def over_lanes(function: Callable, width: int | None = None) -> Callable:
    """Map a function over the leading axis of every argument; those in `shared`, which follow, all have in common.

    Accelerators take `width` at once, all of them by default. A CPU takes one after the other: a lane's arrays
    then stay in its cache, matrix products stay large, and lane i computes what it would alone.

    Args:
      function: called as `function(*lane, *shared)`.
      width: lanes that an accelerator takes at once, where all together would not fit its memory.

    Returns:
      `mapped(*arguments, shared=())`, which gives results with the same leading axis.
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
    """Take one lane, or an array of them, of a tree whose leaves have a leading axis of lanes."""
    return jax.tree.map(lambda x: x[lane], tree)


def find(seeds: Sequence[int], seed: int | None) -> int:
    """Give the lane of a seed, the first for None; raises ValueError where no lane has it."""
    if seed is None:
        return 0
    if seed not in seeds:
        raise UserError(f"this run has no seed {seed}; it has {', '.join(map(str, seeds))}")
    return list(seeds).index(seed)
