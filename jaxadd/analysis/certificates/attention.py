"""What the attention of one layer can write at one position, whatever the free digits are.

The output of a head is Σ_p e_p o_p / Σ_p e_p over positions p, where e = exp(score) and o = W_O W_V x depend on the
position and its token alone, for a given token at the position read. For a direction w let m be the mean of w·o over
the fixed positions, of total weight A. Then

    w·(output) = m + Σ_free e_p (w·o_p - m) / (A + Σ_free e_p),

whose extremes over the free digits are bounded by those of each position: the numerator by the sum over positions of
its extremes over tokens, the denominator by the sums of the least and largest e_p. Heads are bounded one by one in
this way, and also together: what one digit adds to all heads is summed before the extremes are taken, with the
reciprocal of each denominator replaced by one number and its largest error. The second way matters most: heads of
trained networks attend to neighbouring columns with weights of 5 %, and the neurons read combinations of heads in
which the neighbours cancel. Axes: C cases, J rivals, H heads, P positions, V digits, F directions, D model.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.forward import Heads
from jaxadd.analysis.certificates.rounding import Rounded
from jaxadd.models import Transformer
from jaxadd.types import Params

_KNOTS = 65
LIGHTEST = 1e-290  # A case whose weights are all below it has no bound: float64 holds them with few digits.


class Read(NamedTuple):
    """What the first layer's attention reads at one position, given the token there.

    Attributes:
      e: `[H, P, V]`, exp(score), divided by the largest of the head.
      relative: `[H]`, bound on the relative error of float32 weights.
      out: what may be written, `[D]`, over all tokens before, and its error but for that of weights.
    """

    e: np.ndarray
    relative: np.ndarray
    out: Rounded

    @classmethod
    def of(
        cls, config: Transformer, params: Params, heads: Heads, position: int, own: int, possible: np.ndarray
    ) -> "Read":
        """Return what is read at a position that holds the token `own`; see `forward.errors_of_attention`."""
        s = np.where(possible, forward.scores_of_tokens(config, heads, position, own).value, -np.inf)
        relative, out = forward.errors_of_attention(config, params, heads, position, own, possible)
        return cls(np.exp(s - s.max(axis=(1, 2), keepdims=True)), relative, out)


class Attention(NamedTuple):
    """Attention in a group of cases: for head h, centre + (rest + Σ_free e (o - centre)) / total weight.

    Attributes:
      e, o: of the free positions, `[H, V, P]` and `[H, V, P, D]`.
      fixed_e, fixed_o: of the fixed positions, `[C, H, P]` and `[C, H, P, D]`.
      centre: `[C, H, D]`, what the head writes for average free digits.
      rest: `[C, H, D]`, Σ_fixed e (o - centre).
      least, most: `[C, H]`, the least and the largest total weight.
      scale: `[C, H]`, the reciprocal of a total weight between them.
      spread: `[C, H]`, the largest relative difference between `scale` and the reciprocal of a total weight.
      relative: `[H]`, bound on the relative error of float32 attention weights.
      normalised: bound on how far the sum of float32 weights is from 1.
    """

    e: np.ndarray
    o: np.ndarray
    fixed_e: np.ndarray
    fixed_o: np.ndarray
    centre: np.ndarray
    rest: np.ndarray
    least: np.ndarray
    most: np.ndarray
    scale: np.ndarray
    spread: np.ndarray
    relative: np.ndarray
    normalised: float

    @classmethod
    def of(
        cls,
        e: np.ndarray,
        o: np.ndarray,
        relative: np.ndarray,
        tokens: Mapping[int, np.ndarray],
        free: Sequence[int],
        base: int,
    ) -> "Attention":
        """Look up the fixed and the free positions of some cases.

        Args:
          e: `[H, P, V]`, exp(score) of every position that is seen and token.
          o: `[H, P, V, D]`, what the head writes where it attends to that position and token alone.
          relative: `[H]`, bound on the relative error of float32 attention weights.
          tokens: int `[C]` for each fixed position.
          free: the other positions, which hold digits.
          base: the number of digits.
        """
        fixed_e = np.stack([e[:, p][:, t].T for p, t in tokens.items()], axis=2)  # [C, H, P]
        fixed_o = np.stack([o[:, p][:, t].swapaxes(0, 1) for p, t in tokens.items()], axis=2)
        total, written = fixed_e.sum(axis=2), np.einsum("chp,chpd->chd", fixed_e, fixed_o)
        # Tokens before positions: NumPy takes extremes over few tokens of many positions much faster.
        e_free, o_free = (x[:, free, :base].swapaxes(1, 2) for x in (e, o))
        least, most = (total + x.sum(axis=-1) for x in (e_free.min(axis=1), e_free.max(axis=1)))  # [C, H]
        least, most = (np.where(least < LIGHTEST, np.nan, x) for x in (least, most))
        usual = e_free.mean(axis=1).sum(axis=-1)
        moved = (e_free[..., None] * o_free).mean(axis=1).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            centre = (written + moved) / (total + usual)[..., None]
            # A case without a bound must leave the others theirs: the centres of all are looked up together.
            centre = np.where(np.isfinite(centre), centre, 0)
            scale, spread = 2 / (least + most), (most - least) / 2 / least
        rest = written - centre * total[..., None]
        normalised = rounding.gamma(e.shape[1] + 3)
        return cls(e_free, o_free, fixed_e, fixed_o, centre, rest, least, most, scale, spread, relative, normalised)

    def least_along(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bound what is written along directions of each case, `[C, J, D]`, from below.

        Returns:
          the bound `[C, J]`; what float32 weights may change in it `[C, J]`; and how much each free digit matters,
          the width of what it adds, `[C, J, P]`.
        """
        count, rivals, width = direction.shape
        along = lambda x: np.einsum("cjd,chd->hcj", direction, x)
        centre, rest = along(self.centre), along(self.rest)
        least, most, scale, spread = (x.T[..., None] for x in (self.least, self.most, self.scale, self.spread))
        joint = np.zeros((count, rivals, *self.e.shape[1:]))
        separate, size, wobble = (np.zeros((count, rivals)) for _ in range(3))
        for h in range(len(self.e)):
            weighted = (self.e[h, ..., None] * self.o[h]).reshape(-1, width)  # [V P, D]
            terms = (direction.reshape(-1, width) @ weighted.T).reshape(joint.shape)
            terms -= centre[h][..., None, None] * self.e[h]
            lowest, highest = terms.min(axis=-2), terms.max(axis=-2)  # [C, J, P]
            under, above = rest[h] + lowest.sum(axis=-1), rest[h] + highest.sum(axis=-1)
            separate += under / np.where(under < 0, least[h], most[h])
            size += spread[h] * scale[h] * np.maximum(np.abs(under), np.abs(above))
            far = np.maximum(highest, -lowest).sum(axis=-1)
            for p in range(self.fixed_e.shape[2]):
                there = (direction @ self.fixed_o[:, h, p, :, None])[..., 0] - centre[h]
                far += self.fixed_e[:, h, p, None] * np.abs(there)
            wobble += self.relative[h] * (far / least[h]) + self.normalised * np.abs(centre[h])
            terms *= scale[h][..., None, None]
            joint += terms
        lowest = joint.min(axis=-2)
        together = (scale * rest).sum(axis=0) + lowest.sum(axis=-1) - size
        return centre.sum(axis=0) + np.maximum(separate, together), wobble, joint.max(axis=-2) - lowest

    def extremes(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bound what is written times a matrix `[D, F]`, with the weights of float32 as well: from and to, `[C, F]`.

        The largest numerator of one head is a convex function of the centre, computed at some knots; between them the
        chord is above it.
        """
        count, columns = len(self.centre), w.shape[1]
        middle, above, under, size, rests, wobble = (np.zeros((count, columns)) for _ in range(6))
        centres, values = [], []
        for h in range(len(self.e)):
            m, rest = self.centre[:, h] @ w, self.rest[:, h] @ w  # [C, F]
            g = np.einsum("vpd,df->fvp", self.o[h], w)
            begin, end = m.min(axis=0), m.max(axis=0)
            knots = begin + np.linspace(0, 1, _KNOTS)[:, None] * (end - begin)  # [G, F]
            terms = self.e[h] * (g - knots[..., None, None])  # [G, F, V, P]
            lowest, highest = terms.min(axis=-2), terms.max(axis=-2)
            with np.errstate(divide="ignore", invalid="ignore"):
                place = np.where(end > begin, (m - begin) / (end - begin), 0) * (_KNOTS - 1)
            left = np.clip(np.floor(place), 0, _KNOTS - 2).astype(int)
            part, column = place - left, np.arange(columns)
            at = lambda x: x[left, column] * (1 - part) + x[left + 1, column] * part  # noqa: B023
            up, down = rest + at(highest.sum(axis=-1)), rest + at(lowest.sum(axis=-1))
            far = at(np.maximum(highest, -lowest).sum(axis=-1))
            for p in range(self.fixed_e.shape[2]):
                far += self.fixed_e[:, h, p, None] * np.abs(self.fixed_o[:, h, p] @ w - m)
            wobble += self.relative[h] * far / self.least[:, h, None] + self.normalised * np.abs(m)
            middle += m
            above += up / np.where(up > 0, self.least[:, h, None], self.most[:, h, None])
            under += down / np.where(down < 0, self.least[:, h, None], self.most[:, h, None])
            size += (self.spread * self.scale)[:, h, None] * np.maximum(np.abs(up), np.abs(down))
            rests += self.scale[:, h, None] * rest
            centres.append(self.scale[:, h, None] * m)
            values.append(self.e[h] * g)
        shape = (count, *self.e.shape[1:])
        for f in range(columns):
            terms = (self.scale @ np.stack([v[f].ravel() for v in values])).reshape(shape)
            terms -= (np.stack([c[:, f] for c in centres], axis=1) @ self.e.reshape(len(self.e), -1)).reshape(shape)
            together = terms.max(axis=-2).sum(axis=-1), terms.min(axis=-2).sum(axis=-1)
            above[:, f] = np.minimum(above[:, f], rests[:, f] + together[0] + size[:, f])
            under[:, f] = np.maximum(under[:, f], rests[:, f] + together[1] - size[:, f])
        return middle + under - wobble, middle + above + wobble
