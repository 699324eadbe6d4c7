"""Search for problems of addition that a network gets wrong, and what a sample without an error does show.

Every problem is judged by running the network, freely and greedily, in float32.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxadd.analysis.certificates.columns import operand_positions
from jaxadd.models import Network
from jaxadd.models.model import Model
from jaxadd.optim import losses
from jaxadd.tasks import Addition, Mixture
from jaxadd.tasks.addition.carries import CLASSES
from jaxadd.types import Params

UNIFORM, FORCED = 20_000, 500
CONFIDENCE = 0.95
_AT_ONCE = 1_000
_MOST_REPEATED = 10_000
# Of each answer digit: problems whose margin is lowered, changes of each that are tried in a round, and rounds.
_STARTS, _TRIED, _ROUNDS = 24, 40, 30


class Found(NamedTuple):
    """What a search found.

    Attributes:
      errors: int32 `[E, M, N]`, distinct problems that the network gets wrong, digits, units first.
      statistics: of problems drawn at random, by kind: "kind", "problems", "errors", and "low" and "high", the exact
        (Clopper-Pearson) 95 % interval of the error rate of that kind.
    """

    errors: np.ndarray
    statistics: tuple[dict[str, Any], ...]


def search(network: Network, seed: int = 0, uniform: int = UNIFORM, forced: int = FORCED) -> Found:
    """Look for errors of a network: at random, by carry class, and by changes that lower the margin.

    Uniform problems, and cascades of every length from every column, are drawn at random. Numbers of one repeated
    digit are tried too: there, what attention to other columns does adds up. Where all are answered correctly, the
    search goes on from those of the least margins, as in `from_problems`.

    Args:
      network: of addition.
      seed: of the problems.
      uniform: the number of uniform problems.
      forced: the number of problems with a cascade from the units on of each length.
    """
    task, key = cast(Addition, network.task), jax.random.key(seed)
    repeated = repeated_digits(task)
    margins, wrong = _judge(network, repeated)
    rows, errors, seen, least = [], [repeated[wrong]], [repeated], [margins]
    for name, problems, kinds in _samples(task, key, uniform, forced):
        margins, wrong = _judge(network, problems)
        errors.append(problems[wrong])
        seen.append(problems)
        least.append(margins)
        for kind in np.unique(kinds) if name == "uniform" else (None,):
            among = slice(None) if kind is None else kinds == kind
            count, bad = int(wrong[among].size), int(wrong[among].sum())
            low, high = interval(bad, count)
            label = name if kind is None else f"uniform, class {CLASSES[kind]}"
            rows.append({"kind": label, "problems": count, "errors": bad, "low": low, "high": high})
    if not sum(map(len, errors)):
        errors.append(_lowered(network, np.concatenate(seen), np.concatenate(least)))
    return Found(distinct(np.concatenate(errors)), tuple(rows))


def from_problems(network: Network, problems: np.ndarray) -> np.ndarray:
    """Return the errors among problems, int32 `[B, M, N]`, or else those that a descent from them finds, `[E, M, N]`.

    From the problems of the least margins, each answer digit is led towards an error: of all changes of one digit,
    those that lower its margin most by the gradient are tried (HotFlip, Ebrahimi et al. 2018), and the best is made,
    as long as there is one that lowers it.
    """
    margins, wrong = _judge(network, problems)
    return distinct(problems[wrong] if wrong.any() else _lowered(network, problems, margins))


def repeated_digits(task: Addition) -> np.ndarray:
    """Return all problems of numbers of one repeated digit, such as 777 + 222, int32 `[base^M, M, N]`.

    Where there are more than 10,000, some of them in even distances.
    """
    count = task.base**task.operands
    number = np.arange(0, count, -(-count // _MOST_REPEATED))
    digits = number[:, None] // task.base ** np.arange(task.operands) % task.base
    return np.repeat(digits[..., None], task.digits, axis=2).astype(np.int32)


def _samples(
    task: Addition, key: jax.Array, uniform: int, forced: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield random problems by kind, with their carry classes."""
    drawn = {"uniform": task.draw(key, uniform, Mixture())}
    if task.operation == "add":
        for length in range(task.digits):
            name = f"cascade over {length} column{'s' * (length != 1)} from the units"
            drawn[name] = task.cascade(jax.random.fold_in(key, length), forced, length)
    for name, problems in drawn.items():
        kinds = np.asarray(task.features(problems).kind)
        yield name, np.asarray(problems), kinds


def _lowered(network: Network, problems: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return the errors that are met from problems without one, given their margins `[B, A]`."""
    errors = [problems[:0]]
    for digit in range(margins.shape[1]):
        first = np.argsort(margins[:, digit])[:_STARTS]
        current, best = problems[first], margins[first, digit]
        for _ in range(_ROUNDS):
            near = _changes(network, current, digit)
            tried = near.reshape(-1, *problems.shape[1:])
            values, wrong = _judge(network, tried)
            if wrong.any():
                errors.append(tried[wrong])
                break
            values = values[:, digit].reshape(near.shape[:2])
            lower = np.flatnonzero(values.min(axis=1) < best)
            if not lower.size:
                break
            current, best = near[lower, values.argmin(axis=1)[lower]], values.min(axis=1)[lower]
    return np.concatenate(errors)


def _changes(network: Network, problems: np.ndarray, digit: int) -> np.ndarray:
    """Return problems that differ in one digit and lower the margin of an answer digit most by the gradient.

    Returns:
      int32 `[B, changes, M, N]`.
    """
    task, count = cast(Addition, network.task), len(problems)
    # Always as many problems, so that one program is compiled.
    batch = task.batch(jnp.asarray(np.concatenate([problems, np.repeat(problems[-1:], _STARTS - count, axis=0)])))
    gains = _gains(network.model, network.params, batch.inputs, batch.targets, jnp.int32(digit))
    gains = np.asarray(gains)[:count, operand_positions(task), : task.base]  # [B, M, N, base]
    np.put_along_axis(gains, problems[..., None], np.inf, axis=-1)  # No change.
    tried = min(_TRIED, problems[0].size * (task.base - 1))
    chosen = np.argsort(gains.reshape(count, -1), axis=1)[:, :tried]
    m, k, value = np.unravel_index(chosen, gains.shape[1:])
    near = np.repeat(problems[:, None], tried, axis=1)
    near[np.arange(count)[:, None], np.arange(tried), m, k] = value
    return near


@functools.partial(jax.jit, static_argnums=0)
def _gains(model: Model, params: Params, inputs: jax.Array, targets: jax.Array, digit: jax.Array) -> jax.Array:
    """Return how much another token would add to the margin of an answer digit, to first order, `[B, T, V]`."""
    embed = model.matrices(params)["embed"]["W_E"]

    def margin(shift: jax.Array) -> jax.Array:
        logits, _ = model.apply(params, inputs, edits={"hook_embed": lambda x: x + shift})
        return jnp.sum(losses.margin(logits, targets)[:, digit])

    gradient = jax.grad(margin)(jnp.zeros((*inputs.shape, embed.shape[1])))
    gains = gradient @ embed.T
    return gains - jnp.take_along_axis(gains, inputs[..., None], axis=-1)


def judge(network: Network, problems: np.ndarray) -> np.ndarray:
    """Return which problems, int32 `[B, M, N]`, a network gets wrong when it runs freely, bool `[B]`."""
    return _judge(network, problems)[1]


def _judge(network: Network, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the margins of the answer digits, nats `[B, A]`, and whether the free-running answer is wrong `[B]`."""
    task = cast(Addition, network.task)
    margins = []
    for first in range(0, len(problems), _AT_ONCE):
        some = problems[first : first + _AT_ONCE]
        padded = np.concatenate([some, np.repeat(some[-1:], _AT_ONCE - len(some), axis=0)])
        batch = task.batch(padded)
        margins.append(np.asarray(_margins(network(batch.inputs), batch.targets))[: len(some)])
    every = np.concatenate(margins)
    # With correct digits before, all margins are positive exactly where the free-running answer is correct; the
    # network itself is run where one is not.
    wrong = np.asarray(~(every > 0).all(axis=1))
    suspects = np.flatnonzero(wrong)
    for first in range(0, len(suspects), _AT_ONCE):
        some = suspects[first : first + _AT_ONCE]
        padded = np.concatenate([some, np.repeat(some[-1:], _AT_ONCE - len(some))])
        batch = task.batch(problems[padded])
        answers = np.asarray(network.answer(batch.inputs))
        wrong[some] = (answers != np.asarray(batch.targets)).any(axis=1)[: len(some)]
    return every, wrong


_margins = jax.jit(losses.margin)


def distinct(problems: np.ndarray) -> np.ndarray:
    """Return the distinct problems, in order of the first occurrence."""
    _, first = np.unique(problems.reshape(len(problems), math.prod(problems.shape[1:])), axis=0, return_index=True)
    return problems[np.sort(first)]


def interval(errors: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate, given the errors among so many problems drawn independently.

    The ends are the rates at which so many errors or more, and so many or fewer, have probability (1 - confidence)/2.
    So without an error the upper end is about 3.7 / count at 95 %. (The 3 / count that is often named is the end of a
    one-sided interval; to choose between the two by what was seen would cover the rate less often than stated.)
    """
    if count == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if errors == 0 else float(special.betaincinv(errors, count - errors + 1, tail))
    high = 1.0 if errors == count else float(special.betaincinv(errors + 1, count - errors, 1 - tail))
    return low, high
