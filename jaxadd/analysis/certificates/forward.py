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

from jaxadd.analysis.certificates import rounding, sourced
from jaxadd.analysis.certificates.rounding import Quantity, Rounded
from jaxadd.analysis.certificates.sourced import Source, Sourced
from jaxadd.errors import UserError
from jaxadd.models import Model, PairMLP, Transformer
from jaxadd.models.attention import MASKED, slopes
from jaxadd.types import Params


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

    def at(self, tokens: np.ndarray) -> "Heads":
        """Look up every example, int `[B, T]`, where the batch of this value is the vocabulary."""
        q, k, v = (_looked_up(x, tokens) for x in (self.q, self.k, self.v))
        return Heads(q, k, v, self.numbers)


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
    config = model.config
    assert isinstance(config, Transformer)
    numbers, every = config.numbered(model.sizes), tuple(range(tokens.shape[1]))
    # The first block reads functions of (token, position), computed once per vocabulary entry.
    x: Quantity = embedded(config, params, model)
    read_by = queries_keys_values(config, params["blocks.0"], x, numbers).at(tokens)
    x = Sourced.of(_looked_up(x, tokens))
    values, sources = read_by.v, ()
    for i in range(config.layers):
        block, at = params[f"blocks.{i}"], model.sizes.read if i == config.layers - 1 else every
        if i > 0:
            y = Sourced.of(attention_input(config, block, x))
            read_by = heads(config, block["attn"], y, numbers)
            values, sources = heads(config, block["attn"], y.fresh, numbers).v, y.sources
        pattern = weights(config, read_by._replace(q=_chosen(read_by.q, at)), at)
        x = _chosen(x, at)
        out = _attention(config, block["attn"], pattern, read_by.v, values.error, sources)
        x = Sourced.of(attended(config, block, x, out))
        if i < config.layers - 1:
            x = Sourced.of(_after_mlp_of_sources(config, block, x))
    return _logits(unembedding(config, params, x))


def _logits(read_out: "Unembedding") -> Rounded:
    """Return the sum of the terms of an unembedding."""
    value, error = read_out.bias, read_out.error
    for y, w in read_out.terms:
        value, error = value + y.value @ w, error + y.passed(w)
    return rounding.limited(Rounded(value, error))


def _attention(
    config: Transformer, attn: Params, pattern: Rounded, v: Rounded, fresh: np.ndarray, sources: Sequence[Source]
) -> Sourced:
    """Return what all heads write, `[B, R, D]`, with where its errors come from.

    Args:
      config, attn: the layer.
      pattern: weights `[B, H, R, T]`.
      v: values `[B, T, H, K]`.
      fresh: `[B, T, H, K]`, the error of the values that comes from no source.
      sources: of the input of attention, errors `[B, T, m]` with matrices `[m, D]`.
    """
    order = lambda y: y.swapaxes(1, 2)
    value, whole, fresh = order(v.value), order(v.error), order(fresh)
    p, most, n = pattern.value, pattern.value + pattern.error, v.value.shape[1]
    # Weights sum to one but for their rounding, so their errors move Σ p v by what v differs from any number.
    centre = (value.max(axis=2, keepdims=True) + value.min(axis=2, keepdims=True)) / 2 * (config.attention_mix == 1)
    error = pattern.error @ np.abs(value - centre) + rounding.gamma(n + 3) * np.abs(centre)
    error = error + most @ fresh + rounding.gamma(n) * (most @ (np.abs(value) + whole)) + n * rounding.TINY
    flat = lambda y: order(y).reshape(y.shape[0], y.shape[2], -1)
    w_o = attn["W_O"].reshape(-1, attn["W_O"].shape[-1])
    reach = flat(error + most @ whole)
    out = rounding.linear(Rounded(flat(p @ value), np.zeros_like(reach), reach), w_o, attn.get("b_O"))
    through = np.einsum("hdk,hke->hde", attn["W_V"], attn["W_O"])
    reached = [(most[:, h] @ e, matrix @ through[h]) for h in range(config.heads) for e, matrix in sources]
    return Sourced(out.value, out.error, ((flat(error), w_o), *reached))


def _after_mlp_of_sources(config: Transformer, block: Params, x: Sourced) -> Quantity:
    if not config.d_mlp:
        return x
    post, mlp = neurons(config, block, x), block["mlp"]
    return _after(config, block, "ln2", x, sourced.linear(post, mlp["W_out"], mlp.get("b_out")))


def _looked_up(x: Rounded, tokens: np.ndarray) -> Rounded:
    """Return for every example what `x` `[V, T, ...]` holds of its tokens."""
    return x.map(lambda y: y[tokens, np.arange(tokens.shape[1])])


def _chosen(x: Quantity, at: Sequence[int]) -> Quantity:
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


def neurons(config: Transformer, block: Params, x: Quantity) -> Quantity:
    """Return the activations of the neurons `[..., F]` for the stream `[..., D]`."""
    x = _norm(config, block.get("ln2"), x) if config.norm_where != "post" else x
    mlp = block["mlp"]

    pre = rounding.linear(x, mlp["W_in"], mlp.get("b_in"))
    if config.mlp == "gated":
        return rounding.product(rounding.activation(rounding.linear(x, mlp["W_gate"]), config.activation), pre)
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

    terms: list[tuple[Quantity, np.ndarray]]
    bias: np.ndarray
    error: np.ndarray


def unembedding(config: Transformer, params: Params, x: Quantity) -> Unembedding:
    """Return the logits `[..., C]` as a sum, for the stream `[..., D]` after attention of the last block."""
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
        post, mlp = neurons(config, block, x), block["mlp"]
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
