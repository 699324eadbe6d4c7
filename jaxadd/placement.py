"""Where lanes are trained: how many at once, on which devices, and who takes whose place."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxadd.lanes import take

# Lanes of a device. Fewer leave an accelerator idle, so that compiling for them takes longer than it saves: eight of
# the mainline need a millisecond a step at 30 TFLOP/s, and a hundred small kernels are not launched in much less.
NARROWEST = 8


class Places(NamedTuple):
    """The places that the lanes of a run share.

    Attributes:
      lanes: S, those of the run.
      count: how many are trained at once; where there are more, they take turns.
    """

    lanes: int
    count: int

    def turns(self, done: np.ndarray) -> list[np.ndarray]:
        """List who is trained together, by the lanes `[·]` of each turn, ascending; those that are done have none."""
        waiting = np.flatnonzero(~done)
        return [waiting[i : i + self.count] for i in range(0, len(waiting), self.count)]

    def rows(self, lanes: int | None = None) -> int:
        """Give the places to compile for so many lanes: all, or a half, a quarter … where that is enough, rounded up
        to share them among the devices.
        """
        rows, devices = self.count, jax.local_device_count()
        while lanes is not None and rows // 2 >= max(lanes, NARROWEST * devices):
            rows //= 2
        return -(-rows // min(rows, devices)) * min(rows, devices)

    def place(self, tree: Any, lanes: np.ndarray) -> Any:
        """Lay lanes of a tree with a leading S axis out over the devices; copies of the last fill the places left."""
        padded = lanes[np.minimum(np.arange(self.rows(len(lanes))), len(lanes) - 1)]
        if not np.array_equal(padded, np.arange(self.lanes)):
            tree = take(tree, padded)
        return jax.device_put(tree, over_devices(len(padded)))

    def take_back(self, whole: Any, lanes: np.ndarray, placed: Any) -> Any:
        """Put lanes that were placed back into a tree of all, which is given away."""
        if len(lanes) < len(jax.tree.leaves(placed)[0]):
            placed = take(placed, np.arange(len(lanes)))
        if len(lanes) == self.lanes:
            return placed
        # They may have been on fewer devices than the tree of all is.
        return _put(whole, jax.device_put(placed, jax.tree.map(_everywhere, whole)), lanes)


def over_devices(rows: int) -> NamedSharding:
    """Spread a leading axis of lanes over the devices of this process.

    Lanes never look at each other, so each process trains on its own devices, and no device waits for another.
    """
    return NamedSharding(Mesh(np.array(jax.local_devices()[:rows]), ("lanes",)), P("lanes"))


def bytes_of(tree: Any) -> int:
    """Count the bytes of the arrays, or shapes of arrays, in a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _everywhere(x: jax.Array) -> Any:
    return NamedSharding(x.sharding.mesh, P()) if isinstance(x.sharding, NamedSharding) else x.sharding


@functools.partial(jax.jit, donate_argnums=0)
def _put(whole: Any, part: Any, lanes: Sequence[int]) -> Any:
    return jax.tree.map(lambda x, y: x.at[lanes].set(y), whole, part)
