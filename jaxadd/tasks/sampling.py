"""Minibatches without a data cursor: the examples of a step follow from (key, step) alone."""

import chex
import jax
import jax.numpy as jnp

from jaxadd.errors import UserError

ROUNDS = 48  # Of the shuffle below; positions are nearly uniform after about 2 log2(n), and n is below 2**24.


def shuffled_position(key: jax.Array, position: jax.Array, n: int) -> jax.Array:
    """Map positions through a random permutation of `range(n)` without building it.

    A swap-or-not shuffle (Hoang, Morris, Rogaway 2012): in each round a position x and its partner
    (k - x) mod n are swapped or not, by one hash bit of the pair. It is a bijection for every n and costs O(B) per
    step; sorting n random numbers would cost more than the whole step of a small network.

    Args:
      key: typed key that determines the permutation.
      position: int32 `[B]`, each in `[0, n)`.
      n: number of positions, below 2**24.

    Returns:
      int32 `[B]`, distinct where positions are.
    """
    chex.assert_rank(position, 1)
    offset_key, salt_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (ROUNDS,), 0, n)
    salts = jax.random.bits(salt_key, (ROUNDS,), jnp.uint32)

    def swap(x: jax.Array, constants: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        offset, salt = constants
        partner = offset - x + jnp.where(x > offset, n, 0)
        pair = jnp.maximum(x, partner).astype(jnp.uint32)
        return jnp.where(_hash(pair, salt) >> 31 == 1, partner, x), None

    with jax.disable_jit(False):  # A debug run looks for NaN, and would compile each round on its own.
        return jax.lax.scan(swap, position.astype(jnp.int32), (offsets, salts))[0]


def _hash(x: jax.Array, salt: jax.Array) -> jax.Array:
    """Hash uint32 words with a salt (the finaliser of MurmurHash3)."""
    x = (x ^ salt) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def choose(indices: jax.Array, key: jax.Array, step: jax.Array, batch_size: int | None) -> jax.Array:
    """Return the examples of one step: all of them, or a minibatch of a shuffle that is new in every epoch.

    Args:
      indices: int32 `[n]`, the examples of the train set.
      key: typed key of the lane.
      step: int32 scalar.
      batch_size: B, at most n; None for the full batch. An epoch is n // B steps; it leaves out n % B examples,
        other ones in every epoch.

    Returns:
      int32 `[n]` or `[B]`.
    """
    chex.assert_rank([indices, step], [1, 0])
    if batch_size is None:
        return indices
    n = indices.shape[0]
    epoch, batch = jnp.divmod(step, n // batch_size)
    position = batch * batch_size + jnp.arange(batch_size)
    return indices[shuffled_position(jax.random.fold_in(key, epoch), position, n)]


def check_batch_size(batch_size: int | None, train: int) -> None:
    """Raise UserError where a minibatch is larger than the train set, or empty."""
    if batch_size is not None and not 1 <= batch_size <= train:
        raise UserError(
            f"batch_size must be from 1 to the {train} training examples, got {batch_size}; None takes the full batch"
        )
