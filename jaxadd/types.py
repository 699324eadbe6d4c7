"""The types that every layer shares: sizes, batches, data, parameters, metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

Params = Mapping[str, Any]
"""Parameters of one network: a nested dict of float32 arrays."""

Positions = tuple[int, ...] | jax.Array
"""Token positions; an int32 array `[R]` may be traced."""

Metrics = dict[str, np.ndarray]
"""What a run recorded, by name: "step" `[T]`, every other array `[S, T, ...]`; see `training.loop.Result`."""

Predict = Callable[..., jax.Array]
"""A network with its parameters: `predict(inputs, read=None)` returns logits `[B, R, C]`; `read` may be traced."""


@dataclass(frozen=True)
class Sizes:
    """The sizes a model is built from: all that a model knows of its task.

    Attributes:
      length: T, tokens per example, or the number of features where the input is real-valued.
      classes: C, the last axis of the logits.
      vocabulary: V, the number of distinct input tokens; None where the input is real-valued.
      read: the R positions whose logits are scored, ascending.
      autoregressive: whether the input after a scored position is the answer at that position, so that a model
        with bidirectional attention would see what it has to predict.
      places: for each input position, which place of a number it is about: digits of one place share one, from 0 on;
        empty where the input has no places.
    """

    length: int
    classes: int
    vocabulary: int | None = None
    read: tuple[int, ...] = (0,)
    autoregressive: bool = False
    places: tuple[int, ...] = ()


class Batch(NamedTuple):
    """Examples and their labels.

    Attributes:
      inputs: int32 tokens `[B, T]`, or float32 features `[B, T]`.
      targets: int32 `[B, R]`, one class for each scored position.
    """

    inputs: jax.Array
    targets: jax.Array


class Data(NamedTuple):
    """What a task prepares once, before training.

    Attributes:
      shared: arrays that all lanes read (images, a table); stored once however many lanes there are.
      lane: arrays of one lane (its train and test split); `Task.data` returns them with a leading S axis.
    """

    shared: Any
    lane: Any
