"""When does each shelf end? Steps to leave the log-base and the carry shelf, by base, digit and width.

A digit rests at log base until its network finds the column's sum, and at the entropy of the carry, near log 2,
until it finds the carry. One network per base learns all digits of a sum; steps to leave are fitted by a power of the
base. Expected: a larger base keeps a digit at log base longer. `quick` takes about twelve minutes on two cores,
`debug` one.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxadd.analysis.shelves import steps_to_leave
from jaxadd.cli import experiment
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import train
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.floors import Information, floor
from jaxadd.views import figures, terminal


@dataclass(frozen=True)
class Law:
    """Networks that differ in base and width."""

    bases: tuple[int, ...] = (2, 3, 5, 10, 16)
    """bases, each at width d_model"""
    widths: tuple[int, ...] = (32, 64)
    """more widths, each at base 10"""
    digits: int = 3
    """digits N of each operand"""
    target: Literal["sequential", "parallel"] = "sequential"
    """what the network sees of the answer"""
    d_model: int = 128
    """width D; the MLP has 4 D neurons"""
    heads: int = 4
    """attention heads"""
    steps: int = 1_500
    """updates of each run"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """lanes of each run"""

    def __post_init__(self) -> None:
        if len(set(self.networks())) < len(self.networks()):
            raise UserError(f"bases and widths must name each network once, got (base, width) {self.networks()}")

    def networks(self) -> list[tuple[int, int]]:
        """List base and width of every network."""
        return [(base, self.d_model) for base in self.bases] + [(10, width) for width in self.widths]

    def arms(self) -> dict[str, RunConfig]:
        """Give a run for each base and width."""
        return {
            f"base-{base}-width-{width}": RunConfig(
                task=Addition(digits=self.digits, base=base, target=self.target),
                model=Transformer(d_model=width, heads=self.heads, d_mlp=4 * width),
                optimizer=AdamW(weight_decay=0.1),
                steps=self.steps,
                seeds=self.seeds,
                eval_every=200,
                checkpoint_every=1_000,
            )
            for base, width in self.networks()
        }


PRESETS = {
    "quick": Law(),
    "debug": Law(bases=(2, 3), widths=(), digits=2, d_model=16, steps=300, seeds=(0, 1)),
}


def conclude(law: Law, records: Mapping[str, train.Record]) -> experiment.Findings:
    """Tell when each digit leaves its shelves, and fit a power of the base."""
    leave: dict[str, dict[tuple[int, int, int], list[int | None]]] = {"log base": {}, "carry": {}}
    for (base, width), record in zip(law.networks(), records.values(), strict=True):
        task, metrics = record.origin.config.task, record.metrics
        for r, digit in enumerate(task.read_digits):
            for kind, level in levels(task, digit).items():
                leave[kind][base, width, digit] = [
                    steps_to_leave(lane[:, r], metrics["step"], level) for lane in metrics["train_position_loss"]
                ]
    digits = tuple(reversed(range(law.digits)))
    text = []
    for name, steps in leave.items():
        heading = ("base", "D", *(f"A{k}" for k in digits))
        rows = [heading]
        for base, width in law.networks():
            cells = (steps.get((base, width, k)) for k in digits)
            rows.append((str(base), str(width), *("none" if c is None else terminal.spread(c) for c in cells)))
        fits = [power([(base, steps.get((base, law.d_model, k))) for base in law.bases]) for k in digits]
        rows.append(("steps ~", "", *fits))
        text.append(
            f"first step clearly below the {name} shelf, median (range) over {len(law.seeds)} seeds\n"
            f"{terminal.table(rows)}"
        )
    title = f"{law.digits}-digit addition, {law.target}: steps to leave a shelf, {len(law.seeds)} seeds"
    points = {
        name: {k: {base: steps.get((base, law.d_model, k)) for base in law.bases} for k in digits}
        for name, steps in leave.items()
    }
    return experiment.Findings({"law": figures.shelf_law(points, title)}, "\n\n".join(text))


def levels(task: Addition, digit: int) -> dict[str, float]:
    """Give the levels of one digit's shelves, nats: nothing known; and its column known, but not the carry into it.

    In sequence the answer above and its column are known too. A digit without a column or without a carry in has no
    carry shelf, and one that is within 5 % of nothing known cannot be told from it.
    """
    measures = {"digits": task.digits, "base": task.base}
    found = {"log base": floor(digit, Information(), **measures)} if digit < task.digits else {}
    if 0 < digit < task.digits:
        above = digit + 1 if task.target == "sequential" else digit
        columns = tuple(range(digit, min(above, task.digits - 1) + 1))
        known = Information(columns=columns, answers=(above,) if above > digit else ())
        if (level := floor(digit, known, **measures)) < 0.95 * found["log base"]:
            found["carry"] = level
    return found


def power(points: list[tuple[int, list[int | None] | None]]) -> str:
    """Fit log steps by a line in log base: the median power over seeds and its range; seeds that left everywhere."""
    known = [(base, steps) for base, steps in points if steps]
    if len(known) < 3:
        return "too few bases"
    bases, steps = zip(*known, strict=True)
    lanes = [lane for lane in zip(*steps, strict=True) if all(lane)]
    if not lanes:
        return "no seed left all"
    powers = [float(np.polyfit(np.log(bases), np.log(lane), 1)[0]) for lane in lanes]
    return f"base^{terminal.spread(powers, '{:.2f}')}, {len(lanes)} of {len(steps[0])} seeds"


if __name__ == "__main__":
    sys.exit(experiment.study("experiments.shelf_law", __doc__, PRESETS, conclude, experiment="digit_addition"))
