"""What comes after attention, as the verification of a certificate bounds it, with code of its own.

A margin over a rival is at least a constant plus a direction times what attention writes: by the lines around a ReLU,
or by the mean value theorem with intervals of derivatives. Axes: C cases, J rivals, D model, n any width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxadd.analysis.certificates.check_functions import FUNCTIONS, slopes, values
from jaxadd.models import Transformer
from jaxadd.types import Params

Extremes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Margins(NamedTuple):
    """Bounds of margins from below: constant + direction · (what attention writes), and floor.

    Attributes:
      constant: `[C, J]`.
      direction: `[C, J, D]`.
      floor: `[C, J]`, which holds whatever attention writes.
      box: centre and radius `[C, D]` of what attention writes, with its bias and float32; None where lines need none.
    """

    constant: np.ndarray
    direction: np.ndarray
    floor: np.ndarray
    box: tuple[np.ndarray, np.ndarray] | None = None


class After:
    """What comes after attention in the last block.

    Args:
      config: the architecture.
      params: float64 NumPy arrays.
      base: number of digits, each the rival of all others.
    """

    def __init__(self, config: Transformer, params: Params, base: int):
        self.config, self.params = config, params
        self.block = Block(config, params[f"blocks.{config.layers - 1}"])
        self.base, self.w_u = base, params["unembed"]["W_U"]
        self.b_u = params["unembed"].get("b_U", np.zeros(self.w_u.shape[1]))
        self.b_o = self.block.params["attn"].get("b_O", np.zeros(config.d_model))
        plain = (config.norm, config.mlp, config.activation) == ("none", "plain", "relu")
        self._has_lines = plain or (config.norm == "none" and not config.d_mlp)

    def logits(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Return the logits `[C, classes]` of streams to which attention adds `out` and its bias, both `[C, D]`."""
        last = self._last(x, _Interval.point(out + self.b_o))
        return last.centre @ self.w_u + self.b_u

    def lines(
        self, stream: np.ndarray | None, targets: np.ndarray, extremes: Extremes, error: np.ndarray | float = 0.0
    ) -> Margins:
        """Bound margins.

        Args:
          stream: `[D]`, of the position that is read; None where what is bounded is the stream after attention, in
            place of what attention writes.
          targets: int `[C]`.
          extremes: least and greatest of what attention writes along the rows of a matrix `[n, D]`: `[C, n]` each.
          error: `[D]`, what float32 errs by in it, but for attention weights.
        """
        rivals = np.stack([np.delete(np.arange(self.base), y) for y in targets])
        lead = self.w_u.T[targets][:, None] - self.w_u.T[rivals]  # [C, J, D]
        bias = self.b_u[targets][:, None] - self.b_u[rivals]
        if self._has_lines:
            return self._relu(stream, lead, bias, extremes)
        return self._mean_value(stream, lead, bias, extremes, error)

    def _relu(self, stream: np.ndarray | None, lead: np.ndarray, bias: np.ndarray, extremes: Extremes) -> Margins:
        wide, mlp = (self.config.d_model, self.config.d_mlp), self.block.params.get("mlp", {})
        w_in, b_in = mlp.get("W_in", np.zeros(wide)), mlp.get("b_in", np.zeros(wide[1]))
        w_out, b_out = mlp.get("W_out", np.zeros(wide[::-1])), mlp.get("b_out", np.zeros(wide[0]))
        x = np.zeros(wide[0]) if stream is None else stream + self.b_o
        low, high = (side + x @ w_in + b_in for side in extremes(w_in.T))
        gain = lead @ w_out.T
        width = np.where(high > low, high - low, 1)
        rising = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, high / width))
        lower = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, (high > -low).astype(float)))
        slope = np.where(gain < 0, rising[:, None], lower[:, None])
        shift = np.where((low < 0) & (high > 0), -rising * low, 0)
        constant = (np.minimum(gain, 0) * shift[:, None]).sum(axis=-1) + (gain * slope) @ b_in + lead @ b_out + bias
        direction = lead + (gain * slope) @ w_in.T
        return Margins(constant + direction @ x, direction, np.full(bias.shape, -np.inf))

    def _mean_value(
        self,
        stream: np.ndarray | None,
        lead: np.ndarray,
        bias: np.ndarray,
        extremes: Extremes,
        error: np.ndarray | float,
    ) -> Margins:
        low, high = extremes(np.eye(self.config.d_model))
        centre, radius = low / 2 + high / 2, high / 2 - low / 2 + error
        one = np.broadcast_to(np.eye(centre.shape[1]), (*centre.shape, centre.shape[1]))
        biased = centre if stream is None else centre + self.b_o
        box = self._last(stream, _Interval(biased, radius, one, np.zeros_like(one)))
        at = self._last(stream, _Interval.point(biased))
        direction = np.einsum("cjn,cns->cjs", lead, box.slope)
        bend = np.einsum("cjn,cns,cs->cj", np.abs(lead), box.slope_radius, radius, optimize=True)
        constant = np.einsum("cjn,cn->cj", lead, at.centre) - np.einsum("cjs,cs->cj", direction, centre) - bend
        floor = np.einsum("cjn,cn->cj", lead, box.centre) - np.einsum("cjn,cn->cj", np.abs(lead), box.radius)
        return Margins(constant + bias, direction, floor + bias, (biased, radius))

    def _last(self, stream: np.ndarray | None, out: "_Interval") -> "_Interval":
        """Return what is unembedded, for what attention writes, or for the stream after it where `stream` is None."""
        x = self.block.after_mlp(out if stream is None else self.block.attended(stream, out))
        return _normalized(self.config, self.params.get("ln_final"), x) if self.config.final_norm else x


class Block(NamedTuple):
    """What one block does with what its attention writes, as `plain.sublayer` puts it together.

    Attributes:
      config: the architecture.
      params: of the block, float64 NumPy arrays.
    """

    config: Transformer
    params: Params

    def output(self, stream: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Return the streams after the block, for streams and what attention writes with its bias, `[C, D]`."""
        return self.after_mlp(self.attended(stream, _Interval.point(out))).centre

    def attended(self, stream: np.ndarray, out: "_Interval") -> "_Interval":
        """Return the stream after attention wrote `out`."""
        return self._sublayer("ln1", _Interval.point(np.broadcast_to(stream, out.centre.shape)), lambda _: out)

    def after_mlp(self, x: "_Interval") -> "_Interval":
        """Return the stream after the MLP."""
        return self._sublayer("ln2", x, self._mlp) if self.config.d_mlp else x

    def _sublayer(self, name: str, x: "_Interval", function: Callable[["_Interval"], "_Interval"]) -> "_Interval":
        where = self.config.norm_where
        if where == "post":
            return _normalized(self.config, self.params.get(name), x.plus(function(x)))
        out = function(_normalized(self.config, self.params.get(name), x))
        return x.plus(_normalized(self.config, self.params.get(f"{name}_post"), out) if where == "both" else out)

    def _mlp(self, x: "_Interval") -> "_Interval":
        mlp = self.params["mlp"]
        post = x.through(mlp["W_in"], mlp.get("b_in"))
        if self.config.mlp == "gated":
            post = x.through(mlp["W_gate"]).activated(self.config.activation).times(post)
        else:
            post = post.activated(self.config.activation)
        return post.through(mlp["W_out"], mlp.get("b_out"))


class _Interval(NamedTuple):
    """Values within `radius` of `centre`, `[C, n]`, with derivatives by S inputs within `slope_radius` of `slope`.

    Derivatives are `[C, n, S]`, with S = 0 for constants.
    """

    centre: np.ndarray
    radius: np.ndarray
    slope: np.ndarray
    slope_radius: np.ndarray

    @classmethod
    def point(cls, value: np.ndarray) -> "_Interval":
        nothing = np.zeros((*value.shape, 0))
        return cls(value, np.zeros(value.shape), nothing, nothing)

    def _with_inputs(self, count: int) -> "_Interval":
        if self.slope.shape[-1] == count:
            return self
        nothing = np.zeros((*self.centre.shape, count))
        return self._replace(slope=nothing, slope_radius=nothing)

    def plus(self, other: "_Interval") -> "_Interval":
        count = max(self.slope.shape[-1], other.slope.shape[-1])
        pairs = zip(self._with_inputs(count), other._with_inputs(count), strict=True)
        return _Interval(*(a + b for a, b in pairs))

    def times(self, other: "_Interval") -> "_Interval":
        count = max(self.slope.shape[-1], other.slope.shape[-1])
        a, b = self._with_inputs(count), other._with_inputs(count)
        radius = np.abs(a.centre) * b.radius + a.radius * np.abs(b.centre) + a.radius * b.radius
        slope, slope_radius = (
            x + y
            for x, y in zip(a._scaled_slope(b.centre, b.radius), b._scaled_slope(a.centre, a.radius), strict=True)
        )
        return _Interval(a.centre * b.centre, radius, slope, slope_radius)

    def _scaled_slope(self, factor: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        f, r = factor[..., None], radius[..., None]
        return self.slope * f, self.slope_radius * (np.abs(f) + r) + np.abs(self.slope) * r

    def through(self, w: np.ndarray, b: np.ndarray | None = None) -> "_Interval":
        """Multiply by a matrix `[n, m]` and add a bias `[m]`."""
        bias, size = 0 if b is None else b, np.abs(w)
        slopes = (np.einsum("cns,nm->cms", s, m) for s, m in ((self.slope, w), (self.slope_radius, size)))
        return _Interval(self.centre @ w + bias, self.radius @ size, *slopes)

    def minus_mean(self) -> "_Interval":
        n = self.centre.shape[-1]
        projection = np.eye(n) - np.full((n, n), 1 / n)
        return self.through(projection)

    def over_root_mean_square(self, epsilon: float) -> "_Interval":
        """Divide by √(mean x² + ε): coordinate i grows with x_i, and shrinks as the squares of the others grow."""
        ends = self.centre - self.radius, self.centre + self.radius
        sizes = np.abs(np.stack(ends))
        largest, smallest = sizes.max(axis=0) ** 2, np.where(ends[0] * ends[1] < 0, 0, sizes.min(axis=0) ** 2)
        n = self.centre.shape[-1]
        others = lambda squares: squares.sum(axis=-1, keepdims=True) - squares
        value = lambda x, squares: x / np.sqrt((x**2 + others(squares)) / n + epsilon)
        low = np.where(ends[0] < 0, value(ends[0], smallest), value(ends[0], largest))
        high = np.where(ends[1] > 0, value(ends[1], smallest), value(ends[1], largest))
        y = self._replace(centre=(low + high) / 2, radius=(high - low) / 2)
        # dy = (dx - y · mean(y dx)) / √(mean x² + ε).
        inner, inner_radius = self._scaled_slope(y.centre, y.radius)
        mean = lambda s: np.broadcast_to(s.mean(axis=1, keepdims=True), s.shape)
        back, back_radius = self._replace(slope=mean(inner), slope_radius=mean(inner_radius))._scaled_slope(
            y.centre, y.radius
        )
        slow, fast = (1 / np.sqrt(s.mean(axis=-1, keepdims=True) + epsilon) for s in (largest, smallest))
        ahead = self._replace(slope=self.slope - back, slope_radius=self.slope_radius + back_radius)
        slope, slope_radius = ahead._scaled_slope((slow + fast) / 2, (fast - slow) / 2)
        return _Interval(y.centre, y.radius, slope, slope_radius)

    def activated(self, name: str) -> "_Interval":
        low, high = self.centre - self.radius, self.centre + self.radius
        value = FUNCTIONS[name](self.centre)
        least, greatest = values(name, low, high)
        slowest, fastest = slopes(name, low, high)
        slope, slope_radius = self._scaled_slope((slowest + fastest) / 2, (fastest - slowest) / 2)
        return _Interval(value, np.maximum(greatest - value, value - least), slope, slope_radius)


def _normalized(config: Transformer, params: Any, x: _Interval) -> _Interval:
    if config.norm == "none":
        return x
    params = params or {}
    x = x.minus_mean() if config.norm == "layernorm" else x
    x = x.over_root_mean_square(config.norm_epsilon)
    scale = params.get("w", np.ones(x.centre.shape[-1]))
    x = x.times(_Interval.point(np.broadcast_to(scale, x.centre.shape)))
    return x.plus(_Interval.point(np.broadcast_to(params.get("b", np.zeros(len(scale))), x.centre.shape)))
