"""What a family of formats does: recognise the names of a state dict, and read the network."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop.fields import Fields
from jaxadd.interop.layouts import any_nonzero, float32, listed, nested
from jaxadd.models import ModelConfig, Transformer
from jaxadd.tasks import Task
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
      task: the task that networks of this kind are trained on, where there is one; None otherwise.
      notes: what was assumed, a line each.
    """

    params: Params
    config: ModelConfig
    layout: str
    length: int | None
    vocabulary: int
    classes: int
    task: Task | None = None
    notes: tuple[str, ...] = ()


class Format(NamedTuple):
    """A family of formats.

    Attributes:
      title: its name and two of its tensors, for messages.
      recognises: `recognises(names)` returns whether a state dict is of this family.
      read: `read(state, stated, given)` returns the network; `stated` are fields that a config states, and `given`
        those that the caller states, see `fields.config_of`.
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


def _as_here(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    return name, shape


def checked(
    arrays: Mapping[str, np.ndarray | None],
    expected: Mapping[str, tuple[int, ...]],
    spelled: Callable[[str, tuple[int, ...]], tuple[str, tuple[int, ...]]] = _as_here,
) -> Params:
    """Return the arrays of a network as parameters, nested and in float32.

    Args:
      arrays: by the names of this library; None, or no entry, where the file has none.
      expected: `shapes` of the network.
      spelled: returns the name and shape that a file of the format has for a name and shape here, for messages.

    Raises:
      UserError: an array is missing, has the wrong shape, or is one that the architecture does not have; a bias of
        zeros is then ignored.
    """
    words = lambda name, shape: "{} {}".format(*spelled(name, shape))
    if missing := [words(name, shape) for name, shape in expected.items() if arrays.get(name) is None]:
        raise UserError(f"it lacks {listed(missing)}")
    present = {name: array for name, array in arrays.items() if array is not None}
    biases = {name for name in present if name.rpartition(".")[2].startswith(("b", "_b"))}
    if spare := [
        words(name, array.shape)
        for name, array in present.items()
        if name not in expected and (name not in biases or any_nonzero(array))
    ]:
        raise UserError(f"it holds {listed(spare)}, for which the architecture has no place")
    wrong = [
        f"{words(name, present[name].shape)} should have shape {spelled(name, shape)[1]}"
        for name, shape in expected.items()
        if present[name].shape != shape
    ]
    if wrong:
        raise UserError(f"its shapes do not fit the architecture: {listed(wrong)}")
    return nested({name: np.array(float32(name, present[name]), order="C") for name in expected})


def missing_parts_note(missing: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note on usual tensors that a file lacks.

    Args:
      missing: what each tensor is for, such as "a final norm", by its name.
    """
    parts = [f"{what} (no {name})" for name, what in missing.items()]
    return (f"read as a network without {' and without '.join(parts)}",) if parts else ()


def zero_biases_note(names: Collection[str]) -> tuple[str, ...]:
    """Return a note on biases of the network that a file lacks."""
    return (f"not in the file, and read as zeros: {listed(list(names))}",) if names else ()
