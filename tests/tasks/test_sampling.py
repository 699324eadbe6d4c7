"""Shuffled minibatches without a cursor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.tasks.sampling import choose, shuffled_position


@pytest.mark.parametrize("n", [1, 2, 3, 10, 97, 1437])
def test_shuffle_is_a_permutation(n):
    shuffle = jax.jit(jax.vmap(lambda seed: shuffled_position(jax.random.key(seed), jnp.arange(n), n)))
    for positions in np.asarray(shuffle(np.arange(5))):
        np.testing.assert_array_equal(np.sort(positions), np.arange(n))


def test_shuffle_is_near_uniform():
    n, draws = 12, 6000
    shuffle = jax.jit(lambda keys: jax.vmap(lambda key: shuffled_position(key, jnp.arange(n), n))(keys))
    positions = np.asarray(shuffle(jax.random.split(jax.random.key(0), draws)))
    expected = draws / n
    single = sum(((np.bincount(positions[:, i], minlength=n) - expected) ** 2 / expected).sum() for i in range(n))
    # 12 · 11 degrees of freedom, of which the last row and column follow: mean 121, deviation 16.
    assert single < 121 + 5 * 16
    pairs = np.bincount(positions[:, 0] * n + positions[:, 1], minlength=n * n)
    expected = draws / (n * (n - 1))
    off_diagonal = ~np.eye(n, dtype=bool).ravel()
    assert ((pairs[off_diagonal] - expected) ** 2 / expected).sum() < 131 + 5 * 16


def test_an_epoch_reads_every_example_once_and_epochs_differ():
    indices, key = np.arange(100, 160), jax.random.key(3)
    chosen = jax.jit(lambda step: choose(jnp.asarray(indices), key, step, 10))
    epochs = [np.concatenate([chosen(np.int32(6 * e + i)) for i in range(6)]) for e in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), indices)
    assert not np.array_equal(*epochs)


def test_full_batch_and_leftovers():
    indices = jnp.arange(7)
    np.testing.assert_array_equal(choose(indices, jax.random.key(0), jnp.int32(9), None), indices)
    batch = jax.jit(lambda step: choose(indices, jax.random.key(0), step, 5))(np.int32(9))
    assert len(set(batch.tolist())) == 5
