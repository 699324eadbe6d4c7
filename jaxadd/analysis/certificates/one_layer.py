"""Sound bounds on the margins of cases, for a transformer of one layer.

Only the attention of the one layer sees the free digits. What it can write (`attention`) bounds what comes after it,
so that the margin over a rival digit is at least a linear function of what attention writes (`lines`), which is one
more direction, bounded in the same way. Axes: C cases, H heads, P positions, V digits, D model.
"""

from typing import NamedTuple, cast

import numpy as np

from jaxadd.analysis.certificates import columns, forward, lines
from jaxadd.analysis.certificates.attention import Attention, Read
from jaxadd.analysis.certificates.columns import Cases
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Addition

_AT_ONCE = 2_000_000  # Elements of an array of cases, rivals and neurons.


class Tables(NamedTuple):
    """What attention reads at one position, given the token there.

    Attributes:
      e: `[H, P, V]`, exp(score), divided by the largest of the head.
      o: `[H, P, V, D]`, what the head writes where it attends to that position and token alone.
      relative: `[H]`, bound on the relative error of float32 attention weights.
      position: the position itself.
    """

    e: np.ndarray
    o: np.ndarray
    relative: np.ndarray
    position: lines.Position


class OneLayer:
    """Bounds on the margins of cases, for a network of one layer.

    Attributes:
      SAMPLE: cases of each answer digit that are bounded before all are; 0 where all of them take seconds.
    """

    SAMPLE = 0

    def __init__(self, network: Network):
        """Compute what depends on single tokens."""
        self.task = cast(Addition, network.task)
        self.config, self.model = cast(Transformer, network.config), network.model
        self.params = forward.float64(network.params)
        self.block = self.params["blocks.0"]
        self.layout = columns.layout(self.task)
        self.stream = forward.embedded(self.config, self.params, self.model)
        self.heads = forward.queries_keys_values(
            self.config, self.block, self.stream, self.config.numbered(self.model.sizes)
        )
        self.lines = lines.of(self.config, self.params, self.task.base)

    def bound(self, group: Cases) -> tuple[np.ndarray, ...]:
        """Return a lower bound of the least margin of every case and its slack, `[C]`, and the costs `[C, free]`."""
        config, base, read = self.config, self.task.base, self.model.sizes.read[group.digit]
        free, tables = self.layout.free(group, read), self._tables(read, group.own)
        width = max(base, config.d_model) * max(config.d_mlp, config.d_model, base * len(free))
        step = max(1, _AT_ONCE // width)
        return columns.in_parts(group, step, lambda some: self._bound(some, tables, free))

    def _tables(self, read: int, own: int) -> Tables:
        """Return what attention reads at a position, given the token there."""
        possible = self.layout.possible(read, own, len(self.stream.value), self.task.base)
        found = Read.of(self.config, self.params, self.heads, read, own, possible)
        o = np.einsum("vphk,hkd->hpvd", self.heads.v.value[:, : read + 1], self.block["attn"]["W_O"])
        stream = self.stream.map(lambda y: y[own, read])
        position = lines.Position(self.config, self.block, stream, found.out.map(lambda y: y[None]))
        return Tables(found.e, o, found.relative, position)

    def _bound(self, group: Cases, tables: Tables, free: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        read = self.model.sizes.read[group.digit]
        constant = {p: t for p, t in self.layout.constants.items() if p <= read} | {read: group.own}
        fixed = dict(zip(group.positions, group.tokens.T, strict=True))
        tokens = {p: np.broadcast_to(t, (len(group.target),)) for p, t in {**constant, **fixed}.items()}
        attention = Attention.of(tables.e, tables.o, tables.relative, tokens, free, self.task.base)
        found = self.lines(tables.position, attention, group.target)
        return lines.worst(found, *attention.least_along(found.direction))
