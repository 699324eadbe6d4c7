"""A network's structure as a value: a frozen config, sized for a task, with pure functions of the parameters."""

import abc
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxadd.models.hooks import Edit, Hooks
from jaxadd.types import Params, Positions, Sizes

Precision = Literal["highest", "high", "default"]
Dtype = Literal["float32", "bfloat16"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
}


class ModelConfig(abc.ABC):
    """An architecture: a frozen dataclass with the fields `dtype` and `precision`, and everything below."""

    dtype: Dtype
    precision: Precision

    @abc.abstractmethod
    def check_fits(self, sizes: Sizes) -> None:
        """Raise UserError where a network of this architecture cannot read or answer a task of these sizes."""

    @abc.abstractmethod
    def activation_names(self) -> tuple[str, ...]:
        """Return the names of all activations but the logits, in the order of computation."""

    def build(self, sizes: Sizes) -> "Model":
        """Return the model for a task's sizes; raises UserError where they do not fit each other."""
        self.check_fits(sizes)
        return Model(self, sizes)


@functools.singledispatch
def module(config: ModelConfig, sizes: Sizes) -> nn.Module:
    """Return the Flax module of an architecture; it is called with (inputs, hooks, read) and returns logits `[B, R, C]`.

    Registered by the module that defines the forward pass.
    """
    raise NotImplementedError(f"{type(config).__name__} has no forward pass; register one with `module.register`")


@dataclass(frozen=True)
class Model:
    """An architecture sized for a task: hashable, so that compiled functions may take it as a static argument.

    Attributes:
      config: the architecture.
      sizes: of the task.
    """

    config: ModelConfig
    sizes: Sizes

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all activations in the order of computation; the last is "logits"."""
        return (*self.config.activation_names(), "logits")

    def init(self, key: jax.Array) -> Params:
        """Draw the parameters of one network, a nested dict of float32 arrays, from a typed key."""
        inputs = jnp.zeros((1, self.sizes.length), jnp.float32 if self.sizes.vocabulary is None else jnp.int32)
        return module(self.config, self.sizes).init(key, inputs, Hooks(self.names, (), {}), self.sizes.read)["params"]

    def shapes(self) -> Params:
        """Return the shapes and dtypes of the parameters, as `init` returns them, without computing them."""
        return jax.eval_shape(self.init, jax.eval_shape(lambda: jax.random.key(0)))

    def apply(
        self,
        params: Params,
        inputs: jax.Array,
        names: Collection[str] = (),
        edits: Mapping[str, Edit] | None = None,
        read: Positions | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Compute the logits, and return or replace activations on the way. What is not asked for costs nothing.

        Args:
          params: of one network.
          inputs: `[B, T]`, int32 tokens or float32 features.
          names: the activations to return.
          edits: by name of an activation, a pure function of it whose result takes its place.
          read: the R positions to compute logits at, the task's scored positions by default. In the last block,
            activations after attention exist at these positions only.

        Returns:
          float32 logits `[B, R, C]`, and the activations by name, batch first.

        Raises:
          UserError: no activation has that name.
        """
        chex.assert_shape(inputs, (None, self.sizes.length))
        hooks = Hooks(self.names, names, edits or {})
        params = jax.tree.map(lambda w: jnp.asarray(w, self.config.dtype), params)
        with jax.default_matmul_precision(self.config.precision):
            logits = module(self.config, self.sizes).apply(
                {"params": params}, inputs, hooks, self.sizes.read if read is None else read
            )
        return hooks("logits", logits.astype(jnp.float32), (0,)), hooks.cache
