"""The whole problem of a network that learns an operation mod P: all pairs, in the order of the operation's group.

The P elements of the group are listed in its order, see `tasks.modular.cyclic`; mod P under addition they are the
numbers themselves.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import fourier
from jaxadd.analysis.measures import Axes
from jaxadd.errors import UserError
from jaxadd.tasks import Modular, Task
from jaxadd.tasks.modular import OPERATIONS, CyclicProduct
from jaxadd.types import Data


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("inputs", "answers", "train", "test", "labels"),
    meta_fields=("group",),
)
@dataclass(frozen=True)
class Problem:
    """The whole problem: all pairs in lexicographic order of their elements, pair (i, j) at P·i + j.

    Attributes:
      inputs: int32 `[P², T]`, the tokens of (a, b) and perhaps =.
      answers: int32 `[P²]`, the index of the element a + b or a - b.
      train: int32 `[n]`, the pairs trained on.
      test: int32 `[P² - n]`, the others.
      labels: int32 `[P²]`, the classes that are trained on, some of them wrong where there is label noise.
      group: in which the answer is a sum or difference; a pytree does not count it among its arrays.
    """

    inputs: jax.Array
    answers: jax.Array
    train: jax.Array
    test: jax.Array
    labels: jax.Array
    group: CyclicProduct

    @property
    def orders(self) -> tuple[int, ...]:
        """The orders of the factors of the group."""
        return self.group.orders

    @property
    def axes(self) -> Axes:
        """The names along the axes of measures: of the K frequencies, and of these after the constant, "0"."""
        names = fourier.names(self.orders)
        return {"frequency": names, "frequency or 0": ("0", *names)}

    def of_elements(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """Return an axis of residues, and perhaps `=`, as one of the P elements in the order of the group."""
        count = len(self.group.elements)
        if self.group.elements == tuple(range(count)):
            return jax.lax.slice_in_dim(x, 0, count, axis=axis)
        return jnp.take(x, np.array(self.group.elements), axis=axis)


@functools.singledispatch
def whole_problem(task: Task, lane: Mapping[str, jax.Array]) -> Problem:
    """Return the problem of one lane, `lane` being its train and test pairs, `Network.data.lane`.

    Raises:
      UserError: the task's answer is no sum or difference of two operands in a group.
    """
    raise _no_sum(type(task).__name__)


@whole_problem.register
def _(task: Modular, lane: Mapping[str, jax.Array]) -> Problem:
    if task.group is None:
        raise _no_sum(f"operation {task.operation}")
    if task.operands != 2:
        raise _no_sum(f"{task.operands} operands")
    chex.assert_rank([lane["train"], lane["test"]], 1)
    count, place = len(task.elements), task.group.places
    # From the index of an element in ascending order to that in the order of the group.
    moved = np.array([place[element] for element in task.elements.tolist()], np.int32)
    back = np.argsort(moved).astype(np.int32)
    listed = jax.device_put((back[:, None] * count + back).reshape(-1))
    batch, labelled = task.batch(listed, {}), task.labelled(listed, Data({}, lane))
    # In NumPy: JAX would compile every one of these operations.
    targets, labels = (np.asarray(x.targets)[:, 0] for x in (batch, labelled))
    train, test = (np.asarray(lane[split]) for split in ("train", "test"))
    train, test = (moved[x // count] * count + moved[x % count] for x in (train, test))
    answers = moved[np.searchsorted(task.elements, targets)]
    answers, train, test, labels = jax.device_put((answers, train, test, labels))
    return Problem(batch.inputs, answers, train, test, labels, task.group)


def as_if(task: Modular, group: CyclicProduct, sign: int = 1) -> Problem:
    """Return all pairs as if the task were a sum or difference in a group, such as another one than its own.

    With it a network is measured in the characters of that group. All pairs count as train and as test pairs.
    """
    elements = np.asarray(group.elements, np.int32)
    pairs = np.arange(len(elements) ** 2, dtype=np.int32)
    a, b = (elements[x] for x in np.divmod(pairs, len(elements)))
    inputs = np.stack([a, b, np.full_like(a, task.p)][: task.sizes.length], axis=1)
    answers = fourier.combine(group.orders, sign).reshape(-1).astype(np.int32)
    inputs, answers, pairs, labels = jax.device_put((inputs, answers, pairs, elements[answers]))
    return Problem(inputs, answers, pairs, pairs, labels, group)


def _no_sum(got: str) -> UserError:
    names = [name for name, rule in OPERATIONS.items() if rule.group]
    return UserError(
        "restricted and excluded loss, key frequencies and the other progress measures need a Modular task of two "
        f"operands whose operation is {', '.join(names[:-1])} or {names[-1]}, got {got}"
    )
