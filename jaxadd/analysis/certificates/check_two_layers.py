"""The bounds of two layers, as the verification of a certificate computes them, with code of its own.

The stream after the first block is an additive quantity of the digits at every position (`check_first_block`). The
second attention weighs positions with the weights of the scores in the middle; what other weights change is a radius.
The radius of a stream is followed through the second attention with the matrices that it is multiplied by, which are
multiplied with each other before absolute values are taken. Axes: C cases, U distinct choices of known tokens, J
digits, H heads, P positions, V tokens, D model, K head, m whatever a radius is of.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.check_additive import Additive
from jaxadd.analysis.certificates.check_after import After, Block
from jaxadd.analysis.certificates.check_first_block import FirstBlock, Stream, normalized, sublayer
from jaxadd.analysis.certificates.check_tables import Leaves, Tables, penalties, read_by, softmax
from jaxadd.analysis.certificates.rounding import Rounded
from jaxadd.models import Transformer


class _Place(NamedTuple):
    """A position before the second attention.

    Attributes:
      stream: for every distinct choice of the tokens that are known there.
      rows: int `[C]`, the choice of each case.
      read: what attention reads, with the same distinct choices.
      k, v: `[U, H, K]`.
      error: `[U, H, K]`, what float32 errs by in v after the source of `read`.
    """

    stream: Stream
    rows: np.ndarray
    read: Stream
    k: Additive
    v: Additive
    error: np.ndarray

    def cases(self, x: np.ndarray) -> np.ndarray:
        """Return what each case has of `[..., U, H, K]`; one for all where they are alike."""
        return x if x.shape[-3] == 1 else np.take(x, self.rows, axis=-3)


class _Source(NamedTuple):
    """A radius `[U, m]`, the choice of each case and matrices `[C or 1, m, D]` that it is multiplied by."""

    radius: np.ndarray
    rows: np.ndarray
    matrix: np.ndarray

    def along(self, w: np.ndarray) -> np.ndarray:
        """Return the radius `[C, F]` along the columns of a matrix `[D, F]`."""
        through = np.abs(self.matrix @ w)
        if len(through) == 1:
            return (self.radius @ through[0])[self.rows]
        return (self.radius[self.rows][:, None] @ through)[:, 0]

    def along_each(self, directions: np.ndarray) -> np.ndarray:
        """Return the radius `[C, R]` along directions `[C, R, D]`."""
        through = np.abs(directions @ self.matrix.swapaxes(-1, -2))
        return (through @ self.radius[self.rows][..., None])[..., 0]


class _Reach(NamedTuple):
    """The stream after the second attention.

    Attributes:
      value: `[C, D]`.
      tables: `[J, V, C, D]`.
      fixed: int `[J, C]`, the tokens of digits; -1 of those that are free.
      sources: radii with their matrices.
      rest: `[C, D]`, all other radii.
    """

    value: np.ndarray
    tables: np.ndarray
    fixed: np.ndarray
    sources: list[_Source]
    rest: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """The tables at the tokens that are fixed, `[J, C, D]`, and 0 for other digits."""
        there = np.take_along_axis(self.tables, np.maximum(self.fixed, 0)[:, None, :, None], axis=1)[:, 0]
        return np.where(self.fixed[..., None] >= 0, there, 0)

    @property
    def fixed_put(self) -> "_Reach":
        """The same with what fixed digits add in the value; only tables of free digits remain."""
        free = (self.fixed < 0).any(axis=1)  # Cases fix the same positions.
        value = self.value + self.known.sum(axis=0)
        return self._replace(value=value, tables=self.tables[free], fixed=self.fixed[free])

    @property
    def additive(self) -> Additive:
        """The stream as an additive quantity, without tables of the digits that are fixed."""
        tables = np.where(self.fixed[:, None, :, None] < 0, self.tables, 0)
        identity = np.eye(self.value.shape[-1])
        radius = self.rest + sum(source.along(identity) for source in self.sources)
        return Additive.of(self.value + self.known.sum(axis=0), tables, radius)

    def extremes(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bound it along the rows of a matrix `[F, D]`, after `fixed_put`: `[C, F]` each."""
        w = w.T
        tables = rounding.matrix_product(self.tables, w)
        radius = self.rest @ np.abs(w) + sum(source.along(w) for source in self.sources)
        value = self.value @ w
        return value + tables.min(axis=1).sum(axis=0) - radius, value + tables.max(axis=1).sum(axis=0) + radius

    def least(self, directions: np.ndarray) -> np.ndarray:
        """Bound it from below along directions of each case `[C, R, D]`, after `fixed_put`: `[C, R]`."""
        along = lambda x: (directions @ x[..., None])[..., 0]
        radius = (np.abs(directions) @ self.rest[..., None])[..., 0]
        for source in self.sources:
            radius = radius + source.along_each(directions)
        return along(self.value) + along(self.tables).min(axis=1).sum(axis=0) - radius


class TwoLayers:
    """Bounds on the margins of leaves, for a network of two layers."""

    def __init__(self, tables: Tables):
        self.tables, self.config, self.params = tables, tables.config, tables.params
        self.blocks = [self.params[f"blocks.{i}"] for i in range(2)]
        self.after = After(self.config, self.params, tables.base)
        self.first = FirstBlock(tables)
        attn = self.blocks[1]["attn"]
        self._value_out = np.einsum("hdk,hke->hde", attn["W_V"], attn["W_O"])
        with np.errstate(all="ignore"):
            self._bounded = np.asarray([self._is_bounded(p) for p in range(tables.sizes.length)])

    def logits(self, inputs: np.ndarray, read: int) -> np.ndarray:
        """Return the logits at a position of every problem, computed from the tables."""
        config, tables, first = self.config, self.tables, Block(self.config, self.blocks[0])
        bias = self.blocks[0]["attn"].get("b_O", 0)
        after = lambda p: first.output(tables.x[inputs[:, p], p], tables.attention(inputs, p) + bias)
        x = np.stack([after(p) for p in range(inputs.shape[1])], axis=1)
        with jax.enable_x64(True):
            heads = read_by(config, self.blocks[1], jnp.asarray(x), tables.numbers)
        q, k, v = (np.asarray(y)[:, :, : read + 1] for y in heads)
        score = np.einsum("bhk,bhpk->bhp", q[:, :, read], k) / np.sqrt(config.head_width)
        if config.positions == "alibi":
            score -= penalties(config, tables.numbers)[:, read, : read + 1]
        z = np.einsum("bhp,bhpk->bhk", softmax(score, axis=-1), v)
        return self.after.logits(x[:, read], np.einsum("bhk,hkd->bd", z, self.blocks[1]["attn"]["W_O"]))

    def elements(self, leaves: Leaves) -> int:
        """Return how many numbers one leaf takes."""
        return leaves.read * self.tables.base * max(self.config.d_mlp, self.config.d_model)

    def bounds(self, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
        """Return the bounds of the margins over all rivals, and their slacks, `[C, J]`."""
        with np.errstate(all="ignore"):  # What is no number has no bound.
            return self._bounds(leaves)

    def _bounds(self, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
        read, count = leaves.read, len(leaves.targets)
        known = {
            p: np.full(count, t) for p, t in enumerate(self.tables.constants[:read]) if p not in self.first.positions
        }
        known |= dict(zip(leaves.positions, leaves.tokens.T, strict=True)) | {read: np.full(count, leaves.own)}
        digits = [p for p in self.first.positions if p < read]
        places = [self._place(p, known, digits) for p in range(read + 1)]
        fixed = np.stack([known.get(p, np.full(count, -1)) for p in digits])
        reach = self._attended(places, fixed).fixed_put
        if not self._bounded[read + 1 :].all():  # 0 times a value that overflows is not a number.
            reach = reach._replace(rest=np.full_like(reach.rest, np.inf))
        lines = self.after.lines(None, leaves.targets, reach.extremes)
        margin = np.fmax(lines.constant + reach.least(lines.direction), lines.floor)
        low, high = reach.extremes(np.eye(self.config.d_model))
        box = Rounded((low + high) / 2, np.zeros_like(low), (high - low) / 2)
        return margin, margin - forward.error_of_margins(
            self.config, self.params, box, leaves.targets, self.tables.base
        )

    def _projection(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        attn = self.blocks[1]["attn"]
        w = np.concatenate(list(attn[f"W_{name}"]), axis=1)
        return w, attn[f"b_{name}"].reshape(-1) if self.config.attention_bias else None

    def _head(self, name: str, x: Stream, position: int) -> Additive:
        """Return queries, keys or values of a stream, `[U, H, K]`."""
        config = self.config
        y = x.linear(*self._projection(name))
        y = y.each(lambda z: z.reshape(*z.shape[:-1], config.heads, config.head_width))
        if name == "V":
            return y
        if config.qk_norm:
            weight = self.blocks[1]["attn"].get(f"{name.lower()}_norm", {}).get("w")
            y = y.over_root_mean_square(weight, config.norm_epsilon)
        if config.positions == "rope":
            y = _rotated(config, y, config.angles(self.tables.numbers[[position]])[0])
        return y

    def _place(self, position: int, known: Mapping[int, np.ndarray], digits: Sequence[int]) -> _Place:
        """Return what stands at a position after the first block, and what the second attention reads there."""
        stream, rows = self.first.stream(position, known, digits)
        config, block = self.config, self.blocks[1]
        read = stream
        if config.norm != "none" and config.norm_where != "post":
            read = Stream.of(normalized(config, block.get("ln1"), stream.additive))
        k, v = (self._head(name, read, position) for name in "KV")
        error = rounding.linear(read.rounded, *self._projection("V")).error.reshape(v.value.shape)
        return _Place(stream, rows, read, k, v, error)

    def _attended(self, places: Sequence[_Place], fixed: np.ndarray) -> _Reach:
        """Return the stream after the second attention at the last of these positions."""
        config, attn, own = self.config, self.blocks[1]["attn"], places[-1]
        read, count = len(places) - 1, fixed.shape[1]
        weight, moved = self._weights(places, count)  # [C, H, P] each.
        gamma, alike = rounding.gamma(read + 4), (weight == weight[:1]).all()
        each = lambda x, p: x[..., p, None]  # [C, H, 1]
        value = sum(each(weight, p) * place.cases(place.v.value) for p, place in enumerate(places))
        tables = np.zeros((len(fixed), self.tables.base, *value.shape))
        rest, reach, sources = gamma * np.abs(value), np.zeros_like(value), []
        for p, place in enumerate(places):
            w, by = each(weight, p), each(moved, p)
            v, total, size = (place.cases(x) for x in (place.v.value, place.v.total, place.v.magnitude))
            tables[: len(place.v.tables)] += w * place.cases(place.v.tables)
            rest += by * (np.abs(v - value) + total)
            rest += w * place.cases(place.error) + gamma * (w + by) * size + rounding.TINY * (1 + size)
            reach += w * total
            through = place.read.matrix @ self._value_out  # [H, m, D]
            matrix = np.einsum("ch,hmd->cmd", weight[: 1 if alike else None, :, p], through, optimize=True)
            sources.append(_Source(place.read.source, place.rows, matrix))
        flat = lambda x: x.reshape(*x.shape[:-2], -1)
        w_o, b_o = flat(attn["W_O"].transpose(2, 0, 1)).T, attn.get("b_O")
        z = Rounded(flat(value), np.zeros(flat(value).shape), flat(reach + rest))
        out = rounding.linear(z, w_o, b_o)
        written = _Reach(
            out.value,
            rounding.matrix_product(flat(tables), w_o),
            fixed,
            sources,
            flat(rest) @ np.abs(w_o) + out.error,
        )
        of_cases = lambda x: np.take(x, own.rows, axis=-2)
        if config.norm != "none" and config.norm_where != "pre":
            x = sublayer(config, self.blocks[1], "ln1", own.stream.additive.each(of_cases), written.additive)
            return _Reach(x.value, x.tables, fixed, [], x.radius)
        before = own.stream.rounded.map(of_cases)
        boxes = (y._replace(error=np.zeros(y.value.shape)) for y in (before, out))
        if config.norm == "none":
            sources[-1] = sources[-1]._replace(matrix=sources[-1].matrix + own.stream.matrix)
        else:
            sources.append(_Source(own.stream.source, own.rows, own.stream.matrix[None]))
        return written._replace(
            value=written.value + of_cases(own.stream.value),
            tables=written.tables + of_cases(own.stream.tables),
            sources=sources,
            rest=written.rest + before.error + rounding.add(*boxes).error,
        )

    def _weights(self, places: Sequence[_Place], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return attention weights of the middle, and how far those of any problem in float32 may be, `[C, H, P]`."""
        read, config = len(places) - 1, self.config
        q = self._head("Q", places[-1].read, read)
        value, total = np.empty((2, count, config.heads, read + 1))
        for p, place in enumerate(places):
            pairs, rows = np.unique(np.stack([places[-1].rows, place.rows]), axis=1, return_inverse=True)
            value[..., p], total[..., p] = (x[rows.reshape(-1)] for x in _scores(q, place.k, *pairs))
        s = forward.shifted(
            config,
            Rounded(value, np.zeros_like(value), total).map(lambda y: y[:, :, None]),
            [read],
            self.tables.numbers,
        ).map(lambda y: y[:, :, 0])
        low, high = s.low - s.error, s.high + s.error
        weight = softmax(s.value, axis=-1)
        others = ~np.eye(read + 1, dtype=bool)
        sums = lambda a, b: (np.exp(a[..., None, :] - b[..., None]) * others).sum(axis=-1)
        most, least = 1 / (1 + sums(low, high)), 1 / (1 + sums(high, low))
        apart = np.minimum(high.max(axis=-1, keepdims=True) - low.min(axis=-1, keepdims=True), 100)
        relative = np.expm1(4 * rounding.UNIT * apart + 2 * rounding.FUNCTION + rounding.gamma(read + 4))
        moved = np.maximum(most * (1 + relative) - weight, weight - least * (1 - relative))
        moved = moved + rounding.TINY * (read + 1)
        # Where a score has no bound, positions that are masked may weigh as much as others.
        bounded = np.isfinite(low).all(axis=-1, keepdims=True) & np.isfinite(high).all(axis=-1, keepdims=True)
        return weight, np.where(bounded & ~np.isnan(moved), moved, np.inf)

    def _is_bounded(self, position: int) -> bool:
        """Return whether the values of the second attention at a position are finite in float32 for every problem."""
        here = range(self.tables.base) if position in self.first.positions else [int(self.tables.constants[position])]
        return all(np.isfinite(self._value_error(position, own)).all() for own in here)

    def _value_error(self, position: int, own: int) -> np.ndarray:
        """Return what float32 errs by in values of the second attention, over all tokens before one, `[F]`."""
        config, tables = self.config, self.tables
        possible = tables.possible(position, own)
        _, out = forward.errors_of_attention(config, self.params, tables.heads, position, own, possible)
        x = forward.attended(config, self.blocks[0], tables.stream.map(lambda y: y[own, position]), out)
        y = forward.attention_input(config, self.blocks[1], forward.after_mlp(config, self.blocks[0], x))
        return np.asarray(rounding.linear(y, *self._projection("V")).error)


def _rotated(config: Transformer, x: Additive, angle: np.ndarray) -> Additive:
    """Rotate pairs of coordinates of queries or keys `[U, H, K]` by angles `[K / 2]`."""
    held = lambda y: Rounded(y, rounding.UNIT * np.abs(y) + rounding.TINY)
    cos, sin, minus = held(np.cos(angle)), held(np.sin(angle)), held(-np.sin(angle))
    half = config.head_width // 2
    pair = np.arange(config.head_width).reshape((half, 2) if config.rope_pairs == "interleaved" else (2, half))
    first, second = pair.T if config.rope_pairs == "interleaved" else pair
    a, b = x.each(lambda y: y[..., first]), x.each(lambda y: y[..., second])
    parts = a.by(cos).plus(b.by(minus)), a.by(sin).plus(b.by(cos))
    back = np.argsort(np.concatenate([first, second]))
    return Additive(*(np.concatenate(y, axis=-1)[..., back] for y in zip(*parts, strict=True)))


def _scores(q: Additive, k: Additive, of_q: np.ndarray, of_k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of the products of queries with keys, and how far any may be from them, `[C, H]`.

    Args:
      q, k: `[U, H, K]`; the digits of the keys are the first of those of the queries.
      of_q, of_k: int `[C]`, those that are multiplied.
    """
    n, both = q.value.shape[-1], len(k.tables)
    dot = lambda a, b: np.einsum("...k,...k->...", np.take(a, of_q, axis=-3), np.take(b, of_k, axis=-3))
    tables = dot(q.tables, k.value)
    tables[:both] += dot(q.value, k.tables) + dot(q.tables[:both], k.tables)
    radius = dot(q.radius, np.abs(k.value)) + dot(np.abs(q.value), k.radius)
    radius += dot(q.total, k.total) - dot(q.half[:both], k.half).sum(axis=0)
    error = rounding.gamma(n) * dot(q.magnitude, k.magnitude) + n * rounding.TINY
    s = Additive.of(dot(q.value, k.value), tables, radius + error)
    return s.value, s.total
