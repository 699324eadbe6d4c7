"""Scores of logits against targets, by answer digit: correct answers, offsets, confusion, and the parts of a loss.

Logits are `[B, R, C]`: B examples, R scored positions, C classes. Every function is pure and may be jitted and
vmapped. An example with a logit that is not finite has no answer: it is never correct, and every class has
probability 0.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from jaxadd.optim import losses


def correct(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return which answers are correct, bool `[...]`: the target's logit is the largest; a tie is an error."""
    return losses.margin(logits, targets) > 0


def exact_match(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return which examples have every answer correct, bool `[B]`.

    Teacher-forced and free-running greedy answers match exactly on the same problems: as long as all digits
    so far are correct, both have the same input.
    """
    return jnp.all(correct(logits, targets), axis=-1)


def fraction(true: jax.Array, axis: int | None = None) -> jax.Array:
    """Return the fraction of the bool array `true` that is true, float32: a count, divided once.

    The result is exactly 1 where all are true. A mean is not: XLA multiplies by the rounded reciprocal of a constant
    instead of dividing, so the mean of 41 ones is 0.99999994.
    """
    count = jnp.sum(true, axis=axis, dtype=jnp.int32)
    total = true.size if axis is None else true.shape[axis]
    return jnp.where(count == total, jnp.float32(1), count / jnp.float32(total))


def greedy(logits: jax.Array) -> jax.Array:
    """Return the class with the largest logit, int32 `[...]` for `[..., C]`; -1 where a logit is not finite."""
    answer = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), answer, -1)


def probabilities(logits: jax.Array) -> jax.Array:
    """Return the softmax of the logits; 0 in every class where a logit is not finite."""
    finite = jnp.all(jnp.isfinite(logits), axis=-1, keepdims=True)
    return jnp.where(finite, jax.nn.softmax(jnp.where(finite, logits, 0)), 0)


def free_run(predict: Callable[..., jax.Array], inputs: jax.Array, read: Sequence[int]) -> jax.Array:
    """Compute greedy answers, each fed back as input before the next.

    One loop over the digits, so that the network is compiled once for all of them.

    Args:
      predict: `predict(inputs, read)` returns logits `[B, R, C]`; `read` may be traced.
      inputs: int32 `[B, T]`; tokens after position read[0] are ignored.
      read: R successive positions; the answer at one is the input at the next.

    Returns:
      int32 `[B, R]`, the answers; all -1 for an example where some logit is not finite.
    """
    start, count = read[0], len(read)
    chex.assert_equal(tuple(read), tuple(range(start, start + count)))
    # No token of the true answer is kept, and there is one position more than the input has, for the last answer.
    question = jnp.concatenate([inputs[:, : start + 1], jnp.zeros((len(inputs), count), inputs.dtype)], axis=1)

    def answer(position: jax.Array, tokens: jax.Array) -> jax.Array:
        logits = predict(jnp.maximum(tokens[:, :-1], 0), jnp.asarray([position]))
        return tokens.at[:, position + 1].set(greedy(logits[:, 0]).astype(tokens.dtype))

    answers = jax.lax.fori_loop(start, start + count, answer, question)[:, start + 1 :]
    return jnp.where(jnp.any(answers < 0, axis=1, keepdims=True), -1, answers)


def mean_by(values: jax.Array, group: jax.Array, groups: int) -> jax.Array:
    """Compute means over the batch within groups, such as a loss by carry class.

    Args:
      values: float `[B, ...]`.
      group: int, the group of each example `[B]` or of each value, of the shape of `values`; in `[0, groups)`.
      groups: G, the number of groups.

    Returns:
      `[G, ...]`; NaN in a group without members.
    """
    chex.assert_equal_shape_prefix([values, group], group.ndim)
    group = group.reshape(1, *group.shape, *[1] * (values.ndim - group.ndim))
    member = jnp.broadcast_to(group == jnp.arange(groups).reshape(-1, *[1] * values.ndim), (groups, *values.shape))
    return jnp.sum(jnp.where(member, values[None], 0), axis=1) / jnp.sum(member, axis=1)


def _digits_above(naive: jax.Array, count: int, classes: int) -> jax.Array:
    """Return (naive + c) mod classes for c = 0 … count - 1, `[B, R, count]`; `naive` is int `[B, R]`."""
    return (naive[..., None] + jnp.arange(count)[None, None]) % classes


def offset_from_naive(logits: jax.Array, naive: jax.Array) -> jax.Array:
    """Compute the mean probability of class (naive + o) mod C by offset o, `[R, C]`; `naive` is int `[B, R]`."""
    classes = logits.shape[-1]
    digit = _digits_above(naive, classes, classes)
    return jnp.mean(jnp.take_along_axis(probabilities(logits), digit, axis=-1), axis=0)


def confusion(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Compute the mean probability of every class by true class, `[R, C, C]`; NaN for classes that do not occur."""
    return jnp.swapaxes(mean_by(probabilities(logits), targets, logits.shape[-1]), 0, 1)


def split(logits: jax.Array, naive: jax.Array, carry: jax.Array, candidates: int = 2) -> dict[str, jax.Array]:
    """Split the loss of each digit into two parts, exactly: loss = leak + carry loss.

    The candidates of a digit are naive + c, c = 0 … candidates - 1. Let M be their total probability and q_c their
    fractions of it. The leak -log M comes from probability outside the candidates. The carry loss -log q_c of the
    true c is the uncertainty about the carry (the exact floor of the information used, `floors.floor`) plus
    miscalibration.

    Args:
      logits: float `[B, R, C]`.
      naive: int `[B, R]`, the digit if no carry came in.
      carry: int `[B, R]`, the true carry in.
      candidates: number of possible values of the carry in; 1 where there are no carries.

    Returns:
      means over problems, `[R]`, nats: "leak", "carry_loss", and "carry_entropy", the entropy of q, which is the
      uncertainty in the network's output.
    """
    log_p = jax.nn.log_softmax(logits)
    digit = _digits_above(naive, candidates, logits.shape[-1])
    inside = jnp.take_along_axis(log_p, digit, axis=-1)
    total = jax.nn.logsumexp(inside, axis=-1, keepdims=True)
    log_q = inside - total
    true = jnp.take_along_axis(log_q, carry[..., None] % candidates, axis=-1)
    return {
        "leak": -jnp.mean(total[..., 0], axis=0),
        "carry_loss": -jnp.mean(true[..., 0], axis=0),
        "carry_entropy": -jnp.mean(jnp.sum(jnp.exp(log_q) * log_q, axis=-1), axis=0),
    }
