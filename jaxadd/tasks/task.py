"""The base class of tasks: everything that training, models and views know of a task."""

import abc
from collections.abc import Sequence

import jax
import numpy as np

from jaxadd.types import Batch, Data, Predict, Sizes


class Task(abc.ABC):
    """What a network learns: pure functions from (data, key, step) to a batch.

    A task is a frozen dataclass that derives from this class; invalid fields raise UserError when it is made. Only
    the first four members have to be defined. Everything in this library works on any task; what is specific to one
    task (its measures, its hypotheses) is registered in `analysis`.
    """

    @property
    @abc.abstractmethod
    def sizes(self) -> Sizes:
        """The sizes that a model for this task is built from."""

    @abc.abstractmethod
    def data(self, seeds: Sequence[int]) -> Data:
        """Return the data of S lanes, prepared on the host; leaves of `lane` have a leading S axis."""

    @abc.abstractmethod
    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        """Draw the batch of one step for one lane. Pure: the same arguments give the same batch."""

    @abc.abstractmethod
    def test_batch(self, data: Data) -> Batch:
        """Return one lane's whole test set."""

    @property
    def title(self) -> str:
        """The task in a few words, for figures."""
        return type(self).__name__

    @property
    def question(self) -> str:
        """What is asked, in a few words: the title without what it says of training."""
        return self.title

    @property
    def token_names(self) -> tuple[str, ...]:
        """The text of each of the V tokens; numbers by default, empty for real-valued input."""
        return tuple(map(str, range(self.sizes.vocabulary or 0)))

    @property
    def position_names(self) -> tuple[str, ...]:
        """The name of each of the T input positions; numbers by default."""
        return tuple(map(str, range(self.sizes.length)))

    @property
    def answer_names(self) -> tuple[str, ...]:
        """The name of each of the R scored positions; numbers by default."""
        return ("answer",) if len(self.sizes.read) == 1 else tuple(f"answer {r}" for r in range(len(self.sizes.read)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the problem classes in "accuracy_by_class", if `measure` records it; none by default."""
        return ()

    def examples(self, data: Data, key: jax.Array, count: int) -> Batch:
        """Draw up to `count` examples on which to analyse a network, by default from the test set.

        Args:
          data: the data of one lane.
          key: typed key.
          count: largest number of examples.
        """
        batch = self.test_batch(data)
        chosen = jax.random.permutation(key, len(batch.targets))[:count]
        return Batch(batch.inputs[chosen], batch.targets[chosen])

    def measure(self, data: Data, batch: Batch, logits: jax.Array, predict: Predict) -> dict[str, jax.Array]:
        """Compute what an evaluation of one lane records beside loss and accuracy; nothing by default.

        Args:
          data: the data of the lane.
          batch: the test batch of the lane.
          logits: float32 `[B, R, C]`, the output of the network for the batch.
          predict: the network.

        Returns:
          arrays by name, of shapes that do not depend on the lane.
        """
        return {}

    def describe(self, inputs: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> str:
        """Describe one prediction in words.

        Args:
          inputs: `[T]`, as in a batch.
          target: int `[R]`.
          prediction: int `[R]`; -1 where the output of the network was not finite.
        """
        outcome = "correct" if np.array_equal(target, prediction) else f"the answer is {_spaced(target)}"
        return f"{_spaced(inputs)}: predicts {_spaced(prediction)}, {outcome}"


def _spaced(values: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in np.atleast_1d(values))
