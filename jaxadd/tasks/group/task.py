"""Multiplication in a finite group, on tokens `(a, b, =)` or `(a, b)`: Power et al. 2022, Chughtai et al. 2023."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.tasks.group import families, recognition
from jaxadd.tasks.group.finite import FiniteGroup, check_order, read_table, violation
from jaxadd.tasks.group.operations import OPERATIONS, Operation, OperationName
from jaxadd.tasks.listed import Listed


class Known(NamedTuple):
    """A group as a task has it: with the order of its elements, and the named group that it is isomorphic to.

    Attributes:
      group: its tokens are its elements.
      named: the named group; None where there is none.
      to: the number of each element there, int `[n]`.
    """

    group: FiniteGroup
    named: FiniteGroup | None
    to: np.ndarray

    @property
    def reference(self) -> FiniteGroup:
        """The named group or, without one, the group itself: what is computed of it does not depend on the tokens."""
        return self.group if self.named is None else self.named


@dataclass(frozen=True)
class Group(Listed):
    """Predict a·b, a·b·a⁻¹ or a·b·a in a finite group; every pair is either in the train or in the test set.

    Tokens are elements: permutations in lexicographic order and cycle notation ((1 2)·(2 3) is (2 3) first), rᵏ and
    then rᵏ s of dihedral and dicyclic groups, numbers of cyclic groups, tuples of products.
    """

    name: str = "S5"
    """the group: Sn, An, Dn of 2n elements, Cn, Qn (dicyclic) or products such as C2xC4"""
    operation: OperationName = "product"
    """what is computed: a·b, a·b·a⁻¹ (conjugate) or a·b·a"""
    file: str | None = None
    """file with a Cayley table, .npy or text with a row of numbers for each line, in place of a name"""
    table: tuple[int, ...] = ()
    """the Cayley table itself, row after row, in place of a name"""
    train_fraction: float = 0.3
    """fraction of the pairs in the train set"""
    equals: Literal["class", "token", "none"] = "class"
    """class: the input ends in =, which is a class too; token: it ends in =, with n classes; none: there is no ="""
    split: Literal["python", "keyed"] = "python"
    """how the split is drawn: python for random.shuffle, as published; keyed for a permutation drawn by JAX"""
    split_seed: int | None = None
    """seed of the train-test split in every lane; None takes the seed of the lane"""
    label_noise: float = 0.0
    """fraction of the train pairs with a wrong label, the same in all steps; drawn by the seed of the split"""
    batch_size: int | None = None
    """examples per step; None takes the full train set"""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.file and self.table:
            raise UserError("file and table both name the Cayley table; leave one of them out")
        if (self.file or self.table) and self.name != Group.name:
            source = f"file {self.file}" if self.file else "table"
            raise UserError(f"name {self.name} and {source} both name the group; leave one of them out")
        self.known  # noqa: B018 (it raises UserError where there is no such group)
        self.check_listed()

    @functools.cached_property
    def known(self) -> Known:
        """The group with its named counterpart."""
        if self.table:
            return _known(_square(self.table).tobytes())
        if self.file:
            return _known(read_table(self.file).astype(np.int32).tobytes())
        group = families.by_name(self.name)
        return Known(group, group, np.arange(group.order))

    @property
    def group(self) -> FiniteGroup:
        """The group whose elements are the tokens."""
        return self.known.group

    @property
    def count(self) -> int:
        """The number n of elements."""
        return self.group.order

    @property
    def elements(self) -> np.ndarray:
        """The elements as tokens, int32 `[n]`."""
        return np.arange(self.count, dtype=np.int32)

    def results(self, operands: list[jax.Array], problems: jax.Array, shared: dict[str, jax.Array]) -> jax.Array:
        """Return the answers, int32 `[B]`, to pairs, int32 `[B]` as n·a + b."""
        return shared["table"][problems]

    def tables(self) -> dict[str, jax.Array]:
        """Return "table", int32 `[n²]`, the answer of each pair."""
        return {"table": jax.device_put(self.answers())}

    def answers(self) -> np.ndarray:
        """Return the answer of each pair, int32 `[n²]`, pair (a, b) at n·a + b."""
        return self.rule.answers(self.group).astype(np.int32).ravel()

    @property
    def rule(self) -> Operation:
        """The operation."""
        return OPERATIONS[self.operation]

    def asked(self, operands: Sequence[str]) -> str:
        """Return what is asked of two operands, such as "(1 2)·(2 3) in S5"."""
        return f"{self.rule.written(operands)} in {self.group.name}"

    @property
    def token_names(self) -> tuple[str, ...]:
        """The elements, and `=` where the input has it."""
        return (*self.group.elements, "=")[: self.sizes.vocabulary]

    def parse(self, text: str) -> np.ndarray:
        """Return the elements a and b of a problem such as "(1 2)*(2 3)" or "r^2 s · r", int `[2]`.

        Raises:
          UserError: it is no such problem.
        """
        numbers = {_plain(name): i for i, name in enumerate(self.group.elements)}
        words = [_plain(word) for word in text.replace("·", "*").removesuffix("=").split("*")]
        if len(words) != 2 or not all(word in numbers for word in words):
            first, last = self.group.elements[min(1, self.group.order - 1)], self.group.elements[-1]
            raise UserError(f"{text!r} is no problem in {self.group.name}; write a and b such as '{first} * {last}'")
        return np.array([numbers[word] for word in words])

    def formula(self, a: int, b: int) -> str:
        """Return what is computed of two elements, such as "(1 2)·(2 3)"."""
        return self.rule.written((self.group.elements[a], self.group.elements[b]))


def _plain(name: str) -> str:
    return name.replace(" ", "")


def of_table(table: np.ndarray, task: Group) -> Group:
    """Return a task with another Cayley table, `[n, n]`, and otherwise the same fields."""
    return replace(task, name=Group.name, file=None, table=tuple(map(int, np.asarray(table).ravel())))


def _square(table: Sequence[int]) -> np.ndarray:
    n = math.isqrt(len(table))
    if n * n != len(table):
        raise UserError(f"a Cayley table has n² entries, row after row, and this one has {len(table)}")
    check_order("the table's group", n)
    return np.array(table, np.int32).reshape(n, n)


@functools.lru_cache(maxsize=8)
def _known(cells: bytes) -> Known:
    """Return the group of a table, whose elements have the names of the named group that it is isomorphic to.

    Those of a cyclic group are powers of a generator, g^0 to g^(n - 1).
    """
    flat = np.frombuffer(cells, np.int32)
    n = math.isqrt(len(flat))
    table = flat.reshape(n, n)
    if (problem := violation(table)) is not None:
        raise UserError(f"the table is not that of a group: {problem}")
    unnamed = FiniteGroup(f"a group of order {n}", table, tuple(map(str, range(n))))
    found = recognition.recognise(unnamed)
    if found is None:
        return Known(unnamed, None, np.arange(n))
    # The numbers of a cyclic group would be taken for those of the table.
    numbers = found.group.elements == tuple(map(str, range(n)))
    names = tuple(f"g^{i}" if numbers else found.group.elements[i] for i in found.to)
    return Known(FiniteGroup(found.group.name, table, names), found.group, found.to)
