"""The structure of a network as a value: a frozen config, sized for a task, with pure functions of parameters."""

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
Activation = Literal["relu", "gelu", "silu", "square", "abs", "sin", "identity"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
    "square": jnp.square,
    "abs": jnp.abs,
    "sin": jnp.sin,
    "identity": lambda x: x,
}


class ModelConfig(abc.ABC):
    """Base class of architectures: frozen dataclasses with the fields `dtype` and `precision`."""

    dtype: Dtype
    precision: Precision

    @abc.abstractmethod
    def check_fits(self, sizes: Sizes) -> None:
        """Raise UserError where a network of this architecture cannot read or answer a task of these sizes."""

    @abc.abstractmethod
    def activation_names(self) -> tuple[str, ...]:
        """Return the names of all activations but the logits, in the order of computation."""

    def untied(self) -> "ModelConfig":
        """Return the same network with every matrix a parameter of its own; this one by default."""
        return self

    def free(self, key: jax.Array, matrices: Params, sizes: Sizes) -> Params:
        """Return the initial trained parameters, given those of the untied network; the same by default."""
        return matrices

    def matrices(self, params: Params, sizes: Sizes) -> Params:
        """Return the parameters of the untied network, functions of those that are trained; the same by default."""
        return params

    def build(self, sizes: Sizes) -> "Model":
        """Return the model for the sizes of a task; raises UserError where the two do not fit each other."""
        self.check_fits(sizes)
        return Model(self, sizes)


@functools.lru_cache(maxsize=64)  # Asked for every saved state that is read.
def _shapes(model: "Model") -> Params:
    return jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)))


@functools.singledispatch
def module(config: ModelConfig, sizes: Sizes) -> nn.Module:
    """Return the Flax module of an architecture, a function of (inputs, hooks, read) that returns logits `[B, R, C]`.

    Every architecture registers its forward pass here, with the parameters of the untied network.
    """
    raise NotImplementedError(f"{type(config).__name__} has no forward pass; register one with `module.register`")


@dataclass(frozen=True)
class Model:
    """An architecture sized for a task. Hashable, so compiled functions may take it as a static argument.

    Attributes:
      config: the architecture.
      sizes: the sizes of the task.
    """

    config: ModelConfig
    sizes: Sizes

    @property
    def untied(self) -> "Model":
        """The same network with every matrix a parameter of its own, as analysis and export see it."""
        return Model(self.config.untied(), self.sizes)

    def matrices(self, params: Params) -> Params:
        """Return the parameters of the untied model that computes what this one does with `params`."""
        return self.config.matrices(params, self.sizes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all activations in the order of computation; the last is "logits"."""
        return (*self.config.activation_names(), "logits")

    def init(self, key: jax.Array) -> Params:
        """Draw the initial parameters of one network, a nested dict of float32 arrays, from a typed key."""
        inputs = jnp.zeros((1, self.sizes.length), jnp.float32 if self.sizes.vocabulary is None else jnp.int32)
        network = module(self.config.untied(), self.sizes)
        matrices = network.init(key, inputs, Hooks(self.names, (), {}), self.sizes.read)["params"]
        return self.config.free(key, matrices, self.sizes)

    def shapes(self) -> Params:
        """Return the shapes and dtypes of the parameters, structured as by `init`, without computing them."""
        return jax.tree.map(lambda shape: shape, _shapes(self))  # A copy, as a dict can be changed.

    def apply(
        self,
        params: Params,
        inputs: jax.Array,
        names: Collection[str] = (),
        edits: Mapping[str, Edit] | None = None,
        read: Positions | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Compute the logits, and return or replace activations by name; unused hooks cost nothing.

        Args:
          params: the parameters of one network.
          inputs: `[B, T]`, int32 tokens or float32 features.
          names: names of the activations to return; `names` of the model lists all.
          edits: by name of an activation, a pure function of it whose result replaces it.
          read: the R positions at which logits are computed, by default the scored positions of the task. In the last
            block, activations after attention exist only at these positions.
          dropout_key: typed key that the masks of dropout follow from; without one, nothing is dropped.

        Returns:
          float32 logits `[B, R, C]`, and the requested activations by name, batch first.

        Raises:
          UserError: a name is not that of an activation.
        """
        chex.assert_shape(inputs, (None, self.sizes.length))
        hooks = Hooks(self.names, names, edits or {}, dropout_key)
        params = jax.tree.map(lambda w: jnp.asarray(w, self.config.dtype), self.matrices(params))
        with jax.default_matmul_precision(self.config.precision):
            logits = module(self.config.untied(), self.sizes).apply(
                {"params": params}, inputs, hooks, self.sizes.read if read is None else read
            )
        return hooks("logits", jnp.asarray(logits, jnp.float32), (0,)), hooks.cache
