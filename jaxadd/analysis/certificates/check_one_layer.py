"""The bounds of one layer, as the verification of a certificate computes them: one direction like another.

Axes: C cases, J rivals, H heads, P positions, V tokens, D model.
"""

from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.check_after import After, Margins
from jaxadd.analysis.certificates.check_tables import LIGHTEST, Leaves, Tables
from jaxadd.analysis.certificates.rounding import Rounded


class OneLayer:
    """Bounds on the margins of leaves, for a network of one layer."""

    def __init__(self, tables: Tables):
        self.tables, self.config, self.params = tables, tables.config, tables.params
        self.after = After(self.config, self.params, tables.base)

    def logits(self, inputs: np.ndarray, read: int) -> np.ndarray:
        """Return the logits at a position of every problem, computed from the tables."""
        return self.after.logits(self.tables.x[inputs[:, read], read], self.tables.attention(inputs, read))

    def elements(self, leaves: Leaves) -> int:
        """Return how many numbers one leaf takes."""
        width, base, free = max(self.config.d_mlp, self.config.d_model), self.tables.base, self._free(leaves)
        return (width + base) * max(1, len(free)) * base + width**2

    def _free(self, leaves: Leaves) -> list[int]:
        return [p for p in sorted(self.tables.digits.values()) if p < leaves.read and p not in leaves.positions]

    def bounds(self, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
        """Return the bounds of the margins over all rivals, and their slacks, `[C, J]`."""
        tables, (read, own, positions, tokens, targets) = self.tables, leaves
        free = self._free(leaves)
        places = [p for p in range(read + 1) if p not in free]
        at = np.empty((len(targets), len(places)), int)
        for i, p in enumerate(places):
            at[:, i] = own if p == read else tokens[:, positions.index(p)] if p in positions else tables.constants[p]
        possible = tables.possible(read, own)
        e = tables.weights(read, own, possible)
        relative, out = forward.errors_of_attention(self.config, self.params, tables.heads, read, own, possible)
        e_fixed = e[:, places, at].transpose(1, 0, 2)  # [C, H, P]
        o_fixed = tables.written[:, places, at].transpose(1, 0, 2, 3)
        e_free, o_free = e[:, free, : tables.base], tables.written[:, free, : tables.base]
        reach = _Reach(e_fixed, o_fixed, e_free, o_free, relative, rounding.gamma(read + 4))
        stream = tables.stream.map(lambda y: y[own, read])

        def extremes(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            low, high, wobble = reach.extremes(np.broadcast_to(w, (len(targets), *w.shape)))
            return low - wobble, high + wobble

        lines = self.after.lines(tables.x[own, read], targets, extremes, out.error)
        least, _, wobble = reach.extremes(lines.direction)
        margin = lines.constant + least
        flat = lines.floor > margin - wobble
        margin, wobble = np.where(flat, lines.floor, margin), np.where(flat, 0, wobble)
        return margin, margin - wobble - self._allowed(stream, out, targets, lines)

    def _allowed(self, stream: Rounded, out: Rounded, targets: np.ndarray, lines: Margins) -> np.ndarray:
        """Return what float32 may err by in every margin but by attention weights, `[C, J]`."""
        error = np.zeros(1)
        if lines.box is None:
            out = out.map(lambda y: y[None])
        else:
            # What float32 writes is in this interval, and its errors move the margin along the direction.
            error, (centre, radius) = np.abs(lines.direction) @ out.error, lines.box
            out = rounding.exact(centre)._replace(radius=radius)
        stream = stream.map(lambda y: np.broadcast_to(y, out.value.shape))
        x = forward.attended(self.config, self.params["blocks.0"], stream, out)
        return error + forward.error_of_margins(self.config, self.params, x, targets, self.tables.base)


class _Reach(NamedTuple):
    """What attention can write: the fixed positions of every case, and tables of the free ones.

    Attributes:
      e_fixed, o_fixed: `[C, H, P]` and `[C, H, P, D]`.
      e_free, o_free: `[H, P, V]` and `[H, P, V, D]`.
      relative: `[H]`, the relative error of float32 weights.
      normalised: how far the sum of float32 weights may be from 1.
    """

    e_fixed: np.ndarray
    o_fixed: np.ndarray
    e_free: np.ndarray
    o_free: np.ndarray
    relative: np.ndarray
    normalised: float

    def extremes(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return bounds of w·(what all heads write), and what errors of weights change in it: `[C, W]` each.

        Args:
          w: directions, `[C, W, D]`.
        """
        cases, directions, _ = w.shape
        fixed_weight = self.e_fixed.sum(axis=-1)  # [C, H]
        lightest = fixed_weight + self.e_free.min(axis=-1).sum(axis=-1)
        heaviest = fixed_weight + self.e_free.max(axis=-1).sum(axis=-1)
        lightest, heaviest = (np.where(lightest < LIGHTEST, np.nan, x) for x in (lightest, heaviest))
        low, high, wobble, error, base, alone_low, alone_high = (np.zeros((cases, directions)) for _ in range(7))
        joint = np.zeros((cases, directions, *self.e_free.shape[1:]))
        for h in range(len(self.e_free)):
            e, light, heavy = self.e_free[h], lightest[:, h, None], heaviest[:, h, None]
            value = np.tensordot(w, self.o_free[h], axes=(2, 2))  # [C, W, P, V]
            seen = np.einsum("cwd,cpd->cwp", w, self.o_fixed[:, h])
            weight = self.e_fixed[:, h, None]
            average = (weight * seen).sum(axis=-1) + (e * value).mean(axis=-1).sum(axis=-1)
            average /= (fixed_weight[:, h] + e.mean(axis=-1).sum())[:, None]
            off = e * (value - average[..., None, None])
            rest = (weight * (seen - average[..., None])).sum(axis=-1)
            bottom, top = rest + off.min(axis=-1).sum(axis=-1), rest + off.max(axis=-1).sum(axis=-1)
            alone_low += np.minimum(bottom / light, bottom / heavy)
            alone_high += np.maximum(top / light, top / heavy)
            scale = 2 / (light + heavy)
            joint += scale[..., None, None] * off
            base += scale * rest
            error += scale * (heavy - light) / (2 * light) * np.maximum(np.abs(bottom), np.abs(top))
            far = (weight * np.abs(seen - average[..., None])).sum(axis=-1) + np.abs(off).max(axis=-1).sum(axis=-1)
            wobble += self.relative[h] * far / light + self.normalised * np.abs(average)
            low += average
            high += average
        together = base + joint.min(axis=-1).sum(axis=-1) - error, base + joint.max(axis=-1).sum(axis=-1) + error
        return low + np.maximum(alone_low, together[0]), high + np.minimum(alone_high, together[1]), wobble
