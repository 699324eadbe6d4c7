"""Slots: how many lanes are trained at once, on which devices, and which lanes take the slots of those that ended."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxadd.lanes import take

# Lanes of a device at least. Fewer leave an accelerator idle, so that compiling for them takes longer than it saves: eight of
# the mainline need a millisecond a step at 30 TFLOP/s, and a hundred small kernels are not launched in much less.
NARROWEST = 8


class Slots(NamedTuple):
    """The slots that the lanes of a run share.

    Attributes:
      lanes: S, those of the run.
      count: number of lanes trained at once. Where there are more, groups of lanes take the slots one after the other.
    """

    lanes: int
    count: int

    @property
    def mesh(self) -> Mesh:
        """The devices of this process that take part.

        Lanes never look at each other, so each process trains on its own devices, and no device waits for another.
        """
        return Mesh(np.array(jax.local_devices()[: self.count]), ("lanes",))

    @property
    def spread(self) -> NamedSharding:
        """The sharding that gives each device its part of the lanes in slots."""
        return NamedSharding(self.mesh, P("lanes"))

    @property
    def state_sharding(self) -> NamedSharding:
        """The sharding of the state of all lanes: spread where they divide evenly, else replicated."""
        return self.spread if self.lanes % self.mesh.size == 0 else NamedSharding(self.mesh, P())

    def groups(self, done: np.ndarray) -> list[np.ndarray]:
        """Return the lanes `[·]` of each group that is trained together, ascending; lanes that are `done` have none."""
        waiting = np.flatnonzero(~done)
        return [waiting[i : i + self.count] for i in range(0, len(waiting), self.count)]

    def rows(self, lanes: int | None = None) -> int:
        """Return the number of slots to compile for: all, or a half, a quarter … where that is enough for so many
        lanes, rounded up to share them among the devices.
        """
        rows, devices = self.count, self.mesh.size
        while lanes is not None and rows // 2 >= max(lanes, NARROWEST * devices):
            rows //= 2
        return -(-rows // devices) * devices

    def gather(self, tree: Any, lanes: np.ndarray) -> Any:
        """Lay lanes of a tree with a leading S axis out over the devices; copies of the last fill the slots left."""
        padded = lanes[np.minimum(np.arange(self.rows(len(lanes))), len(lanes) - 1)]
        if np.array_equal(padded, np.arange(self.lanes)):
            return jax.device_put(tree, self.spread)
        return _gather(self.spread)(tree, padded)

    def scatter(self, whole: Any, lanes: np.ndarray, gathered: Any) -> Any:
        """Put lanes that were gathered back into a tree of all lanes, which is donated."""
        rows = self.rows(len(lanes))
        if len(lanes) == self.lanes == rows:
            return gathered
        # Always of as many entries, so that it is compiled once; those that fill the slots left go nowhere.
        index = np.full(rows, self.lanes)
        index[: len(lanes)] = lanes
        return _scatter(self.state_sharding)(whole, gathered, index)


def bytes_of(tree: Any) -> int:
    """Return the number of bytes of the arrays, or shapes of arrays, in a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@functools.cache
def _gather(where: NamedSharding) -> Callable:
    return jax.jit(take, out_shardings=where)


@functools.cache
def _scatter(where: NamedSharding) -> Callable:
    def put(whole: Any, part: Any, lanes: np.ndarray) -> Any:
        return jax.tree.map(lambda x, y: x.at[lanes].set(y, mode="drop"), whole, part)

    return jax.jit(put, donate_argnums=0, out_shardings=where)
