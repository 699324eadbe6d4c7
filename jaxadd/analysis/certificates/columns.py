"""The cases of column addition, least significant digit first: the digits that decide an answer digit.

At answer digit k the correct digit follows from the two digits of column k, the two of column k - 1, and the answer
digit k - 1, which says whether column k - 1 was carried into. All other digits of the problem are free.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.tasks import Addition

_MOST_CASES = 4_000_000  # Of one answer digit: base 10 has 20,000.


class Cases(NamedTuple):
    """Cases of one answer digit with the same token at the position that is read.

    Attributes:
      digit: k, the answer digit, 0 for the units.
      own: the token at the position that is read: "=", or the answer digit k - 1.
      positions: the positions whose tokens are fixed, beside those that hold no digit.
      tokens: int `[C, F]`, their tokens.
      carry: int `[C]`, the carry into column k - 1.
      target: int `[C]`, the correct answer digit.
      weight: `[C]`, the fraction of all problems.
    """

    digit: int
    own: int
    positions: tuple[int, ...]
    tokens: np.ndarray
    carry: np.ndarray
    target: np.ndarray
    weight: np.ndarray

    def take(self, chosen: np.ndarray) -> "Cases":
        """Return some of the cases."""
        return self._replace(
            **{name: getattr(self, name)[chosen] for name in ("tokens", "carry", "target", "weight")}
        )


def in_parts(group: Cases, step: int, bound: Callable[[Cases], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Return what a function of cases returns, arrays of one row a case, for so many cases at once."""
    starts = range(0, len(group.target), step)
    parts = [bound(group.take(np.arange(i, min(i + step, len(group.target))))) for i in starts]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


class Layout(NamedTuple):
    """Where the digits of a task stand among its tokens.

    Attributes:
      operands: the position of digit k of operand m, int `[2, N]`.
      answers: the position of answer digit k, int `[A - 1]`; the last is never read.
      constants: the tokens at all other positions, by position; the first is "=" or the 0 in its place.
    """

    operands: np.ndarray
    answers: np.ndarray
    constants: dict[int, int]

    @property
    def digits(self) -> list[int]:
        """The positions of all digits, in ascending order."""
        return sorted([*self.operands.ravel().tolist(), *self.answers.tolist()])

    def free(self, group: Cases, read: int) -> list[int]:
        """Return the positions up to the one that is read whose digits are free, in ascending order."""
        return [p for p in self.digits if p < read and p not in group.positions]

    def possible(self, position: int, own: int, vocabulary: int, base: int) -> np.ndarray:
        """Return which tokens may be at each position up to one that holds the token `own`, bool `[P, V]`."""
        possible = np.zeros((position + 1, vocabulary), bool)
        possible[:, :base] = True
        for place, token in {**self.constants, position: own}.items():
            if place <= position:
                possible[place] = np.arange(vocabulary) == token
        return possible

    def name(self, position: int) -> tuple[str, int]:
        """Return what a digit belongs to, "a", "b" or "answer", and its column."""
        for name, places in (("a", self.operands[0]), ("b", self.operands[1]), ("answer", self.answers)):
            if (found := np.flatnonzero(places == position)).size:
                return name, int(found[0])
        raise KeyError(position)


def operand_positions(task: Addition) -> np.ndarray:
    """Return the position of digit k of operand m among a task's tokens, int `[M, N]`."""
    names, digits = task.position_names, range(task.digits)
    return np.asarray([[names.index(f"{chr(ord('a') + m)}{k}") for k in digits] for m in range(task.operands)])


@functools.cache
def layout(task: Addition) -> Layout:
    """Return where the digits of a task stand; found by encoding one problem in which every digit differs."""
    names = task.position_names
    at = lambda letter, count: np.asarray([names.index(f"{letter}{k}") for k in range(count)])
    operands = operand_positions(task)
    answers = at("A", task.answer_length - 1)
    zero = jnp.zeros((2, task.digits), jnp.int32)
    tokens = np.asarray(task.encode(zero))
    held = {*operands.ravel().tolist(), *answers.tolist()}
    constants = {p: int(tokens[p]) for p in range(len(names)) if p not in held}
    return Layout(operands, answers, constants)


def check_covered(task: Addition) -> None:
    """Raise UserError where few digits do not decide an answer digit."""
    if task.target != "sequential" or task.answer_order != "lsd" or task.operands != 2:
        order = f"{task.answer_order} first" if task.target == "sequential" else task.target
        raise UserError(
            "the bounds cover two operands with the answer in sequence, least significant digit first "
            f"(--task.answer-order lsd); this task has {task.operands} operands, {order}: there an answer digit "
            "depends on every column below it"
        )
    if 2 * task.base**4 > _MOST_CASES:
        raise UserError(f"the bounds cover bases up to 37, got {task.base}")


def cases(task: Addition, digit: int) -> Iterator[Cases]:
    """Yield all cases of one answer digit, by the token that is read, in lexicographic order.

    The order is (a, b of column k - 1, carry into it, a, b of column k), of those that exist.
    """
    place, base, carries = layout(task), task.base, task.operation == "add"
    own_column, below = digit < task.digits, digit > 0
    pairs = np.arange(base) if own_column else np.zeros(1, int)
    lower = np.arange(base) if below else np.zeros(1, int)
    incoming = np.arange(2) if below and digit > 1 and carries else np.zeros(1, int)
    a1, b1, c, a, b = (x.ravel() for x in np.meshgrid(lower, lower, incoming, pairs, pairs, indexing="ij"))
    previous = (a1 + b1 + c) % base
    carry = (a1 + b1 + c) // base if carries else np.zeros_like(c)
    target = (a + b + carry) % base
    chance = (1 - float(base) ** -(digit - 1)) / 2 if digit > 1 else 0.0
    weight = np.where(c == 1, chance, 1 - chance if len(incoming) > 1 else 1.0)
    weight = weight / (len(lower) ** 2 * len(pairs) ** 2)
    columns = []
    if below:
        columns += [(place.operands[0, digit - 1], a1), (place.operands[1, digit - 1], b1)]
        columns += [(place.answers[digit - 1], previous)]
    if own_column:
        columns += [(place.operands[0, digit], a), (place.operands[1, digit], b)]
    tokens = np.stack([values for _, values in columns], axis=1)
    positions = tuple(int(position) for position, _ in columns)
    whole = Cases(digit, 0, positions, tokens, c, target, weight)
    if not below:
        first_read = task.sizes.read[0]
        yield whole._replace(own=place.constants[first_read])
        return
    for own in range(base):
        chosen = np.flatnonzero(previous == own)
        if chosen.size:
            yield whole.take(chosen)._replace(own=own)


def split(task: Addition, group: Cases, position: int) -> tuple[Cases, np.ndarray]:
    """Fix the digit at one more position to each of its values.

    Returns:
      the cases that can occur, in the order of the group and of the digit, and int `[C, base]`: the number of each
      among them, -1 where it cannot occur.
    """
    base, count = task.base, len(group.target)
    repeat = lambda x: np.repeat(x, base, axis=0)
    digit = np.tile(np.arange(base), count)
    tokens = np.concatenate([repeat(group.tokens), digit[:, None]], axis=1)
    wider = Cases(
        group.digit,
        group.own,
        (*group.positions, position),
        tokens,
        repeat(group.carry),
        repeat(group.target),
        repeat(group.weight) / base,
    )
    possible = occurs(task, wider)
    number = np.where(possible, np.cumsum(possible) - 1, -1).reshape(count, base)
    return wider.take(np.flatnonzero(possible)), number


def occurs(task: Addition, group: Cases) -> np.ndarray:
    """Return which cases can occur in a correct problem, bool `[C]`; True where that is not decided."""
    place, base = layout(task), task.base
    known = {position: group.tokens[:, i] for i, position in enumerate(group.positions)}
    count = len(group.target)
    possible = [np.ones(count, bool), np.zeros(count, bool)]  # Whether the carry into the column may be 0, or 1.
    for column in range(max(0, group.digit - 1)):
        a, b = (known.get(int(place.operands[m, column])) for m in range(2))
        shown = known.get(int(place.answers[column]))
        if a is None or b is None:
            possible = [np.ones(count, bool), np.ones(count, bool)]
            continue
        after = [np.zeros(count, bool), np.zeros(count, bool)]
        for carry in range(2):
            total = a + b + carry
            fits = possible[carry] & (True if shown is None else total % base == shown)
            out = total // base if task.operation == "add" else np.zeros_like(total)
            for value in range(2):
                after[value] |= fits & (out == value)
        possible = after
    return np.where(group.carry == 1, possible[1], possible[0]) if group.digit > 1 else possible[0]


def problems(task: Addition, group: Cases, rng: np.random.Generator, count: int) -> np.ndarray:
    """Return problems of each case, int32 `[B, 2, N]`: those among `count` random ones of each that belong to it."""
    place, base = layout(task), task.base
    known = {position: np.repeat(group.tokens[:, i], count) for i, position in enumerate(group.positions)}
    carries = np.repeat(group.carry, count)
    digits = rng.integers(base, size=(len(carries), 2, task.digits), dtype=np.int32)
    for m, column in itertools.product(range(2), range(task.digits)):
        if (position := int(place.operands[m, column])) in known:
            digits[:, m, column] = known[position]
    belongs, carry = np.ones(len(carries), bool), np.zeros(len(carries), int)
    for column in range(group.digit):
        if column == group.digit - 1:
            belongs &= carry == carries
        total = digits[:, 0, column] + digits[:, 1, column] + carry
        belongs &= total % base == known.get(int(place.answers[column]), total % base)
        carry = total // base if task.operation == "add" else np.zeros_like(carry)
    return digits[belongs]
