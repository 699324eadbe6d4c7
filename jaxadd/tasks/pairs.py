"""Tasks over all pairs (a, b) of n things: their split, inputs with or without `=`, label noise and minibatches."""

import abc
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.tasks.sampling import check_batch_size, choose
from jaxadd.tasks.task import Task
from jaxadd.types import Batch, Data, Sizes


@dataclass(frozen=True)
class Pairs(Task):
    """Predict a ∘ b at the last token for things a and b; every pair is either in the train or in the test set.

    A task derives from this class and defines `count`, `answers` and `token_names`; it checks its own fields before
    it calls `__post_init__` of this class.
    """

    train_fraction: float = 0.3
    """fraction of all pairs in the train set"""
    equals: Literal["class", "token", "none"] = "class"
    """class: the input ends in =, which is a class too; token: it ends in =, with n classes; none: there is no ="""
    split: Literal["python", "keyed"] = "python"
    """how the split is drawn: python for random.shuffle, as published; keyed for a permutation drawn by JAX"""
    split_seed: int | None = None
    """seed of the train-test split in every lane; None takes the seed of the lane"""
    label_noise: float = 0.0
    """fraction of the train pairs whose label is a wrong answer, the same in all steps; drawn by the split's seed"""
    batch_size: int | None = None
    """examples per step; None takes the full train set"""

    def __post_init__(self) -> None:
        check_choices(self)
        pairs = self.count**2
        if not 0 < self.train_size < pairs:
            raise UserError(
                f"train_fraction must leave pairs to train on and pairs to test on; {self.train_fraction} of "
                f"{pairs} pairs leaves {max(0, min(self.train_size, pairs))} to train on"
            )
        if not 0 <= self.label_noise <= 1:
            raise UserError(f"label_noise must be from 0 to 1, got {self.label_noise}")
        check_batch_size(self.batch_size, self.train_size)

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """The number n of things, which are tokens 0 … n - 1; `=` is token n."""

    @abc.abstractmethod
    def answers(self) -> np.ndarray:
        """Return a ∘ b for all pairs, int32 `[n²]`, pair (a, b) at n·a + b; a task keeps what it computed."""

    @property
    def train_size(self) -> int:
        """The number of train pairs."""
        return int(self.train_fraction * self.count**2) if np.isfinite(self.train_fraction) else 0

    @property
    def sizes(self) -> Sizes:
        """The sizes that a model for this task is built from."""
        n = self.count
        length, vocabulary = (2, n) if self.equals == "none" else (3, n + 1)
        classes = n + 1 if self.equals == "class" else n
        return Sizes(length=length, classes=classes, vocabulary=vocabulary, read=(length - 1,))

    @property
    def position_names(self) -> tuple[str, ...]:
        """The two operands, and `=` where the input has it."""
        return ("a", "b", "=")[: self.sizes.length]

    def data(self, seeds: Sequence[int]) -> Data:
        """Split the pairs for each lane.

        Returns:
          `shared` holds "table" int32 `[n²]`, the answer of each pair. `lane` holds "train" int32 `[S, m]` and "test"
          int32 `[S, n² - m]`: pairs as n·a + b, in shuffled order; and with label noise "shift" int32 `[S, n²]`, what
          is added to the answer of a pair in training, mod n.
        """
        splits = [seed if self.split_seed is None else self.split_seed for seed in seeds]
        order = np.stack([self._order(seed) for seed in splits])
        m = self.train_size
        lane = {"train": jnp.asarray(order[:, :m]), "test": jnp.asarray(order[:, m:])}
        if self.label_noise:
            shifts = [self._shift(seed, train) for seed, train in zip(splits, order[:, :m], strict=True)]
            lane["shift"] = jnp.asarray(np.stack(shifts))
        return Data({"table": jnp.asarray(self.answers())}, lane)

    def _shift(self, seed: int, train: np.ndarray) -> np.ndarray:
        """Return what is added to the answers of all pairs, int32 `[n²]`: not 0 for the wrong labels."""
        generator, shift = np.random.default_rng(seed), np.zeros(self.count**2, np.int32)
        wrong = generator.permutation(train)[: round(self.label_noise * len(train))]
        shift[wrong] = generator.integers(1, self.count, len(wrong))
        return shift

    def _order(self, seed: int) -> np.ndarray:
        if self.split == "keyed":
            return np.asarray(jax.random.permutation(jax.random.key(seed), self.count**2), np.int32)
        pairs = list(range(self.count**2))
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
        return batch._replace(targets=(batch.targets + data.lane["shift"][pairs][:, None]) % self.count)

    def test_batch(self, data: Data) -> Batch:
        """Return the held-out pairs: inputs `[n² - m, T]`, targets `[n² - m, 1]`."""
        return self.batch(data.lane["test"], data.shared)

    def batch(self, pairs: jax.Array, shared: dict[str, jax.Array]) -> Batch:
        """Return the tokens `[B, T]` and targets `[B, 1]` of pairs, int32 `[B]` as n·a + b."""
        a, b = jnp.divmod(pairs, self.count)
        tokens = [a, b, jnp.full_like(a, self.count)][: self.sizes.length]
        return Batch(jnp.stack(tokens, axis=-1), shared["table"][pairs][:, None])

    def examples(self, data: Data, key: jax.Array, count: int) -> Batch:
        """Draw up to `count` pairs from the train and test set together."""
        pairs = jax.random.choice(key, self.count**2, (min(count, self.count**2),), replace=False)
        return self.batch(pairs, data.shared)
