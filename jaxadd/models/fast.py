"""The transformer's forward pass, without the work that training and evaluation do not need.

`plain.forward` computes the same function in a form to read; `tests/models/test_combinations.py` compares the two.
What is saved: the loss reads R of T positions, so the last block computes queries, MLP and logits only there. The
input of the first block is a function of (token, position), so its keys, values and queries are computed once per
vocabulary entry and position, then looked up for each example. In Nanda et al.'s setting this takes a quarter of the
arithmetic of the plain pass. Where there are few classes, W_out W_U is computed first, so that neurons are multiplied
by C columns instead of D. `attention` and `layers` hold the parts.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxadd.models.attention import Attention
from jaxadd.models.hooks import Hooks
from jaxadd.models.layers import Norm, Stream, matmul, normal
from jaxadd.models.model import ACTIVATIONS, module
from jaxadd.models.transformer import Transformer
from jaxadd.types import Positions, Sizes


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
            stream = Stream(rows, None)
        elif position is not None:
            stream = Stream(embedding[None] + position[:, None], tokens.T)
        else:
            stream = Stream(jnp.broadcast_to(embedding[None], (s.length, *embedding.shape)), tokens.T)
        unembed, numbers = _Unembed(c, s, name="unembed"), c.numbered(s)
        last = f"blocks.{c.layers - 1}."
        for i in range(c.layers - 1):
            stream = Stream(
                _Block(c, f"blocks.{i}.", numbers, name=f"blocks.{i}")(stream, hooks, tuple(range(s.length))), None
            )
        block = _Block(c, last, numbers, name=last.removesuffix("."))
        if _reads_out_early(c, s) and not hooks.uses(f"{last}hook_mlp_out", f"{last}hook_resid_post"):
            return unembed.biased(block(stream, hooks, read, unembed.matrix())).swapaxes(0, 1)
        x = block(stream, hooks, read)
        if c.norm != "none" and c.final_norm:
            x = hooks("ln_final.hook_normalized", Norm(c, name="ln_final")(x))
        return unembed.biased(matmul(x, unembed.matrix())).swapaxes(0, 1)


def _reads_out_early(config: Transformer, sizes: Sizes) -> bool:
    """Return whether to multiply neurons by W_out W_U at once: with few classes it is less work.

    Nothing may stand between W_out and W_U: neither a norm nor dropout.
    """
    direct = config.norm == "none" or (config.norm_where == "pre" and not config.final_norm)
    return config.d_mlp > 0 and direct and config.dropout == 0 and 2 * sizes.classes <= config.d_model


class _Table(nn.Module):
    """A matrix parameter, initialised as N(0, 1) / √fan."""

    parameter: str
    shape: tuple[int, ...]
    fan: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param(self.parameter, normal(self.fan), self.shape)


class _Unembed(nn.Module):
    config: Transformer
    sizes: Sizes

    def setup(self) -> None:
        c, s = self.config, self.sizes
        self.w = self.param("W_U", normal(s.classes), (c.d_model, s.classes))
        self.b = self.param("b_U", nn.initializers.zeros, (s.classes,)) if c.unembed_bias else None

    def matrix(self) -> jax.Array:
        return self.w

    def biased(self, logits: jax.Array) -> jax.Array:
        return logits if self.b is None else logits + self.b[None, None]


class _Block(nn.Module):
    config: Transformer
    prefix: str
    numbers: tuple[int, ...]

    @nn.compact
    def __call__(self, stream: Stream, hooks: Hooks, at: Positions, readout: jax.Array | None = None) -> jax.Array:
        """Return the residual stream `[R, B, D]` after the block, multiplied by `readout` `[D, C]` if it is given."""
        c = self.config
        before, after, both = (
            c.norm != "none" and c.norm_where in where for where in (("pre", "both"), ("post",), ("both",))
        )
        tap = lambda name, *rest: hooks(self.prefix + name, *rest)

        def norm(name: str, x: jax.Array, wanted: bool) -> jax.Array:
            return tap(f"{name}.hook_normalized", Norm(c, name=name)(x)) if wanted else x

        def out(name: str, x: jax.Array) -> jax.Array:
            return tap(name, hooks.drop(self.prefix + name, x, c.dropout))

        if stream.tokens is None:
            stream = stream.map(lambda rows: tap("hook_resid_pre", rows))
            normed = stream.map(lambda rows: norm("ln1", rows, before))
        else:
            normed = stream.map(Norm(c, name="ln1")) if before else stream
        x = stream.at(at).per_example()
        heads = Attention(c, f"{self.prefix}attn.", self.numbers, name="attn")(normed, hooks, at)
        x = norm("ln1", x + out("hook_attn_out", norm("ln1_post", heads, both)), after)
        if c.d_mlp:
            x = tap("hook_resid_mid", x)
            h = norm("ln2", x, before)
            mlp = _MLPBlock(c, f"{self.prefix}mlp.", name="mlp")
            if readout is not None:
                return matmul(x, readout) + mlp(h, hooks, readout)
            x = norm("ln2", x + out("hook_mlp_out", norm("ln2_post", mlp(h, hooks), both)), after)
        return tap("hook_resid_post", x)


class _MLPBlock(nn.Module):
    config: Transformer
    prefix: str

    @nn.compact
    def __call__(self, x: jax.Array, hooks: Hooks, readout: jax.Array | None = None) -> jax.Array:
        c = self.config

        def bias(name: str, width: int) -> jax.Array | None:
            return self.param(name, nn.initializers.zeros, (width,)) if c.mlp_bias else None

        w_in = self.param("W_in", normal(c.d_model), (c.d_model, c.d_mlp))
        linear = matmul(x, w_in, bias("b_in", c.d_mlp))
        if c.mlp == "gated":
            gate = hooks(f"{self.prefix}hook_pre", matmul(x, self.param("W_gate", normal(c.d_model), w_in.shape)))
            post = ACTIVATIONS[c.activation](gate) * hooks(f"{self.prefix}hook_pre_linear", linear)
        else:
            post = ACTIVATIONS[c.activation](hooks(f"{self.prefix}hook_pre", linear))
        post = hooks(f"{self.prefix}hook_post", post)
        w_out = self.param("W_out", normal(c.d_model), (c.d_mlp, c.d_model))
        b_out = bias("b_out", c.d_model)
        if readout is not None:
            w_out, b_out = w_out @ readout, None if b_out is None else b_out @ readout
        return matmul(post, w_out, b_out)
