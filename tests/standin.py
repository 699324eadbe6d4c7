"""A task of one's own, defined outside the library: the composition of permutations in S3."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.tasks import Task
from jaxadd.types import Batch, Data, Sizes

PERMUTATIONS = list(itertools.permutations(range(3)))
# TABLE[a, b] is the permutation that applies b, then a.
TABLE = np.array([[PERMUTATIONS.index(tuple(a[i] for i in b)) for b in PERMUTATIONS] for a in PERMUTATIONS], np.int32)


@dataclass(frozen=True)
class SymmetricGroup(Task):
    """Predict a ∘ b at `=` from the tokens (a, b, =); the 36 pairs are split into train and test."""

    train_pairs: int = 30
    """number of pairs trained on; the others are the test set"""

    @property
    def sizes(self) -> Sizes:
        return Sizes(length=3, classes=6, vocabulary=7, read=(2,))

    def data(self, seeds: Sequence[int]) -> Data:
        order = np.stack([np.random.default_rng(seed).permutation(36) for seed in seeds]).astype(np.int32)
        return Data({}, {"train": jnp.asarray(order[:, : self.train_pairs]), "test": order[:, self.train_pairs :]})

    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        return self._batch(data.lane["train"])

    def test_batch(self, data: Data) -> Batch:
        return self._batch(data.lane["test"])

    def _batch(self, pairs: jax.Array) -> Batch:
        a, b = pairs // 6, pairs % 6
        inputs = jnp.stack([a, b, jnp.full_like(a, 6)], axis=-1)
        return Batch(inputs, jnp.asarray(TABLE)[a, b][:, None])
