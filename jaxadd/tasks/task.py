"""The Task protocol: all that the trainer knows of a task, and all that a model knows of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np


@dataclass(frozen=True)
class Sizes:
    """The sizes a model is built from: the only thing that a model learns of its task.

    Attributes:
      length: T tokens per example, or the number of features where the input is real-valued.
      classes: C, the last axis of the logits.
      vocabulary: V, the number of distinct input tokens; None where the input is real-valued.
      read: the R positions whose logits are scored, ascending.
      autoregressive: the input after a position read is the answer there, so a model that looks ahead would
        see what it has to predict.
    """

    length: int
    classes: int
    vocabulary: int | None = None
    read: tuple[int, ...] = (0,)
    autoregressive: bool = False


Predict = Callable[..., jax.Array]
"""A network with its parameters: `predict(inputs, read=None)` gives logits `[B, R, C]`; `read` may be traced."""


class Batch(NamedTuple):
    """Examples and their labels.

    Attributes:
      inputs: int32 tokens `[B, T]`, or float32 features `[B, T]`.
      targets: int32 `[B, R]`, one class for each position read.
    """

    inputs: jax.Array
    targets: jax.Array


class Data(NamedTuple):
    """What a task prepares once, before training.

    Attributes:
      shared: arrays that all lanes read (images, a table); carried once however many lanes there are.
      lane: arrays of one lane (its train and test split); with a leading S axis as `Task.data` returns it.
    """

    shared: Any
    lane: Any


class Task(Protocol):
    """A frozen dataclass that can draw batches. Invalid fields raise ValueError when it is made."""

    @property
    def sizes(self) -> Sizes:
        """Give the sizes that a model for this task needs."""

    @property
    def title(self) -> str:
        """Name the task in a few words, for figures."""

    def data(self, seeds: Sequence[int]) -> Data:
        """Prepare the data of S lanes on the host; `lane` leaves have a leading S axis."""

    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        """Draw the batch of `step`. Pure: the same arguments give the same batch, so nothing is saved."""

    def test_batch(self, data: Data) -> Batch:
        """Give one lane's whole held-out set."""

    def measure(self, data: Data, batch: Batch, logits: jax.Array, predict: Predict) -> dict[str, jax.Array]:
        """Compute what is recorded of one lane at an evaluation beside loss and accuracy, arrays by name.

        `batch` is the test batch, `logits` `[B, R, C]` the network's answer to it.
        """

    def describe(self, inputs: np.ndarray, target: np.ndarray, claim: np.ndarray) -> str:
        """Put one example `[T]`, its target `[R]` and what was claimed, `[R]`, into words."""
