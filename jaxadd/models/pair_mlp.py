"""The multi-layer perceptron on two tokens: its config and its forward pass.

With learned embeddings it is the network of Chughtai et al. 2023, with one-hot tokens, a squaring activation and no
biases that of Gromov 2023.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxadd.errors import UserError, check_choices
from jaxadd.models.hooks import Hooks
from jaxadd.models.model import ACTIVATIONS, Activation, Dtype, ModelConfig, Precision, module
from jaxadd.types import Positions, Sizes


@dataclass(frozen=True)
class PairMLP(ModelConfig):
    """Logits = act([E_a[a], E_b[b]] W_in) W_U for two tokens a and b.

    Every matrix is initialised as N(0, 1) / √(number of its rows), or with `init_std`.
    """

    embedding: Literal["learned", "one-hot"] = "learned"
    """learned vectors of the tokens, or the tokens one-hot"""
    tables: Literal["two", "one"] = "two"
    """one table of embeddings for each of the two tokens, or one for both"""
    combine: Literal["concatenate", "sum"] = "concatenate"
    """whether the vectors of the two tokens are concatenated or added up"""
    d_embed: int = 256
    """width of a learned embedding"""
    neurons: int = 128
    """number of neurons, F"""
    activation: Activation = "relu"
    """activation function of the neurons; gelu is the exact form, with erf"""
    bias: bool = False
    """neurons and logits have biases"""
    init_std: float | None = None
    """standard deviation of the initial matrices; by default 1 / √(number of rows)"""
    dtype: Dtype = "float32"
    """dtype of activations; parameters, logits and loss are always float32"""
    precision: Precision = "highest"
    """precision of matrix products; below highest, accelerators may round inputs to TF32 or bfloat16"""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("d_embed", "neurons"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.init_std is not None and not 0 < self.init_std < math.inf:
            raise UserError(f"init_std must be above 0 and finite, got {self.init_std}")

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        return dict.fromkeys(("d_embed", "tables"), "embedding learned") if self.embedding == "one-hot" else {}

    def check_fits(self, sizes: Sizes) -> None:
        """Raise UserError where the input is not two tokens."""
        if sizes.vocabulary is None or sizes.length != 2:
            got = "real-valued" if sizes.vocabulary is None else f"{sizes.length} tokens"
            raise UserError(
                f"a PairMLP reads two tokens, and this task's input is {got}; Modular and Group need equals none"
            )

    def activation_names(self) -> tuple[str, ...]:
        """Return the names of all activations but the logits."""
        return ("hook_embed_a", "hook_embed_b", "mlp.hook_pre", "mlp.hook_post")


@module.register
def _(config: PairMLP, sizes: Sizes) -> nn.Module:
    return _PairMLPModule(config, sizes)


class _PairMLPModule(nn.Module):
    config: PairMLP
    sizes: Sizes

    @nn.compact
    def __call__(self, tokens: jax.Array, hooks: Hooks, read: Positions) -> jax.Array:
        c, s = self.config, self.sizes
        assert s.vocabulary is not None  # Checked by `PairMLP.check_fits`.
        width = c.d_embed if c.embedding == "learned" else s.vocabulary
        names = ("W_a", "W_a" if c.tables == "one" else "W_b")
        if c.embedding == "one-hot":
            tables = {name: jnp.eye(s.vocabulary, dtype=c.dtype) for name in names}
        else:
            tables = {name: self._matrix(name, s.vocabulary, width) for name in dict.fromkeys(names)}
        w_in = self._matrix("W_in", width * (2 if c.combine == "concatenate" else 1), c.neurons)
        halves = (w_in[:width], w_in[-width:])
        pre = jnp.zeros((len(tokens), c.neurons), c.dtype)
        for i, (name, half) in enumerate(zip(names, halves, strict=True)):
            hook = f"hook_embed_{'ab'[i]}"
            if hooks.uses(hook):
                pre = pre + hooks(hook, tables[name][tokens[:, i]], (0,)) @ half
            elif c.embedding == "one-hot":
                pre = pre + half[tokens[:, i]]
            else:
                pre = pre + (tables[name] @ half)[tokens[:, i]]  # One product per token, not per example.
        if c.bias:
            pre = pre + self.param("b_in", nn.initializers.zeros, (c.neurons,))[None]
        post = hooks("mlp.hook_post", ACTIVATIONS[c.activation](hooks("mlp.hook_pre", pre, (0,))), (0,))
        logits = post @ self._matrix("W_U", c.neurons, s.classes)
        if c.bias:
            logits = logits + self.param("b_U", nn.initializers.zeros, (s.classes,))[None]
        return logits[:, None]

    def _matrix(self, name: str, rows: int, columns: int) -> jax.Array:
        std = self.config.init_std or 1 / math.sqrt(rows)
        draw: Callable = nn.initializers.normal(stddev=std)
        return self.param(name, draw, (rows, columns))
