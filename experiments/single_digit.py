"""Which widths, heads and layers learn one digit of the sum? A researcher's grid again, with five seeds a row.

They trained one-layer transformers on a single answer digit (batch 256, AdamW, lr 1e-3) and noted, from one run each,
which converged and when. Every row is run again with the same budget and set beside what they saw. The plateau of the
tens digit near 0.8 nats is split into leak, uncertainty and miscalibration. `tens` takes about five minutes on two
cores, `grid` about twenty, `debug` one.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jaxadd.analysis.plateaus import steps_to_reach
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import Run
from jaxadd.tables import spread, table
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.floors import Information, floor
from jaxadd.types import Metrics
from jaxadd.views import figures

CONVERGED = 0.01  # Nats of smoothed train loss: networks that stop short of a digit stay between 0.02 and 0.1.
LEVELS = (1.0, 0.8, 0.75, 0.7)  # Nats: the loss of the tens digit is split where it first falls below each.


@dataclass(frozen=True)
class Row:
    """One network of the grid.

    Attributes:
      digit: the answer digit, 0 is the units.
      d_model: width D; the MLP has 4 D neurons.
      heads: H.
      steps: the budget.
      seen: what the researcher saw of it.
      converges: whether they saw it converge within the budget; None where they did not say.
      layers: L.
      mlp: whether there is an MLP.
      weight_decay: of AdamW.
      every: steps between evaluations.
    """

    digit: int
    d_model: int
    heads: int
    steps: int
    seen: str
    converges: bool | None
    layers: int = 1
    mlp: bool = True
    weight_decay: float = 0.1
    every: int = 100

    @property
    def name(self) -> str:
        """The row in a word, such as "A1-128-4": digit, width and heads, then what is unusual."""
        parts = [f"A{self.digit}", str(self.d_model), str(self.heads)]
        parts += [f"{self.layers}L"] if self.layers > 1 else []
        parts += [] if self.mlp else ["no-mlp"]
        parts += [f"wd{self.weight_decay:g}"] if self.weight_decay != 0.1 else []
        return "-".join(parts)


TENS = (
    Row(1, 128, 4, 2_000, "yes, by 2k; plateau at 0.8", True, every=20),
    Row(1, 128, 2, 2_000, "yes, by 2k", True, every=20),
    Row(1, 128, 1, 2_000, "never", False, every=20),
)
REST = (
    Row(0, 128, 4, 1_000, "step 120", True),
    Row(0, 16, 16, 4_000, "step 1,200", True),
    Row(0, 16, 1, 4_000, "sooner than 16/16", True),
    Row(0, 8, 8, 6_000, "step 1,800", True),
    Row(0, 8, 1, 6_000, "sooner than 8/8", True),
    Row(0, 4, 4, 8_000, "step 2,600", True),
    Row(0, 3, 3, 12_000, "step 5,400", True),
    Row(0, 2, 2, 40_000, "step 26,900", True, every=500),
    Row(0, 1, 1, 50_000, "not by 50k", False, every=500),
    Row(1, 32, 8, 3_000, "no", False),
    Row(1, 32, 16, 3_000, "yes", True),
    Row(1, 64, 2, 3_000, "no", False),
    Row(1, 64, 4, 3_000, "yes", True),
    Row(1, 256, 1, 2_000, "never", False),
    Row(1, 512, 1, 2_000, "never", False, every=500),
    Row(1, 128, 8, 3_000, "log 2 at 1k, then barely moves", False, mlp=False),
    Row(1, 128, 4, 5_000, "no spikes", True, weight_decay=0.0),
    Row(1, 128, 4, 5_000, "rebound and spikes", True, weight_decay=1.0),
    Row(2, 128, 4, 3_000, "mostly not", False),
    Row(2, 128, 8, 3_000, "yes", True),
    Row(2, 128, 32, 3_000, "yes", True),
    Row(3, 128, 8, 3_000, "no", False),
    Row(3, 128, 8, 2_000, "two layers help, with spikes", None, layers=2, every=500),
)


@dataclass(frozen=True)
class Grid:
    """Networks that learn one answer digit each."""

    rows: tuple[Row, ...] = field(default=TENS)
    """the networks"""
    digits: int = 5
    """digits N of each operand"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """lanes of each row"""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if not names or len(set(names)) < len(names):
            raise UserError(f"the rows must differ in more than their steps and be at least one, got {names}")

    def arms(self) -> dict[str, RunConfig]:
        """Return a run for each row, by its name."""
        return {
            row.name: RunConfig(
                task=Addition(digits=self.digits, target="single", digit=row.digit),
                model=Transformer(
                    layers=row.layers, d_model=row.d_model, heads=row.heads, d_mlp=4 * row.d_model if row.mlp else 0
                ),
                optimizer=AdamW(weight_decay=row.weight_decay),
                steps=row.steps,
                seeds=self.seeds,
                eval_every=row.every,
                checkpoint_every=max(1_000, row.steps // 4),
            )
            for row in self.rows
        }


PRESETS = {
    "tens": Grid(),
    "grid": Grid(rows=(*TENS, *REST)),
    "debug": Grid(
        rows=(Row(0, 8, 2, 50, "nothing", None, every=10), Row(1, 8, 2, 50, "nothing", None, every=10)), seeds=(0, 1)
    ),
}


def conduct(grid: Grid, session: Session) -> Findings:
    """Show row by row what converged, and split the plateau of the tens digit."""
    runs = session.train_all(grid.arms())
    text = [
        f"{grid.digits}-digit operands, {len(grid.seeds)} seeds: converged means a smoothed train loss below "
        f"{CONVERGED:g} nats; steps and losses are median (range)\n{table(converged(grid, runs))}"
    ]
    drawn = {"grid": figures.loss_grid({name: run.metrics for name, run in runs.items()}, "train loss")}
    if tens := [row for row in grid.rows if row in TENS]:
        carry = floor(1, Information(columns=(1,)), digits=grid.digits)
        text.append(
            "the tens digit's loss = leak + uncertainty (H of the carry given its column only, "
            f"{carry:.3f}) + miscalibration, means over the seeds that got there\n{table(splits(tens, runs, carry))}"
        )
        shown = {row.name: runs[row.name].metrics for row in tens}
        drawn["split"] = figures.loss_split(
            shown, carry, "what keeps the tens digit on its plateau, median over seeds"
        )
    return Findings(drawn, "\n\n".join(text))


def converged(grid: Grid, runs: Mapping[str, Run]) -> list[tuple[str, ...]]:
    """Return a table of which rows converged and when, beside what the researcher saw."""
    cells = [
        (
            "digit",
            "D/H",
            "",
            "budget",
            "converged",
            "step",
            "final loss",
            "largest rise",
            "the researcher, one run",
            "",
        )
    ]
    for row in grid.rows:
        metrics = runs[row.name].metrics
        loss = metrics["train_position_loss"][:, :, 0]
        reached = [steps_to_reach(lane, metrics["step"], CONVERGED) for lane in loss]
        count, rises = sum(step is not None for step in reached), largest_rises(loss)
        cells.append(
            (
                f"A{row.digit}",
                f"{row.d_model}/{row.heads}",
                " ".join(row.name.split("-")[3:]),
                f"{row.steps:,}",
                f"{count} of {len(reached)}",
                spread(reached),
                spread(list(np.nanmean(loss[:, -100:], axis=1)), "{:.2g}"),
                spread(rises, "{:.2g}") if rises else "",
                row.seen,
                verdict(row, count, len(reached)),
            )
        )
    return cells


def verdict(row: Row, count: int, lanes: int) -> str:
    """Return whether most lanes, `count` of them converged, did what the researcher's one run did."""
    if row.converges is None or 2 * count == lanes:
        return "open"
    return "reproduced" if (2 * count > lanes) == row.converges else "refuted"


def largest_rises(loss: np.ndarray, window: int = 20) -> list[float]:
    """Compute the largest rise of the loss after convergence, nats, for each lane of `[S, T]` that converged.

    Losses are means over `window` steps.
    """
    rises = []
    for lane in loss[:, : loss.shape[1] // window * window].reshape(len(loss), -1, window).mean(axis=2):
        settled = np.flatnonzero(lane < CONVERGED)
        if settled.size:
            rises.append(float(np.max(np.diff(lane[settled[0] :]), initial=0)))
    return rises


def splits(rows: list[Row], runs: Mapping[str, Run], carry: float) -> list[tuple[str, ...]]:
    """Return a table of what the loss of each row consists of where it first falls below each of LEVELS."""
    heading = (
        "tens, first time below",
        "D/H",
        "seeds",
        "step",
        "loss",
        "leak",
        "uncertainty",
        "miscalibration",
        "loss, no carry",
        "loss, carry",
        "P(naive)",
        "P(naive + 1)",
    )
    return [heading] + [
        (f"{level:g} nats", f"{row.d_model}/{row.heads}", *split_at(runs[row.name].metrics, level, carry))
        for row in rows
        for level in LEVELS
    ]


def split_at(metrics: Metrics, level: float, uncertainty: float) -> list[str]:
    """Return what the loss consists of at each lane's first evaluation below a level: how many lanes, and means."""
    loss = metrics["evaluation/digit_loss"][:, :, 0]
    columns = []
    for s, below in enumerate(loss < level):
        if below.any():
            e = int(np.argmax(below))
            leak, carry_loss, by_carry, offset = (
                metrics[f"evaluation/{name}"][s, e, 0] for name in ("leak", "carry_loss", "loss_by_carry", "offset")
            )
            columns.append(
                [
                    metrics["evaluation/step"][e],
                    loss[s, e],
                    leak,
                    uncertainty,
                    carry_loss - uncertainty,
                    *by_carry[:2],
                    *offset[:2],
                ]
            )
    if not columns:
        return ["0", "never", *[""] * 8]
    step, *values = np.mean(columns, axis=0)
    return [str(len(columns)), f"{step:,.0f}", *(f"{value:.3f}" for value in values)]


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
