"""Answers digit by digit: losses, offsets from the naive digit, confusion, and what keeps a digit on a shelf.

Logits are `[B, R, C]`, R answer digits of base C; every function is pure and may be jitted and vmapped.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from jaxadd import losses


def correct(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Tell which digits are answered rightly: float32 `[B, R]`, 1 or 0; a tie is wrong."""
    return (losses.margin(logits, targets) > 0).astype(jnp.float32)


def exact_match(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Tell which problems have every digit right: float32 `[B]`.

    Teacher-forced and free-running greedy answers match exactly on the same problems: as long as all digits
    so far are right, both see the same input.
    """
    return jnp.min(correct(logits, targets), axis=-1)


def free_run(predict: Callable[..., jax.Array], inputs: jax.Array, read: Sequence[int]) -> jax.Array:
    """Let the network answer greedily, each digit fed back before the next.

    One loop over the digits, so the network is compiled once for all of them.

    Args:
      predict: `predict(inputs, read)` gives logits `[B, R, C]`; `read` may be traced.
      inputs: int32 `[B, T]`; what stands after position read[0] is not looked at.
      read: R successive positions; the answer given at one is the input at the next.

    Returns:
      int32 `[B, R]`, the answers.
    """
    start, count = read[0], len(read)
    chex.assert_equal(tuple(read), tuple(range(start, start + count)))
    # One place more than there is to see, for the last answer; and nothing of the true one is left.
    room = jnp.concatenate([inputs[:, : start + 1], jnp.zeros((len(inputs), count), inputs.dtype)], axis=1)

    def answer(place: int, tokens: jax.Array) -> jax.Array:
        logits = predict(tokens[:, :-1], jnp.asarray([place]))
        return tokens.at[:, place + 1].set(jnp.argmax(logits[:, 0], axis=-1).astype(tokens.dtype))

    return jax.lax.fori_loop(start, start + count, answer, room)[:, start + 1 :]


def mean_by(values: jax.Array, group: jax.Array, groups: int) -> jax.Array:
    """Average over the batch within groups: any measure by any carry feature.

    Args:
      values: float `[B, ...]`.
      group: int `[B]`, one for each problem, or of the shape of `values`; in `[0, groups)`.
      groups: G.

    Returns:
      `[G, ...]`; NaN in a group without members.
    """
    chex.assert_equal_shape_prefix([values, group], group.ndim)
    group = group.reshape(group.shape + (1,) * (values.ndim - group.ndim))
    member = jnp.broadcast_to(group == jnp.arange(groups).reshape(-1, *[1] * values.ndim), (groups, *values.shape))
    return jnp.sum(jnp.where(member, values, 0), axis=1) / jnp.sum(member, axis=1)


def offset_from_naive(logits: jax.Array, naive: jax.Array) -> jax.Array:
    """Compute the mean probability of naive digit + o mod C: `[R, C]` by offset o; `naive` is int `[B, R]`."""
    classes = logits.shape[-1]
    digit = (naive[..., None] + jnp.arange(classes)) % classes
    return jnp.mean(jnp.take_along_axis(jax.nn.softmax(logits), digit, axis=-1), axis=0)


def confusion(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Compute the mean probability of every digit by true digit: `[R, C, C]`; NaN rows where none is true."""
    return jnp.swapaxes(mean_by(jax.nn.softmax(logits), targets, logits.shape[-1]), 0, 1)


def split(logits: jax.Array, naive: jax.Array, carry: jax.Array, candidates: int = 2) -> dict[str, jax.Array]:
    """Split each digit's loss into what is missing, exactly: loss = leak + carry loss.

    Of the candidates naive + c, c = 0 … candidates - 1, let M be their total probability and q_c their
    shares in it. The leak -log M is probability outside the candidates; the carry loss -log q_c of the true
    c is the uncertainty about the carry (the exact floor of what the network knows, `floors.floor`) plus
    miscalibration, the rest.

    Args:
      logits: float `[B, R, C]`.
      naive: int `[B, R]`, the digit without a carry in.
      carry: int `[B, R]`, the true carry in.
      candidates: possible values of the carry in, 1 where there are no carries.

    Returns:
      means over problems, `[R]`, nats: "leak", "carry_loss", and "carry_entropy", that of q itself: the
      uncertainty that the network states.
    """
    log_p = jax.nn.log_softmax(logits)
    digit = (naive[..., None] + jnp.arange(candidates)) % logits.shape[-1]
    inside = jnp.take_along_axis(log_p, digit, axis=-1)
    total = jax.nn.logsumexp(inside, axis=-1, keepdims=True)
    log_q = inside - total
    true = jnp.take_along_axis(log_q, carry[..., None] % candidates, axis=-1)
    return {
        "leak": -jnp.mean(total[..., 0], axis=0),
        "carry_loss": -jnp.mean(true[..., 0], axis=0),
        "carry_entropy": -jnp.mean(jnp.sum(jnp.exp(log_q) * log_q, axis=-1), axis=0),
    }
