"""The first layer of two, at one position: a sum of functions of one digit each.

What each digit adds to what attention writes is a table over its tokens, for digits that matter little too; so the
stream is an additive quantity of the digits (`additive`), and remains one through the MLP. Axes: U distinct choices
of the tokens that matter at the position, J digits, H heads, P positions, V tokens, D model.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.additive import Additive, Image, constant, with_middles_moved
from jaxadd.analysis.certificates.attention import LIGHTEST, Read
from jaxadd.analysis.certificates.columns import Layout
from jaxadd.analysis.certificates.rounding import Rounded
from jaxadd.models import Model, Transformer
from jaxadd.types import Params

_NOTED = 0.01  # Attention weight from which on a token that a case fixes is distinguished.


class Place(NamedTuple):
    """What stands at one position before the second layer, for each distinct choice of the tokens that matter there.

    Attributes:
      stream: `[U, 1, D]`, of the digits that it depends on.
      number: which digits these are.
      rows: int `[C]`, the choice of each case.
    """

    stream: Image
    number: list[int]
    rows: np.ndarray


class FirstLayer:
    """The stream after the first layer at each position.

    Args:
      config, params, model: the network, float64 NumPy arrays.
      layout: where digits stand.
      base: the number of digits.
    """

    def __init__(self, config: Transformer, params: Params, model: Model, layout: Layout, base: int):
        self.config, self.params, self.layout, self.base = config, params, layout, base
        self.block = params["blocks.0"]
        self.numbers = config.numbered(model.sizes)
        self.stream = forward.embedded(config, params, model)
        self.heads = forward.queries_keys_values(config, self.block, self.stream, self.numbers)
        self.written = np.einsum("vphk,hkd->hpvd", self.heads.v.value, self.block["attn"]["W_O"])
        self._reads: dict[tuple[int, int], Read] = {}

    def extremes(self, position: int, own: int) -> Rounded:
        """Return what may stand at a position that holds a token, `[D]`, whatever digits are before it."""
        out = self._read(position, own).out
        x = forward.attended(self.config, self.block, self.stream.map(lambda y: y[own, position]), out)
        return forward.after_mlp(self.config, self.block, x)

    def place(self, position: int, tokens: Mapping[int, np.ndarray], digits: Sequence[int]) -> Place:
        """Return the stream after the first block at one position.

        Tokens to which attention gives hardly any weight there are treated like free ones, so that few different
        cases remain at most positions.
        """
        count = len(next(iter(tokens.values())))
        owns = range(self.base) if position in digits else [int(tokens[position][0])]  # All cases read the same.
        noted = [p for p in tokens if p == position or (p < position and self._weighs(position, owns, p))]
        seen = np.stack([tokens[p] for p in noted], axis=1) if noted else np.zeros((count, 0), int)
        # One digit at least: an axis of length 0 has no maximum.
        number = [j for j, p in enumerate(digits) if p <= position and p not in noted] or [0]
        seen_digits = [digits[j] for j in number]
        distinct, rows = np.unique(seen, axis=0, return_inverse=True)
        known = dict(zip(noted, distinct.T, strict=True))
        if position in known:
            own = known[position]
            out = self._written(position, known, seen_digits)
            stream = constant(self.stream.map(lambda x: x[own, position]), out)
        else:
            stream, out = self._with_free_token(
                position, {**known, position: np.zeros(len(distinct), int)}, seen_digits
            )
        after = forward.attended(self.config, self.block, stream, out).map(lambda x: x[..., None, :])
        return Place(self._after_mlp(after), number, rows.reshape(-1))

    def _read(self, position: int, own: int) -> Read:
        """Return what attention reads at a position that holds a token."""
        if (position, own) not in self._reads:
            possible = self.layout.possible(position, own, len(self.stream.value), self.base)
            self._reads[position, own] = Read.of(self.config, self.params, self.heads, position, own, possible)
        return self._reads[position, own]

    def _read_by(self, position: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return weights, their relative errors, and other errors, for each of some tokens there, int `[U]`."""
        distinct, pick = np.unique(own, return_inverse=True)
        reads = [self._read(position, int(token)) for token in distinct]
        parts = zip(*((read.e, read.relative, read.out.error) for read in reads), strict=True)
        e, relative, error = (np.stack(part)[pick] for part in parts)
        return e, relative, error

    def _weighs(self, position: int, owns: Sequence[int], source: int) -> bool:
        """Return whether the token at a source is to be distinguished at a position."""
        if source in self.layout.constants:
            return True
        for own in owns:
            e = self._read(position, own).e
            usual = e.sum(axis=-1) / np.maximum((e > 0).sum(axis=-1), 1)  # Over the tokens that may be there, [H, P].
            most = e[:, source].max(axis=-1)
            if (most >= _NOTED * (most + usual.sum(axis=-1) - usual[:, source])).any():
                return True
        return False

    def _with_free_token(
        self, position: int, known: Mapping[int, np.ndarray], digits: Sequence[int]
    ) -> tuple[Additive, Additive]:
        """Return the stream at a position whose token is free, and what attention writes there, `[U, D]` each.

        Attention is computed for every token there. What other digits add to it is averaged over these tokens, and
        the distance from the average is in the radius.
        """
        tokens = range(self.base)
        holding = [{**known, position: np.full_like(known[position], token)} for token in tokens]
        outs = [self._written(position, tokens_there, digits) for tokens_there in holding]
        value, tables, radius = (np.stack([out[i] for out in outs]) for i in range(3))
        usual = tables.mean(axis=0)
        radius = radius.max(axis=0)
        radius[:-1] += np.abs(tables - usual).max(axis=(0, 2))
        own, mean = digits.index(position), value.mean(axis=0)
        usual[own] = value - mean
        out = Additive.of(mean, usual, radius)
        embedded = self.stream.map(lambda x: x[: len(tokens), position])
        adds = np.zeros_like(usual)
        adds[own] = embedded.value[:, None]
        stream = Additive.of(np.zeros_like(mean), adds, np.zeros_like(radius))
        return stream.widened(embedded.error.max(axis=0)), out

    def _written(self, position: int, known: Mapping[int, np.ndarray], digits: Sequence[int]) -> Additive:
        """Return what attention writes at a position with its bias, `[U, D]`, where some tokens are known.

        A head writes c + Σ_p e_p (o_p - c) / Σ_p e_p, whatever c is; the reciprocal of the total weight is replaced
        by one number, and its largest distance from that is in the radius of the digits that change the total.
        """
        e, relative, error = self._read_by(position, known[position])
        base, gamma = self.base, rounding.gamma(position + 4)
        number = [j for j, p in enumerate(digits) if p < position and p not in known]
        free, count = [digits[j] for j in number], len(e)
        rows, attn = np.arange(count), self.block["attn"]
        width = self.written.shape[-1]
        value = np.zeros((count, width)) + attn.get("b_O", 0)
        tables, radius = np.zeros((len(digits), base, count, width)), np.zeros((len(digits) + 1, count, width))
        radius[-1] += error
        for h in range(e.shape[1]):
            e_known = np.stack([e[rows, h, p, t] for p, t in known.items()], axis=1)[..., None]  # [U, F, 1]
            o_known = np.stack([self.written[h, p, t] for p, t in known.items()], axis=1)  # [U, F, D]
            e_free, o_free = e[:, h, free, :base], self.written[h, free, :base]  # [U, J, V] and [J, V, D]
            total = e_known.sum(axis=1)  # [U, 1]
            least, most = (total + x.sum(axis=-1, keepdims=True) for x in (e_free.min(axis=-1), e_free.max(axis=-1)))
            least = np.where(least < LIGHTEST, np.nan, least)
            usual = total + e_free.mean(axis=-1).sum(axis=-1, keepdims=True)
            mean = np.tensordot(e_free, o_free, axes=((1, 2), (0, 1))) / base
            centre = ((e_known * o_known).sum(axis=1) + mean) / usual
            scale, spread = 2 / (least + most), (most - least) / (2 * least)
            off = o_known - centre[:, None]
            rest = (e_known * off).sum(axis=1)
            adds = np.moveaxis(e_free[..., None] * (o_free - centre[:, None, None]), 0, 2)  # [J, V, U, D]
            low, high = adds.min(axis=1), adds.max(axis=1)
            size = np.maximum(np.abs(rest + low.sum(axis=0)), np.abs(rest + high.sum(axis=0)))
            swing = (e_free.max(axis=-1) - e_free.min(axis=-1)).T[..., None]  # [J, U, 1]
            swings = swing.sum(axis=0)
            fraction = np.divide(swing, swings, out=np.zeros_like(swing), where=swings > 0)
            radius[number] += fraction * (spread * scale * size)
            far = (e_known * np.abs(off)).sum(axis=1) + np.maximum(high, -low).sum(axis=0)
            radius[-1] += relative[:, h, None] * far / least + gamma * np.abs(centre)
            value += centre + scale * rest
            tables[number] += scale * adds
        return Additive.of(value, tables, radius)

    def _after_mlp(self, x: Additive) -> Image:
        """Return the stream after the MLP, `[U, 1, D]`, given it before."""
        config, block = self.config, self.block
        if not config.d_mlp or (config.norm != "none" and config.norm_where != "pre"):
            return Image.of(forward.after_mlp(config, block, x))
        post, mlp = forward.neurons(config, block, x), block["mlp"]
        bias = mlp.get("b_out", np.zeros(config.d_model))
        value, tables = (a + rounding.matrix_product(b, mlp["W_out"]) for a, b in zip(x[:2], post[:2], strict=True))
        radius = np.concatenate([x.radius, post.radius], axis=-1)
        matrix = np.concatenate([np.eye(config.d_model), mlp["W_out"]])
        rounded = rounding.add(x.box, rounding.linear(post.box, mlp["W_out"], bias))
        return Image(*with_middles_moved(value + bias, tables), radius, matrix, rounded)
