"""The forward pass in float64 with what float32 may add to it, see `rounding`.

The formula is that of `models.plain`, which the tests compare it with; the allowance also covers the order of
operations of `models.fast`, which multiplies W_out W_U first. Axes: B batch, T tokens, R positions read, V
vocabulary, D model, H heads, K head, F mlp, C classes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxadd.analysis.certificates import rounding
from jaxadd.analysis.certificates.rounding import Quantity, Rounded
from jaxadd.errors import UserError
from jaxadd.models import Model, PairMLP, Transformer
from jaxadd.models.attention import MASKED, slopes
from jaxadd.types import Params


class WeightErrors(NamedTuple):
    """The errors of attention weights, kept apart from others: what they do is small where values are alike.

    Weights sum to one but for their own rounding, so changes of them move Σ p y by at most Σ |δp| |y - c|, c any.

    Attributes:
      error: `[B, H, R, T]`, bounds on the errors of the weights.
      tokens: int `[B, T]`.
      written: `[V, T, H, D]`, what a head writes where it attends to one token alone.
    """

    error: np.ndarray
    tokens: np.ndarray
    written: np.ndarray

    def through(self, w: np.ndarray) -> np.ndarray:
        """Return a bound on what the errors change in what is written times `w` `[D, F]`: `[B, R, F]`."""
        y = np.einsum("vthd,df->htvf", self.written, w, optimize=True)
        centre = (y.max(axis=(1, 2), keepdims=True) + y.min(axis=(1, 2), keepdims=True)) / 2
        distance, length = np.abs(y - centre), y.shape[1]
        total = rounding.gamma(length + 3) * np.abs(centre).sum(axis=0)[0, 0]
        batch, heads, read, _ = self.error.shape
        result = np.full((batch, read, w.shape[1]), total)
        for h in range(heads):
            for t in range(length):
                result += self.error[:, h, :, t, None] * distance[h, t][self.tokens[:, t]][:, None]
        return result


class Heads(NamedTuple):
    """What attention reads.

    Attributes:
      q, k, v: queries, keys and values, `[B, T, H, K]`.
      numbers: int `[T]`, what rotary positions and ALiBi count.
    """

    q: Quantity
    k: Quantity
    v: Quantity
    numbers: np.ndarray

    def at(self, tokens: np.ndarray, read: Sequence[int]) -> "Heads":
        """Look up every example, int `[B, T]`, where the batch of this value is the vocabulary; queries at `read`."""
        every = range(tokens.shape[1])
        k, v = (_looked_up(x, tokens, every) for x in (self.k, self.v))
        return self._replace(q=_looked_up(self.q, tokens, read), k=k, v=v)


@np.errstate(invalid="ignore")  # An error that is infinite, times 0, is NaN: `rounding.limited` makes it infinite.
def logits(params: Params, model: Model, tokens: np.ndarray) -> Rounded:
    """Compute the logits at the scored positions, `[B, R, C]`, for int tokens `[B, T]`.

    Raises:
      UserError: for an architecture that is neither a transformer nor a PairMLP, or with a dtype or precision below
        float32.
    """
    check_covered(model)
    params = float64(params)
    if isinstance(model.config, PairMLP):
        return _pair_mlp(model.config, params, tokens)
    return _transformer(model, params, tokens)


def check_covered(model: Model) -> None:
    """Raise UserError where the rounding of a network is not covered."""
    config = model.config
    if not isinstance(config, Transformer | PairMLP):
        raise UserError(f"certify covers Transformer and PairMLP, got {type(config).__name__}")
    if config != config.untied():
        raise UserError(
            "certify covers networks whose matrices are all parameters; give model.untied and "
            "model.matrices(params), as `Run.networks` does"
        )
    if config.dtype != "float32" or config.precision != "highest":
        raise UserError(
            f"certify covers float32 with matrix products of precision highest, got dtype {config.dtype} and "
            f"precision {config.precision}"
        )


def float64(params: Params) -> Params:
    """Return parameters as float64 arrays of NumPy."""
    wide = lambda w: np.asarray(w, np.float32).astype(np.float64)  # What a network computes with is float32.
    return {name: float64(w) if isinstance(w, dict) else wide(w) for name, w in params.items()}


def _transformer(model: Model, params: Params, tokens: np.ndarray) -> Rounded:
    config, read = model.config, model.sizes.read
    assert isinstance(config, Transformer)
    every = tuple(range(tokens.shape[1]))
    x = embedded(config, params, model)
    for i in range(config.layers):
        last = i == config.layers - 1
        block, at = params[f"blocks.{i}"], read if last else every
        read_by = queries_keys_values(config, block, x, config.numbered(model.sizes))
        values = read_by.v.value
        if i == 0:  # The first block reads functions of (token, position), computed once per vocabulary entry.
            read_by = read_by.at(tokens, at)
            x = _looked_up(x, tokens, at)
        else:
            read_by, x = read_by._replace(q=_chosen(read_by.q, at)), _chosen(x, at)
        pattern = weights(config, read_by, at)
        errors = None
        if config.layers == 1 and config.norm == "none" and config.attention_mix == 1:
            written_by = np.einsum("vthk,hkd->vthd", values, block["attn"]["W_O"])
            errors = WeightErrors(pattern.error, tokens, written_by)
        out = attention(block["attn"], pattern, read_by.v, apart=errors is not None)
        x = attended(config, block, x, out)
        if last:
            read_out = unembedding(config, params, x, errors)
            value, error = read_out.bias, read_out.error
            for y, w in read_out.terms:
                value, error = value + y.value @ w, error + y.error @ np.abs(w)
            if errors is not None:
                error = error + errors.through(params["unembed"]["W_U"])
            return rounding.limited(Rounded(value, error))
        x = after_mlp(config, block, x)
    raise AssertionError("a transformer has a layer")


def _looked_up(x: Rounded, tokens: np.ndarray, at: Sequence[int]) -> Rounded:
    """Return for every example what `x` `[V, T, ...]` holds of its tokens at some positions."""
    return x.map(lambda y: y[tokens[:, list(at)], list(at)])


def _chosen(x: Rounded, at: Sequence[int]) -> Rounded:
    return x.map(lambda y: y[:, list(at)])


def embedded(config: Transformer, params: Params, model: Model) -> Rounded:
    """Return the stream of every token at every position, `[V, T, D]`."""
    w = params["embed"]["W_E"][:, None]
    if config.positions == "learned":
        return rounding.add(rounding.exact(w), rounding.exact(params["pos_embed"]["W_pos"][None]))
    return rounding.exact(np.broadcast_to(w, (len(w), model.sizes.length, w.shape[-1])))


def queries_keys_values(config: Transformer, block: Params, x: Quantity, numbers: Sequence[int]) -> Heads:
    """Return what attention reads of the stream `[B, T, D]`; positions count the `numbers`, int `[T]`."""
    return heads(config, block["attn"], attention_input(config, block, x), numbers)


def attention_input(config: Transformer, block: Params, x: Quantity) -> Quantity:
    """Return what queries, keys and values are computed of, for the stream `[..., D]`."""
    return _norm(config, block.get("ln1"), x) if config.norm_where != "post" else x


def heads(config: Transformer, attn: Params, x: Quantity, numbers: Sequence[int]) -> Heads:
    """Return queries, keys and values of all heads for the input of attention `[B, T, D]`."""
    counted = np.asarray(numbers)

    def project(name: str) -> Quantity:
        w = attn[f"W_{name}"]
        flat = w.transpose(1, 0, 2).reshape(w.shape[1], -1)
        bias = attn[f"b_{name}"].reshape(-1) if config.attention_bias else None
        y = rounding.linear(x, flat, bias)
        return y.map(lambda z: z.reshape(*z.shape[:-1], config.heads, config.head_width))

    q, k, v = (project(name) for name in "QKV")
    if config.qk_norm:
        q, k = (
            rounding.scaled(y, attn.get(f"{name}_norm", {}).get("w"), config.norm_epsilon)
            for name, y in (("q", q), ("k", k))
        )
    if config.positions == "rope":
        q, k = _rotated(config, q, counted), _rotated(config, k, counted)
    return Heads(q, k, v, counted)


def _rotated(config: Transformer, x: Quantity, numbers: np.ndarray) -> Quantity:
    """Rotate queries or keys `[B, T, H, K]`; sines and cosines are rounded from float64 to float32."""
    half, angle = config.head_width // 2, config.angles(numbers)[:, None]
    cos, sin, minus = (
        Rounded(y, rounding.UNIT * np.abs(y) + rounding.TINY) for y in (np.cos(angle), np.sin(angle), -np.sin(angle))
    )
    interleaved = config.rope_pairs == "interleaved"
    first, second = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, half), slice(half, None))
    a, b = x.map(lambda y: y[..., first]), x.map(lambda y: y[..., second])
    parts = (
        rounding.add(rounding.product(a, cos), rounding.product(b, minus)),
        rounding.add(rounding.product(a, sin), rounding.product(b, cos)),
    )
    join = lambda y, z: (
        np.stack([y, z], axis=-1).reshape(*y.shape[:-1], -1) if interleaved else np.concatenate([y, z], axis=-1)
    )
    return parts[0].joined(parts[1], join)


def scores(config: Transformer, heads: Heads, at: Sequence[int]) -> Rounded:
    """Return the scores `[B, H, R, T]` of queries `[B, R, H, K]`, those at positions `at`, and all keys."""
    q, k = (x.map(lambda y: y.swapaxes(1, 2)) for x in (heads.q, heads.k))
    s = rounding.matmul(q, k.map(lambda y: y.swapaxes(-1, -2)))
    return shifted(config, s, at, heads.numbers)


def shifted(config: Transformer, s: Rounded, at: Sequence[int], numbers: np.ndarray) -> Rounded:
    """Divide scores `[B, H, R, T]` by √K, and lower those of far keys where positions are alibi."""
    root = math.sqrt(config.head_width)
    s = rounding.limited(s, -MASKED / 10)  # Or else a masked position may weigh as much as one that is seen.
    error = s.error / root + 3 * rounding.UNIT * s.magnitude / root + rounding.TINY
    s = Rounded(s.value / root, error, s.radius / root)
    if config.positions != "alibi":
        return s
    distance = np.abs(numbers[list(at)][:, None] - numbers[: s.value.shape[-1]])
    away = -np.asarray(slopes(config.heads))[:, None, None] * distance
    return rounding.add(s, Rounded(away[None], 2 * rounding.UNIT * np.abs(away[None])))


def weights(config: Transformer, heads: Heads, at: Sequence[int]) -> Rounded:
    """Return the attention weights `[B, H, R, T]` of positions `at`; queries are those at these positions."""
    length = heads.k.value.shape[1]
    causal = config.attention == "causal"
    visible = np.arange(length) <= np.asarray(at)[:, None] if causal else np.ones((len(at), length), bool)
    pattern = rounding.softmax(scores(config, heads, at), visible)
    if config.attention_mix == 1:
        return pattern
    mix, ones = config.attention_mix, (1 - config.attention_mix) * visible
    value = mix * pattern.value + ones
    return Rounded(value, mix * pattern.error + 4 * rounding.UNIT * (value + ones))


def attention(attn: Params, pattern: Rounded, v: Rounded, *, apart: bool = False) -> Rounded:
    """Return what all heads write, `[B, R, D]`, for weights `[B, H, R, T]` and values `[B, T, H, K]`.

    With `apart`, the errors of the weights are left out of the error, see `WeightErrors`; the radius holds what they
    may change, so that the roundings of everything after are bounded for the weights of float32.
    """
    v = v.map(lambda y: y.swapaxes(1, 2))
    if apart:
        z = rounding.matmul(pattern._replace(error=np.zeros_like(pattern.error)), v)
        z = z._replace(radius=pattern.error @ (np.abs(v.value) + v.error))
    else:
        z = rounding.matmul(pattern, v)
    return written(attn, z.map(lambda y: y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1)))


def written(attn: Params, z: Rounded) -> Rounded:
    """Return what the heads write, `[..., D]`, for the weighted values of all heads `[..., H K]`."""
    return rounding.linear(z, attn["W_O"].reshape(-1, attn["W_O"].shape[-1]), attn.get("b_O"))


def scores_of_tokens(config: Transformer, heads: Heads, read: int, own: int) -> Rounded:
    """Return the scores of the token `own` at position `read` with every token before it, `[H, P, V]`.

    Args:
      config: the architecture.
      heads: of every token at every position.
      read: the position; P = read + 1 positions are seen.
      own: the token there.
    """
    query = heads.q.map(lambda y: np.broadcast_to(y[own, read], (len(y), 1, *y.shape[2:])))
    seen = heads._replace(q=query, k=heads.k.map(lambda y: y[:, : read + 1]))
    s = scores(config, seen, [read])  # [V, H, 1, P]
    return s.map(lambda y: y[:, :, 0].transpose(1, 2, 0))


def errors_of_attention(
    config: Transformer, params: Params, heads: Heads, read: int, own: int, possible: np.ndarray
) -> tuple[np.ndarray, Rounded]:
    """Bound what float32 errs by in the one layer's attention at one position, over all tokens before it.

    Args:
      config, params: the network.
      heads: of every token at every position.
      read, own: the position and the token there.
      possible: bool `[P, V]`, the tokens that may be at each position.

    Returns:
      float64 `[H]`, the largest relative error of an attention weight; and what attention writes, `[D]`: the interval
      over all tokens, for exact weights and for those of float32, and the errors of everything but the weights.
    """
    s, seen = scores_of_tokens(config, heads, read, own), read + 1
    high, low = (np.where(possible, sign * s.value, -np.inf).max(axis=(1, 2)) for sign in (1, -1))
    slip = np.where(possible, s.error, 0).max(axis=(1, 2))
    moved = slip + 2 * rounding.UNIT * (np.minimum(high + low, 100) + slip)
    exponent = 2 * moved + 2 * rounding.FUNCTION + rounding.gamma(seen + 3)
    relative = np.expm1(np.minimum(exponent, rounding.LARGEST_LOG))
    v, attn = heads.v.map(lambda y: y[:, :seen]), params["blocks.0"]["attn"]
    size, gamma = np.abs(v.value) + v.error, rounding.gamma(seen)
    error = (1 + rounding.gamma(2 * seen + 3)) * v.error + gamma * size + seen * rounding.TINY * (1 + size)
    there = np.broadcast_to(possible.T[..., None, None], v.value.shape)
    most, least = (np.where(there, sign * v.value, -np.inf).max(axis=(0, 1)).ravel() for sign in (1, -1))
    error = np.where(there, error, 0).max(axis=(0, 1)).ravel()
    # What exact sums with the weights of float32 may be.
    beyond = np.repeat(relative + rounding.gamma(seen + 3), config.head_width) * np.maximum(
        np.abs(most), np.abs(least)
    )
    out = written(attn, Rounded((most - least) / 2, error, (most + least) / 2 + beyond))
    # A value that is not finite is not masked either: 0 times it is not a number.
    bounded = np.isfinite(heads.v.error).all() and (exponent < rounding.LARGEST_LOG).all()
    return relative, out if bounded else out._replace(error=np.full_like(out.error, np.inf))


def attended(config: Transformer, block: Params, x: Quantity, out: Quantity) -> Quantity:
    """Return the stream after attention wrote `out`, both `[..., D]`."""
    return _after(config, block, "ln1", x, out)


def _after(config: Transformer, block: Params, name: str, x: Quantity, out: Quantity) -> Quantity:
    if config.norm_where == "both":
        out = _norm(config, block.get(f"{name}_post"), out)
    x = rounding.add(x, out)
    return _norm(config, block.get(name), x) if config.norm_where == "post" else x


def _norm(config: Transformer, params: Params | None, x: Quantity) -> Quantity:
    if config.norm == "none":
        return x
    params = params or {}
    x = rounding.centred(x) if config.norm == "layernorm" else x
    x = rounding.scaled(x, params.get("w"), config.norm_epsilon)
    return rounding.add(x, rounding.exact(params["b"])) if "b" in params else x


def neurons(config: Transformer, block: Params, x: Quantity, errors: WeightErrors | None = None) -> Quantity:
    """Return the activations of the neurons `[..., F]` for the stream `[..., D]`."""
    x = _norm(config, block.get("ln2"), x) if config.norm_where != "post" else x
    mlp = block["mlp"]

    def inputs(name: str, bias: np.ndarray | None) -> Quantity:
        pre = rounding.linear(x, mlp[name], bias)
        return pre if errors is None else pre._replace(error=pre.error + errors.through(mlp[name]))

    pre = inputs("W_in", mlp.get("b_in"))
    if config.mlp == "gated":
        return rounding.product(rounding.activation(inputs("W_gate", None), config.activation), pre)
    return rounding.activation(pre, config.activation)


def after_mlp(config: Transformer, block: Params, x: Quantity) -> Quantity:
    """Return the stream `[..., D]` after the MLP of a block, given it before."""
    if not config.d_mlp:
        return x
    mlp = block["mlp"]
    return _after(config, block, "ln2", x, rounding.linear(neurons(config, block, x), mlp["W_out"], mlp.get("b_out")))


def before_unembedding(config: Transformer, params: Params, x: Rounded) -> Rounded:
    """Return what is unembedded, `[..., D]`, for the stream `[..., D]` after attention of the last block."""
    x = after_mlp(config, params[f"blocks.{config.layers - 1}"], x)
    return _norm(config, params.get("ln_final"), x) if config.final_norm else x


class Unembedding(NamedTuple):
    """The logits as a sum of products, and what float32 may err by in this sum.

    Attributes:
      terms: quantities `[..., n]` with their matrices `[n, C]`.
      bias: `[C]`.
      error: `[..., C]`, bound on the error of the sum for exact terms.
    """

    terms: list[tuple[Rounded, np.ndarray]]
    bias: np.ndarray
    error: np.ndarray


def unembedding(config: Transformer, params: Params, x: Rounded, errors: WeightErrors | None = None) -> Unembedding:
    """Return the logits `[..., C]` as a sum, for the stream `[..., D]` after attention of the last block.

    Errors of attention weights may be given apart from those of x, where there are no norms.
    """
    block, w_u = params[f"blocks.{config.layers - 1}"], params["unembed"]["W_U"]
    b_u = params["unembed"].get("b_U", np.zeros(w_u.shape[1]))
    direct = config.norm == "none" or (config.norm_where == "pre" and not config.final_norm)
    if not (config.d_mlp and direct):
        x = before_unembedding(config, params, x)
        terms, bias, n = [(x, w_u)], b_u, len(w_u) + 1
        sizes = x.magnitude @ np.abs(w_u) + np.abs(b_u)
    else:
        # Either (x + post W_out + b_out) W_U or x W_U + post (W_out W_U) + b_out W_U: both have at most F + D + 4
        # roundings on the way of any product to the sum.
        post, mlp = neurons(config, block, x, errors), block["mlp"]
        b_out = mlp.get("b_out", np.zeros(len(w_u)))
        terms, bias, n = [(x, w_u), (post, mlp["W_out"] @ w_u)], b_out @ w_u + b_u, sum(mlp["W_out"].shape) + 4
        sizes = (x.magnitude + post.magnitude @ np.abs(mlp["W_out"]) + np.abs(b_out)) @ np.abs(w_u) + np.abs(b_u)
    fits = sizes <= rounding.LARGEST  # False for NaN.
    return Unembedding(terms, bias, np.where(fits, rounding.gamma(n) * sizes + n * rounding.TINY, np.inf))


def over_rivals(w: np.ndarray, base: int) -> np.ndarray:
    """Subtract from what belongs to each digit what belongs to each other digit.

    Args:
      w: `[..., classes]`.
      base: number of digits.

    Returns:
      `[base, base - 1, ...]`; the rivals of a digit are in ascending order.
    """
    first = np.moveaxis(w, -1, 0)
    return first[:base, None] - first[rivals(base)]


def rivals(base: int) -> np.ndarray:
    """Return the other digits of each digit in ascending order, int `[base, base - 1]`."""
    return np.asarray([[j for j in range(base) if j != y] for y in range(base)])


@np.errstate(invalid="ignore")
def error_of_margins(config: Transformer, params: Params, x: Rounded, target: np.ndarray, base: int) -> np.ndarray:
    """Bound what float32 errs by in the margins over all rivals.

    Args:
      config, params: the network.
      x: the stream after attention of the last block, `[C or 1, D]`.
      target: correct digits, int `[C]`.
      base: number of digits.

    Returns:
      float64 `[C, base - 1]`.
    """
    terms, _, error = unembedding(config, params, x)
    error = np.broadcast_to(error, (len(target), error.shape[-1]))
    own = np.take_along_axis(error, target[:, None], axis=1)
    result = own + np.take_along_axis(error, rivals(base)[target], axis=1)
    for y, w in terms:  # Errors on the way to the logits are errors of both, and cancel as far as the two are alike.
        result = result + (np.abs(over_rivals(w, base))[target] @ y.error[..., None])[..., 0]
    return np.where(np.isnan(result), np.inf, result)  # An infinite error times 0.


def _pair_mlp(config: PairMLP, params: Params, tokens: np.ndarray) -> Rounded:
    """Return the logits `[B, 1, C]` for tokens `[B, 2]`."""
    w_in = params["W_in"]
    vocabulary = int(tokens.max()) + 1 if config.embedding == "one-hot" else len(params["W_a"])
    names = ("W_a", "W_a" if config.tables == "one" else "W_b")
    rows = [np.eye(vocabulary) if config.embedding == "one-hot" else params[name] for name in names]
    width = len(w_in) if config.combine == "sum" else len(w_in) // 2
    rows = [row if row.shape[1] == width else np.eye(len(row), width) for row in rows]
    halves = (w_in[:width], w_in[-width:])
    tables = [rounding.linear(rounding.exact(row), half) for row, half in zip(rows, halves, strict=True)]
    look: Callable = lambda table, i: table.map(lambda y: y[tokens[:, i]])
    pre = functools.reduce(rounding.add, (look(table, i) for i, table in enumerate(tables)))
    if config.bias:
        pre = rounding.add(pre, rounding.exact(params["b_in"]))
    post = rounding.activation(pre, config.activation)
    return rounding.linear(post, params["W_U"], params.get("b_U")).map(lambda y: y[:, None])
