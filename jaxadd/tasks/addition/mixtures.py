"""Mixtures of addition problems: uniform, with many columns that propagate a carry, with forced cascades, skewed.

Problems are operand digits, int32 `[B, M, N]`, units first.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.tasks.addition import numerals

_MAX_LISTED = 2**20  # Spaces of up to so many problems are shuffled; from larger ones, problems are drawn.


@dataclass(frozen=True)
class Mixture:
    """The distribution of problems: the weights of four kinds, and of problems that are listed."""

    uniform: float = 1.0
    """weight of problems with independent, uniform digits"""
    enriched: float = 0.0
    """weight of problems in which some columns are forced to sum to base - 1"""
    cascades: float = 0.0
    """weight of problems with a forced carry cascade: a column that carries, then columns that sum to base - 1"""
    skewed: float = 0.0
    """weight of problems whose numbers have two different digits each, one more often than the other: what attention
    to all columns sums up is then far from its mean"""
    listed: float = 0.0
    """weight of the problems in `problems`"""
    problems: tuple[str, ...] = ()
    """sums such as 12345+67890, two operands with all their digits: the errors of another network, to train on"""
    enriched_fraction: float = 0.4
    """fraction of the columns of an enriched problem that is forced to sum to base - 1"""
    cascade_length: int | None = None
    """number of columns of a forced cascade that sum to base - 1; None draws any length that fits"""
    cascade_start: int | None = None
    """column in which a forced cascade begins, 0 for the units; None draws any column that fits"""

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("uniform", "enriched", "cascades", "skewed", "listed")}
        if not all(math.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
            got = ", ".join(f"{name} {w:g}" for name, w in weights.items())
            raise UserError(f"the weights of a mixture must be at least 0 and one above 0, got {got}")
        if (self.listed > 0) != bool(self.problems):
            raise UserError(
                f"listed, the weight of the listed problems, must be above 0 where there are any, got {self.listed} "
                f"and {len(self.problems)} problems"
            )
        if not 0 <= self.enriched_fraction <= 1:
            raise UserError(f"enriched_fraction must be from 0 to 1, got {self.enriched_fraction}")
        for name in ("cascade_length", "cascade_start"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise UserError(f"{name} must be at least 0, got {value}")

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        enriched = {} if self.enriched else {"enriched_fraction": "problems of weight enriched"}
        cascades = dict.fromkeys(("cascade_length", "cascade_start"), "problems of weight cascades")
        return enriched | ({} if self.cascades else cascades)

    @property
    def weights(self) -> tuple[float, float, float]:
        """The weights of uniform, enriched and cascade problems."""
        return self.uniform, self.enriched, self.cascades

    def check_fits(self, digits: int) -> None:
        """Raise UserError where forced cascades need more columns than there are digits."""
        length, start = self.cascade_length or 0, self.cascade_start or 0
        if length + start >= digits:
            raise UserError(
                f"a cascade of length {length} from column {start} needs columns 0 to {start + length}, "
                f"and there are {digits} digits"
            )

    def draw(self, key: jax.Array, shape: tuple[int, int, int], base: int) -> jax.Array:
        """Draw problems.

        Args:
          key: typed key.
          shape: (B, M, N).
          base: base of the digits.

        Returns:
          int32 `[B, M, N]`.
        """
        batch, _, digits = shape
        if self.listed or self.skewed:
            return self._draw_beside(key, shape, base)
        kind_key, digit_key, enriched_key, cascade_key = jax.random.split(key, 4)
        operands = _uniform(digit_key, shape, base)
        if self.enriched == self.cascades == 0:
            return operands
        total = sum(self.weights)
        kind = jax.random.uniform(kind_key, (batch, 1, 1)) * total  # Below `uniform`, then enriched, then cascades.
        if self.uniform == self.enriched == 0:
            return _force_cascade(cascade_key, operands, base, self.cascade_length, self.cascade_start)
        if self.cascades:
            forced = _force_cascade(cascade_key, operands, base, self.cascade_length, self.cascade_start)
            operands = jnp.where(kind >= total - self.cascades, forced, operands)
        if self.enriched:
            mask_key, digit_key = jax.random.split(enriched_key)
            mask = jax.random.bernoulli(mask_key, float(self.enriched_fraction), (batch, 1, digits))
            mask &= (kind >= self.uniform) & (kind < total - self.cascades)
            operands = jnp.where(mask, _propagating(digit_key, shape, base), operands)
        return operands

    def _draw_beside(self, key: jax.Array, shape: tuple[int, int, int], base: int) -> jax.Array:
        """Draw listed problems, or else skewed ones, beside what is left of the mixture."""
        kind_key, own_key, key = jax.random.split(key, 3)
        if self.listed:
            table = jnp.asarray(self.table(shape[1:], base))
            own = table[jax.random.randint(own_key, shape[:1], 0, len(table))]
            weight, others = self.listed, (*self.weights, self.skewed)
            without: dict[str, Any] = {"listed": 0.0, "problems": ()}
        else:
            own = _skewed(own_key, shape, base)
            weight, others = self.skewed, self.weights
            without = {"skewed": 0.0}
        if not any(others):
            return own
        rest = replace(self, **without).draw(key, shape, base)
        fraction = weight / (sum(others) + weight)
        return jnp.where(jax.random.bernoulli(kind_key, fraction, (shape[0], 1, 1)), own, rest)

    def table(self, shape: tuple[int, int], base: int) -> np.ndarray:
        """Return the listed problems, int32 `[n, M, N]`, units first; raises UserError where one is none of them."""
        rows = []
        for text in self.problems:
            operands = [numerals.read(part.strip(), base) for part in text.partition("=")[0].split("+")]
            if len(operands) != shape[0] or any(x is None or len(x) != shape[1] for x in operands):
                raise UserError(
                    f"a listed problem must have {shape[0]} numbers of {shape[1]} digits of base {base} joined by +, "
                    f"got {text!r}"
                )
            rows.append(np.stack([x for x in operands if x is not None]))
        return np.stack(rows).astype(np.int32)

    def draw_distinct(
        self, key: jax.Array, shape: tuple[int, int, int], base: int, without: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw distinct problems, int32 `[B, M, N]`, none of them among `without`, int32 `[·, M, N]`.

        Raises:
          UserError: the mixture does not have so many.
        """
        count, operands, digits = shape
        space = base ** (operands * digits)
        problems = np.zeros((0, operands, digits), np.int32) if without is None else without
        before = len(problems)
        rounds: Iterable[np.ndarray]
        if space <= _MAX_LISTED and self.enriched == self.cascades == self.skewed == self.listed == 0:
            numbers = np.asarray(jax.random.permutation(key, space))[:, None]
            powers = base ** np.arange(operands * digits)
            rounds = [(numbers // powers % base).reshape(-1, operands, digits)]
        else:
            drawn = (2 * count + 64, operands, digits)
            rounds = (np.asarray(self.draw(jax.random.fold_in(key, i), drawn, base)) for i in range(64))
        for candidates in rounds:
            together = np.concatenate([problems, candidates.astype(np.int32)])
            _, first = np.unique(together.reshape(len(together), -1), axis=0, return_index=True)
            problems = together[np.sort(first)]
            if len(problems) >= before + count:
                return problems[before : before + count]
        raise UserError(
            f"only {len(problems) - before} different problems were found in the mixture, and {count} are needed; "
            "ask for fewer or widen the mixture"
        )


@dataclass(frozen=True)
class Curriculum:
    """How fresh training problems change over the steps; the test problems do not. By default they do not either."""

    lengths: tuple[int, ...] = ()
    """longest operands in each phase, in digits; a problem's length is drawn from 1 to it, the digits above are 0"""
    until: tuple[int, ...] = ()
    """step at which each phase ends, one for each of lengths; after the last, operands have all digits"""
    fade_begin: int = 0
    """step at which the mixture begins to give way to uniform problems"""
    fade_end: int = 0
    """step from which all problems are uniform; 0 keeps the mixture"""

    def __post_init__(self) -> None:
        if len(self.lengths) != len(self.until):
            raise UserError(
                f"lengths and until must be equally many, got {len(self.lengths)} lengths and {len(self.until)} steps"
            )
        if any(length < 1 for length in self.lengths):
            raise UserError(f"lengths must be at least 1, got {self.lengths}")
        if any(b <= a for a, b in zip((0, *self.until), self.until, strict=False)):
            raise UserError(f"until must be ascending steps above 0, got {self.until}")
        if (self.fade_begin or self.fade_end) and not 0 <= self.fade_begin < self.fade_end:
            raise UserError(f"fade_begin must be from 0 to below fade_end, got {self.fade_begin} and {self.fade_end}")

    def draw(
        self, key: jax.Array, step: jax.Array, mixture: Mixture, shape: tuple[int, int, int], base: int
    ) -> jax.Array:
        """Draw the problems of a step, int32 `[B, M, N]`; arguments as for `Mixture.draw`."""
        problem_key, length_key, fade_key, uniform_key = jax.random.split(key, 4)
        problems = mixture.draw(problem_key, shape, base)
        batch, _, digits = shape
        if self.fade_end:
            share = jnp.clip((self.fade_end - step) / (self.fade_end - self.fade_begin), 0, 1)
            kept = jax.random.bernoulli(fade_key, share, (batch, 1, 1))
            problems = jnp.where(kept, problems, _uniform(uniform_key, shape, base))
        if self.lengths:
            phase = jnp.sum(step >= jnp.asarray(self.until))
            longest = jnp.asarray((*self.lengths, digits))[phase]
            drawn = jax.random.randint(length_key, (batch, 1, 1), 1, longest + 1)
            length = jnp.where(phase == len(self.lengths), digits, drawn)
            problems = jnp.where(jnp.arange(digits)[None, None] < length, problems, 0)
        return problems


def cascades_of_every_length(key: jax.Array, shape: tuple[int, int, int], base: int) -> jax.Array:
    """Draw problems with forced cascades from the units on: int32 `[N, B, M, N]`, by length.

    The problems of a length are those that a mixture of cascades draws from the key with its index.
    """

    def draw(key: jax.Array, length: jax.Array) -> jax.Array:
        _, digit_key, _, cascade_key = jax.random.split(key, 4)
        return _force_cascade(cascade_key, _uniform(digit_key, shape, base), base, length, 0)

    digits = shape[-1]
    return jax.vmap(draw)(jax.random.split(key, digits), jnp.arange(digits))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: jax.Array, shape: tuple[int, ...], base: int) -> jax.Array:
    # Half the cost of randint, and uniform up to 2**-23.
    return jnp.floor(jax.random.uniform(key, shape) * base).astype(jnp.int32)


def _skewed(key: jax.Array, shape: tuple[int, int, int], base: int) -> jax.Array:
    """Draw digits `[B, M, N]`, of two values in each number, the first with a probability that is uniform too."""
    pair_key, probability_key, choice_key = jax.random.split(key, 3)
    batch, operands, _ = shape
    first, second = _uniform(pair_key, (2, batch, operands, 1), base)
    probability = jax.random.uniform(probability_key, (batch, operands, 1))
    return jnp.where(jax.random.uniform(choice_key, shape) < probability, first, second)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _propagating(key: jax.Array, shape: tuple[int, int, int], base: int) -> jax.Array:
    """Draw digits `[B, M, N]` whose columns sum to base - 1: the gaps between M - 1 sorted cuts."""
    batch, operands, digits = shape
    cuts = jnp.sort(_uniform(key, (batch, operands - 1, digits), base), axis=1)
    return jnp.diff(cuts, axis=1, prepend=0, append=base - 1)


@functools.partial(jax.jit, static_argnums=2)  # Not the length: one program for cascades of every length.
def _force_cascade(
    key: jax.Array, problems: jax.Array, base: int, length: jax.Array | int | None, start: jax.Array | int | None
) -> jax.Array:
    """Replace columns of problems `[B, M, N]` so that each has a cascade of exactly this length from `start` on.

    The first two operands form the cascade, the others are 0 in its columns: one column generates a carry, `length`
    columns propagate it, and the next one, if there is one, does not. With more than two operands the length is exact
    only from the units on, as a carry of 2 from the columns below may lengthen a cascade that starts higher.
    """
    length_key, start_key, generate_key, propagate_key, stop_key = jax.random.split(key, 5)
    batch, operands, digits = problems.shape
    if length is None:
        length = jax.random.randint(length_key, (batch, 1), 0, digits - (0 if start is None else start))
    if start is None:
        start = jax.random.randint(start_key, (batch, 1), 0, digits - length)
    a, b = np.divmod(np.arange(base**2), base)
    wanted = a + b >= base, a + b == base - 1, a + b != base - 1
    pairs = np.zeros((3, base**2, 2), np.int32)
    for table, these in zip(pairs, wanted, strict=True):
        table[: these.sum()] = np.stack([a, b], axis=1)[these]
    # Mapped, as a compiler takes three times as long for three draws.
    draw = jax.vmap(lambda key, count: jax.random.randint(key, (batch, digits), 0, count))
    drawn = draw(jnp.stack([generate_key, propagate_key, stop_key]), jnp.asarray([these.sum() for these in wanted]))
    column = jnp.arange(digits)[None]
    part = jnp.where(column == start, 0, jnp.where(column <= start + length, 1, 2))
    chosen = jnp.take_along_axis(drawn, part[None], axis=0)[0]
    first, second = jnp.moveaxis(jnp.asarray(pairs)[part, chosen], -1, 0)
    rest = jnp.zeros((batch, operands - 2, digits), jnp.int32)
    forced = jnp.concatenate([first[:, None], second[:, None], rest], axis=1)
    inside = jnp.broadcast_to((column >= start) & (column <= start + length + 1), (batch, digits))
    return jnp.where(inside[:, None], forced, problems)
