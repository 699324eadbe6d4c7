"""The stream after the first of two blocks as an additive quantity, as the verification of a certificate computes it.

Attention there is a sum over digits once the reciprocal of its total weight is replaced by one number. Known tokens
to which it hardly gives weight are treated as free, so that few different choices of known tokens remain at most
positions. Axes: C cases, U distinct choices of known tokens, J digits, H heads, P positions, V tokens, D model, m
whatever a radius is of.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.check_additive import Additive
from jaxadd.analysis.certificates.check_tables import LIGHTEST, Tables
from jaxadd.analysis.certificates.rounding import Rounded
from jaxadd.models import Transformer
from jaxadd.types import Params

_WEIGHS = 0.01  # A known token is treated as known where attention may give it this weight.


class Stream(NamedTuple):
    """A stream at one position: value + Σ_j tables_j ± |matrix|ᵀ source, and what float32 errs by.

    Attributes:
      value, tables: `[U, D]` and `[J, V, U, D]`.
      source: `[U, m]`, a radius.
      matrix: `[m, D]`, what it is multiplied by.
      rounded: its interval, with the error that float32 adds after the source.
    """

    value: np.ndarray
    tables: np.ndarray
    source: np.ndarray
    matrix: np.ndarray
    rounded: Rounded

    @classmethod
    def of(cls, x: Additive) -> "Stream":
        """Return a stream whose radius is multiplied by nothing."""
        return cls(*x, np.eye(x.value.shape[-1]), x.box)

    @property
    def additive(self) -> Additive:
        """The stream with its radius multiplied out."""
        return Additive(self.value, self.tables, self.source @ np.abs(self.matrix) + self.rounded.error)

    def linear(self, w: np.ndarray, b: np.ndarray | None) -> Additive:
        """Multiply by parameters `[D, F]` and add a bias."""
        tables = rounding.matrix_product(self.tables, w)
        y = Additive.of(self.value @ w, tables, self.source @ np.abs(self.matrix @ w))
        y = y.widened(rounding.linear(self.rounded, w, b).error)
        return y if b is None else y._replace(value=y.value + b)


class FirstBlock:
    """The stream after the first block at one position after another.

    Attributes:
      positions: those of digits.
    """

    def __init__(self, tables: Tables):
        self.tables, self.config, self.params = tables, tables.config, tables.params
        self.block = self.params["blocks.0"]
        self.positions = sorted(tables.digits.values())
        self._seen: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def stream(
        self, position: int, known: Mapping[int, np.ndarray], digits: Sequence[int]
    ) -> tuple[Stream, np.ndarray]:
        """Return the stream at a position, and which of it each case has.

        Args:
          position: the position.
          known: int `[C]` each, the tokens of positions that are not free.
          digits: the positions of the digits before the one that is read.

        Returns:
          the stream for every distinct choice of the tokens that are treated as known there, `[U, D]`, with tables of
          the digits that are seen there; and int `[C]`.
        """
        owns = range(self.tables.base) if position in digits else known[position][:1].tolist()  # All read the same.
        weighs = np.any([self._weighs(position, own) for own in owns], axis=0)
        treated = lambda p: p == position or p not in self.positions or bool(weighs[p])
        here = [p for p in known if p <= position and treated(p)]
        count = len(next(iter(known.values())))
        choices = np.stack([known[p] for p in here], axis=1) if here else np.zeros((count, 0), int)
        distinct, rows = np.unique(choices, axis=0, return_inverse=True)
        tokens = dict(zip(here, distinct.T, strict=True))
        seen = digits[: max(1, sum(p <= position for p in digits))]  # Other digits are not seen there.
        if position in tokens:
            x, out = self._with_known_token(position, tokens, seen)
        else:
            x, out = self._with_free_token(position, tokens, seen, len(distinct))
        return self._after_mlp(sublayer(self.config, self.block, "ln1", x, out)), rows.reshape(-1)

    def _read_at(self, position: int, own: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what attention reads at a position: weights `[H, P, V]`, their relative errors, and other errors."""
        if (position, own) not in self._seen:
            possible = self.tables.possible(position, own)
            e = self.tables.weights(position, own, possible)
            relative, out = forward.errors_of_attention(
                self.config, self.params, self.tables.heads, position, own, possible
            )
            self._seen[position, own] = e, relative, out.error
        return self._seen[position, own]

    def _weighs(self, position: int, own: int) -> np.ndarray:
        """Return which positions may have some weight where a position holds a token, bool `[P]`."""
        e, possible = self._read_at(position, own)[0], self.tables.possible(position, own)
        usual = e.sum(axis=-1) / possible.sum(axis=-1)
        most = e.max(axis=-1)
        others = usual.sum(axis=-1, keepdims=True) - usual
        return np.asarray((most >= _WEIGHS * (most + others)).any(axis=0))

    def _with_known_token(
        self, position: int, tokens: Mapping[int, np.ndarray], digits: Sequence[int]
    ) -> tuple[Additive, Additive]:
        """Return the stream of tokens at a position and what attention writes there, `[U, D]` each."""
        own = tokens[position]
        value, tables, causes = self._written(position, own, tokens, digits)
        embedded = self.tables.stream.map(lambda y: y[own, position])
        x = Additive(embedded.value, np.zeros_like(tables), np.zeros_like(value)).widened(embedded.error)
        return x, Additive(value, tables, causes.sum(axis=0))

    def _with_free_token(
        self, position: int, tokens: Mapping[int, np.ndarray], digits: Sequence[int], count: int
    ) -> tuple[Additive, Additive]:
        """Return both where the token may be any digit: it adds what it changes when others add the average."""
        base, values = self.tables.base, []
        mean = most = least = causes = np.zeros(0)
        for u in range(base):
            own = np.full(count, u)
            value, tables, caused = self._written(position, own, {**tokens, position: own}, digits)
            values.append(value)
            mean = tables / base if u == 0 else mean + tables / base
            most = tables if u == 0 else np.maximum(most, tables)
            least = tables if u == 0 else np.minimum(least, tables)
            causes = caused if u == 0 else np.maximum(causes, caused)
        apart = np.maximum(most - mean, mean - least).max(axis=1)
        radius = causes.sum(axis=0) + apart.sum(axis=0)
        middle = np.sum(values, axis=0) / base
        mean[digits.index(position)] = np.stack(values) - middle
        embedded = self.tables.stream.map(lambda y: y[:base, position])
        adds = np.zeros_like(mean)
        adds[digits.index(position)] = embedded.value[:, None]
        x = Additive.of(np.zeros_like(middle), adds, np.zeros_like(radius))
        return x.widened(embedded.error.max(axis=0)), Additive.of(middle, mean, radius)

    def _written(
        self, position: int, own: np.ndarray, tokens: Mapping[int, np.ndarray], digits: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what attention writes at a position with its bias: value, tables and radii by cause.

        Args:
          position: the position.
          own: int `[U]`, the tokens there.
          tokens: int `[U]` each, the known tokens by their position, that one too.
          digits: positions of digits, those of the tables.

        Returns:
          `[U, D]`; `[J, V, U, D]`; and `[J + 1, U, D]`, what each digit causes by changing the sum of the
          weights, and what float32 errs by.
        """
        base, written, bias = self.tables.base, self.tables.written, self.block["attn"].get("b_O", 0)
        owns, pick = np.unique(own, return_inverse=True)
        e_all, relative, error = (
            np.stack(x) for x in zip(*(self._read_at(position, int(u)) for u in owns), strict=True)
        )
        numbers = [j for j, p in enumerate(digits) if p < position and p not in tokens]
        free, places = [digits[j] for j in numbers], list(tokens)
        at = np.stack([tokens[p] for p in places])  # [F, U]
        shape = len(own), written.shape[-1]
        value = np.zeros(shape) + bias
        tables, causes = np.zeros((len(digits), base, *shape)), np.zeros((len(digits) + 1, *shape))
        causes[-1] = error[pick]
        for h in range(self.config.heads):
            e = e_all[pick, h]  # [U, P, V]
            e_known = e[np.arange(len(own)), np.asarray(places)[:, None], at][..., None]  # [F, U, 1]
            o_known = written[h][np.asarray(places)[:, None], at]  # [F, U, D]
            e_free, o_free = e[:, free, :base], written[h][free, :base]  # [U, J, V] and [J, V, D]
            fixed = e_known.sum(axis=0)
            least = fixed + e_free.min(axis=-1, initial=np.inf).sum(axis=1)[:, None]
            most = fixed + e_free.max(axis=-1, initial=0).sum(axis=1)[:, None]
            least = np.where(least < LIGHTEST, np.nan, least)
            usual = fixed + e_free.mean(axis=-1).sum(axis=1)[:, None]
            centre = ((e_known * o_known).sum(axis=0) + np.einsum("ujv,jvd->ud", e_free, o_free) / base) / usual
            scale, spread = 2 / (least + most), (most - least) / (2 * least)
            off = o_known - centre
            rest = (e_known * off).sum(axis=0)
            adds = e_free.transpose(1, 2, 0)[..., None] * (o_free[:, :, None] - centre)  # [J, V, U, D]
            low, high = adds.min(axis=1), adds.max(axis=1)
            size = np.maximum(np.abs(rest + low.sum(axis=0)), np.abs(rest + high.sum(axis=0)))
            far = (e_known * np.abs(off)).sum(axis=0) + np.maximum(np.abs(low), np.abs(high)).sum(axis=0)
            value += centre + scale * rest
            tables[numbers] += scale * adds
            swing = (e_free.max(axis=-1, initial=0) - e_free.min(axis=-1, initial=np.inf)).T[..., None]  # [J, U, 1]
            whole = swing.sum(axis=0)
            causes[numbers] += spread * scale * size * (swing / np.where(whole > 0, whole, 1))
            causes[-1] += relative[pick, h, None] * far / least + rounding.gamma(position + 4) * np.abs(centre)
        return *Additive.of(value, tables, causes)[:2], causes

    def _after_mlp(self, x: Additive) -> Stream:
        """Return the stream after the first block, given it after attention."""
        config, block = self.config, self.block
        if not config.d_mlp:
            return Stream.of(x)
        mlp, before = block["mlp"], x
        if config.norm_where != "post":
            before = normalized(config, block.get("ln2"), x)
        pre = before.linear(mlp["W_in"], mlp.get("b_in"))
        if config.mlp == "gated":
            post = before.linear(mlp["W_gate"]).activated(config.activation).product(pre)
        else:
            post = pre.activated(config.activation)
        w, b = mlp["W_out"], mlp.get("b_out")
        if config.norm != "none" and config.norm_where != "pre":
            return Stream.of(sublayer(config, block, "ln2", x, post.linear(w, b)))
        moved = Additive.of(
            x.value + post.value @ w + (0 if b is None else b),
            x.tables + rounding.matrix_product(post.tables, w),
            np.zeros_like(x.value),
        )
        rounded = rounding.add(x.box, rounding.linear(post.box, w, np.zeros(w.shape[1]) if b is None else b))
        source = np.concatenate([x.radius, post.radius], axis=-1)
        return Stream(moved.value, moved.tables, source, np.concatenate([np.eye(len(w.T)), w]), rounded)


def sublayer(config: Transformer, block: Params, name: str, x: Additive, out: Additive) -> Additive:
    """Return the stream after attention or MLP wrote `out`, with the norms around it."""
    if config.norm_where == "post":
        return normalized(config, block.get(name), x.plus(out))
    return x.plus(normalized(config, block.get(f"{name}_post"), out) if config.norm_where == "both" else out)


def normalized(config: Transformer, params: Params | None, x: Additive) -> Additive:
    """Return a quantity after a norm, or as it is where the architecture has none."""
    if config.norm == "none":
        return x
    params = params or {}
    x = x.centred() if config.norm == "layernorm" else x
    x = x.over_root_mean_square(params.get("w"), config.norm_epsilon)
    return x.shifted(params["b"]) if "b" in params else x
