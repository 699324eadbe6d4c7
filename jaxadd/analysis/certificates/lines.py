"""Linear lower bounds of margins, as functions of what attention writes.

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
from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.attention import Attention
from jaxadd.analysis.certificates.rounding import Rounded, Slope
from jaxadd.models import Transformer
from jaxadd.types import Params


class Position(NamedTuple):
    """The position that is read, with its token.

    Attributes:
      stream: `[D]`, the token itself.
      out: what attention writes there `[D]`, over all tokens before it, and the errors of everything but its weights.
    """

    stream: Rounded
    out: Rounded


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


Function = Callable[[Position, Attention, np.ndarray], Lines]


def of(config: Transformer, params: Params, base: int) -> Function:
    """Return the function (position, attention, correct digits `[C]`) → lines of a network of one layer."""
    plain = not config.d_mlp or (config.mlp, config.activation) == ("plain", "relu")
    return (_Relu if config.norm == "none" and plain else _Smooth)(config, params, base)


class _AfterAttention:
    """What both ways need of a network: for each correct digit, its logit minus those of its rivals."""

    def __init__(self, config: Transformer, params: Params, base: int):
        self.config, self.params, self.block, self.base = config, params, params["blocks.0"], base
        w_u = params["unembed"]["W_U"]
        self.lead = forward.over_rivals(w_u, base)  # [Y, J, D]
        self.bias = forward.over_rivals(params["unembed"].get("b_U", np.zeros(w_u.shape[1])), base)

    def allowed(self, x: Rounded, target: np.ndarray) -> np.ndarray:
        """Bound the error of float32 margins `[C, J]`, given the stream after attention, `[C or 1, D]`."""
        return forward.error_of_margins(self.config, self.params, x, target, self.base)

    def after_attention(self, position: Position, out: Rounded) -> Rounded:
        """Return the stream `[C, D]` after attention wrote `out`, its bias included."""
        stream = position.stream.map(lambda x: np.broadcast_to(x, out.value.shape))
        return forward.attended(self.config, self.block, stream, out)


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

    def __call__(self, position: Position, attention: Attention, target: np.ndarray) -> Lines:
        stream = position.stream.value + self.block["attn"].get("b_O", 0)
        start = stream @ self.w_in + self.b_in
        low, high = (start + x for x in attention.extremes(self.w_in))
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
        constant = self.bias[target] + offset + slope @ self.b_in + direction @ stream
        x = self.after_attention(position, position.out.map(lambda y: y[None]))
        allowed = self.allowed(x, target)
        nothing = np.full(constant.shape, -np.inf)
        return Lines(np.where(unbounded[:, None], nothing, constant), direction, nothing, allowed)


class _Smooth(_AfterAttention):
    """The line with the middle slope over the box of what attention can write.

    The box holds what float32 writes too, and the bound is stated there. So errors of attention enter once, along the
    direction, and what comes after it adds only its own roundings.
    """

    def __call__(self, position: Position, attention: Attention, target: np.ndarray) -> Lines:
        count, width = len(target), self.config.d_model
        low, high = attention.extremes(np.eye(width))
        error = position.out.error
        middle, radius = (high + low) / 2, (high - low) / 2 + error
        slope = Slope(np.broadcast_to(np.eye(width), (count, width, width)), np.zeros((count, width, width)))
        out = rounding.exact(middle + self.block["attn"].get("b_O", 0))
        within = self.after_attention(position, out._replace(radius=radius, slope=slope))
        x, centre = (
            forward.before_unembedding(self.config, self.params, stream)
            for stream in (within, self.after_attention(position, out))
        )
        assert x.slope is not None
        lead, bias = self.lead[target], self.bias[target]  # [C, J, D]
        direction = lead @ x.slope.value.swapaxes(1, 2)
        beyond = np.abs(lead) @ x.slope.radius.swapaxes(1, 2)
        constant = bias + _along(lead, centre.value) - _along(direction, middle) - _along(beyond, radius)
        floor = bias + _along(lead, x.value) - _along(np.abs(lead), np.asarray(x.radius))
        allowed = self.allowed(within._replace(slope=None), target)
        return Lines(constant, direction, floor, allowed + np.abs(direction) @ error)


def _along(direction: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Multiply `[C, J, D]` by `[C, D]`: `[C, J]`."""
    return (direction @ x[..., None])[..., 0]
