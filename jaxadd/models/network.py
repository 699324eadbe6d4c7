"""A trained network as one value: a model, its parameters, and the task."""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.lanes import is_traced, take
from jaxadd.models.hooks import Edit
from jaxadd.models.model import Model, ModelConfig
from jaxadd.optim import scores
from jaxadd.tasks import Task
from jaxadd.tasks.listed import Listed
from jaxadd.trees import named_leaves
from jaxadd.types import Data, Params, Positions


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params",),
    meta_fields=("model", "task", "seed", "step", "split_known"),
)
@dataclass(frozen=True)
class Network:
    """One trained network: calling it computes logits, and reads or replaces activations.

    A pytree whose leaves are the parameters, so `jax.jit`, `jax.grad` and `jax.vmap` take it as an argument.

    Attributes:
      params: nested dict of float32 arrays.
      model: the architecture, sized for the task.
      task: the task it was trained on.
      seed: seed of the lane, which determines the split of the task's data.
      step: number of updates made.
      split_known: whether the network was trained on the train set of its seed; False for a file from elsewhere, of a
        task whose problems are listed, where neither the file nor the user says which problems it was trained on.
    """

    params: Params
    model: Model
    task: Task
    seed: int = 0
    step: int = 0
    split_known: bool = True

    @property
    def title(self) -> str:
        """The task in a few words, and that the split is not known where it is not."""
        return self.task.title if self.split_known else f"{self.task.question}, train split unknown"

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.model.config

    @property
    def data(self) -> Data:
        """The data of the network's lane, such as its train and test split, as far as that is known."""
        data, task = self.task.data((self.seed,)), self.task
        if isinstance(task, Listed) and not self.split_known:
            return data._replace(lane=task.unsplit())
        return data._replace(lane=take(data.lane, 0))

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
        """Compute the logits, float32 `[B, R, C]`, and the activations named by `cache`.

        Args:
          inputs: `[B, T]`, int32 tokens or float32 features.
          cache: names of activations to return (`model.names` lists them); None returns the logits alone.
          edits: by name of an activation, a pure function of it whose result replaces it.
          read: the R positions at which logits are computed, by default the scored positions of the task.

        Returns:
          logits, or (logits, activations by name) where `cache` is given.

        Raises:
          UserError: a name is not that of an activation, an edit changes a shape, or the inputs or positions are not
            those of the task.
        """
        if isinstance(cache, str):
            raise UserError(f"cache should be a list of names, such as [{cache!r}], got one name")
        names, inputs = tuple(cache or ()), self._checked(inputs)
        read = None if read is None else self._positions(read)
        if edits:
            logits, seen = self.model.apply(self.params, jnp.asarray(inputs), names, edits, read)
        else:
            fixed, traced = (read, None) if read is None or isinstance(read, tuple) else (None, read)
            logits, seen = _apply(self.model, names, fixed, self.params, inputs, traced)
            seen = {name: seen[name] for name in self.model.names if name in seen}  # In the order of computation.
        return logits if cache is None else (logits, seen)

    def on(self, task: Task) -> "Network":
        """Return the network on another task, such as addition of longer numbers.

        Raises:
          UserError: the task does not fit it, or would need other parameters, as learned positions do.
        """
        model = self.config.build(task.sizes)
        own, needed = ({name: w.shape for name, w in named_leaves(p)} for p in (self.params, model.shapes()))
        if own != needed:
            name = next(name for name in {**needed, **own} if own.get(name) != needed.get(name))
            raise UserError(
                f"a network of {self.task.question} cannot run on {task.question}: its {name} is "
                f"{own.get(name)}, and would be {needed.get(name)}"
            )
        return replace(self, model=model, task=task)

    def answer(self, inputs: jax.typing.ArrayLike) -> jax.Array:
        """Return the greedy answers, int32 `[B, R]`; -1 where a logit is not finite.

        In an autoregressive task every answer is fed back as input, and the answers in `inputs` are ignored.

        Raises:
          UserError: the inputs are not those of the task.
        """
        return _answer(self.model, self.params, jnp.asarray(self._checked(inputs)))

    def _checked(self, inputs: jax.typing.ArrayLike) -> jax.Array | np.ndarray:
        """Return inputs as an array; raises UserError for a wrong shape or for tokens outside the vocabulary.

        JAX does not check an index, so the answer would be for other tokens. Within `jit` the values are not known,
        and only the shape is checked.
        """
        try:
            array = inputs if isinstance(inputs, jax.Array) else np.asarray(inputs)
        except ValueError as error:  # Rows of several lengths.
            raise UserError(f"inputs must be an array: {error}") from error
        length, tokens = self.model.sizes.length, self.model.sizes.vocabulary
        if array.ndim != 2 or array.shape[1] != length or not len(array):
            raise UserError(f"inputs must have the shape [B, {length}] with B at least 1, got {list(array.shape)}")
        if tokens is None or is_traced(array):
            return array
        if not np.issubdtype(array.dtype, np.integer):
            raise UserError(f"inputs must be integer tokens, got {array.dtype}")
        least, most = map(int, jax.device_get((array.min(), array.max())))
        if least < 0 or most >= tokens:
            raise UserError(f"tokens must be from 0 to {tokens - 1}, got {least} to {most}")
        return array

    def _positions(self, read: Positions) -> Positions:
        """Return positions; raises UserError for those that the input does not have, as far as they are known."""
        if is_traced(read):
            return read
        positions, length = np.asarray(read), self.model.sizes.length
        if positions.ndim != 1 or not np.issubdtype(positions.dtype, np.integer):
            raise UserError(f"read should be a list of positions, such as [0, {length - 1}], got {read!r}")
        if not positions.size or positions.min() < 0 or positions.max() >= length:
            raise UserError(f"read should hold positions from 0 to {length - 1}, got {positions.tolist()}")
        return read if isinstance(read, jax.Array) else tuple(positions.tolist())


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(
    model: Model,
    names: tuple[str, ...],
    fixed: tuple[int, ...] | None,
    params: Params,
    inputs: jax.Array,
    traced: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute logits and activations in one program, where every operation would be compiled on its own."""
    return model.apply(params, inputs, names, read=fixed if traced is None else traced)


@functools.partial(jax.jit, static_argnums=0)  # A Network has a static seed and step, and would be compiled for each.
def _answer(model: Model, params: Params, inputs: jax.Array) -> jax.Array:
    def predict(inputs: jax.Array, read: Positions | None = None) -> jax.Array:
        return model.apply(params, inputs, read=read)[0]

    if model.sizes.autoregressive:
        return scores.free_run(predict, inputs, model.sizes.read)
    return scores.greedy(predict(inputs))
