"""Where lanes are trained: how many at once, on which devices, and who takes whose place."""

import functools
import math
from collections.abc import Callable
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
      count: how many can be trained at once. Where there are more lanes, they take turns.
    """

    lanes: int
    count: int

    @property
    def mesh(self) -> Mesh:
        """Give the devices of this process that take part.

        Lanes never look at each other, so each process trains on its own devices, and no device waits for another.
        """
        return Mesh(np.array(jax.local_devices()[: self.count]), ("lanes",))

    @property
    def spread(self) -> NamedSharding:
        """Give each device its own of the lanes that are trained."""
        return NamedSharding(self.mesh, P("lanes"))

    @property
    def home(self) -> NamedSharding:
        """Say where the state of all lanes lies: spread where they divide, or else in every device."""
        return self.spread if self.lanes % self.mesh.size == 0 else NamedSharding(self.mesh, P())

    def turns(self, done: np.ndarray) -> list[np.ndarray]:
        """List who is trained together, by the lanes `[·]` of each turn, ascending; those that are done have none."""
        waiting = np.flatnonzero(~done)
        return [waiting[i : i + self.count] for i in range(0, len(waiting), self.count)]

    def rows(self, lanes: int | None = None) -> int:
        """Give the places to compile for so many lanes: all, or a half, a quarter … where that is enough, rounded up
        to share them among the devices.
        """
        rows, devices = self.count, self.mesh.size
        while lanes is not None and rows // 2 >= max(lanes, NARROWEST * devices):
            rows //= 2
        return -(-rows // devices) * devices

    def place(self, tree: Any, lanes: np.ndarray) -> Any:
        """Lay lanes of a tree with a leading S axis out over the devices; copies of the last fill the places left."""
        padded = lanes[np.minimum(np.arange(self.rows(len(lanes))), len(lanes) - 1)]
        if np.array_equal(padded, np.arange(self.lanes)):
            return jax.device_put(tree, self.spread)
        return _gather(self.spread)(tree, padded)

    def take_back(self, whole: Any, lanes: np.ndarray, placed: Any) -> Any:
        """Put lanes that were placed back into a tree of all, which is given away."""
        rows = self.rows(len(lanes))
        if len(lanes) == self.lanes == rows:
            return placed
        # Of as many entries whoever is placed, to be compiled once; those that fill the places left go nowhere.
        index = np.full(rows, self.lanes)
        index[: len(lanes)] = lanes
        return _scatter(self.home)(whole, placed, index)


def bytes_of(tree: Any) -> int:
    """Count the bytes of the arrays, or shapes of arrays, in a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@functools.cache
def _gather(where: NamedSharding) -> Callable:
    return jax.jit(take, out_shardings=where)


@functools.cache
def _scatter(where: NamedSharding) -> Callable:
    def put(whole: Any, part: Any, lanes: np.ndarray) -> Any:
        return jax.tree.map(lambda x, y: x.at[lanes].set(y, mode="drop"), whole, part)

    return jax.jit(put, donate_argnums=0, out_shardings=where)
