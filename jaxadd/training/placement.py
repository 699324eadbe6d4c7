"""Slots: how many lanes are trained at once, on which devices, and which lanes replace those that are done."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxadd.lanes import take

# The smallest number of slots of a device to compile for, where more lanes are trained at first. Fewer leave an
# accelerator idle, and compiling for them takes longer than it saves: eight lanes in Nanda et al.'s setting need a
# millisecond per step at 30 TFLOP/s, and launching a hundred small kernels takes about as long.
NARROWEST = 8


class Slots(NamedTuple):
    """The slots in which the lanes of a run are trained.

    Attributes:
      lanes: S, the number of lanes of the run.
      size: the number of slots: of lanes trained at once. If there are more lanes, groups of them are trained one
        after the other.
    """

    lanes: int
    size: int

    @property
    def mesh(self) -> Mesh:
        """The devices of this process that lanes are trained on.

        Lanes are independent, so each process uses its own devices, and no device waits for another.
        """
        return Mesh(np.array(jax.local_devices()[: self.size]), ("lanes",))

    @property
    def lane_sharding(self) -> NamedSharding:
        """The sharding of the lanes in slots over the devices."""
        return NamedSharding(self.mesh, P("lanes"))

    @property
    def state_sharding(self) -> NamedSharding:
        """The sharding of the state of all lanes: over the devices if lanes divide evenly, else replicated."""
        return self.lane_sharding if self.lanes % self.mesh.size == 0 else NamedSharding(self.mesh, P())

    def groups(self, done: np.ndarray) -> list[np.ndarray]:
        """Return the groups of lanes `[·]` that are trained together, without lanes that are `done`, bool `[S]`."""
        remaining = np.flatnonzero(~done)
        return [remaining[i : i + self.size] for i in range(0, len(remaining), self.size)]

    def rows(self, lanes: int | None = None) -> int:
        """Return the number of slots to compile for, a multiple of the number of devices.

        It is that of all slots, or a half, a quarter … of it where this is enough for a group of `lanes`.
        """
        rows, devices = self.size, self.mesh.size
        while lanes is not None and rows // 2 >= max(lanes, NARROWEST * devices):
            rows //= 2
        return -(-rows // devices) * devices

    def gather(self, tree: Any, lanes: np.ndarray) -> Any:
        """Shard lanes of a tree with a leading S axis over the devices; copies of the last lane fill empty slots."""
        padded = lanes[np.minimum(np.arange(self.rows(len(lanes))), len(lanes) - 1)]
        if np.array_equal(padded, np.arange(self.lanes)):
            return jax.device_put(tree, self.lane_sharding)
        return _gather(self.lane_sharding)(tree, padded)

    def scatter(self, tree: Any, lanes: np.ndarray, gathered: Any) -> Any:
        """Return a tree of all lanes, which is donated, with the lanes that were gathered replaced."""
        rows = self.rows(len(lanes))
        if len(lanes) == self.lanes == rows:
            return gathered
        # Of the same length for groups of any size, so that it is compiled once; indices of empty slots are dropped.
        index = np.full(rows, self.lanes)
        index[: len(lanes)] = lanes
        return _scatter(self.state_sharding)(tree, gathered, index)


def bytes_of(tree: Any) -> int:
    """Return the number of bytes of the arrays, or shapes of arrays, in a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@functools.cache
def _gather(sharding: NamedSharding) -> Callable:
    return jax.jit(take, out_shardings=sharding)


@functools.cache
def _scatter(sharding: NamedSharding) -> Callable:
    def put(tree: Any, gathered: Any, lanes: np.ndarray) -> Any:
        return jax.tree.map(lambda x, y: x.at[lanes].set(y, mode="drop"), tree, gathered)

    return jax.jit(put, donate_argnums=0, out_shardings=sharding)
