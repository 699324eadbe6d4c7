"""What a family of formats does: recognise the names of a state dict, and read the network."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from jaxadd.interop.fields import Fields
from jaxadd.models import ModelConfig, Transformer
from jaxadd.trees import named_leaves
from jaxadd.types import Params, Sizes

State = Mapping[str, np.ndarray]


class Found(NamedTuple):
    """A network in a state dict.

    Attributes:
      params: parameters of the untied network, a nested dict of float32 NumPy arrays.
      config: its architecture.
      layout: name of the layout of the state dict.
      length: T, the number of positions; None where there is no limit.
      vocabulary: V.
      classes: C.
      notes: what was assumed, a line each.
    """

    params: Params
    config: ModelConfig
    layout: str
    length: int | None
    vocabulary: int
    classes: int
    notes: tuple[str, ...] = ()


class Format(NamedTuple):
    """A family of formats.

    Attributes:
      title: its name and two of its tensors, for messages.
      recognises: `recognises(names)` returns whether a state dict is of this family.
      read: `read(state, stated, given)` returns the network; `stated` are fields that a config states, which yield to
        names and shapes, and `given` those that the caller states, which win.
      moments: `moments(arrays, found)` returns arrays of the names and shapes of the state dict's parameters, such as
        an optimiser's moments, as those of `found.params` are; None where the family has no such arrays.
    """

    title: str
    recognises: Callable[[Collection[str]], bool]
    read: Callable[[State, Fields, Fields], Found]
    moments: Callable[[State, Found], Params] | None = None


@functools.lru_cache(maxsize=32)
def shapes(config: Transformer, length: int, vocabulary: int, classes: int) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter of a network by name, such as "blocks.0.attn.W_Q"."""
    sizes = Sizes(length=length, classes=classes, vocabulary=vocabulary, read=(length - 1,))
    return {name: leaf.shape for name, leaf in named_leaves(config.build(sizes).shapes())}
