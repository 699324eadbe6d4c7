"""Exact loss floors of n-digit addition: the entropy of an answer digit, given what a network may know.

M operands of N base-b digits, all independent and uniform. Column k, 0 for the units, has the digit sum s_k (0 for
k ≥ N), the carry c_0 = 0, c_{k+1} = ⌊(s_k + c_k) / b⌋ and the answer digit a_k = (s_k + c_k) mod b. All entropies are
in nats. A cross-entropy is never below the floor of the information that the network uses, so a plateau of a loss
curve at a floor shows what has been learned so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb, factorial, prod
from typing import Literal, get_args

import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.tasks.addition.carries import answer_length

Bag = Literal["none", "sum", "digits"]
Target = Literal["sequential", "parallel", "single"]
Order = Literal["msd", "lsd"]

_MAX_STATES = 10_000_000  # float64: 80 MB, and a few times that while they are merged
_CELL = 3e-5  # Beliefs within this distance are merged; the error is about its square, in nats.
_LOWEST = 1e-3  # Nats; a lower plateau does not show on a loss curve.
_APART = 0.01  # Fraction of a level; a loss curve does not separate levels that are closer.


@dataclass(frozen=True)
class Information:
    """Information about one problem: whole columns, answer digits, and the operand digits without their columns."""

    columns: tuple[int, ...] = ()
    """columns whose operand digits are known, 0 for the units"""
    answers: tuple[int, ...] = ()
    """answer digits that are visible, 0 for the units"""
    bag: Bag = "none"
    """what is known of all operand digits together: nothing, their sum, or how often each digit occurs"""

    def __post_init__(self) -> None:
        for name in ("columns", "answers"):
            indices = getattr(self, name)
            if len(set(indices)) < len(indices):
                raise UserError(f"{name} must name each index once, got {indices}; remove the repeated ones")
        check_choices(self)


def floor(
    digit: int, information: Information, *, digits: int, base: int = 10, operands: int = 2, carry: bool = True
) -> float:
    """Compute the conditional entropy H(a_digit | information), in nats.

    Information below the digit matters through a belief about the carry into it, information above through a
    likelihood of the carry out of it, both jointly with the bag of the columns passed. One pass goes up to the digit
    and one down to it; each branches on what a column shows and merges the branches that lead to the same belief.
    Nearly equal beliefs are merged into their mean, which raises the result by less than 1e-9 nats.

    Args:
      digit: answer digit, 0 for the units.
      information: what is known; columns from 0 to N - 1, answers from 0 to A - 1.
      digits: N, the number of digits per operand.
      base: b.
      operands: M, the number of operands.
      carry: False leaves out all carries: a_k = s_k mod b and A = N.

    Raises:
      UserError: the problem has no such digit, column or answer, the digit itself is visible, or the computation
        needs too many states.
    """
    length = answer_length(digits, base, operands, carry)
    for name, indices, size in (
        ("digit", (digit,), length),
        ("columns", information.columns, digits),
        ("answers", information.answers, length),
    ):
        if not all(0 <= i < size for i in indices):
            raise UserError(f"{name} must lie from 0, the units, to {size - 1}, got {', '.join(map(str, indices))}")
    if digit in information.answers:
        raise UserError(f"answers must not show the digit asked for, got {information.answers}; remove {digit}")

    walk = _Walk(digit, information, digits, base, operands, carry)
    low = np.zeros((walk.carries, 1, 1))
    low[0] = 1
    below = above = 0
    for column in range(digit):
        below, branches = walk.step(column, below, low)
        low = _merge(list(branches.values()))
    high = np.ones((walk.carries, 1, 1))
    for column in range(length - 1, digit, -1):
        above, branches = walk.step(column, above, high, upward=False)
        high = _merge(list(branches.values()))
    below, branches = walk.step(digit, below, low)

    entropy = 0.0
    for shown in dict.fromkeys(shown for shown, _ in branches):
        values = np.stack([beliefs for (s, _), beliefs in branches.items() if s == shown])
        shape = len(values), len(walk.bags[below + above]), low.shape[-1], high.shape[-1]
        _check_states(prod(shape))
        joint = np.zeros(shape)
        for row, key in enumerate(walk.bags[above]):
            joint[:, walk.rows(below, below + above, key)] += np.einsum("acdl,ch->adlh", values, high[:, row])
        conditional = np.divide(joint, joint.sum(0), out=np.ones_like(joint), where=joint > 0)
        entropy -= float(np.sum(joint * np.log(conditional)))
    return entropy


def ladder(
    digit: int,
    *,
    digits: int,
    base: int = 10,
    operands: int = 2,
    carry: bool = True,
    target: Target,
    order: Order,
) -> dict[str, float]:
    """Compute the levels at which the loss curve of one answer digit may have a plateau.

    A level is the floor of a network that uses nothing, the previous answer digits, only the sum of all digits, or
    the column of the digit and j columns below it. The top digits, which have no column, use column N - 1. With a
    sequential target and the most significant digit first, the columns come with the column and the answer digit
    above: where a column sums to b - 1, these reveal its carry. Least significant digit first, the answer digit below
    does so.

    Args:
      digit: answer digit, 0 for the units.
      digits: N, the number of digits per operand.
      base: b.
      operands: M, the number of operands.
      carry: False leaves out all carries.
      target: sequential, where the previous answer digits are visible; parallel and single show none.
      order: whether the most (msd) or the least (lsd) significant answer digit comes first.

    Returns:
      nats by a short label, such as "nothing known", "A5 seen" or "columns 4-3", descending; the lowest is at least
      1e-3, unless that of "nothing known" is below.

    Raises:
      UserError: the problem has no such digit, or the target or order is unknown.
    """
    if target not in get_args(Target):
        raise UserError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}")
    if order not in get_args(Order):
        raise UserError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")

    def level(information: Information) -> float:
        return floor(digit, information, digits=digits, base=base, operands=operands, carry=carry)

    levels = {"nothing known": level(Information())}

    def add(label: str, information: Information) -> bool:
        try:
            nats = level(information)
        except UserError:  # Too many states: the ladder leaves out this level.
            return False
        if nats >= _LOWEST and all(abs(nats - other) > _APART * other for other in levels.values()):
            levels[label] = nats
        return True

    length, start = answer_length(digits, base, operands, carry), min(digit, digits - 1)
    seen = range(length - 1, digit, -1) if order == "msd" else range(digit)
    if target == "sequential" and seen:
        # The nearest answer digit alone where all need too many states, or their level is one of those already.
        add(_label((), seen), Information(answers=tuple(seen))) or add(
            _label((), seen[-1:]), Information(answers=(seen[-1],))
        )
    add("digit sum", Information(bag="sum"))
    beside = tuple(seen[-1:]) if target == "sequential" else ()
    contexts = [(start, ()), (start, beside)]
    if beside and order == "msd":
        contexts = [(min(digit + 1, digits - 1), beside)]
    for lowest in range(start, -1, -1):
        for top, answers in contexts:
            columns = range(top, lowest - 1, -1)
            add(_label(columns, answers), Information(tuple(columns), answers))
    return dict(sorted(levels.items(), key=lambda item: -item[1]))


def _label(columns: Sequence[int], answers: Sequence[int]) -> str:
    """Return the label of successive columns and answer digits, such as "columns 4-3, A5 seen"."""
    parts = []
    if columns:
        parts.append(f"columns {columns[0]}-{columns[-1]}" if len(columns) > 1 else f"column {columns[0]}")
    if answers:
        parts.append(f"A{answers[0]}-A{answers[-1]} seen" if len(answers) > 1 else f"A{answers[0]} seen")
    return ", ".join(parts)


class _Walk:
    """Propagates beliefs from column to column.

    Beliefs are float64 `[C, D, B]`: a weight for each carry, each bag of the unknown columns passed, and each belief
    that the observations may have led to; the weights include the probability of the observations.
    """

    def __init__(self, digit: int, information: Information, digits: int, base: int, operands: int, carry: bool):
        self.digit, self.information, self.digits = digit, information, digits
        self.base, self.carry, self.carries = base, carry, operands if carry else 1
        unknown = digits - len(information.columns)
        most = operands * (base - 1)
        bags = {"none": 1, "sum": unknown * most + 1, "digits": comb(unknown * operands + base - 1, base - 1)}
        _check_states(max(bags[information.bag] * base, most + 1) * self.carries)

        chances = np.ones(1)
        for _ in range(operands):
            chances = np.convolve(chances, np.full(base, 1 / base))
        # The contents of a column: its digit sum, what it adds to the key of the bag, and its probability.
        self.sums = [(s, 0, p) for s, p in enumerate(chances.tolist())]
        self.symbols, dtype = self.sums, np.int64
        if information.bag == "sum":
            self.symbols = [(s, s, p) for s, _, p in self.sums]
        if information.bag == "digits":
            radix = unknown * operands + 1  # The counts of 1, 2, … are the digits of the key in this base.
            dtype = np.int64 if radix ** (base - 1) < 2**63 else object
            self.symbols = []
            for column in combinations_with_replacement(range(base), operands):
                orders = factorial(operands) // prod(factorial(column.count(d)) for d in set(column))
                key = sum(radix ** (d - 1) for d in column if d)
                self.symbols.append((sum(column), key, orders / base**operands))
        keys = np.unique(np.array([key for _, key, _ in self.symbols], dtype))
        self.bags = [np.zeros(1, dtype)]
        for _ in range(unknown):
            self.bags.append(np.unique(self.bags[-1][:, None] + keys))

    def rows(self, before: int, after: int, key: int) -> np.ndarray:
        """Return the indices of the bags of `before` unknown columns, with `key` added, among those of `after`."""
        return np.searchsorted(self.bags[after], self.bags[before] + key)

    def step(self, column: int, passed: int, beliefs: np.ndarray, upward: bool = True) -> tuple[int, dict]:
        """Pass a column after `passed` unknown ones; return their new number and beliefs by (sum, answer) shown."""
        known = column in self.information.columns
        answered = column in self.information.answers or column == self.digit
        if column >= self.digits:
            symbols, after = [(0, 0, 1.0)], passed
        elif known:
            symbols, after = self.sums, passed
        else:
            symbols, after = self.symbols, passed + 1
        moves = []
        for total, key, probability in symbols:
            rows = self.rows(passed, after, key)
            for c in range(self.carries):
                out, answer = divmod(total + c, self.base)
                shown = (total if known else None, answer if answered else None)
                moves.append((shown, (c, out if self.carry else 0), rows, probability))
        observations = dict.fromkeys(shown for shown, *_ in moves)
        shape = self.carries, len(self.bags[after]), beliefs.shape[-1]
        _check_states(len(observations) * prod(shape))
        branches = {shown: np.zeros(shape) for shown in observations}
        for shown, ends, rows, probability in moves:
            source, sink = ends if upward else ends[::-1]
            branches[shown][sink, rows] += probability * beliefs[source]
        return after, branches


def _merge(branches: list[np.ndarray]) -> np.ndarray:
    """Concatenate branches `[C, D, B]`, adding up the beliefs that are equal up to their weight."""
    beliefs = np.concatenate(branches, axis=-1)
    if beliefs.shape[-1] == 1:
        return beliefs
    flat = beliefs.reshape(-1, beliefs.shape[-1])
    flat = flat[:, flat.any(axis=0)]
    # On square roots, a step of the same size loses the same information everywhere.
    cells = np.rint(np.sqrt(flat / flat.sum(axis=0)) * (np.sqrt(len(flat)) / _CELL)).astype(np.int64)
    order = np.lexsort(cells)
    starts = np.any(np.diff(cells[:, order], prepend=-1), axis=0).nonzero()[0]
    return np.add.reduceat(flat[:, order], starts, axis=1).reshape(*beliefs.shape[:2], -1)


def _check_states(states: int) -> None:
    """Raise UserError for more states than fit in memory."""
    if states > _MAX_STATES:
        raise UserError(
            f"this information needs about {states:.1e} states, and at most {_MAX_STATES:.0e} are computed; "
            "make fewer answers visible, know fewer or more columns, or leave the bag out"
        )
