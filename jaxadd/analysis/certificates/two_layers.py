"""Sound bounds on the margins of a two-layer transformer that adds numbers of any length.

The first layer is computed at every position that the second may attend to, as an additive quantity of the digits
(`first_layer`). The second layer attends with weights that are known within intervals: what it writes is the sum over
positions with the weights of the middle, and what differing weights may change is a radius. From there on the bound
is the one of a single layer (`lines`). Axes: C cases, J digits, H heads, P positions, V tokens, D model, K head, m
what the radius of a stream is multiplied by.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from jaxadd.analysis.certificates import columns, forward, lines, rounding
from jaxadd.analysis.certificates.additive import Additive, Image, among, times
from jaxadd.analysis.certificates.columns import Cases
from jaxadd.analysis.certificates.first_layer import FirstLayer, Place
from jaxadd.analysis.certificates.rounding import Rounded
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Addition

_AT_ONCE = 4_000_000  # Elements of an array.


class Source(NamedTuple):
    """A radius at one position, and how it reaches the sum that the second layer writes.

    Attributes:
      radius: `[J + 1, U, m]`.
      rows: int `[C]`.
      matrix: `[1 or C, m, D]`.
    """

    radius: np.ndarray
    rows: np.ndarray
    matrix: np.ndarray

    @classmethod
    def of(cls, x: Image, place: Place, matrix: np.ndarray, count: int) -> "Source":
        """Return the radius of an image `[U, 1, D]` at a place, which reaches the sum by a matrix."""
        radius = among(x.radius[..., 0, :], [*place.number, count], count + 1)
        return cls(radius, place.rows, matrix)

    def along(self, w: np.ndarray) -> np.ndarray:
        """Return the radius `[J + 1, C, F]` along the columns of a matrix `[D, F]`."""
        through = np.abs(self.matrix @ w)
        if len(through) == 1:
            return np.take(rounding.matrix_product(self.radius, through[0]), self.rows, axis=1)
        return np.einsum("jcm,cmf->jcf", self.radius[:, self.rows], through, optimize=True)

    def along_each(self, direction: np.ndarray) -> np.ndarray:
        """Return the radius `[J + 1, C, R]` along directions of each case, `[C, R, D]`."""
        through = np.abs(direction @ self.matrix.swapaxes(-1, -2))  # [C, R, m]
        return (through @ self.radius[:, self.rows, :, None])[..., 0]


class Sum(NamedTuple):
    """A sum over positions: the stream after attention of the second layer, in every case.

    Attributes:
      value: `[C, D]`.
      tables: `[J, V, C, D]`.
      sources: radii that are multiplied by matrices.
      radius: `[J + 1, C, D]`, the rest of the radius.
      chosen: int `[J, C]`, the tokens of the digits that a case fixes; -1 for free ones.
    """

    value: np.ndarray
    tables: np.ndarray
    sources: tuple[Source, ...]
    radius: np.ndarray
    chosen: np.ndarray

    def extremes(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bound the sum times a matrix `[D, F]`: from and to, `[C, F]`."""
        value, tables = self.value @ w, rounding.matrix_product(self.tables, w)
        radius = sum((source.along(w) for source in self.sources), self.radius @ np.abs(w)).sum(axis=0)
        least, most = self._ends(tables)
        return value + least.sum(axis=0) - radius, value + most.sum(axis=0) + radius

    def least_along(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bound the sum along directions of each case, `[C, R, D]`, from below.

        Returns:
          the bound `[C, R]`; 0 in its shape, as it holds for float32 as well; and how much each digit matters,
          the width of what it adds or causes, `[C, R, J]`, 0 for those that are fixed.
        """
        value = (direction @ self.value[..., None])[..., 0]
        tables = (direction @ self.tables[..., None])[..., 0]  # [J, V, C, R]
        radius = (np.abs(direction) @ self.radius[..., None])[..., 0]
        radius = sum((source.along_each(direction) for source in self.sources), radius)
        least, most = self._ends(tables)
        costs = np.where(self.chosen[..., None] < 0, most - least + 2 * radius[:-1], 0)
        return value + least.sum(axis=0) - radius.sum(axis=0), np.zeros_like(value), np.moveaxis(costs, 0, -1)

    def _ends(self, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest that each digit adds, `[J, C, n]`, given what its tokens add."""
        known = np.take_along_axis(tables, np.maximum(self.chosen, 0)[:, None, :, None], axis=1)[:, 0]
        fixed = self.chosen[..., None] >= 0
        return np.where(fixed, known, tables.min(axis=1)), np.where(fixed, known, tables.max(axis=1))

    @property
    def multiplied(self) -> Additive:
        """The sum as an additive quantity."""
        one = np.eye(self.value.shape[-1])
        radius = sum((source.along(one) for source in self.sources), self.radius)
        known = np.take_along_axis(self.tables, np.maximum(self.chosen, 0)[:, None, :, None], axis=1)
        fixed = self.chosen[:, None, :, None] >= 0
        return Additive.of(self.value, np.where(fixed, known, self.tables), radius)


class TwoLayers:
    """Bounds on the margins of cases, for a network of two layers.

    Attributes:
      SAMPLE: cases of each answer digit that are bounded before all are, which take minutes or more.
    """

    SAMPLE = 8

    def __init__(self, network: Network):
        """Compute what depends on single tokens."""
        self.task, self.model = cast(Addition, network.task), network.model
        self.config = cast(Transformer, network.config)
        self.params = forward.float64(network.params)
        self.layout = columns.layout(self.task)
        self.numbers = self.config.numbered(self.model.sizes)
        self.first = FirstLayer(self.config, self.params, self.model, self.layout, self.task.base)
        self.lines = lines.of(self.config, self.params, self.task.base)
        self._is_number = [self._holds_numbers(p) for p in range(self.model.sizes.length)]

    def bound(self, group: Cases) -> tuple[np.ndarray, ...]:
        """Return a lower bound of the least margin of every case and its slack, `[C]`, and the costs `[C, free]`."""
        config, read = self.config, self.model.sizes.read[group.digit]
        if not all(self._is_number[read + 1 :]):
            nothing = np.full(len(group.target), -np.inf)
            return nothing, nothing, np.zeros((len(nothing), len(self.layout.free(group, read))))
        wide = read * self.task.base * max(config.d_mlp, config.d_model)
        step = max(1, _AT_ONCE // wide)
        return columns.in_parts(group, step, self._bound)

    @np.errstate(invalid="ignore")  # An error that is infinite, times 0, is NaN, and a case with it has no bound.
    def _bound(self, group: Cases) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        read, count = self.model.sizes.read[group.digit], len(group.target)
        tokens = {p: np.full(count, t) for p, t in self.layout.constants.items() if p <= read}
        tokens |= {read: np.full(count, group.own)} | dict(zip(group.positions, group.tokens.T, strict=True))
        digits = self._digits(read)
        chosen = np.stack([tokens.get(p, np.full(count, -1)) for p in digits])
        places = [self.first.place(p, tokens, digits) for p in range(read + 1)]
        stream = self._second_attention(places, read, chosen)
        low, high = stream.extremes(np.eye(self.config.d_model))
        start = lines.Stream(Rounded((low + high) / 2, np.zeros_like(low), (high - low) / 2))
        found = self.lines(start, stream, group.target)
        least, wobble, costs = stream.least_along(found.direction)
        return lines.worst(found, least, wobble, costs[..., [j for j, p in enumerate(digits) if p not in tokens]])

    def _digits(self, read: int) -> list[int]:
        """Return the positions of the digits before the position that is read."""
        return [p for p in self.layout.digits if p < read]

    def _holds_numbers(self, position: int) -> bool:
        """Return whether float32 gives the second layer numbers at a position, whatever the digits are.

        A value that is not a number is not masked, at a position that nothing sees: 0 times it is not a number.
        """
        own = range(self.task.base) if position in self.layout.digits else [self.layout.constants[position]]
        for token in own:
            x = self.first.extremes(position, token).map(lambda y: y[None, None])
            numbers = self.numbers[position : position + 1]
            v = forward.queries_keys_values(self.config, self.params["blocks.1"], x, numbers).v
            if not np.isfinite(v.error).all():
                return False
        return True

    def _second_attention(self, places: Sequence[Place], read: int, chosen: np.ndarray) -> Sum:
        """Return the stream at the position that is read after attention of the second block."""
        config, block = self.config, self.params["blocks.1"]
        attn, own = block["attn"], places[read]
        inputs = [Image.of(forward.attention_input(config, block, place.stream)) for place in places]
        heads = [forward.heads(config, attn, x, self.numbers[p : p + 1]) for p, x in enumerate(inputs)]
        weight, moved, fractions = self._weights(heads, places, read)
        shared, count = bool((weight == weight[:1]).all()), len(chosen)
        value = sum(weight[:, :, p, None] * _of_cases(head.v.value, places[p]) for p, head in enumerate(heads))
        tables, radius = np.zeros((count, self.task.base, *value.shape)), np.zeros((count + 1, *value.shape))
        halves, sources = np.zeros_like(value), []
        gamma = rounding.gamma(read + 4)
        for p, (place, x, head) in enumerate(zip(places, inputs, heads, strict=True)):
            a, loose = weight[:, :, p, None], moved[:, :, p, None]
            tables[place.number] += a * _of_cases(head.v.tables, place)
            width, size = (_of_cases(part, place) for part in (head.v.halves.sum(axis=0), head.v.magnitude))
            halves += a * width
            radius += fractions[..., p, None] * loose * (np.abs(_of_cases(head.v.value, place) - value) + width)
            error = _of_cases(forward.heads(config, attn, x.rounded, self.numbers[p : p + 1]).v.error, place)
            radius[-1] += a * error + gamma * (a + loose) * size + rounding.TINY * (1 + size)
            through = np.einsum("mn,hnk,hkd->hmd", x.matrix, attn["W_V"], attn["W_O"], optimize=True)
            matrix = np.einsum("ch,hmd->cmd", weight[: 1 if shared else None, :, p], through)
            sources.append(Source.of(x, place, matrix, count))
        radius[-1] += gamma * np.abs(value)
        flat = lambda y: y.reshape(*y.shape[:-2], -1)
        w_o = attn["W_O"].reshape(-1, config.d_model)
        box = Rounded(flat(value), np.zeros_like(flat(value)), flat(halves + radius.sum(axis=0)))
        out = forward.written(attn, box)
        rest = rounding.matrix_product(flat(radius), np.abs(w_o))
        rest[-1] += out.error
        written = Sum(out.value, rounding.matrix_product(flat(tables), w_o), tuple(sources), rest, chosen)
        if config.norm != "none" and config.norm_where != "pre":
            stream = own.stream.multiplied.map(lambda y: np.take(y[..., 0, :], own.rows, axis=-2)).among(
                own.number, count
            )
            after = forward.attended(config, block, stream, written.multiplied)
            return Sum(after.value, after.tables, (), after.radius, chosen)
        return self._added(written, own, out, config.norm == "none")

    def _added(self, written: Sum, own: Place, out: Rounded, one_source: bool) -> Sum:
        """Add what attention writes to the stream at the position that is read.

        Where nothing stands between the two, the radius of that position reaches the sum on both ways at once.
        """
        of_cases = lambda y: np.take(y[..., 0, :], own.rows, axis=-2)
        before = own.stream.rounded.map(of_cases)
        still = lambda x: x._replace(error=np.zeros_like(x.error))
        radius = written.radius.copy()
        radius[-1] += before.error + rounding.add(still(before), still(out)).error
        tables = written.tables.copy()
        tables[own.number] += of_cases(own.stream.tables)
        *others, last = written.sources
        if one_source:
            sources = (*others, last._replace(matrix=last.matrix + own.stream.matrix))
        else:
            sources = (*others, last, Source.of(own.stream, own, own.stream.matrix[None], len(tables)))
        return Sum(written.value + of_cases(own.stream.value), tables, sources, radius, written.chosen)

    def _weights(
        self, heads: Sequence[forward.Heads], places: Sequence[Place], read: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return attention weights of the second layer, and how far those of any problem may be from them.

        Returns:
          `[C, H, P]` for the scores in the middle; `[C, H, P]`, float32 included; and `[J + 1, C, H, P]`, the
          fraction of each digit in the interval of a score.
        """
        count = len(self._digits(read))
        query, found = _thin(heads[read].q).among(places[read].number, count), []
        query = query.map(lambda y: np.take(y[..., 0, :, :], places[read].rows, axis=-3))
        for place, head in zip(places, heads, strict=True):
            key = _thin(head.k).among(place.number, count)
            found.append(_scores(query, key.map(functools.partial(_of_cases, place=place))))
        value = np.stack([score.value for score in found], axis=-1)
        halves = np.stack([score.halves for score in found], axis=-1)
        width = halves.sum(axis=0)
        box = Rounded(value, np.zeros_like(value), width).map(lambda y: y[:, :, None])
        s = forward.shifted(self.config, box, [read], np.asarray(self.numbers)).map(lambda y: y[:, :, 0])
        low, high = s.low - s.error, s.high + s.error
        weight = np.exp(s.value - s.value.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        least, most = np.empty_like(weight), np.empty_like(weight)
        with np.errstate(over="ignore", invalid="ignore"):
            for p in range(read + 1):
                for bound, end, others in ((most, high, low), (least, low, high)):
                    ratio = np.exp(others - end[..., p, None])
                    ratio[..., p] = 1
                    bound[..., p] = 1 / ratio.sum(axis=-1)
        apart = np.minimum(high.max(axis=-1, keepdims=True) - low.min(axis=-1, keepdims=True), 100)
        relative = np.expm1(4 * rounding.UNIT * apart + 2 * rounding.FUNCTION + rounding.gamma(read + 4))
        moved = np.maximum(most * (1 + relative) - weight, weight - least * (1 - relative))
        moved += rounding.TINY * (read + 1)
        # Where a score has no bound, a position that is masked may weigh as much as one that is seen.
        moved = np.where(np.isfinite(s.error).all(axis=-1, keepdims=True) & ~np.isnan(moved), moved, np.inf)
        fractions = np.divide(halves, width, out=np.full_like(halves, 1 / len(halves)), where=width > 0)
        return weight, moved, fractions


def _of_cases(x: np.ndarray, place: Place) -> np.ndarray:
    """Return what each case has of `[..., U, 1, H, K]`; where all have the same, one of them, to be broadcast."""
    one = x[..., 0, :, :]
    return one if one.shape[-3] == 1 else np.take(one, place.rows, axis=-3)


def _thin(x: Additive) -> Additive:
    """Return a quantity with a single token in its tables, where digits add nothing."""
    return x if x.tables.any() else x._replace(tables=x.tables[:, :1])


def _scores(q: Additive, k: Additive) -> Additive:
    """Return the products of queries and keys `[C, H, K]`, `[C, H]`."""
    n = q.value.shape[-1]
    s = Additive.of(*(part.sum(axis=-1) for part in times(q, k)))
    return s.widened(rounding.gamma(n) * (q.magnitude * k.magnitude).sum(axis=-1) + n * rounding.TINY)
