"""Modular arithmetic on tokens `(a, b, =)` or `(a, b)`, the standard task of the grokking literature."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.tasks.sampling import check_batch_size, choose
from jaxadd.tasks.task import Task
from jaxadd.types import Batch, Data, Sizes

_FORMULAS: dict[str, Callable] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "x2xyy2": lambda a, b: a * a + a * b + b * b,
}
_SYMBOLS = {"add": "{a} + {b}", "subtract": "{a} - {b}", "x2xyy2": "{a}² + {a}·{b} + {b}²", "random": "{a} ∘ {b}"}
_MAX_P = 4096  # P² pairs are listed; 3 P² must also stay far below 2**31.


@dataclass(frozen=True)
class Modular(Task):
    """Predict `(a ∘ b) mod P` at the last token; every pair is either in the train or in the test set.

    By default the setting of Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability":
    T = 3 tokens, `=` is token P, V = P + 1, logits over all V classes.
    """

    p: int = 113
    """modulus P, at least 2"""
    operation: Literal["add", "subtract", "x2xyy2", "random"] = "add"
    """what is computed mod P: a + b, a - b, a² + ab + b², or a fixed random table"""
    train_fraction: float = 0.3
    """fraction of the P² pairs in the train set"""
    equals: Literal["class", "token", "none"] = "class"
    """class: the input ends in =, which is a class too; token: it ends in =, with P classes; none: there is no ="""
    split: Literal["python", "keyed"] = "python"
    """how the split is drawn: python for random.shuffle, as published; keyed for a permutation drawn by JAX"""
    split_seed: int | None = None
    """seed of the train-test split in every lane; None takes the seed of the lane"""
    table_seed: int = 0
    """seed of the table, the same in every lane; operation random only"""
    label_noise: float = 0.0
    """fraction of the train pairs whose label is a wrong answer, the same in all steps; drawn by the split's seed"""
    batch_size: int | None = None
    """examples per step; None takes the full train set"""

    def __post_init__(self) -> None:
        if not 2 <= self.p <= _MAX_P:
            raise UserError(f"p must be a modulus from 2 to {_MAX_P}, got {self.p}")
        check_choices(self)
        if not 0 < self.train_size < self.p**2:
            raise UserError(
                f"train_fraction must leave pairs to train on and pairs to test on; {self.train_fraction} of "
                f"{self.p**2} pairs leaves {max(0, min(self.train_size, self.p**2))} to train on"
            )
        if not 0 <= self.label_noise <= 1:
            raise UserError(f"label_noise must be from 0 to 1, got {self.label_noise}")
        check_batch_size(self.batch_size, self.train_size)

    @property
    def train_size(self) -> int:
        """The number of train pairs."""
        finite = np.isfinite(self.train_fraction)
        return int(self.train_fraction * self.p**2) if finite else 0

    @property
    def sizes(self) -> Sizes:
        """The sizes that a model for this task is built from."""
        length, vocabulary = (2, self.p) if self.equals == "none" else (3, self.p + 1)
        classes = self.p + 1 if self.equals == "class" else self.p
        return Sizes(length=length, classes=classes, vocabulary=vocabulary, read=(length - 1,))

    @property
    def title(self) -> str:
        """The task in a few words, for figures."""
        return f"{_SYMBOLS[self.operation].format(a='a', b='b')} mod {self.p}, {self.train_fraction:.0%} trained on"

    @property
    def token_names(self) -> tuple[str, ...]:
        """The numbers, and `=` where the input has it."""
        return (*map(str, range(self.p)), "=")[: self.sizes.vocabulary]

    @property
    def position_names(self) -> tuple[str, ...]:
        """The two operands, and `=` where the input has it."""
        return ("a", "b", "=")[: self.sizes.length]

    def data(self, seeds: Sequence[int]) -> Data:
        """Split the pairs for each lane.

        Returns:
          `lane` holds "train" int32 `[S, n]` and "test" int32 `[S, P² - n]`: pairs as P·a + b, in shuffled order; and
          with label noise "shift" int32 `[S, P²]`, what is added to the answer of a pair in training, mod P.
          `shared` holds "table" int32 `[P²]` if the operation is random.
        """
        splits = [seed if self.split_seed is None else self.split_seed for seed in seeds]
        order = np.stack([self._order(seed) for seed in splits])
        shared = {}
        if self.operation == "random":
            key = jax.random.key(self.table_seed)
            shared["table"] = jax.random.randint(key, (self.p**2,), 0, self.p, dtype=jnp.int32)
        n = self.train_size
        lane = {"train": jnp.asarray(order[:, :n]), "test": jnp.asarray(order[:, n:])}
        if self.label_noise:
            shifts = [self._shift(seed, train) for seed, train in zip(splits, order[:, :n], strict=True)]
            lane["shift"] = jnp.asarray(np.stack(shifts))
        return Data(shared, lane)

    def _shift(self, seed: int, train: np.ndarray) -> np.ndarray:
        """Return what is added to the answers of all pairs, int32 `[P²]`: not 0 for the wrong labels."""
        generator, shift = np.random.default_rng(seed), np.zeros(self.p**2, np.int32)
        wrong = generator.permutation(train)[: round(self.label_noise * len(train))]
        shift[wrong] = generator.integers(1, self.p, len(wrong))
        return shift

    def _order(self, seed: int) -> np.ndarray:
        if self.split == "keyed":
            return np.asarray(jax.random.permutation(jax.random.key(seed), self.p**2), np.int32)
        pairs = list(range(self.p**2))
        random.Random(seed).shuffle(pairs)
        return np.asarray(pairs, np.int32)

    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        """Draw the batch of one step: inputs `[B, T]`, targets `[B, 1]`, the labels with their noise."""
        return self.labelled(choose(data.lane["train"], key, step, self.batch_size), data)

    def labelled(self, pairs: jax.Array, data: Data) -> Batch:
        """Return pairs with the labels of training, some of which are wrong where there is label noise."""
        batch = self.batch(pairs, data.shared)
        if "shift" not in data.lane:
            return batch
        return batch._replace(targets=(batch.targets + data.lane["shift"][pairs][:, None]) % self.p)

    def test_batch(self, data: Data) -> Batch:
        """Return the held-out pairs: inputs `[P² - n, T]`, targets `[P² - n, 1]`."""
        return self.batch(data.lane["test"], data.shared)

    def batch(self, pairs: jax.Array, shared: dict[str, jax.Array]) -> Batch:
        """Return the tokens `[B, T]` and targets `[B, 1]` of pairs, int32 `[B]` as P·a + b."""
        a, b = jnp.divmod(pairs, self.p)
        result = shared["table"][pairs] if self.operation == "random" else _FORMULAS[self.operation](a, b) % self.p
        tokens = [a, b, jnp.full_like(a, self.p)][: self.sizes.length]
        return Batch(jnp.stack(tokens, axis=-1), result[:, None])

    def examples(self, data: Data, key: jax.Array, count: int) -> Batch:
        """Draw up to `count` pairs from the train and test set together."""
        pairs = jax.random.choice(key, self.p**2, (min(count, self.p**2),), replace=False)
        return self.batch(pairs, data.shared)

    def describe(self, inputs: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> str:
        """Describe one prediction, such as "18 + 34 mod 113: predicts 51, the answer is 52"."""
        a, b = inputs[:2]
        predicted = "nothing" if prediction[0] < 0 else self.token_names[prediction[0]]
        outcome = "correct" if prediction[0] == target[0] else f"the answer is {target[0]}"
        return f"{_SYMBOLS[self.operation].format(a=a, b=b)} mod {self.p}: predicts {predicted}, {outcome}"
