"""A trained network as one value: a model, its parameters, and the task that they were trained on."""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import overload

import jax
import jax.numpy as jnp

from jaxadd.models.hooks import Edit
from jaxadd.models.model import Model, ModelConfig
from jaxadd.optim import scores
from jaxadd.tasks import Task
from jaxadd.types import Data, Params, Positions


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("params",), meta_fields=("model", "task", "seed", "step")
)
@dataclass(frozen=True)
class Network:
    """One trained network: call it, look into it, replace parts of it.

    A pytree whose leaves are the parameters, so `jax.jit`, `jax.grad` and `jax.vmap` take it as an argument.

    Attributes:
      params: nested dict of float32 arrays.
      model: the architecture, sized for the task.
      task: what it was trained on.
      seed: names its split of the task's data.
      step: the updates made.
    """

    params: Params
    model: Model
    task: Task
    seed: int = 0
    step: int = 0

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.model.config

    @property
    def data(self) -> Data:
        """The task's data of this network's lane, such as its train and test split."""
        data = self.task.data((self.seed,))
        return data._replace(lane=jax.tree.map(lambda x: x[0], data.lane))

    @overload
    def __call__(
        self,
        inputs: jax.typing.ArrayLike,
        *,
        cache: None = None,
        edits: Mapping[str, Edit] | None = None,
        read: Positions | None = None,
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        inputs: jax.typing.ArrayLike,
        *,
        cache: Collection[str],
        edits: Mapping[str, Edit] | None = None,
        read: Positions | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...

    def __call__(self, inputs, *, cache=None, edits=None, read=None):
        """Compute the logits, float32 `[B, R, C]`, and return them with the activations named by `cache`.

        Args:
          inputs: `[B, T]`, int32 tokens or float32 features.
          cache: names of activations (`model.names` lists them); None returns the logits alone.
          edits: by name of an activation, a pure function of it whose result takes its place.
          read: the positions to compute logits at; the task's scored positions by default.

        Raises:
          UserError: no activation has that name.
        """
        logits, activations = self.model.apply(self.params, jnp.asarray(inputs), cache or (), edits, read)
        return logits if cache is None else (logits, activations)

    def answer(self, inputs: jax.typing.ArrayLike) -> jax.Array:
        """Return the greedy answers, int32 `[B, R]`; -1 where a logit is not finite.

        A network whose input holds the answer gets its own answers so far, not those in `inputs`.
        """
        return _answer(self.model, self.params, jnp.asarray(inputs))


@functools.partial(jax.jit, static_argnums=0)  # Not of a Network: one compilation for all seeds and steps.
def _answer(model: Model, params: Params, inputs: jax.Array) -> jax.Array:
    def predict(inputs: jax.Array, read: Positions | None = None) -> jax.Array:
        return model.apply(params, inputs, read=read)[0]

    if model.sizes.autoregressive:
        return scores.free_run(predict, inputs, model.sizes.read)
    return scores.greedy(predict(inputs))
