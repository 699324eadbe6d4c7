"""Bounded lower bounds of margins, as functions of what attention writes.

What comes after attention is a function of a few numbers, known to be in intervals. There, a margin is at least a
constant plus a direction times what attention writes, which `attention` bounds in any direction. Two ways are here:

- `relu`: between its bounds a ReLU lies between two lines (Wong & Kolter 2018; CROWN, Zhang et al. 2018). For plain
  MLPs of relu neurons without norms.
- `smooth`: by the mean value theorem, a function is within Σ_i r_i w_i of the linear one with its middle slope, where
  r_i is half the width of the interval of coordinate i and w_i that of its slope. For every MLP and norm. The
  interval of the margin itself is a bound too, better where intervals are wide.

Axes: C cases, J rivals, D model, F neurons.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.rounding import Rounded, Slope
from jaxadd.models import Transformer
from jaxadd.types import Params


class Position(NamedTuple):
    """The position that is read, with its token: what attention writes is added to it.

    Attributes:
      config, block: of the layer.
      stream: `[D]`, the token itself.
      out: what attention writes there `[1, D]`, over all tokens before it, and the errors of everything but its
        weights.
    """

    config: Transformer
    block: Params
    stream: Rounded
    out: Rounded

    @property
    def added(self) -> np.ndarray:
        """What is added to the heads' outputs where there are no norms, `[D]`."""
        return self.stream.value + self.block["attn"].get("b_O", 0)

    def after(self, out: Rounded) -> Rounded:
        """Return the stream `[C, D]` after the heads and their bias wrote `out`."""
        stream = self.stream.map(lambda x: np.broadcast_to(x, out.value.shape))
        return forward.attended(self.config, self.block, stream, out)

    def biased(self, out: np.ndarray) -> np.ndarray:
        """Add the bias of the heads."""
        return out + self.block["attn"].get("b_O", 0)


class Stream(NamedTuple):
    """The stream after attention, where the two are bounded together.

    Attributes:
      out: the stream, `[C, D]`.
    """

    out: Rounded

    @property
    def added(self) -> float:
        """What is added to the stream: nothing."""
        return 0.0

    def after(self, out: Rounded) -> Rounded:
        """Return the stream as it is."""
        return out

    def biased(self, out: np.ndarray) -> np.ndarray:
        """Return the stream as it is."""
        return out


Start = Position | Stream


class Bounded(Protocol):
    """What attention writes (`attention.Attention`) or the stream after it (`two_layers.Sum`), in any direction."""

    def extremes(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bound it times a matrix `[D, F]`: from and to, `[C, F]`."""

    def least_along(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bound it along directions `[C, J, D]` from below; see `attention.Attention`."""


class Lines(NamedTuple):
    """Bounds from below of the margins over all rivals.

    Attributes:
      constant: `[C, J]`; NaN or minus infinity where there is no line.
      direction: `[C, J, D]`, times what attention writes, without its bias.
      floor: `[C, J]`, the best bound that does not depend on what attention writes.
      allowed: `[C, J]`, bound on the error of a float32 margin, but for that of attention weights.
    """

    constant: np.ndarray
    direction: np.ndarray
    floor: np.ndarray
    allowed: np.ndarray


Function = Callable[[Start, Bounded, np.ndarray], Lines]


def of(config: Transformer, params: Params, base: int) -> Function:
    """Return the function (start, what it is bounded by, correct digits `[C]`) → lines, for the last layer."""
    plain = not config.d_mlp or (config.mlp, config.activation) == ("plain", "relu")
    return (_Relu if config.norm == "none" and plain else _Smooth)(config, params, base)


class _AfterAttention:
    """What both ways need of a network: for each correct digit, its logit minus those of its rivals."""

    def __init__(self, config: Transformer, params: Params, base: int):
        self.config, self.params, self.block, self.base = config, params, params[f"blocks.{config.layers - 1}"], base
        w_u = params["unembed"]["W_U"]
        self.lead = forward.over_rivals(w_u, base)  # [Y, J, D]
        self.bias = forward.over_rivals(params["unembed"].get("b_U", np.zeros(w_u.shape[1])), base)

    def allowed(self, x: Rounded, target: np.ndarray) -> np.ndarray:
        """Bound the error of float32 margins `[C, J]`, given the stream after attention, `[C or 1, D]`."""
        return forward.error_of_margins(self.config, self.params, x, target, self.base)


class _Relu(_AfterAttention):
    """The lines around the ReLUs of a plain MLP, without norms."""

    def __init__(self, config: Transformer, params: Params, base: int):
        super().__init__(config, params, base)
        d, f, mlp = config.d_model, config.d_mlp, self.block.get("mlp", {})
        self.w_in, self.b_in = mlp.get("W_in", np.zeros((d, f))), mlp.get("b_in", np.zeros(f))
        out, b_out = mlp.get("W_out", np.zeros((f, d))), mlp.get("b_out", np.zeros(d))
        w_u = params["unembed"]["W_U"]
        self.through = forward.over_rivals(out @ w_u, base)  # [Y, J, F]
        self.bias = self.bias + forward.over_rivals(b_out @ w_u, base)

    def __call__(self, start: Start, attention: Bounded, target: np.ndarray) -> Lines:
        added = np.broadcast_to(start.added, self.config.d_model)
        fixed = added @ self.w_in + self.b_in
        low, high = (fixed + x for x in attention.extremes(self.w_in))
        lines = self.through[target]  # [C, J, F]
        # Comparisons would take a neuron that is NaN as never active.
        unbounded = ~np.isfinite(low + high).all(axis=1)
        unstable = (low < 0) & (high > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            chord = np.where(unstable, high / (high - low), high > 0)
        below = np.where(unstable, high > -low, high > 0)
        slope = np.where(lines < 0, chord[:, None], below[:, None]) * lines
        offset = (np.minimum(lines, 0) @ (-chord * np.where(unstable, low, 0))[..., None])[..., 0]
        direction = self.lead[target] + slope @ self.w_in.T  # [C, J, D]
        constant = self.bias[target] + offset + slope @ self.b_in + direction @ added
        allowed = self.allowed(start.after(start.out), target)
        nothing = np.full(constant.shape, -np.inf)
        return Lines(np.where(unbounded[:, None], nothing, constant), direction, nothing, allowed)


class _Smooth(_AfterAttention):
    """The line with the middle slope over the box of what attention can write.

    The box holds what float32 writes too, and the bound is stated there. So errors of attention enter once, along the
    direction, and what comes after it adds only its own roundings.
    """

    def __call__(self, start: Start, attention: Bounded, target: np.ndarray) -> Lines:
        count, width = len(target), self.config.d_model
        low, high = attention.extremes(np.eye(width))
        error = start.out.error
        middle, radius = (high + low) / 2, (high - low) / 2 + error
        slope = Slope(np.broadcast_to(np.eye(width), (count, width, width)), np.zeros((count, width, width)))
        out = rounding.exact(start.biased(middle))
        within = start.after(out._replace(radius=radius, slope=slope))
        x, centre = (
            forward.before_unembedding(self.config, self.params, stream) for stream in (within, start.after(out))
        )
        assert x.slope is not None
        lead, bias = self.lead[target], self.bias[target]  # [C, J, D]
        direction = lead @ x.slope.value.swapaxes(1, 2)
        beyond = np.abs(lead) @ x.slope.radius.swapaxes(1, 2)
        constant = bias + _along(lead, centre.value) - _along(direction, middle) - _along(beyond, radius)
        floor = bias + _along(lead, x.value) - _along(np.abs(lead), np.asarray(x.radius))
        allowed = self.allowed(within._replace(slope=None), target)
        return Lines(constant, direction, floor, allowed + _along(np.abs(direction), error))


def worst(
    found: Lines, least: np.ndarray, wobble: np.ndarray, costs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the least bound and the least slack of each case, `[C]`, and costs, `[C, free]`.

    The least bound may be of another rival than the least slack; the costs are those of the latter.

    Args:
      found: lines.
      least, wobble, costs: what `Bounded.least_along` returns along their directions.
    """
    margin = found.constant + least
    floor = found.floor > margin - wobble  # False for NaN.
    margin, wobble = np.where(floor, found.floor, margin), np.where(floor, 0, wobble)
    slack = margin - found.allowed - wobble
    slack = np.where(np.isfinite(margin) & ~np.isnan(slack), slack, -np.inf)
    margin = np.where(np.isfinite(margin), margin, -np.inf)
    return margin.min(axis=1), slack.min(axis=1), costs[np.arange(len(slack)), slack.argmin(axis=1)]


def _along(direction: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Multiply `[C, J, D]` by `[C, D]`: `[C, J]`."""
    return (direction @ x[..., None])[..., 0]
