"""The multi-layer perceptron on real-valued input: its config and its forward pass."""

from dataclasses import dataclass

import flax.linen as nn
import jax

from jaxadd.errors import UserError, check_choices
from jaxadd.models.hooks import Hooks
from jaxadd.models.model import ACTIVATIONS, Activation, Dtype, ModelConfig, Precision, module
from jaxadd.types import Positions, Sizes


@dataclass(frozen=True)
class MLP(ModelConfig):
    """Multi-layer perceptron classifier on real-valued input."""

    hidden: tuple[int, ...] = (128,)
    """number of neurons of each hidden layer"""
    activation: Activation = "relu"
    """activation function of the neurons; gelu is the exact form, with erf"""
    dtype: Dtype = "float32"
    """dtype of activations; parameters, logits and loss are always float32"""
    precision: Precision = "highest"
    """precision of matrix products; below highest, accelerators may round inputs to TF32 or bfloat16"""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise UserError(f"every hidden layer needs at least one neuron, got {self.hidden}")
        check_choices(self)

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        return {} if self.hidden else {"activation": "hidden layers"}

    def check_fits(self, sizes: Sizes) -> None:
        """Raise UserError where the input is tokens."""
        if sizes.vocabulary is not None:
            raise UserError("an MLP reads real-valued features, and this task's input is tokens; use a Transformer")

    def activation_names(self) -> tuple[str, ...]:
        """Return the names of all activations but the logits."""
        return tuple(f"layers.{i}.{hook}" for i in range(len(self.hidden)) for hook in ("hook_pre", "hook_post"))


@module.register
def _(config: MLP, sizes: Sizes) -> nn.Module:
    return _MLPModule(config, sizes)


class _MLPModule(nn.Module):
    config: MLP
    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array, hooks: Hooks, read: Positions) -> jax.Array:
        x = x.astype(self.config.dtype)
        for i, width in enumerate(self.config.hidden):
            pre = hooks(f"layers.{i}.hook_pre", _Linear(width, name=f"layers.{i}")(x), (0,))
            x = hooks(f"layers.{i}.hook_post", ACTIVATIONS[self.config.activation](pre), (0,))
        return _Linear(self.sizes.classes, name="readout")(x)[:, None]


class _Linear(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.param("W", nn.initializers.lecun_normal(), (x.shape[-1], self.width))
        return x @ w + self.param("b", nn.initializers.zeros, (self.width,))[None]
