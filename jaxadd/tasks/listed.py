"""Tasks whose problems are listed: N operands, each one of M elements, and one answer. What they share is here."""

import abc
import functools
import random
import string
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.tasks.sampling import check_batch_size, choose
from jaxadd.tasks.task import Task
from jaxadd.types import Batch, Data, Sizes


class Listed(Task):
    """Predict the answer to a problem at its last token; every problem is either in the train or in the test set.

    A task that derives from this class declares the fields below, defines the abstract members, and calls
    `check_listed` when it is made. A problem is a number from 0 to M^N - 1: with N = 2, M·i + j for the operands
    `elements[i]` and `elements[j]`.
    """

    train_fraction: float
    equals: Literal["class", "token", "none"]
    split: Literal["python", "keyed"]
    split_seed: int | None
    label_noise: float
    batch_size: int | None

    operands = 2
    """the number N of operands, where a task does not make it a field"""

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """The number of tokens that are values, from 0 on; `=` is the token after them."""

    @property
    @abc.abstractmethod
    def elements(self) -> np.ndarray:
        """The tokens that operands and answers take, int32 `[M]`, ascending."""

    @abc.abstractmethod
    def asked(self, operands: Sequence[str]) -> str:
        """Return what is asked of N operands, given by their names, such as "18 + 34 mod 113"."""

    @abc.abstractmethod
    def results(self, operands: list[jax.Array], problems: jax.Array, shared: dict[str, jax.Array]) -> jax.Array:
        """Return the answers, int32 `[B]`: of N operands, int32 `[B]` each, or of the numbers of problems, `[B]`."""

    def tables(self) -> dict[str, jax.Array]:
        """Return the arrays that all lanes read, `Data.shared`; none by default."""
        return {}

    def check_listed(self) -> None:
        """Raise UserError for a field of this class that is out of its range."""
        check_choices(self)
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
    def question(self) -> str:
        """What is asked, of operands called a, b, and so on, such as "a + b mod 113"."""
        return self.asked(string.ascii_lowercase[: self.operands])

    def describe(self, inputs: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> str:
        """Describe one prediction, such as "18 + 34 mod 113: predicts 51, the answer is 52"."""
        names = self.token_names
        predicted = "nothing" if prediction[0] < 0 else names[prediction[0]]
        outcome = "correct" if prediction[0] == target[0] else f"the answer is {names[target[0]]}"
        return f"{self.asked([names[x] for x in inputs[: self.operands]])}: predicts {predicted}, {outcome}"

    @property
    def title(self) -> str:
        """The task in a few words, for figures."""
        wrong = f", {100 * self.label_noise:.3g}% of its labels wrong" if self.label_noise else ""
        return f"{self.question}, trained on {self.train_fraction:.0%}{wrong}"

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
        length, vocabulary = self.operands + (self.equals != "none"), self.count + (self.equals != "none")
        classes = self.count + 1 if self.equals == "class" else self.count
        return Sizes(length=length, classes=classes, vocabulary=vocabulary, read=(length - 1,))

    @property
    def position_names(self) -> tuple[str, ...]:
        """The operands, and `=` where the input has it."""
        return (*string.ascii_lowercase[: self.operands], "=")[: self.sizes.length]

    def data(self, seeds: Sequence[int]) -> Data:
        """Split the problems for each lane.

        Returns:
          `lane` holds "train" int32 `[S, n]` and "test" int32 `[S, M^N - n]`: problems in shuffled order; and with
          label noise "shift" int32 `[S, M^N]`, by how many elements the answer of a problem is moved in training.
          `shared` holds the `tables`.
        """
        splits = [seed if self.split_seed is None else self.split_seed for seed in seeds]
        order = np.stack([self._order(seed) for seed in splits])
        n = self.train_size
        lane = {"train": jax.device_put(order[:, :n]), "test": jax.device_put(order[:, n:])}
        if self.label_noise:
            shifts = [self._shift(seed, train) for seed, train in zip(splits, order[:, :n], strict=True)]
            lane["shift"] = jax.device_put(np.stack(shifts))
        return Data(self.tables(), lane)

    def unsplit(self) -> dict[str, jax.Array]:
        """Return `Data.lane` where the split is not known: all problems count as test problems."""
        return {"train": jnp.zeros(0, jnp.int32), "test": jnp.arange(self.problems, dtype=jnp.int32)}

    def _shift(self, seed: int, train: np.ndarray) -> np.ndarray:
        """Return by how many elements the answers are moved, int32 `[M^N]`: not 0 for the wrong labels."""
        generator, shift = np.random.default_rng(seed), np.zeros(self.problems, np.int32)
        wrong = generator.permutation(train)[: round(self.label_noise * len(train))]
        shift[wrong] = generator.integers(1, len(self.elements), len(wrong))
        return shift

    def _order(self, seed: int) -> np.ndarray:
        if self.split == "keyed":
            return np.asarray(jax.random.permutation(jax.random.key(seed), self.problems), np.int32)
        order = list(range(self.problems))
        random.Random(seed).shuffle(order)
        return np.asarray(order, np.int32)

    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        """Draw the batch of one step: inputs `[B, T]`, targets `[B, 1]`, the labels with their noise."""
        return self.labelled(choose(data.lane["train"], key, step, self.batch_size), data)

    @functools.partial(jax.jit, static_argnums=0, inline=True)
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

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def batch(self, problems: jax.Array, shared: dict[str, jax.Array]) -> Batch:
        """Return the tokens `[B, T]` and targets `[B, 1]` of problems, int32 `[B]`, numbered as the class says."""
        operands = self._operands(problems)
        result = self.results(operands, problems, shared)
        equals = [jnp.full_like(result, self.count)] if self.equals != "none" else []
        return Batch(jnp.stack([*operands, *equals], axis=-1), result[:, None])

    def _operands(self, problems: jax.Array) -> list[jax.Array]:
        """Return the N operands of problems, int32 `[B]` each."""
        count, digits = len(self.elements), []
        for _ in range(self.operands - 1):
            problems, digit = jnp.divmod(problems, count)
            digits.append(digit)
        digits.append(problems)
        if count == self.count:  # Element t is token t.
            return digits[::-1]
        return [jnp.asarray(self.elements)[digit] for digit in digits[::-1]]

    def numbers(self, operands: np.ndarray) -> np.ndarray:
        """Return the numbers of problems, int `[B]`, given the tokens of their operands, int `[B, N]`.

        A token that is no element counts as the element after it, or as the last one.
        """
        place = np.minimum(np.searchsorted(self.elements, operands), len(self.elements) - 1)
        return place @ len(self.elements) ** np.arange(self.operands)[::-1]

    def examples(self, data: Data, key: jax.Array, count: int) -> Batch:
        """Draw up to `count` problems from the train and test set together."""
        problems = jax.random.choice(key, self.problems, (min(count, self.problems),), replace=False)
        return self.batch(problems, data.shared)
