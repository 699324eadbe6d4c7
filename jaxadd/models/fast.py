"""The transformer's forward pass, without the work that training and evaluation do not need.

`plain.forward` computes the same function in a form to read; `tests/models/test_combinations.py` compares the two.
What is saved: the loss reads R of T positions, so the last block computes queries, MLP and logits only there. The
input of the first block is a function of (token, position), so its keys, values and queries are computed once per
vocabulary entry and position, then looked up for each example. In Nanda et al.'s setting this takes a quarter of the
arithmetic of the plain pass. Where there are few classes, W_out W_U is computed first, so that neurons are multiplied
by C columns instead of D.
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
        position = None
        if c.positions == "learned":
            position = _Table("W_pos", (s.length, c.d_model), c.d_model, name="pos_embed")()
        if hooks.uses("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre", "blocks.0.ln1.hook_normalized"):
            # An edit may differ from example to example, which a table over the vocabulary cannot represent.
            rows = hooks("hook_embed", embedding[tokens.T])
            if position is not None:
                rows = rows + hooks("hook_pos_embed", jnp.broadcast_to(position[:, None], rows.shape))
            stream = _Stream(rows, None)
        elif position is not None:
            stream = _Stream(embedding[None] + position[:, None], tokens.T)
        else:
            stream = _Stream(jnp.broadcast_to(embedding[None], (s.length, *embedding.shape)), tokens.T)
        unembed = _Unembed(c, s, name="unembed")
        last = f"blocks.{c.layers - 1}."
        for i in range(c.layers - 1):
            stream = _Stream(
                _Block(c, f"blocks.{i}.", name=f"blocks.{i}")(stream, hooks, tuple(range(s.length))), None
            )
        block = _Block(c, last, name=last.removesuffix("."))
        if _reads_out_early(c, s) and not hooks.uses(f"{last}hook_mlp_out", f"{last}hook_resid_post"):
            return unembed.biased(block(stream, hooks, read, unembed.matrix())).swapaxes(0, 1)
        x = block(stream, hooks, read)
        if c.norm != "none" and c.final_norm:
            x = hooks("ln_final.hook_normalized", _Norm(c, name="ln_final")(x))
        return unembed.biased(_matmul(x, unembed.matrix())).swapaxes(0, 1)


def _reads_out_early(config: Transformer, sizes: Sizes) -> bool:
    """Return whether to multiply neurons by W_out W_U at once: with few classes it is less work.

    Nothing may stand between W_out and W_U: neither a norm nor dropout.
    """
    direct = config.norm == "none" or (config.norm_where == "pre" and not config.final_norm)
    return config.d_mlp > 0 and direct and config.dropout == 0 and 2 * sizes.classes <= config.d_model


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


class _Unembed(nn.Module):
    config: Transformer
    sizes: Sizes

    def setup(self) -> None:
        c, s = self.config, self.sizes
        self.w = self.param("W_U", _normal(s.classes), (c.d_model, s.classes))
        self.b = self.param("b_U", nn.initializers.zeros, (s.classes,)) if c.unembed_bias else None

    def matrix(self) -> jax.Array:
        return self.w

    def biased(self, logits: jax.Array) -> jax.Array:
        return logits if self.b is None else logits + self.b[None, None]


class _Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis; `of_heads` is the RMSNorm of queries and keys."""

    config: Transformer
    of_heads: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, over = self.config, (None,) * (x.ndim - 1)
        centred = self.config.norm == "layernorm" and not self.of_heads
        if centred:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + c.norm_epsilon)
        if c.norm_weight:
            x = x * self.param("w", nn.initializers.ones, x.shape[-1:])[over]
        if centred and c.norm_bias:
            x = x + self.param("b", nn.initializers.zeros, x.shape[-1:])[over]
        return x


class _Block(nn.Module):
    config: Transformer
    prefix: str

    @nn.compact
    def __call__(self, stream: _Stream, hooks: Hooks, at: Positions, readout: jax.Array | None = None) -> jax.Array:
        """Return the residual stream `[R, B, D]` after the block, multiplied by `readout` `[D, C]` if it is given."""
        c = self.config
        before, after, both = (
            c.norm != "none" and c.norm_where in where for where in (("pre", "both"), ("post",), ("both",))
        )
        tap = lambda name, *rest: hooks(self.prefix + name, *rest)

        def norm(name: str, x: jax.Array, wanted: bool) -> jax.Array:
            return tap(f"{name}.hook_normalized", _Norm(c, name=name)(x)) if wanted else x

        def out(name: str, x: jax.Array) -> jax.Array:
            return tap(name, hooks.drop(self.prefix + name, x, c.dropout))

        if stream.tokens is None:
            stream = stream.map(lambda rows: tap("hook_resid_pre", rows))
            normed = stream.map(lambda rows: norm("ln1", rows, before))
        else:
            normed = stream.map(_Norm(c, name="ln1")) if before else stream
        x = stream.at(at).per_example()
        heads = _Attention(c, f"{self.prefix}attn.", name="attn")(normed, hooks, at)
        x = norm("ln1", x + out("hook_attn_out", norm("ln1_post", heads, both)), after)
        if c.d_mlp:
            x = tap("hook_resid_mid", x)
            h = norm("ln2", x, before)
            mlp = _MLPBlock(c, f"{self.prefix}mlp.", name="mlp")
            if readout is not None:
                return _matmul(x, readout) + mlp(h, hooks, readout)
            x = norm("ln2", x + out("hook_mlp_out", norm("ln2_post", mlp(h, hooks), both)), after)
        return tap("hook_resid_post", x)


class _Attention(nn.Module):
    config: Transformer
    prefix: str

    @nn.compact
    def __call__(self, stream: _Stream, hooks: Hooks, at: Positions) -> jax.Array:
        c, k_width = self.config, self.config.head_width
        tap = lambda name, *rest: hooks(self.prefix + name, *rest)

        def project(name: str, stream: _Stream) -> _Stream:
            """Multiply by a matrix; per example where the result is read or replaced."""
            weight = self.param(f"W_{name}", _normal(c.d_model), (c.heads, c.d_model, k_width))
            stream = stream.map(lambda rows: jnp.einsum("txd,hdk->txhk", rows, weight))
            if c.attention_bias:
                bias = self.param(f"b_{name}", nn.initializers.zeros, (c.heads, k_width))
                stream = stream.map(lambda rows: rows + bias[None, None])
            hook = f"hook_{name.lower()}"
            return _Stream(tap(hook, stream.per_example()), None) if hooks.uses(self.prefix + hook) else stream

        def prepared(name: str, stream: _Stream, positions: jax.Array) -> _Stream:
            """Normalise and rotate queries or keys."""
            if c.qk_norm:
                stream = stream.map(_Norm(c, of_heads=True, name=f"{name}_norm"))
            if c.positions != "rope":
                return stream
            hook = f"hook_rot_{name}"
            stream = stream.map(lambda rows: rotated(rows, positions, c))
            return _Stream(tap(hook, stream.per_example()), None) if hooks.uses(self.prefix + hook) else stream

        at_index, every = jnp.asarray(at), jnp.arange(len(stream.rows))
        q, k, v = project("Q", stream.at(at)), project("K", stream), project("V", stream)
        q, k = prepared("q", q, at_index), prepared("k", k, every)
        causal = c.attention == "causal"
        visible = (
            every[None] <= at_index[:, None] if causal else jnp.ones((len(at_index), len(every)), bool)
        )  # [R, T]
        if c.attention_mix == 0 and not hooks.uses(f"{self.prefix}hook_attn_scores"):
            pattern = jnp.broadcast_to(
                visible[..., None, None].astype(stream.rows.dtype),
                (*visible.shape, v.per_example().shape[1], c.heads),
            )
        else:
            table = _scores_by_table(q, k)
            scores = _table_scores(q, k) if table else _scores(q.per_example(), k.per_example())
            if causal:
                scores = jnp.where(visible[..., None, None], scores, MASKED)
            scores = scores / math.sqrt(k_width)
            if c.positions == "alibi":
                distance = jnp.abs(at_index[:, None] - every[None]).astype(scores.dtype)
                scores = (
                    scores - distance[..., None, None] * jnp.asarray(slopes(c.heads), scores.dtype)[None, None, None]
                )
            scores = tap("hook_attn_scores", scores, (2, 3, 0, 1))
            pattern = jax.nn.softmax(scores, axis=1)
            if c.attention_mix < 1:
                ones = visible[..., None, None].astype(pattern.dtype)
                pattern = c.attention_mix * pattern + (1 - c.attention_mix) * ones
        pattern = tap("hook_pattern", pattern, (2, 3, 0, 1))
        z = tap("hook_z", _mix(pattern, v.per_example()))
        w_o = self.param("W_O", _normal(c.d_model), (c.heads, k_width, c.d_model))
        b_o = self.param("b_O", nn.initializers.zeros, (c.d_model,)) if c.attention_bias else None
        return _matmul(z.reshape(*z.shape[:2], -1), w_o.reshape(-1, c.d_model), b_o)


def rotated(x: jax.Array, positions: jax.Array, config: Transformer) -> jax.Array:
    """Rotate pairs of coordinates of queries or keys `[R, B, H, K]` by their position times a frequency (Su 2021).

    Pair j turns by θ^(-2j/K) radians from one position to the next.
    """
    half = config.head_width // 2
    angle = jnp.outer(positions, config.rope_theta ** (-jnp.arange(half) / half))[:, None, None]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    if config.rope_pairs == "interleaved":
        a, b = x[..., ::2], x[..., 1::2]
        return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def slopes(heads: int) -> list[float]:
    """Return what each position of distance takes from a head's scores: 2^(-8 h / H), h = 1 … H (Press 2021)."""
    return [2 ** (-8 * (h + 1) / heads) for h in range(heads)]


def _matmul(x: jax.Array, w: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Multiply `[..., D]` by `[D, F]` as one product of two matrices, and add the bias `[F]`.

    For a product over a `[B, 1, D]` array, XLA on CPU first copies x to a transposed layout for the gradient of w,
    which costs a tenth of the step in Nanda et al.'s setting.
    """
    product = x.reshape(-1, x.shape[-1]) @ w
    return (product if bias is None else product + bias[None]).reshape(*x.shape[:-1], w.shape[-1])


def _scores_by_table(q: _Stream, k: _Stream) -> bool:
    """Return whether scores of all pairs of tokens cost at most about as much as scores of all examples."""
    return q.tokens is not None and k.tokens is not None and k.rows.shape[1] ** 2 <= 4 * k.tokens.shape[1]


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

        def bias(name: str, width: int) -> jax.Array | None:
            return self.param(name, nn.initializers.zeros, (width,)) if c.mlp_bias else None

        w_in = self.param("W_in", _normal(c.d_model), (c.d_model, c.d_mlp))
        linear = _matmul(x, w_in, bias("b_in", c.d_mlp))
        if c.mlp == "gated":
            gate = hooks(f"{self.prefix}hook_pre", _matmul(x, self.param("W_gate", _normal(c.d_model), w_in.shape)))
            post = ACTIVATIONS[c.activation](gate) * hooks(f"{self.prefix}hook_pre_linear", linear)
        else:
            post = ACTIVATIONS[c.activation](hooks(f"{self.prefix}hook_pre", linear))
        post = hooks(f"{self.prefix}hook_post", post)
        w_out = self.param("W_out", _normal(c.d_model), (c.d_mlp, c.d_model))
        b_out = bias("b_out", c.d_model)
        if readout is not None:
            w_out, b_out = w_out @ readout, None if b_out is None else b_out @ readout
        return _matmul(post, w_out, b_out)
