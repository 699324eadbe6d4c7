"""Sound bounds on the margins of a one-layer transformer that adds numbers of any length.

An answer digit is decided by few digits (`columns`), which are enumerated. All other digits are free, and only the
attention of the one layer sees them. What it can write (`attention`) bounds what comes after it, so that the margin
over a rival digit is at least a linear function of what attention writes (`lines`), which is one more direction,
bounded in the same way. Where the bound of a case is too low, the digit that costs most is enumerated as well, up to
a budget. Axes: C cases, J rivals, H heads, P positions, V digits, D model.
"""

import math
from typing import Any, NamedTuple, cast

import numpy as np

from jaxadd.analysis.certificates import columns, forward, lines
from jaxadd.analysis.certificates.attention import Attention
from jaxadd.analysis.certificates.certificate import rounded_down
from jaxadd.analysis.certificates.columns import Cases
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Addition

BUDGET = 100_000  # Cases of one answer digit, those of splits among them.
CLOSED = 1e-3  # Nats of slack from which on a case is proven and not split, well above what is rounded down.
_OPEN, _DRAWN = 128, 32  # Cases that stay open of which problems are drawn, and problems of each.
_AT_ONCE = 2_000_000  # Elements of an array of cases, rivals and neurons.


class Tables(NamedTuple):
    """What attention reads at one position, given the token there.

    Attributes:
      e: `[H, P, V]`, exp(score), divided by the largest of the head.
      o: `[H, P, V, D]`, what the head writes where it attends to that position and token alone.
      relative: `[H]`, bound on the relative error of float32 attention weights.
      position: the position itself.
    """

    e: np.ndarray
    o: np.ndarray
    relative: np.ndarray
    position: lines.Position


def check_covered(network: Network) -> None:
    """Raise UserError where the bounds do not cover a network: one line that says what is covered."""
    if not isinstance(network.task, Addition):
        raise UserError(f"the bounds cover addition, and {network.task.question} is enumerated; leave --method out")
    columns.check_covered(network.task)
    config = network.config
    if not isinstance(config, Transformer):
        raise UserError(f"the bounds cover transformers, got {type(config).__name__}")
    beyond = {
        f"{config.layers} layers": config.layers != 1,
        f"attention_mix {config.attention_mix:g}": config.attention_mix != 1,
    }
    if found := [name for name, there in beyond.items() if there]:
        raise UserError(f"the bounds cover one layer with softmax attention; this network has {' and '.join(found)}")


class Bounds:
    """Bounds on all margins of one network, one answer digit at a time.

    Attributes:
      parts: the answer digits, as `(k,)`.
    """

    def __init__(self, network: Network, budget: int = BUDGET):
        """Compute what depends on single tokens; the network is covered (`check_covered`)."""
        self.task = cast(Addition, network.task)
        self.config, self.model = cast(Transformer, network.config), network.model
        self.budget = budget
        self._open: list[tuple[Cases, np.ndarray]] = []  # That the last `examine` left open, and their slacks.
        self.params = forward.float64(network.params)
        self.block = self.params["blocks.0"]
        self.parts = [(k,) for k in range(self.task.answer_length)]
        self.layout = columns.layout(self.task)
        self.stream = forward.embedded(self.config, self.params, self.model)
        self.heads = forward.queries_keys_values(
            self.config, self.block, self.stream, self.config.numbered(self.model.sizes)
        )
        self.lines = lines.of(self.config, self.params, self.task.base)

    # --- one answer digit ------------------------------------------------------------------------------------

    def examine(self, part: tuple[int]) -> dict[str, Any]:
        """Return the bounds of all cases of an answer digit, as plain data.

        Returns:
          "part"; "problems": the number of cases, with those of splits; "margin" and "slack": the least of all cases,
          nats, rounded down; "where": the case with the least slack; "open": the number of cases that are not proven;
          "open_weight": the fraction of all problems in them; "bounds": by the token that is read, a bound for each
          case, or `[position, bounds]` where the digit at a position was enumerated; None stands for a case that
          cannot occur.
        """
        self.spent, self._open = 0, []
        margin, slack, worst, open_cases, open_weight = math.inf, math.inf, "", 0, 0.0
        listed = {}
        for group in columns.cases(self.task, part[0]):
            tables = self.tables(part[0], group.own)
            trees, bounds, slacks = self._explore(group, tables)
            listed[str(group.own)] = trees
            failed = ~(slacks > CLOSED)
            open_cases += int(failed.sum())
            open_weight += float(group.weight[failed].sum())
            margin = min(margin, float(bounds.min()))
            if slacks.min() < slack:
                slack = float(slacks.min())
                worst = self.in_words(group, int(slacks.argmin()))
        return {
            "part": list(part),
            "problems": self.spent,
            "margin": rounded_down(margin),
            "slack": rounded_down(slack),
            "where": worst,
            "open": open_cases,
            "open_weight": open_weight,
            "bounds": listed,
        }

    def candidates(self) -> np.ndarray:
        """Return problems of the worst cases left open by the last `examine`, int32 `[B, 2, N]`: possible errors."""
        rng, drawn = np.random.default_rng(0), [np.zeros((0, 2, self.task.digits), np.int32)]
        slacks = np.sort(np.concatenate([slacks for _, slacks in self._open] or [np.zeros(0)]))
        for group, own in self._open:
            worst = group.take(np.flatnonzero(own <= slacks[:_OPEN].max()))
            drawn.append(columns.problems(self.task, worst, rng, _DRAWN))
        return np.concatenate(drawn)

    def fraction(self, parts: list[dict[str, Any]]) -> float:
        """Return the fraction of problems that is proven: all of their digits are in proven cases."""
        if [part["part"] for part in parts] != [list(part) for part in self.parts]:
            return 0.0
        return max(0.0, 1 - sum(part["open_weight"] for part in parts))

    def _explore(self, group: Cases, tables: Tables) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """Return the tree, the least bound and the least slack of every case, `[C]`."""
        if not len(group.target):  # No problem has the digits that were fixed.
            return [], np.zeros(0), np.zeros(0)
        self.spent += len(group.target)
        bounds, slacks, costs = self.bound(group, tables)
        trees: list[Any] = [rounded_down(bound) for bound in bounds]
        failed = np.flatnonzero(~(slacks > CLOSED))
        if not failed.size:
            return trees, bounds, slacks
        if not costs.shape[1] or self.spent + len(failed) * self.task.base > self.budget:
            self._open.append((group.take(failed), slacks[failed]))
            return trees, bounds, slacks
        free = self._free(group)
        choice = costs[failed].argmax(axis=1)
        for index in np.unique(choice):
            some, position = failed[choice == index], free[index]
            deeper, number = columns.split(self.task, group.take(some), position)
            sub_trees, sub_bounds, sub_slacks = self._explore(deeper, tables)
            for row, case in zip(number, some, strict=True):
                there = row[row >= 0]
                trees[case] = [position, [None if i < 0 else sub_trees[i] for i in row]]
                bounds[case] = sub_bounds[there].min(initial=math.inf)
                slacks[case] = sub_slacks[there].min(initial=math.inf)
        return trees, bounds, slacks

    def _free(self, group: Cases) -> list[int]:
        """Return the positions that are seen and hold a free digit."""
        last = self.model.sizes.read[group.digit]
        digits = [*self.layout.operands.ravel().tolist(), *self.layout.answers.tolist()]
        return [p for p in sorted(digits) if p <= last and p not in group.positions]

    def in_words(self, group: Cases, case: int) -> str:
        """Return a case, such as "A3: a2=1 b2=8 A2=9 a3=4 b3=5"."""
        names = self.task.position_names
        known = " ".join(f"{names[p]}={t}" for p, t in zip(group.positions, group.tokens[case], strict=True))
        return f"A{group.digit}: {known}"

    # --- one group of cases ----------------------------------------------------------------------------------

    def tables(self, digit: int, own: int) -> Tables:
        """Return what attention reads where answer digit `digit` is computed, given the token at that position."""
        read = self.model.sizes.read[digit]
        seen = read + 1
        s = forward.scores_of_tokens(self.config, self.heads, read, own).value
        possible = self._possible(seen, own, s.shape[-1])
        s = np.where(possible, s, -np.inf)
        top = s.max(axis=(1, 2), keepdims=True)
        o = np.einsum("vphk,hkd->hpvd", self.heads.v.value[:, :seen], self.block["attn"]["W_O"])
        relative, out = forward.errors_of_attention(self.config, self.params, self.heads, read, own, possible[0])
        stream = self.stream.map(lambda y: y[own, read])
        return Tables(np.exp(s - top), o, relative, lines.Position(stream, out))

    def _possible(self, seen: int, own: int, vocabulary: int) -> np.ndarray:
        """Return which tokens may be at each position that is seen, bool `[1, P, V]`."""
        possible = np.zeros((1, seen, vocabulary), bool)
        possible[..., : self.task.base] = True
        for position, token in {**self.layout.constants, seen - 1: own}.items():
            if position < seen:
                possible[:, position] = np.arange(vocabulary) == token
        return possible

    def bound(self, group: Cases, tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a lower bound of the least margin of every case and its slack, `[C]`, and the costs `[C, free]`."""
        config, base = self.config, self.task.base
        width = max(base, config.d_model) * max(config.d_mlp, config.d_model, base * len(self._free(group)))
        step = max(1, _AT_ONCE // width)
        parts = [
            self._bound(group.take(np.arange(i, min(i + step, len(group.target)))), tables)
            for i in range(0, len(group.target), step)
        ]
        bounds, slacks, costs = (np.concatenate(part) for part in zip(*parts, strict=True))
        return bounds, slacks, costs

    def _bound(self, group: Cases, tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        read = self.model.sizes.read[group.digit]
        constant = {p: t for p, t in self.layout.constants.items() if p <= read} | {read: group.own}
        fixed = dict(zip(group.positions, group.tokens.T, strict=True))
        count = len(group.target)
        tokens = {p: np.broadcast_to(t, (count,)) for p, t in {**constant, **fixed}.items()}
        attention = Attention.of(tables.e, tables.o, tables.relative, tokens, self._free(group), self.task.base)
        found = self.lines(tables.position, attention, group.target)
        least, wobble, costs = attention.least_along(found.direction)
        margin = found.constant + least
        floor = found.floor > margin - wobble  # False for NaN.
        margin, wobble = np.where(floor, found.floor, margin), np.where(floor, 0, wobble)
        slack = margin - found.allowed - wobble
        slack = np.where(np.isfinite(margin) & ~np.isnan(slack), slack, -np.inf)
        worst = slack.argmin(axis=1)[:, None]
        pick = lambda x: np.take_along_axis(x, worst, axis=1)[:, 0]
        bounds = np.where(np.isfinite(pick(margin)), pick(margin), -np.inf)
        return bounds, pick(slack), costs[np.arange(count), worst[:, 0]]
