"""Shuffled minibatches without a cursor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.tasks.sampling import choose, shuffled_position


@pytest.mark.parametrize("n", [1, 2, 3, 10, 97, 1437])
def test_shuffle_is_a_permutation(n):
    for seed in range(5):
        places = shuffled_position(jax.random.key(seed), jnp.arange(n), n)
        np.testing.assert_array_equal(np.sort(places), np.arange(n))


def test_shuffle_is_near_uniform():
    n, keys = 12, jax.random.split(jax.random.key(0), 6000)
    places = np.asarray(jax.vmap(lambda key: shuffled_position(key, jnp.arange(n), n))(keys))
    expected = len(keys) / n
    single = sum(((np.bincount(places[:, i], minlength=n) - expected) ** 2 / expected).sum() for i in range(n))
    # 12 · 11 degrees of freedom, of which the last row and column follow: mean 121, deviation 16.
    assert single < 121 + 5 * 16
    pairs = np.bincount(places[:, 0] * n + places[:, 1], minlength=n * n)
    expected = len(keys) / (n * (n - 1))
    off_diagonal = ~np.eye(n, dtype=bool).ravel()
    assert ((pairs[off_diagonal] - expected) ** 2 / expected).sum() < 131 + 5 * 16


def test_an_epoch_reads_every_example_once_and_epochs_differ():
    indices, key = jnp.arange(100, 160), jax.random.key(3)
    epochs = [np.concatenate([choose(indices, key, jnp.int32(6 * e + i), 10) for i in range(6)]) for e in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), indices)
    assert not np.array_equal(*epochs)


def test_full_batch_and_leftovers():
    indices = jnp.arange(7)
    np.testing.assert_array_equal(choose(indices, jax.random.key(0), jnp.int32(9), None), indices)
    assert len(set(choose(indices, jax.random.key(0), jnp.int32(9), 5).tolist())) == 5
