"""Sound bounds on the margins of transformers of one or two layers that add numbers of any length.

An answer digit is decided by few digits (`columns`), which are enumerated as cases. All other digits are free, and
`one_layer` and `two_layers` bound the margins of a case whatever they are. Where the bound of a case is too low, the
digit that costs most is enumerated as well, up to a budget. Axes: C cases.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from jaxadd.analysis.certificates import columns
from jaxadd.analysis.certificates.certificate import rounded_down
from jaxadd.analysis.certificates.columns import Cases
from jaxadd.analysis.certificates.one_layer import OneLayer
from jaxadd.analysis.certificates.two_layers import TwoLayers
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Addition

BUDGET = 100_000  # Cases of one answer digit, those of splits among them.
CLOSED = 1e-3  # Nats of slack from which on a case is proven and not split, well above what is rounded down.
_OPEN, _DRAWN = 128, 32  # Cases that stay open of which problems are drawn, and problems of each.
_LAYERS: dict[int, type[OneLayer] | type[TwoLayers]] = {1: OneLayer, 2: TwoLayers}


def check_covered(network: Network) -> None:
    """Raise UserError where the bounds do not cover a network: one line that says what is covered."""
    if not isinstance(network.task, Addition):
        raise UserError(f"the bounds cover addition, and {network.task.question} is enumerated; leave --method out")
    columns.check_covered(network.task)
    config = network.config
    if not isinstance(config, Transformer):
        raise UserError(f"the bounds cover transformers, got {type(config).__name__}")
    beyond = {
        f"{config.layers} layers": config.layers not in _LAYERS,
        f"attention_mix {config.attention_mix:g}": config.attention_mix != 1,
    }
    if found := [name for name, there in beyond.items() if there]:
        raise UserError(
            f"the bounds cover one or two layers with softmax attention; this network has {' and '.join(found)}"
        )


class Bounds:
    """Bounds on all margins of one network, one answer digit at a time.

    Attributes:
      parts: the answer digits, as `(k,)`.
    """

    def __init__(self, network: Network, budget: int = BUDGET):
        """Compute what depends on single tokens; the network is covered (`check_covered`)."""
        self.task = cast(Addition, network.task)
        self.model, self.budget = network.model, budget
        self._open: list[tuple[Cases, np.ndarray]] = []  # That the last `examine` left open, and their slacks.
        self.parts = [(k,) for k in range(self.task.answer_length)]
        self.layout = columns.layout(self.task)
        self.margins = _LAYERS[cast(Transformer, network.config).layers](network)

    def check_promising(self) -> None:
        """Raise UserError where no case of a sample is proven, and all of them would take hours.

        Where the second layer of a network attends by content, its bounds are so low that no split helps.
        """
        slacks, rng = [np.zeros(0)], np.random.default_rng(0)
        for (digit,) in self.parts if self.margins.SAMPLE else []:
            groups = list(columns.cases(self.task, digit))
            for number in rng.integers(len(groups), size=self.margins.SAMPLE):
                chosen = rng.integers(len(groups[number].target), size=1)
                slacks.append(self.margins.bound(groups[number].take(chosen))[1])
        slack = np.concatenate(slacks)
        if len(slack) and not (slack > 0).any():
            best = f"the largest is {slack.max():,.4g} nats" if np.isfinite(slack.max()) else "none is finite"
            raise UserError(
                f"no bound of {len(slack)} random cases is above the allowance for float32, {best}; "
                "--method bounds computes those of all cases"
            )

    # --- one answer digit ------------------------------------------------------------------------------------

    def examine(self, part: tuple[int], watch: Callable[[float], None] = lambda fraction: None) -> dict[str, Any]:
        """Return the bounds of all cases of an answer digit, as plain data.

        Args:
          part: the answer digit.
          watch: called with the fraction of the cases that is done.

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
        groups = list(columns.cases(self.task, part[0]))
        for number, group in enumerate(groups):
            watch(number / len(groups))
            trees, bounds, slacks = self._explore(group)
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

    def _explore(self, group: Cases) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """Return the tree, the least bound and the least slack of every case, `[C]`."""
        if not len(group.target):  # No problem has the digits that were fixed.
            return [], np.zeros(0), np.zeros(0)
        self.spent += len(group.target)
        bounds, slacks, costs = self.margins.bound(group)
        trees: list[Any] = [rounded_down(bound) for bound in bounds]
        failed = np.flatnonzero(~(slacks > CLOSED))
        if not failed.size:
            return trees, bounds, slacks
        if not costs.shape[1] or self.spent + len(failed) * self.task.base > self.budget:
            self._open.append((group.take(failed), slacks[failed]))
            return trees, bounds, slacks
        free = self.layout.free(group, self.model.sizes.read[group.digit])
        choice = costs[failed].argmax(axis=1)
        for index in np.unique(choice):
            some, position = failed[choice == index], free[index]
            deeper, number = columns.split(self.task, group.take(some), position)
            sub_trees, sub_bounds, sub_slacks = self._explore(deeper)
            for row, case in zip(number, some, strict=True):
                there = row[row >= 0]
                trees[case] = [position, [None if i < 0 else sub_trees[i] for i in row]]
                bounds[case] = sub_bounds[there].min(initial=math.inf)
                slacks[case] = sub_slacks[there].min(initial=math.inf)
        return trees, bounds, slacks

    def in_words(self, group: Cases, case: int) -> str:
        """Return a case, such as "A3: a2=1 b2=8 A2=9 a3=4 b3=5"."""
        names = self.task.position_names
        known = " ".join(f"{names[p]}={t}" for p, t in zip(group.positions, group.tokens[case], strict=True))
        return f"A{group.digit}: {known}"
