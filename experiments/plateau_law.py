"""When does each plateau end? Steps to leave the log-base and the carry plateau, by base, digit and width.

The loss of a digit rests at log base until its network finds the column's sum, and at the entropy of the carry, near
log 2, until it finds the carry: the "shelves" of the researcher who saw them first. One network per base learns all
digits of a sum; steps to leave are fitted by a power of the base. Expected: a larger base keeps a digit at log base
longer. `quick` takes about twelve minutes on two cores, `debug` one.
"""

import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxadd.analysis.plateaus import steps_to_leave
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.tables import spread, table
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.floors import Information, floor
from jaxadd.views import figures


@dataclass(frozen=True)
class Law:
    """Networks that differ in base and width."""

    bases: tuple[int, ...] = (2, 3, 5, 10, 16)
    """bases of the numerals, each at width d_model"""
    widths: tuple[int, ...] = (32, 64)
    """other widths, each at base 10"""
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
        """Return a run for each base and width."""
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


def conduct(law: Law, session: Session) -> Findings:
    """Show when each digit leaves its plateaus, and fit a power of the base."""
    runs = session.train_all(law.arms())
    leave: dict[str, dict[tuple[int, int, int], list[int | None]]] = {"log base": {}, "carry": {}}
    for (base, width), run in zip(law.networks(), runs.values(), strict=True):
        metrics = run.metrics
        for r, digit in enumerate(run.config.task.read_digits):
            for kind, level in levels(run.config.task, digit).items():
                leave[kind][base, width, digit] = [
                    steps_to_leave(lane[:, r], metrics["step"], level) for lane in metrics["train_position_loss"]
                ]
    digits = tuple(reversed(range(law.digits)))
    text = []
    for name, steps in leave.items():
        cells = [("base", "D", *(f"A{k}" for k in digits))]
        for base, width in law.networks():
            lanes = (steps.get((base, width, k)) for k in digits)
            cells.append((str(base), str(width), *("none" if lane is None else spread(lane) for lane in lanes)))
        fits = [power([(base, steps.get((base, law.d_model, k))) for base in law.bases]) for k in digits]
        cells.append(("steps ~", "", *fits))
        text.append(
            f"first step clearly below the {name} plateau, median (range) over {len(law.seeds)} seeds\n{table(cells)}"
        )
    title = f"{law.digits}-digit addition, {law.target}: steps to leave a plateau, {len(law.seeds)} seeds"
    points = {
        name: {k: {base: steps.get((base, law.d_model, k)) for base in law.bases} for k in digits}
        for name, steps in leave.items()
    }
    return Findings({"law": figures.plateau_law(points, title)}, "\n\n".join(text))


def levels(task: Addition, digit: int) -> dict[str, float]:
    """Return the levels of one digit's plateaus, nats: nothing known; its column known, but not the carry into it.

    In sequence the answer above and its column are known too. A digit without a column or without a carry in has no
    carry plateau, and one that is within 5 % of nothing known cannot be distinguished from it.
    """
    size = {"digits": task.digits, "base": task.base}
    result = {"log base": floor(digit, Information(), **size)} if digit < task.digits else {}
    if 0 < digit < task.digits:
        above = digit + 1 if task.target == "sequential" else digit
        columns = tuple(range(digit, min(above, task.digits - 1) + 1))
        known = Information(columns=columns, answers=(above,) if above > digit else ())
        if (level := floor(digit, known, **size)) < 0.95 * result["log base"]:
            result["carry"] = level
    return result


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
    return f"base^{spread(powers, '{:.2f}')}, {len(lanes)} of {len(steps[0])} seeds"


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
