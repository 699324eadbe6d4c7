"""Modular arithmetic on tokens `(a, b, =)` or `(a, b)`, the standard task of the grokking literature."""

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.optim import scores
from jaxadd.tasks.modular.cyclic import CyclicProduct
from jaxadd.tasks.modular.operations import OPERATIONS, Operation, OperationName
from jaxadd.tasks.sampling import check_batch_size, choose
from jaxadd.tasks.task import Task
from jaxadd.types import Batch, Data, Predict, Sizes

_MAX_P = 4096  # The product of two residues must stay far below 2**31.
_MAX_PROBLEMS = _MAX_P**2  # They are listed.


@dataclass(frozen=True)
class Modular(Task):
    """Predict `(a ∘ b) mod P` at the last token; every problem is either in the train or in the test set.

    Operands are the residues mod P, or its M units where the operation divides or multiplies; residue r is token r. A
    problem is a pair of operands or, for sums and products, any number of them: there are M^N.

    By default the setting of Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability":
    T = 3 tokens, `=` is token P, V = P + 1, logits over all V classes.
    """

    p: int = 113
    """modulus P, at least 2"""
    operation: OperationName = "add"
    """what is computed mod P, an entry of the registry of operations: a sum, a polynomial, a fixed random table, …"""
    operands: int = 2
    """number N of operands; above 2 for add, subtract, multiply, divide and random"""
    train_fraction: float = 0.3
    """fraction of the problems in the train set"""
    equals: Literal["class", "token", "none"] = "class"
    """class: the input ends in =, which is a class too; token: it ends in =, with P classes; none: there is no ="""
    split: Literal["python", "keyed"] = "python"
    """how the split is drawn: python for random.shuffle, as published; keyed for a permutation drawn by JAX"""
    split_seed: int | None = None
    """seed of the train-test split in every lane; None takes the seed of the lane"""
    table_seed: int = 0
    """seed of the table, the same in every lane; operation random only"""
    label_noise: float = 0.0
    """fraction of the train problems with a wrong label, the same in all steps; drawn by the seed of the split"""
    batch_size: int | None = None
    """examples per step; None takes the full train set"""
    record_pairs: bool = False
    """record at every evaluation which test problems are correct, as correct_pairs; see `unpacked`"""

    def __post_init__(self) -> None:
        if not 2 <= self.p <= _MAX_P:
            raise UserError(f"p must be a modulus from 2 to {_MAX_P}, got {self.p}")
        check_choices(self)
        self.rule.check(self.p)
        if self.operands < 2 or (self.operands > 2 and not self.rule.folds):
            more = ", ".join(name for name, rule in OPERATIONS.items() if rule.folds)
            raise UserError(f"operands must be 2, or more for {more}; got {self.operands} for {self.operation}")
        if self.problems > _MAX_PROBLEMS:
            raise UserError(
                f"all problems are listed, at most {_MAX_PROBLEMS:,}; {self.operands} operands with "
                f"{len(self.elements)} values each make {self.problems:,}, so lower p or operands"
            )
        if not 0 < self.train_size < self.problems:
            what = "pairs" if self.operands == 2 else "problems"
            raise UserError(
                f"train_fraction must leave {what} to train on and {what} to test on; {self.train_fraction} of "
                f"{self.problems} {what} leaves {max(0, min(self.train_size, self.problems))} to train on"
            )
        if not 0 <= self.label_noise <= 1:
            raise UserError(f"label_noise must be from 0 to 1, got {self.label_noise}")
        check_batch_size(self.batch_size, self.train_size)

    @property
    def rule(self) -> Operation:
        """The operation."""
        return OPERATIONS[self.operation]

    @property
    def elements(self) -> np.ndarray:
        """The residues that operands take, int32 `[M]`, ascending."""
        return self.rule.elements(self.p)

    @property
    def group(self) -> CyclicProduct | None:
        """The group in which the operation is a sum or difference of coordinates; None where there is none."""
        return self.rule.group_mod(self.p)

    @property
    def problems(self) -> int:
        """The number of problems, M^N."""
        return len(self.elements) ** self.operands

    @property
    def train_size(self) -> int:
        """The number of train problems."""
        finite = np.isfinite(self.train_fraction)
        return int(self.train_fraction * self.problems) if finite else 0

    @property
    def sizes(self) -> Sizes:
        """The sizes that a model for this task is built from."""
        length, vocabulary = self.operands + (self.equals != "none"), self.p + (self.equals != "none")
        classes = self.p + 1 if self.equals == "class" else self.p
        return Sizes(length=length, classes=classes, vocabulary=vocabulary, read=(length - 1,))

    @property
    def title(self) -> str:
        """The task in a few words, for figures."""
        letters = string.ascii_lowercase[: self.operands]
        return f"{self.rule.written(letters)} mod {self.p}, {self.train_fraction:.0%} trained on"

    @property
    def token_names(self) -> tuple[str, ...]:
        """The numbers, and `=` where the input has it."""
        return (*map(str, range(self.p)), "=")[: self.sizes.vocabulary]

    @property
    def position_names(self) -> tuple[str, ...]:
        """The operands, and `=` where the input has it."""
        return (*string.ascii_lowercase[: self.operands], "=")[: self.sizes.length]

    def data(self, seeds: Sequence[int]) -> Data:
        """Split the problems for each lane.

        A problem is a number from 0 to M^N - 1: with N = 2, M·i + j for operands `elements[i]` and `elements[j]`, so
        P·a + b where operands are all residues.

        Returns:
          `lane` holds "train" int32 `[S, n]` and "test" int32 `[S, M^N - n]`: problems in shuffled order; and with
          label noise "shift" int32 `[S, M^N]`, by how many elements the answer of a problem is moved in training.
          `shared` holds "table" int32 `[M^N]` if the operation is random.
        """
        splits = [seed if self.split_seed is None else self.split_seed for seed in seeds]
        order = np.stack([self._order(seed) for seed in splits])
        shared = {}
        if self.rule.formula is None:
            key = jax.random.key(self.table_seed)
            shared["table"] = jax.random.randint(key, (self.problems,), 0, self.p, dtype=jnp.int32)
        n = self.train_size
        lane = {"train": jnp.asarray(order[:, :n]), "test": jnp.asarray(order[:, n:])}
        if self.label_noise:
            shifts = [self._shift(seed, train) for seed, train in zip(splits, order[:, :n], strict=True)]
            lane["shift"] = jnp.asarray(np.stack(shifts))
        return Data(shared, lane)

    def _shift(self, seed: int, train: np.ndarray) -> np.ndarray:
        """Return by how many elements the answers are moved, int32 `[M^N]`: not 0 for the wrong labels."""
        generator, shift = np.random.default_rng(seed), np.zeros(self.problems, np.int32)
        wrong = generator.permutation(train)[: round(self.label_noise * len(train))]
        shift[wrong] = generator.integers(1, len(self.elements), len(wrong))
        return shift

    def _order(self, seed: int) -> np.ndarray:
        if self.split == "keyed":
            return np.asarray(jax.random.permutation(jax.random.key(seed), self.problems), np.int32)
        pairs = list(range(self.problems))
        random.Random(seed).shuffle(pairs)
        return np.asarray(pairs, np.int32)

    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        """Draw the batch of one step: inputs `[B, T]`, targets `[B, 1]`, the labels with their noise."""
        return self.labelled(choose(data.lane["train"], key, step, self.batch_size), data)

    def labelled(self, problems: jax.Array, data: Data) -> Batch:
        """Return problems with the labels of training, some of which are wrong where there is label noise."""
        batch = self.batch(problems, data.shared)
        if "shift" not in data.lane:
            return batch
        moved = jnp.searchsorted(self.elements, batch.targets) + data.lane["shift"][problems][:, None]
        return batch._replace(targets=jnp.asarray(self.elements)[moved % len(self.elements)])

    def test_batch(self, data: Data) -> Batch:
        """Return the held-out problems: inputs `[M^N - n, T]`, targets `[M^N - n, 1]`."""
        return self.batch(data.lane["test"], data.shared)

    def measure(self, data: Data, batch: Batch, logits: jax.Array, predict: Predict) -> dict[str, jax.Array]:
        """Return "correct_pairs" where they are to be recorded, float32 `[words]`, as `unpacked` reads them."""
        return {"correct_pairs": _packed(scores.correct(logits, batch.targets)[:, 0])} if self.record_pairs else {}

    def batch(self, problems: jax.Array, shared: dict[str, jax.Array]) -> Batch:
        """Return the tokens `[B, T]` and targets `[B, 1]` of problems, int32 `[B]`, numbered as by `data`."""
        operands = list(self._operands(problems))
        result = shared["table"][problems] if self.rule.formula is None else self.rule.apply(operands, self.p)
        equals = [jnp.full_like(result, self.p)] if self.equals != "none" else []
        return Batch(jnp.stack([*operands, *equals], axis=-1), result[:, None])

    def _operands(self, problems: jax.Array) -> list[jax.Array]:
        """Return the N operands of problems, int32 `[B]` each."""
        count, digits = len(self.elements), []
        for _ in range(self.operands - 1):
            problems, digit = jnp.divmod(problems, count)
            digits.append(digit)
        digits.append(problems)
        if count == self.p:  # Element r is r.
            return digits[::-1]
        return [jnp.asarray(self.elements)[digit] for digit in digits[::-1]]

    def examples(self, data: Data, key: jax.Array, count: int) -> Batch:
        """Draw up to `count` problems from the train and test set together."""
        problems = jax.random.choice(key, self.problems, (min(count, self.problems),), replace=False)
        return self.batch(problems, data.shared)

    def describe(self, inputs: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> str:
        """Describe one prediction, such as "18 + 34 mod 113: predicts 51, the answer is 52"."""
        predicted = "nothing" if prediction[0] < 0 else self.token_names[prediction[0]]
        outcome = "correct" if prediction[0] == target[0] else f"the answer is {target[0]}"
        return f"{self.rule.written(inputs[: self.operands].tolist())} mod {self.p}: predicts {predicted}, {outcome}"


_BITS = 24  # A float32 holds every whole number of so many bits, and NaN for an evaluation that was not made.


def _packed(bits: jax.Array) -> jax.Array:
    """Pack bits `[n]` into float32 `[ceil(n / 24)]`."""
    padded = jnp.pad(bits, (0, -len(bits) % _BITS)).reshape(-1, _BITS)
    return jnp.sum(jnp.where(padded, 2.0 ** np.arange(_BITS), 0), axis=1)


def unpacked(words: np.ndarray, count: int) -> np.ndarray:
    """Read "evaluation/correct_pairs": which of the `count` test problems, in the order of the split, are correct.

    Args:
      words: float32 `[E, words]`, finite.
      count: number of test problems, n.

    Returns:
      bool `[E, n]`.
    """
    bits = np.asarray(words).astype(np.int64)[..., None] >> np.arange(_BITS) & 1
    return bits.reshape(len(bits), -1)[:, :count].astype(bool)
