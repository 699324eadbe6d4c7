"""The bounds of a certificate, computed again in a direct way: without interpolation, one direction like another.

The cases are enumerated here too, digit by digit, and have to cover every problem. Bounds of them are computed by
`check_one_layer` and `check_two_layers`, of tables of all tokens that are computed with the functions of the plain
pass (`check_tables`) and compared with it.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from jaxadd.analysis.certificates import forward
from jaxadd.analysis.certificates.check_claims import close, logits, require, within
from jaxadd.analysis.certificates.check_one_layer import OneLayer
from jaxadd.analysis.certificates.check_tables import Leaves, Tables
from jaxadd.analysis.certificates.check_two_layers import TwoLayers
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Addition

_SAMPLE = 64
_AT_ONCE = 4_000_000  # Elements.


class _Leaf(NamedTuple):
    """A case or a part of one: the tokens of the digits that are fixed, by position, and the claimed bound.

    Attributes:
      fixed: positions with their tokens.
      target: the correct digit.
      bound: nats.
      case: the number of the case among those with the same token that is read.
      carry: into the column below.
    """

    fixed: tuple[tuple[int, int], ...]
    target: int
    bound: float
    case: int
    carry: int


class Bounds:
    """Bounds of all cases of an addition, computed directly."""

    def __init__(self, network: Network):
        self.network, self.task = network, cast(Addition, network.task)
        self.config = cast(Transformer, network.config)
        covered = (
            isinstance(network.task, Addition)
            and (self.task.target, self.task.answer_order, self.task.operands) == ("sequential", "lsd", 2)
            and self.config.layers in (1, 2)
            and self.config.attention_mix == 1
            and self.config.attention == "causal"
        )
        require(covered, "bounds do not cover this network")
        self.tables = Tables(network)
        self.names, self.tokens = self.tables.digits, self.tables.constants
        self.parts = [[k] for k in range(self.task.answer_length)]
        self._open = 0.0
        self.layers = (OneLayer if self.config.layers == 1 else TwoLayers)(self.tables)
        self._compare()

    def _compare(self) -> None:
        """Compare what is computed from these tables with the plain pass on random problems."""
        problems = self.task.draw(jax.random.key(0), _SAMPLE)
        inputs = np.asarray(self.task.batch(problems).inputs)
        expected, single = logits(self.network, inputs)
        for i, read in enumerate(self.network.model.sizes.read):
            found = self.layers.logits(inputs, read)
            require(
                bool(np.allclose(found, expected[:, i], rtol=1e-10, atol=1e-10)),
                "the tables are not those of the network",
            )
        allowed = forward.logits(self.network.params, self.network.model, inputs).error
        require(within(single, expected, allowed), "float32 errs by more than is allowed for it")

    def proven(self) -> float:
        """Return the fraction of the space that is proven, after all parts were checked."""
        return max(0.0, 1 - self._open)

    def _weight(self, digit: int, carry: int) -> float:
        """Return the fraction of all problems in a case of an answer digit, given the carry into the column below."""
        base, digits = self.task.base, 2 * ((digit > 0) + (digit < self.task.digits))
        weight = float(base) ** -digits
        if digit < 2 or self.task.operation != "add":
            return weight
        carried = (1 - float(base) ** -(digit - 1)) / 2  # Of two numbers of so many random digits.
        return weight * (carried if carry else 1 - carried)

    # --- cases -----------------------------------------------------------------------------------------------

    def check(self, part: dict[str, Any]) -> tuple[float, float]:
        """Return the least bound and slack of an answer digit, and check every bound that is claimed."""
        (digit,) = part["part"]
        bounds, slacks = [], []
        for own, leaves in self._leaves(digit, part["bounds"]):
            open_cases: dict[int, float] = {}
            by_positions = lambda leaf: tuple(p for p, _ in leaf.fixed)
            for positions, some in itertools.groupby(sorted(leaves, key=by_positions), key=by_positions):
                group = list(some)
                tokens = np.asarray([[t for _, t in leaf.fixed] for leaf in group]).reshape(len(group), -1)
                targets = np.asarray([leaf.target for leaf in group])
                bound, slack = self._bound(digit, own, positions, tokens, targets)
                open_cases |= {
                    leaf.case: self._weight(digit, leaf.carry)
                    for leaf, value in zip(group, slack, strict=True)
                    if not value > 0
                }
                for leaf, value in zip(group, bound, strict=True):
                    require(
                        close(leaf.bound, value),
                        f"the bound of A{digit} with {self._words(leaf.fixed)} is {value:.4f}, not {leaf.bound}",
                    )
                bounds.append(bound.min())
                slacks.append(slack.min())
            self._open += sum(open_cases.values())
        return float(min(bounds)), float(min(slacks))

    def _words(self, fixed: tuple[tuple[int, int], ...]) -> str:
        names = self.task.position_names
        return " ".join(f"{names[p]}={t}" for p, t in fixed)

    def _leaves(self, digit: int, listed: dict[str, Any]) -> Iterator[tuple[int, list[_Leaf]]]:
        """Yield the leaves by the token that is read, after checking that they are all cases of the digit."""
        base, adds = self.task.base, self.task.operation == "add"
        cases: dict[int, list[tuple[tuple[tuple[int, int], ...], int, int]]] = {}
        here = itertools.product(range(base), repeat=2) if digit < self.task.digits else [(0, 0)]
        below = itertools.product(range(base), repeat=2) if digit else [(0, 0)]
        columns = list(here)
        for a, b in below:
            for carry in range(2 if adds and digit > 1 else 1):
                answer, out = (a + b + carry) % base, (a + b + carry) // base if adds else 0
                fixed = []
                if digit:
                    fixed = [(self._at("a", digit - 1), a), (self._at("b", digit - 1), b)]
                    fixed.append((self._at("A", digit - 1), answer))
                own = answer if digit else int(self.tokens[self.network.model.sizes.read[0]])
                for c, d in columns:
                    more = [(self._at("a", digit), c), (self._at("b", digit), d)] if digit < self.task.digits else []
                    cases.setdefault(own, []).append(((*fixed, *more), (c + d + out) % base, carry))
        require(set(listed) == set(map(str, cases)), f"the cases of A{digit} are not all there")
        for own in sorted(cases):
            trees = listed[str(own)]
            require(len(trees) == len(cases[own]), f"the cases of A{digit} after {own} are not all there")
            leaves: list[_Leaf] = []
            for case, (tree, (fixed, target, carry)) in enumerate(zip(trees, cases[own], strict=True)):
                leaves += self._expand(digit, tree, _Leaf(fixed, target, 0.0, case, carry))
            yield own, leaves

    def _expand(self, digit: int, tree: Any, whole: _Leaf) -> Iterator[_Leaf]:
        """Yield the parts of a case that a tree of bounds divides it into."""
        fixed = whole.fixed
        if not isinstance(tree, list):
            require(isinstance(tree, float | int), f"{self._words(fixed)} has no bound")
            yield whole._replace(fixed=tuple(sorted(fixed)), bound=tree)
            return
        require(len(tree) == 2 and isinstance(tree[1], list), "a split is no position with its bounds")
        position, parts = tree
        require(position in self.names.values() and len(parts) == self.task.base, "a split is not over all digits")
        require(position not in dict(fixed), "a digit is split twice")
        for token, part in enumerate(parts):
            wider = (*fixed, (position, token))
            if part is None:
                require(not self._possible(digit, dict(wider), whole.carry), f"{self._words(wider)} is left out")
            else:
                yield from self._expand(digit, part, whole._replace(fixed=wider))

    def _possible(self, digit: int, known: dict[int, int], carry: int) -> bool:
        """Return whether some problem has these digits and this carry into column `digit` - 1."""
        carries = {0}
        for column in range(digit - 1):
            a, b, answer = (known.get(self._at(name, column)) for name in ("a", "b", "A"))
            if a is None or b is None:
                carries = {0, 1}
                continue
            sums = {a + b + c for c in carries if answer is None or (a + b + c) % self.task.base == answer}
            carries = {s // self.task.base if self.task.operation == "add" else 0 for s in sums}
        return carry in carries

    def _at(self, name: str, column: int) -> int:
        return self.names[f"{name}{column}"]

    # --- bounds ----------------------------------------------------------------------------------------------

    def _bound(
        self, digit: int, own: int, positions: tuple[int, ...], tokens: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the bound of the least margin and its slack, `[C]`, of cases that fix the same positions."""
        read = self.network.model.sizes.read[digit]
        leaves = Leaves(read, own, positions, tokens, targets)
        step = max(1, _AT_ONCE // self.layers.elements(leaves))
        parts = [self._bound_some(leaves.some(slice(i, i + step))) for i in range(0, len(targets), step)]
        bounds, slacks = (np.concatenate(x) for x in zip(*parts, strict=True))
        return bounds, slacks

    def _bound_some(self, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
        margin, slack = self.layers.bounds(leaves)
        known = np.isfinite(margin) & ~np.isnan(slack)
        margin, slack = (np.where(known, x, -np.inf) for x in (margin, slack))
        return margin.min(axis=1), slack.min(axis=1)
