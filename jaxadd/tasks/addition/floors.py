"""Exact loss floors of n-digit addition: the entropy of an answer digit, given what a network may know.

M operands of N base-b digits, all independent and uniform. Column k, 0 for the units, has the digit sum s_k (0 for
k ≥ N), the carry c_0 = 0, c_{k+1} = ⌊(s_k + c_k) / b⌋ and the answer digit a_k = (s_k + c_k) mod b. All entropies are
in nats. A cross-entropy is never below the floor of the information that the network uses, so a curve that pauses at
a floor says what has been learned so far.
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

_MAX_STATES = 10_000_000  # float64, so 80 MB, and a few times that while they are merged
_CELL = 3e-5  # beliefs are merged within this distance; it costs about its square, in nats
_LOWEST = 1e-3  # nats; a lower pause does not show on a loss curve
_APART = 0.01  # of a level; no loss curve tells closer ones apart


@dataclass(frozen=True)
class Information:
    """What is known of one problem: whole columns, answer digits, and the operand digits without their places."""

    columns: tuple[int, ...] = ()
    """columns whose operand digits are known, 0 for the units"""
    answers: tuple[int, ...] = ()
    """answer digits that are visible, 0 for the units"""
    bag: Bag = "none"
    """of all operand digits together: nothing, their sum, or how often each digit occurs"""

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

    What is seen below the digit matters through a belief about the carry into it, what is seen above through a
    likelihood of the carry out of it, both jointly with the bag of the columns passed. One pass goes up to the digit
    and one down to it; each branches on what a column shows and merges the branches that lead to the same belief.
    Beliefs a hair apart are merged too, into their mean, which raises the result by less than 1e-9 nats.

    Args:
      digit: the answer digit, 0 for the units.
      information: what is known; columns from 0 to N - 1, answers from 0 to A - 1.
      digits: N, digits per operand.
      base: b.
      operands: M.
      carry: False drops the carries: a_k = s_k mod b and A = N.

    Raises:
      UserError: if the problem has no such digit, column or answer, if the digit itself is visible, or if too many
        states would have to be told apart.
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
        share = np.divide(joint, joint.sum(0), out=np.ones_like(joint), where=joint > 0)
        entropy -= float(np.sum(joint * np.log(share)))
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
    """List the levels at which the loss curve of one answer digit may be expected to pause.

    A level is the floor of a network that has learned to use nothing, the answers written before, only the sum of all
    digits, or the digit's own column and j columns below it. The top digits, which have no column, use column N - 1.
    In a sequential target, most significant digit first, the columns come with the column and the answer above: where
    a column sums to b - 1 they reveal its carry. Least significant first, the answer below does so.

    Args:
      digit: the answer digit, 0 for the units.
      digits: N, digits per operand.
      base: b.
      operands: M.
      carry: False drops the carries.
      target: sequential, where the answers before this one are visible; parallel and single show none.
      order: whether the most (msd) or the least (lsd) significant answer digit comes first.

    Returns:
      Nats by a short label, such as "nothing known", "A5 seen" or "columns 4-3", descending; the lowest is at least
      1e-3, unless nothing known is already below.

    Raises:
      UserError: if the problem has no such digit, or for an unknown target or order.
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
        except UserError:  # Too many states to tell apart: a ladder lacks that rung.
            return False
        if nats >= _LOWEST and all(abs(nats - other) > _APART * other for other in levels.values()):
            levels[label] = nats
        return True

    length, start = answer_length(digits, base, operands, carry), min(digit, digits - 1)
    seen = range(length - 1, digit, -1) if order == "msd" else range(digit)
    if target == "sequential" and seen:
        # The neighbour will do where all are too many.
        add(_label("", seen), Information(answers=tuple(seen))) or add(
            _label("", seen[-1:]), Information(answers=(seen[-1],))
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
    """Put runs of columns and of answers into words: "columns 4-3, A5 seen"."""
    parts = []
    if columns:
        parts.append(f"columns {columns[0]}-{columns[-1]}" if len(columns) > 1 else f"column {columns[0]}")
    if answers:
        parts.append(f"A{answers[0]}-A{answers[-1]} seen" if len(answers) > 1 else f"A{answers[0]} seen")
    return ", ".join(parts)


class _Walk:
    """Steps beliefs from column to column.

    Beliefs are float64 `[C, D, B]`: a weight for each carry, each bag of the unknown columns passed, and each belief
    that what was seen may have led to; the weights are joint with the probability of seeing it.
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
        # What a column can hold: its digit sum, what it adds to the key of the bag, and how probable it is.
        self.sums = [(s, 0, p) for s, p in enumerate(chances.tolist())]
        self.symbols, dtype = self.sums, np.int64
        if information.bag == "sum":
            self.symbols = [(s, s, p) for s, _, p in self.sums]
        if information.bag == "digits":
            place = unknown * operands + 1  # the counts of 1, 2, … are the digits of the key in this base
            dtype = np.int64 if place ** (base - 1) < 2**63 else object
            self.symbols = []
            for held in combinations_with_replacement(range(base), operands):
                orders = factorial(operands) // prod(factorial(held.count(d)) for d in set(held))
                self.symbols.append((sum(held), sum(place ** (d - 1) for d in held if d), orders / base**operands))
        keys = np.unique(np.array([key for _, key, _ in self.symbols], dtype))
        self.bags = [np.zeros(1, dtype)]
        for _ in range(unknown):
            self.bags.append(np.unique(self.bags[-1][:, None] + keys))

    def rows(self, before: int, after: int, key: int) -> np.ndarray:
        """Find the bags of `before` unknown columns, with `key` added, among those of `after`."""
        return np.searchsorted(self.bags[after], self.bags[before] + key)

    def step(self, column: int, passed: int, beliefs: np.ndarray, upward: bool = True) -> tuple[int, dict]:
        """Pass a column, `passed` unknown ones behind: their number after it, and beliefs by (sum, answer) shown."""
        known = column in self.information.columns
        tells = column in self.information.answers or column == self.digit
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
                shown = (total if known else None, answer if tells else None)
                moves.append((shown, (c, out if self.carry else 0), rows, probability))
        seen = dict.fromkeys(shown for shown, *_ in moves)
        shape = self.carries, len(self.bags[after]), beliefs.shape[-1]
        _check_states(len(seen) * prod(shape))
        branches = {shown: np.zeros(shape) for shown in seen}
        for shown, ends, rows, probability in moves:
            source, sink = ends if upward else ends[::-1]
            branches[shown][sink, rows] += probability * beliefs[source]
        return after, branches


def _merge(branches: list[np.ndarray]) -> np.ndarray:
    """Join branches `[C, D, B]`, adding up the beliefs that are equal but for their weight."""
    beliefs = np.concatenate(branches, axis=-1)
    if beliefs.shape[-1] == 1:
        return beliefs
    flat = beliefs.reshape(-1, beliefs.shape[-1])
    flat = flat[:, flat.any(axis=0)]
    # Square roots, so that equal steps cost equal information wherever the belief lies.
    cells = np.rint(np.sqrt(flat / flat.sum(axis=0)) * (np.sqrt(len(flat)) / _CELL)).astype(np.int64)
    order = np.lexsort(cells)
    starts = np.any(np.diff(cells[:, order], prepend=-1), axis=0).nonzero()[0]
    return np.add.reduceat(flat[:, order], starts, axis=1).reshape(*beliefs.shape[:2], -1)


def _check_states(states: int) -> None:
    """Refuse more states than fit comfortably in memory."""
    if states > _MAX_STATES:
        raise UserError(
            f"this information would need to tell apart about {states:.1e} states; at most {_MAX_STATES:.0e} are. "
            "Make fewer answers visible, know fewer or more columns, or leave the bag out"
        )
