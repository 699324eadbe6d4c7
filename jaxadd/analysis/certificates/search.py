"""Search for problems of addition that a network gets wrong, and what a sample without an error does show.

Every problem is judged by running the network, freely and greedily, in float32.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.models import Network
from jaxadd.optim import losses
from jaxadd.tasks import Addition, Mixture
from jaxadd.tasks.addition.carries import CLASSES

UNIFORM, FORCED = 20_000, 500
CONFIDENCE = 0.95
_AT_ONCE = 1_000
_LOCAL, _ROUNDS = 8, 6  # Problems that are changed digit by digit, and how often.


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
    """Look for errors of a network: at random, by carry class, and from the least margins by greedy changes.

    Uniform problems, and cascades of every length from every column, are drawn at random. From those of the least
    margin the search goes on: of all problems that differ in one digit, it takes the one with the least margin.

    Args:
      network: of addition.
      seed: of the problems.
      uniform: the number of uniform problems.
      forced: the number of problems with a cascade from the units on of each length.
    """
    task, key = cast(Addition, network.task), jax.random.key(seed)
    rows, errors, hardest = [], [], []
    for name, problems, kinds in _samples(task, key, uniform, forced):
        margins, wrong = _judge(network, problems)
        errors.append(problems[wrong])
        hardest.append(problems[np.argsort(margins)[:_LOCAL]])
        for kind in np.unique(kinds) if name == "uniform" else (None,):
            among = slice(None) if kind is None else kinds == kind
            count, bad = int(wrong[among].size), int(wrong[among].sum())
            low, high = interval(bad, count)
            label = name if kind is None else f"uniform, class {CLASSES[kind]}"
            rows.append({"kind": label, "problems": count, "errors": bad, "low": low, "high": high})
    if not sum(map(len, errors)):
        errors += list(_descend(network, np.concatenate(hardest)))
    return Found(distinct(np.concatenate(errors)), tuple(rows))


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


def _descend(network: Network, problems: np.ndarray) -> Iterator[np.ndarray]:
    """Change one digit at a time where that lowers the margin most; yield the errors that are met."""
    task = cast(Addition, network.task)
    margins, _ = _judge(network, problems)
    for start in problems[np.argsort(margins)[:_LOCAL]]:
        problem, best = start, math.inf
        for _ in range(_ROUNDS):
            near = _neighbours(problem, task.base)
            margins, wrong = _judge(network, near)
            if wrong.any():
                yield near[wrong]
                return
            if margins.min() >= best:
                break
            problem, best = near[margins.argmin()], float(margins.min())


def _neighbours(problem: np.ndarray, base: int) -> np.ndarray:
    """Return all problems that differ in one digit, `[M N (base - 1), M, N]`."""
    flat = problem.ravel()
    near = np.repeat(flat[None], flat.size * (base - 1), axis=0)
    place = np.repeat(np.arange(flat.size), base - 1)
    near[np.arange(len(near)), place] = (flat[place] + np.tile(np.arange(1, base), flat.size)) % base
    return near.reshape(-1, *problem.shape)


def judge(network: Network, problems: np.ndarray) -> np.ndarray:
    """Return which problems, int32 `[B, M, N]`, a network gets wrong when it runs freely, bool `[B]`."""
    return _judge(network, problems)[1]


def _judge(network: Network, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least margin over the answer digits, nats, and whether the free-running answer is wrong."""
    task = cast(Addition, network.task)
    margins = []
    for first in range(0, len(problems), _AT_ONCE):
        some = problems[first : first + _AT_ONCE]
        padded = np.concatenate([some, np.repeat(some[-1:], _AT_ONCE - len(some), axis=0)])
        batch = task.batch(padded)
        margins.append(np.asarray(_margins(network(batch.inputs), batch.targets))[: len(some)])
    least = np.concatenate(margins)
    # With correct digits before, all margins are positive exactly where the free-running answer is correct; the
    # network itself is run where one is not.
    wrong = ~(least > 0)
    suspects = np.flatnonzero(wrong)
    for first in range(0, len(suspects), _AT_ONCE):
        some = suspects[first : first + _AT_ONCE]
        padded = np.concatenate([some, np.repeat(some[-1:], _AT_ONCE - len(some))])
        batch = task.batch(problems[padded])
        answers = np.asarray(network.answer(batch.inputs))
        wrong[some] = (answers != np.asarray(batch.targets)).any(axis=1)[: len(some)]
    return least, wrong


@jax.jit
def _margins(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.min(losses.margin(logits, targets), axis=-1)


def distinct(problems: np.ndarray) -> np.ndarray:
    """Return the distinct problems, in order of the first occurrence."""
    _, first = np.unique(problems.reshape(len(problems), math.prod(problems.shape[1:])), axis=0, return_index=True)
    return problems[np.sort(first)]


def interval(errors: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate, given the errors among so many problems drawn independently.

    The ends are the rates at which so many errors or more, and so many or fewer, have probability (1 - confidence)/2;
    with no error, or errors only, one end is 0 or 1 and the other has probability 1 - confidence (so that the upper
    end is about 3 / count at 95 %).
    """
    if count == 0:
        return 0.0, 1.0
    tail = 1 - confidence if errors in (0, count) else (1 - confidence) / 2
    low = 0.0 if errors == 0 else _rate(lambda p: 1 - _at_most(errors - 1, count, p) >= tail)
    high = 1.0 if errors == count else _rate(lambda p: _at_most(errors, count, p) <= tail)
    return low, high


def _rate(reached: Any) -> float:
    """Return the least rate at which a monotone condition holds, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _at_most(errors: int, count: int, rate: float) -> float:
    """Return the probability of at most so many errors among `count` problems at a rate."""
    k = np.arange(errors + 1)
    choose = np.asarray([math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in k])
    with np.errstate(divide="ignore"):
        logs = choose + k * np.log(rate) + (count - k) * np.log1p(-rate)
    return float(min(1.0, np.exp(np.where(np.isnan(logs), 0, logs)).sum()))
