"""The contest of the smallest transformer that adds ten digits (AdderBoard): its task and its test suite."""

import random

import numpy as np

from jaxadd.tasks.addition.task import Addition

TASK = Addition(digits=10, separators="zeros", operand_order="lsd", answer_order="lsd")
"""Tokens 0 a₀…a₉ 0 0 b₀…b₉ 0 s₀…s₁₀ of ten digits, units first, without signs."""
PASSES = 0.99
"""The fraction of the suite that a network of the contest has to answer correctly."""
_EDGES = (
    (0, 0),
    (0, 1),
    (9_999_999_999, 0),
    (9_999_999_999, 1),
    (9_999_999_999, 9_999_999_999),
    (5_000_000_000, 5_000_000_000),
    (1_111_111_111, 8_888_888_889),
    (1_234_567_890, 9_876_543_210),
    (9_999_999_999, 9_999_999_999),
    (1, 9_999_999_999),
)


def suite(count: int = 10_000) -> np.ndarray:
    """Return the problems of the suite, int32 `[10 + count, 2, 10]`, digits, units first.

    Args:
      count: random problems after the ten edge cases, from `random.Random(2025)` as in the contest.
    """
    generator = random.Random(2025)
    pairs = [*_EDGES, *((generator.randint(0, 10**10 - 1), generator.randint(0, 10**10 - 1)) for _ in range(count))]
    numbers = np.asarray(pairs, np.int64)[..., None]
    return (numbers // 10 ** np.arange(10) % 10).astype(np.int32)
