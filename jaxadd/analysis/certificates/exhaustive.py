"""Certification of a network by running it on every problem of a space, in float64 with an allowance for float32.

In a sequential task every answer digit is computed after the correct digits before it. That proves the free-running
greedy answer, by induction: the first digit is correct, so the second sees what it sees here, and so on.
"""

from typing import Any

import jax
import numpy as np

from jaxadd.analysis.certificates import forward
from jaxadd.analysis.certificates.certificate import rounded_down
from jaxadd.analysis.certificates.rounding import Rounded
from jaxadd.analysis.certificates.spaces import Space
from jaxadd.models import Network

MOST_LOGITS = 10**9
_PART_LOGITS = 2_000_000  # In one part, which is what a resumed certification repeats at most.
_AT_ONCE = 2_048  # Problems.


def parts(network: Network, space: Space) -> list[tuple[int, int]]:
    """Return the ranges of problems that are examined one after the other, [first, end)."""
    sizes = network.model.sizes
    step = max(1, _PART_LOGITS // (len(sizes.read) * sizes.classes))
    return [(first, min(first + step, space.size)) for first in range(0, space.size, step)]


def logits(space: Space, network: Network) -> int:
    """Return the number of logits over the whole space."""
    sizes = network.model.sizes
    return space.size * len(sizes.read) * sizes.classes


def examine(network: Network, space: Space, part: tuple[int, int]) -> dict[str, Any]:
    """Return what holds for a range of problems, as plain data.

    Returns:
      "part": the range; "problems"; "margin" and "slack": the least of all problems, nats, rounded down; "number" and
      "where": the problem with the least slack; "open": the number of problems that are not proven; "suspects": the
      numbers of up to 100 of these, least margin first, as errors have margins below 0.
    """
    margin, slack = np.zeros(0), np.zeros(0)
    for first in range(*part, _AT_ONCE):
        numbers = np.arange(first, min(first + _AT_ONCE, part[1]))
        inputs, targets = space.batch(_padded(numbers))
        computed = forward.logits(network.params, network.model, inputs[: len(numbers)])
        margins, slacks = margins_of(computed, targets[: len(numbers)])
        margin, slack = np.append(margin, margins.min(axis=1)), np.append(slack, slacks.min(axis=1))
    worst = int(np.argmin(slack))
    number = part[0] + worst
    open_ones = np.flatnonzero(~(slack > 0))
    suspects = open_ones[np.argsort(margin[open_ones], kind="stable")[:100]]
    return {
        "part": list(part),
        "problems": part[1] - part[0],
        "margin": rounded_down(float(margin.min())),
        "slack": rounded_down(float(slack[worst])),
        "number": number,
        "where": in_words(network, space, number),
        "open": len(open_ones),
        "suspects": (part[0] + suspects).tolist(),
    }


def margins_of(logits: Rounded, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least margin over all rivals, and the least slack: a margin without its allowance for float32.

    The two may be of different rivals. The margin is minus infinity where a logit is not a number, and the slack also
    where a rival has no finite allowance.

    Args:
      logits: `[B, R, C]`.
      targets: int `[B, R]`.

    Returns:
      `[B, R]` each, nats.
    """
    at = targets[..., None]
    pick = lambda x: np.take_along_axis(x, at, axis=-1)
    lead, allowed = pick(logits.value) - logits.value, pick(logits.error) + logits.error
    margin = np.where(np.isnan(lead), -np.inf, lead)
    slack = np.where(np.isfinite(allowed) & np.isfinite(lead), lead - allowed, -np.inf)
    for x in (margin, slack):
        np.put_along_axis(x, at, np.inf, axis=-1)
    return margin.min(axis=-1), slack.min(axis=-1)


def in_words(network: Network, space: Space, number: int) -> str:
    """Return a problem, what the network says and what is correct."""
    return described(network, *space.batch(np.asarray([number])))["words"]


def described(network: Network, inputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Run a network on one problem, tokens `[1, T]` and answers `[1, R]`, and return what it says as plain data."""
    answer = np.asarray(jax.device_get(network.answer(inputs)))[0]
    return {
        "words": network.task.describe(inputs[0], targets[0], answer),
        "says": answer.tolist(),
        "correct": targets[0].tolist(),
        "inputs": inputs[0].tolist(),
        "wrong": bool((answer != targets[0]).any()),
    }


def _padded(numbers: np.ndarray) -> np.ndarray:
    """Repeat the last number, so that all batches have the same shape and compile once."""
    return np.append(numbers, np.full(max(0, _AT_ONCE - len(numbers)), numbers[-1]))
