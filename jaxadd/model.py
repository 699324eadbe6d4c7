"""The networks: the mainline transformer with named activations, and an MLP classifier.

The only module that imports Flax. A frozen config and a task's sizes are built into a `Model`, a pair of
pure functions over plain nested dicts of arrays.

What the transformer does not compute. The loss reads R of T positions, so the last block computes queries,
MLP and logits there only. The first block's input is a function of (token, position), so its keys, values
and queries are computed once per vocabulary entry and position, then looked up for each example. The
result is that of the plain transcription (`tests/test_model.py` compares them), with a quarter of its
arithmetic on the mainline task. Where there are few classes, W_out W_U is formed first, so that neurons are
multiplied by C columns instead of D.
"""

import functools
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.tasks import Sizes

Params = Mapping[str, Any]
Positions = tuple[int, ...] | jax.Array  # Traced positions are an int32 array.
Precision = Literal["highest", "high", "default"]
Dtype = Literal["float32", "bfloat16"]
_ACTIVATIONS = {"relu": nn.relu, "gelu": lambda x: nn.gelu(x, approximate=False)}
LAYER_NORM_EPSILON = 1e-5  # Added to the variance.
_MASKED = -1e10  # The score of a position that may not be seen, as in the published code.


class Model(NamedTuple):
    """Two pure functions and the names of what can be looked at.

    Attributes:
      init: `init(key)` draws the parameters, a nested dict of float32 arrays.
      apply: `apply(params, inputs, names=(), edits={}, read=None)` gives float32 logits `[B, R, C]` and a
        dict of the activations asked for by `names`. `edits` maps names to pure functions of the
        activation, whose result takes its place. `read` are the positions to compute logits at, the
        task's own by default, a tuple or an int32 array `[R]` that may be traced; in the last block,
        activations after the attention exist there only. Asking for nothing costs nothing. An unknown name
        raises ValueError.
      names: every activation's name, in order of computation; the last is "logits".
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    names: tuple[str, ...]


class _Taps:
    """What is asked of the activations in one call of `apply`."""

    def __init__(self, known: tuple[str, ...], names: Collection[str], edits: Mapping[str, Callable]):
        if unknown := [name for name in (*names, *edits) if name not in known]:
            raise UserError(f"no activation is named {', '.join(unknown)}; there are {', '.join(known)}")
        self._names, self._edits = frozenset(names), edits
        self.seen: dict[str, jax.Array] = {}

    def __call__(self, name: str, value: jax.Array, axes: tuple[int, ...] = (1, 0)) -> jax.Array:
        """Show a value under its name, batch first as `axes` say, and give what takes its place."""
        if not self.touch(name):
            return value
        axes = (*axes, *range(len(axes), value.ndim))
        public = value.transpose(axes)
        if name in self._edits:
            shape = public.shape
            public = self._edits[name](public)
            chex.assert_shape(public, shape)
        if name in self._names:
            self.seen[name] = public
        return public.transpose(np.argsort(axes))

    def touch(self, *names: str) -> bool:
        return any(name in self._names or name in self._edits for name in names)


def _normal(fan: int) -> Callable:
    return nn.initializers.normal(stddev=1 / math.sqrt(fan))


@dataclass(frozen=True)
class Transformer:
    """Decoder-only transformer; as it stands, the mainline's: one layer, ReLU, no LayerNorm.

    Biases exist in the MLP only. Every matrix starts as N(0, 1) / √D, W_U as N(0, 1) / √C.
    """

    layers: int = 1
    """blocks, L"""
    d_model: int = 128
    """width of the residual stream, D"""
    heads: int = 4
    """attention heads per block, H; D must be divisible by it"""
    d_mlp: int = 512
    """neurons per block, F; 0 leaves the MLP out"""
    activation: Literal["relu", "gelu"] = "relu"
    """gelu is the exact form, with erf"""
    layer_norm: Literal["none", "pre"] = "none"
    """pre: LayerNorm before attention, before the MLP and before the unembedding"""
    attention: Literal["causal", "bidirectional"] = "causal"
    """bidirectional: every position sees every other; not for a task whose input holds the answers"""
    dtype: Dtype = "float32"
    """of activations; parameters, logits and loss are always float32"""
    precision: Precision = "highest"
    """of matrix products; below highest, accelerators may round their inputs to TF32 or bfloat16"""

    def __post_init__(self) -> None:
        for name, least in (("layers", 1), ("d_model", 1), ("heads", 1), ("d_mlp", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.d_model % self.heads:
            raise UserError(f"d_model must be divisible by heads, got d_model {self.d_model} and heads {self.heads}")
        check_choices(self)

    @property
    def d_head(self) -> int:
        """Give the width of one head, K."""
        return self.d_model // self.heads

    def build(self, sizes: Sizes) -> Model:
        """Build the model for a task's sizes; raises ValueError where they do not fit each other."""
        if sizes.vocabulary is None:
            raise UserError("a transformer reads tokens, and this task's input is real-valued; use an MLP")
        if sizes.autoregressive and self.attention != "causal":
            raise UserError("this task's input holds the answers, so attention must be causal, not bidirectional")
        return _build(_TransformerModule(self, sizes), self, sizes, _transformer_names(self))


@dataclass(frozen=True)
class MLP:
    """Multi-layer perceptron classifier on real-valued input."""

    hidden: tuple[int, ...] = (128,)
    """neurons of each hidden layer"""
    activation: Literal["relu", "gelu"] = "relu"
    """gelu is the exact form, with erf"""
    dtype: Dtype = "float32"
    """of activations; parameters, logits and loss are always float32"""
    precision: Precision = "highest"
    """of matrix products; below highest, accelerators may round their inputs to TF32 or bfloat16"""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise UserError(f"every hidden layer needs at least one neuron, got {self.hidden}")
        check_choices(self)

    def build(self, sizes: Sizes) -> Model:
        """Build the model for a task's sizes; raises ValueError where its input is tokens."""
        if sizes.vocabulary is not None:
            raise UserError("an MLP reads real-valued features, and this task's input is tokens; use a Transformer")
        names = tuple(f"layers.{i}.{hook}" for i in range(len(self.hidden)) for hook in ("hook_pre", "hook_post"))
        return _build(_MLPModule(self, sizes), self, sizes, names)


Network = Transformer | MLP


def _build(module: nn.Module, config: Network, sizes: Sizes, names: tuple[str, ...]) -> Model:
    def init(key: jax.Array) -> Params:
        inputs = jnp.zeros((1, sizes.length), jnp.float32 if sizes.vocabulary is None else jnp.int32)
        return module.init(key, inputs, _Taps(names, (), {}), sizes.read)["params"]

    def apply(
        params: Params,
        inputs: jax.Array,
        names: Collection[str] = (),
        edits: Mapping[str, Callable[[jax.Array], jax.Array]] | None = None,
        read: Positions | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        chex.assert_shape(inputs, (None, sizes.length))
        taps = _Taps(model.names, names, edits or {})
        params = jax.tree.map(lambda w: jnp.asarray(w, config.dtype), params)
        with jax.default_matmul_precision(config.precision):
            logits = module.apply({"params": params}, inputs, taps, sizes.read if read is None else read)
        return taps("logits", logits.astype(jnp.float32), (0,)), taps.seen

    model = Model(init, apply, (*names, "logits"))
    return model


# --- the transformer -----------------------------------------------------------------------------------


def _transformer_names(config: Transformer) -> tuple[str, ...]:
    names = ["hook_embed", "hook_pos_embed"]
    norm = config.layer_norm == "pre"
    for i in range(config.layers):
        block = ["hook_resid_pre", *(["ln1.hook_normalized"] if norm else [])]
        block += [f"attn.hook_{x}" for x in ("q", "k", "v", "attn_scores", "pattern", "z")] + ["hook_attn_out"]
        if config.d_mlp:
            block += ["hook_resid_mid", *(["ln2.hook_normalized"] if norm else [])]
            block += ["mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"]
        names += [f"blocks.{i}.{name}" for name in (*block, "hook_resid_post")]
    return (*names, *(["ln_final.hook_normalized"] if norm else []))


class _Stream(NamedTuple):
    """The residual stream at all T positions: of each example, or of each vocabulary entry.

    Positions come first, here and in all that follows: they are few, and a CPU adds up few long rows far
    faster than many short ones. `_Taps` shows activations batch first.

    Attributes:
      rows: `[T, B, ·]` where `tokens` is None; otherwise `[T, V, ·]`, what each token would give at each
        position, and the stream of example b at position t is `rows[t, tokens[t, b]]`.
      tokens: int32 `[T, B]`, or None.
    """

    rows: jax.Array
    tokens: jax.Array | None

    def map(self, function: Callable[[jax.Array], jax.Array]) -> Self:
        return _Stream(function(self.rows), self.tokens)

    def at(self, positions: Positions) -> Self:
        if isinstance(positions, tuple) and positions == tuple(range(len(self.rows))):
            return self
        index = jnp.asarray(positions)
        return _Stream(self.rows[index], None if self.tokens is None else self.tokens[index])

    def per_example(self) -> jax.Array:
        """Look the rows up: `[T, B, ·]`."""
        if self.tokens is None:
            return self.rows
        length, vocabulary, *rest = self.rows.shape
        # One flat index: XLA scatters the gradient of `rows[positions, tokens]` far more slowly.
        flat = self.rows.reshape(length * vocabulary, *rest)
        return flat[self.tokens + vocabulary * jnp.arange(length)[:, None]]


class _TransformerModule(nn.Module):
    config: Transformer
    sizes: Sizes

    @nn.compact
    def __call__(self, tokens: jax.Array, taps: _Taps, read: Positions) -> jax.Array:
        c, s = self.config, self.sizes
        embedding = _Table("W_E", (s.vocabulary, c.d_model), c.d_model, name="embed")()
        position = _Table("W_pos", (s.length, c.d_model), c.d_model, name="pos_embed")()
        if taps.touch("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre", "blocks.0.ln1.hook_normalized"):
            # These may be replaced example by example, so the table over the vocabulary cannot stand for them.
            embedded = taps("hook_embed", embedding[tokens.T])
            placed = taps("hook_pos_embed", jnp.broadcast_to(position[:, None], embedded.shape))
            stream = _Stream(embedded + placed, None)
        else:
            stream = _Stream(embedding + position[:, None], tokens.T)
        unembed = _Table("W_U", (c.d_model, s.classes), s.classes, name="unembed")()
        last = f"blocks.{c.layers - 1}."
        for i in range(c.layers - 1):
            stream = _Stream(
                _Block(c, f"blocks.{i}.", name=f"blocks.{i}")(stream, taps, tuple(range(s.length))), None
            )
        block = _Block(c, last, name=last.removesuffix("."))
        if _reads_out_early(c, s) and not taps.touch(f"{last}hook_mlp_out", f"{last}hook_resid_post"):
            return block(stream, taps, read, unembed).swapaxes(0, 1)
        x = block(stream, taps, read)
        if c.layer_norm == "pre":
            x = taps("ln_final.hook_normalized", _LayerNorm(name="ln_final")(x))
        return _matmul(x, unembed).swapaxes(0, 1)


def _reads_out_early(config: Transformer, sizes: Sizes) -> bool:
    """Say whether neurons are better multiplied by W_out W_U than by W_out, then W_U: few classes, no LayerNorm."""
    return config.d_mlp > 0 and config.layer_norm == "none" and 2 * sizes.classes <= config.d_model


class _Table(nn.Module):
    """One matrix, N(0, 1) / √fan."""

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
        return centred * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * weight + bias


class _Block(nn.Module):
    config: Transformer
    prefix: str

    @nn.compact
    def __call__(self, stream: _Stream, taps: _Taps, at: Positions, readout: jax.Array | None = None) -> jax.Array:
        """Give the residual stream `[R, B, D]` after the block, or with a `readout` `[D, C]` its product with it."""
        c, norm = self.config, self.config.layer_norm == "pre"
        tap = lambda name, *rest: taps(self.prefix + name, *rest)  # noqa: E731
        if stream.tokens is None:
            stream = stream.map(lambda rows: tap("hook_resid_pre", rows))
        normed = stream.map(_LayerNorm(name="ln1")) if norm else stream
        if norm and stream.tokens is None:
            normed = normed.map(lambda rows: tap("ln1.hook_normalized", rows))
        x = stream.at(at).per_example()
        x = x + tap("hook_attn_out", _Attention(c, f"{self.prefix}attn.", name="attn")(normed, taps, at))
        if c.d_mlp:
            x = tap("hook_resid_mid", x)
            h = tap("ln2.hook_normalized", _LayerNorm(name="ln2")(x)) if norm else x
            mlp = _MLPBlock(c, f"{self.prefix}mlp.", name="mlp")
            if readout is not None:
                return _matmul(x, readout) + mlp(h, taps, readout)
            x = x + tap("hook_mlp_out", mlp(h, taps))
        return tap("hook_resid_post", x)


class _Attention(nn.Module):
    config: Transformer
    prefix: str

    @nn.compact
    def __call__(self, stream: _Stream, taps: _Taps, at: Positions) -> jax.Array:
        c = self.config
        tap = lambda name, *rest: taps(self.prefix + name, *rest)  # noqa: E731
        shape = (c.heads, c.d_model, c.d_head)

        def project(name: str, stream: _Stream) -> _Stream:
            weight = self.param(name, _normal(c.d_model), shape)
            return stream.map(lambda rows: jnp.einsum("txd,hdk->txhk", rows, weight))

        q, k, v = project("W_Q", stream.at(at)), project("W_K", stream), project("W_V", stream)
        if _scores_by_table(stream) and not taps.touch(f"{self.prefix}hook_q", f"{self.prefix}hook_k"):
            scores = _table_scores(q, k)
        else:
            scores = _scores(tap("hook_q", q.per_example()), tap("hook_k", k.per_example()))
        if c.attention == "causal":
            visible = jnp.arange(len(stream.rows)) <= jnp.asarray(at)[:, None]  # [R, T]
            scores = jnp.where(visible[..., None, None], scores, _MASKED)
        scores = scores / math.sqrt(c.d_head)
        scores = tap("hook_attn_scores", scores, (2, 3, 0, 1))
        pattern = tap("hook_pattern", jax.nn.softmax(scores, axis=1), (2, 3, 0, 1))
        z = tap("hook_z", _mix(pattern, tap("hook_v", v.per_example())))
        w_o = self.param("W_O", _normal(c.d_model), (c.heads, c.d_head, c.d_model))
        return _matmul(z.reshape(*z.shape[:2], c.d_model), w_o.reshape(c.d_model, c.d_model))


def _matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """Multiply `[..., D]` by `[D, F]` as one product of two matrices.

    Written as a product over a `[B, 1, D]` array, XLA on CPU first copies x to a transposed layout for the
    gradient of w; that costs a tenth of the mainline step.
    """
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])


def _scores_by_table(stream: _Stream) -> bool:
    """Say whether scores of all pairs of tokens are not many more than scores of all examples."""
    return stream.tokens is not None and stream.rows.shape[1] ** 2 <= 4 * stream.tokens.shape[1]


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """Compute q·k for `[R, B, H, K]` and `[T, B, H, K]`: `[R, T, B, H]`."""
    if len(q) == 1:  # One query: a product and a sum, far cheaper on CPU than B·H tiny matrix products.
        return jnp.sum(q * k, axis=-1)[None]
    # B·H products of small matrices, laid out as XLA's batched product takes them: a quarter faster than as they lie.
    return jnp.einsum("bhrk,bhtk->bhrt", q.transpose(1, 2, 0, 3), k.transpose(1, 2, 0, 3)).transpose(2, 3, 0, 1)


def _table_scores(q: _Stream, k: _Stream) -> jax.Array:
    """Compute q·k once per pair of (position, token), then look it up: `[R, T, B, H]`."""
    (queries, vocabulary), length = q.rows.shape[:2], len(k.rows)
    table = jnp.einsum("ruhk,tvhk->rutvh", q.rows, k.rows)
    r, t = jnp.arange(queries)[:, None, None], jnp.arange(length)[:, None]
    flat = ((r * vocabulary + q.tokens[:, None]) * length + t) * vocabulary + k.tokens
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
    def __call__(self, x: jax.Array, taps: _Taps, readout: jax.Array | None = None) -> jax.Array:
        c = self.config
        w_in = self.param("W_in", _normal(c.d_model), (c.d_model, c.d_mlp))
        b_in = self.param("b_in", nn.initializers.zeros, (c.d_mlp,))
        w_out = self.param("W_out", _normal(c.d_model), (c.d_mlp, c.d_model))
        b_out = self.param("b_out", nn.initializers.zeros, (c.d_model,))
        pre = taps(f"{self.prefix}hook_pre", _matmul(x, w_in) + b_in)
        post = taps(f"{self.prefix}hook_post", _ACTIVATIONS[c.activation](pre))
        if readout is not None:
            w_out, b_out = w_out @ readout, b_out @ readout
        return _matmul(post, w_out) + b_out


# --- the MLP classifier --------------------------------------------------------------------------------


class _MLPModule(nn.Module):
    config: MLP
    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array, taps: _Taps, read: Positions) -> jax.Array:
        x = x.astype(self.config.dtype)
        for i, width in enumerate(self.config.hidden):
            pre = taps(f"layers.{i}.hook_pre", _Linear(width, name=f"layers.{i}")(x), (0,))
            x = taps(f"layers.{i}.hook_post", _ACTIVATIONS[self.config.activation](pre), (0,))
        return _Linear(self.sizes.classes, name="readout")(x)[:, None]


class _Linear(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.param("W", nn.initializers.lecun_normal(), (x.shape[-1], self.width))
        return x @ w + self.param("b", nn.initializers.zeros, (self.width,))
