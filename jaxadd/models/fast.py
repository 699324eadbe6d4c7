"""The transformer's forward pass, without the work that training and evaluation do not need.

`plain.forward` computes the same function in a form to read; `tests/models/test_plain.py` compares the two. What is
saved: the loss reads R of T positions, so the last block computes queries, MLP and logits only there. The input of
the first block is a function of (token, position), so its keys, values and queries are computed once per vocabulary
entry and position, then looked up for each example. In Nanda et al.'s setting this takes a quarter of the arithmetic
of the plain pass. Where there are few classes, W_out W_U is computed first, so that neurons are multiplied by C
columns instead of D.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxadd.models.hooks import Hooks
from jaxadd.models.model import ACTIVATIONS, module
from jaxadd.models.transformer import Transformer
from jaxadd.types import Positions, Sizes

LAYER_NORM_EPSILON = 1e-5  # Added to the variance.
MASKED = -1e10  # The attention score of a masked position, as in the published code.


class _Stream(NamedTuple):
    """The residual stream at all T positions: of each example, or of each vocabulary entry.

    Positions are the first axis throughout this module: they are few, and a CPU sums few long rows much faster than
    many short ones. `Hooks` transposes activations to batch first.

    Attributes:
      rows: `[T, B, ·]` where `tokens` is None; otherwise `[T, V, ·]`, the stream for each token at each position, and
        the stream of example b at position t is `rows[t, tokens[t, b]]`.
      tokens: int32 `[T, B]`, or None.
    """

    rows: jax.Array
    tokens: jax.Array | None

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "_Stream":
        return _Stream(function(self.rows), self.tokens)

    def at(self, positions: Positions) -> "_Stream":
        if isinstance(positions, tuple) and positions == tuple(range(len(self.rows))):
            return self
        index = jnp.asarray(positions)
        return _Stream(self.rows[index], None if self.tokens is None else self.tokens[index])

    def per_example(self) -> jax.Array:
        """Return the stream of every example, `[T, B, ·]`."""
        if self.tokens is None:
            return self.rows
        length, vocabulary, *rest = self.rows.shape
        # With one flat index, as XLA scatters the gradient of `rows[positions, tokens]` much more slowly.
        flat = self.rows.reshape(length * vocabulary, *rest)
        return flat[self.tokens + vocabulary * jnp.arange(length)[:, None]]


@module.register
def _(config: Transformer, sizes: Sizes) -> nn.Module:
    return _TransformerModule(config, sizes)


class _TransformerModule(nn.Module):
    config: Transformer
    sizes: Sizes

    @nn.compact
    def __call__(self, tokens: jax.Array, hooks: Hooks, read: Positions) -> jax.Array:
        c, s = self.config, self.sizes
        assert s.vocabulary is not None  # Checked by `Transformer.check_fits`.
        embedding = _Table("W_E", (s.vocabulary, c.d_model), c.d_model, name="embed")()
        position = _Table("W_pos", (s.length, c.d_model), c.d_model, name="pos_embed")()
        if hooks.uses("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre", "blocks.0.ln1.hook_normalized"):
            # An edit may differ from example to example, which a table over the vocabulary cannot represent.
            embedded = hooks("hook_embed", embedding[tokens.T])
            positional = hooks("hook_pos_embed", jnp.broadcast_to(position[:, None], embedded.shape))
            stream = _Stream(embedded + positional, None)
        else:
            stream = _Stream(embedding[None] + position[:, None], tokens.T)
        unembed = _Table("W_U", (c.d_model, s.classes), s.classes, name="unembed")()
        last = f"blocks.{c.layers - 1}."
        for i in range(c.layers - 1):
            stream = _Stream(
                _Block(c, f"blocks.{i}.", name=f"blocks.{i}")(stream, hooks, tuple(range(s.length))), None
            )
        block = _Block(c, last, name=last.removesuffix("."))
        if _reads_out_early(c, s) and not hooks.uses(f"{last}hook_mlp_out", f"{last}hook_resid_post"):
            return block(stream, hooks, read, unembed).swapaxes(0, 1)
        x = block(stream, hooks, read)
        if c.layer_norm == "pre":
            x = hooks("ln_final.hook_normalized", _LayerNorm(name="ln_final")(x))
        return _matmul(x, unembed).swapaxes(0, 1)


def _reads_out_early(config: Transformer, sizes: Sizes) -> bool:
    """Return whether to multiply neurons by W_out W_U at once: with few classes and no LayerNorm it is less work."""
    return config.d_mlp > 0 and config.layer_norm == "none" and 2 * sizes.classes <= config.d_model


def _normal(fan: int) -> Callable:
    return nn.initializers.normal(stddev=1 / math.sqrt(fan))


class _Table(nn.Module):
    """A matrix parameter, initialised as N(0, 1) / √fan."""

    parameter: str
    shape: tuple[int, ...]
    fan: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param(self.parameter, _normal(self.fan), self.shape)


class _LayerNorm(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param("w", nn.initializers.ones, x.shape[-1:])
        bias = self.param("b", nn.initializers.zeros, x.shape[-1:])
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * weight[None, None] + bias[None, None]


class _Block(nn.Module):
    config: Transformer
    prefix: str

    @nn.compact
    def __call__(self, stream: _Stream, hooks: Hooks, at: Positions, readout: jax.Array | None = None) -> jax.Array:
        """Return the residual stream `[R, B, D]` after the block, multiplied by `readout` `[D, C]` if it is given."""
        c, norm = self.config, self.config.layer_norm == "pre"
        tap = lambda name, *rest: hooks(self.prefix + name, *rest)
        if stream.tokens is None:
            stream = stream.map(lambda rows: tap("hook_resid_pre", rows))
        normed = stream.map(_LayerNorm(name="ln1")) if norm else stream
        if norm and stream.tokens is None:
            normed = normed.map(lambda rows: tap("ln1.hook_normalized", rows))
        x = stream.at(at).per_example()
        x = x + tap("hook_attn_out", _Attention(c, f"{self.prefix}attn.", name="attn")(normed, hooks, at))
        if c.d_mlp:
            x = tap("hook_resid_mid", x)
            h = tap("ln2.hook_normalized", _LayerNorm(name="ln2")(x)) if norm else x
            mlp = _MLPBlock(c, f"{self.prefix}mlp.", name="mlp")
            if readout is not None:
                return _matmul(x, readout) + mlp(h, hooks, readout)
            x = x + tap("hook_mlp_out", mlp(h, hooks))
        return tap("hook_resid_post", x)


class _Attention(nn.Module):
    config: Transformer
    prefix: str

    @nn.compact
    def __call__(self, stream: _Stream, hooks: Hooks, at: Positions) -> jax.Array:
        c = self.config
        tap = lambda name, *rest: hooks(self.prefix + name, *rest)
        shape = (c.heads, c.d_model, c.d_head)

        def project(name: str, stream: _Stream) -> _Stream:
            weight = self.param(name, _normal(c.d_model), shape)
            return stream.map(lambda rows: jnp.einsum("txd,hdk->txhk", rows, weight))

        q, k, v = project("W_Q", stream.at(at)), project("W_K", stream), project("W_V", stream)
        if _scores_by_table(stream) and not hooks.uses(f"{self.prefix}hook_q", f"{self.prefix}hook_k"):
            scores = _table_scores(q, k)
        else:
            scores = _scores(tap("hook_q", q.per_example()), tap("hook_k", k.per_example()))
        if c.attention == "causal":
            visible = jnp.arange(len(stream.rows))[None] <= jnp.asarray(at)[:, None]  # [R, T]
            scores = jnp.where(visible[..., None, None], scores, MASKED)
        scores = scores / math.sqrt(c.d_head)
        scores = tap("hook_attn_scores", scores, (2, 3, 0, 1))
        pattern = tap("hook_pattern", jax.nn.softmax(scores, axis=1), (2, 3, 0, 1))
        z = tap("hook_z", _mix(pattern, tap("hook_v", v.per_example())))
        w_o = self.param("W_O", _normal(c.d_model), (c.heads, c.d_head, c.d_model))
        return _matmul(z.reshape(*z.shape[:2], c.d_model), w_o.reshape(c.d_model, c.d_model))


def _matmul(x: jax.Array, w: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Multiply `[..., D]` by `[D, F]` as one product of two matrices, and add the bias `[F]`.

    For a product over a `[B, 1, D]` array, XLA on CPU first copies x to a transposed layout for the gradient of w,
    which costs a tenth of the step in Nanda et al.'s setting.
    """
    product = x.reshape(-1, x.shape[-1]) @ w
    return (product if bias is None else product + bias[None]).reshape(*x.shape[:-1], w.shape[-1])


def _scores_by_table(stream: _Stream) -> bool:
    """Return whether scores of all pairs of tokens cost at most about as much as scores of all examples."""
    return stream.tokens is not None and stream.rows.shape[1] ** 2 <= 4 * stream.tokens.shape[1]


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """Compute q·k for `[R, B, H, K]` and `[T, B, H, K]`: `[R, T, B, H]`."""
    if len(q) == 1:  # For one query, a product and a sum are much faster on CPU than B·H tiny matrix products.
        return jnp.sum(q * k, axis=-1)[None]
    # B·H products of small matrices; in the layout of XLA's batched product they take a quarter less time.
    return jnp.einsum("bhrk,bhtk->bhrt", q.transpose(1, 2, 0, 3), k.transpose(1, 2, 0, 3)).transpose(2, 3, 0, 1)


def _table_scores(q: _Stream, k: _Stream) -> jax.Array:
    """Compute q·k once per pair of (position, token), then look it up for each example: `[R, T, B, H]`."""
    assert q.tokens is not None  # Both are checked by `_scores_by_table`.
    assert k.tokens is not None
    (queries, vocabulary), length = q.rows.shape[:2], len(k.rows)
    table = jnp.einsum("ruhk,tvhk->rutvh", q.rows, k.rows)
    r, t = jnp.arange(queries)[:, None, None], jnp.arange(length)[None, :, None]
    flat = ((r * vocabulary + q.tokens[:, None]) * length + t) * vocabulary + k.tokens[None]
    return table.reshape(-1, table.shape[-1])[flat]


def _mix(pattern: jax.Array, v: jax.Array) -> jax.Array:
    """Average values `[T, B, H, K]` by attention `[R, T, B, H]`: `[R, B, H, K]`."""
    if len(pattern) == 1:
        return functools.reduce(operator.add, pattern[0, ..., None] * v)[None]
    return jnp.einsum("bhrt,bhtk->bhrk", pattern.transpose(2, 3, 0, 1), v.transpose(1, 2, 0, 3)).transpose(2, 0, 1, 3)


class _MLPBlock(nn.Module):
    config: Transformer
    prefix: str

    @nn.compact
    def __call__(self, x: jax.Array, hooks: Hooks, readout: jax.Array | None = None) -> jax.Array:
        c = self.config
        w_in = self.param("W_in", _normal(c.d_model), (c.d_model, c.d_mlp))
        b_in = self.param("b_in", nn.initializers.zeros, (c.d_mlp,))
        w_out = self.param("W_out", _normal(c.d_model), (c.d_mlp, c.d_model))
        b_out = self.param("b_out", nn.initializers.zeros, (c.d_model,))
        pre = hooks(f"{self.prefix}hook_pre", _matmul(x, w_in, b_in))
        post = hooks(f"{self.prefix}hook_post", ACTIVATIONS[c.activation](pre))
        if readout is not None:
            w_out, b_out = w_out @ readout, b_out @ readout
        return _matmul(post, w_out, b_out)
