"""Which operations mod P are learned, how soon, and in whose characters is each network simple?

All operations of Power et al. (2022) and a random table, each with five seeds. Of each network, the fraction of the
variance of its incorrect logits that a function of answer - class explains, in the group of addition mod P and in
that of multiplication, where it is a difference of discrete logarithms. Expected: +, -, × and ÷ are learned within a
few hundred steps, + and - in the characters of addition, × and ÷ in those of multiplication; Power et al. never see
a² + ab + b² and a³ + ab learned. `quick` takes about five minutes on two cores, `debug` seconds.
"""

import sys
from dataclasses import dataclass

import numpy as np

from jaxadd.analysis.modular import bases
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.pictures import FigureOf, HeatMaps, Lines
from jaxadd.runs import Run
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.tables import spread, table
from jaxadd.tasks import Modular
from jaxadd.tasks.modular import OPERATIONS, additive, multiplicative
from jaxadd.views import figures


@dataclass(frozen=True)
class Operations:
    """Networks that differ in the operation alone."""

    operations: tuple[str, ...] = tuple(OPERATIONS)
    """operations, a run for each"""
    p: int = 43
    """modulus P, a prime"""
    train_fraction: float = 0.5
    """fraction of the pairs in the train set"""
    d_model: int = 64
    """width D; the MLP has 4 D neurons"""
    lr: float = 1e-2
    """learning rate of AdamW"""
    weight_decay: float = 3.0
    """weight decay of AdamW"""
    steps: int = 500
    """updates of each run"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """lanes of each run"""

    def __post_init__(self) -> None:
        self.arms()

    def arms(self) -> dict[str, RunConfig]:
        """Return a run for each operation."""
        return {
            name: RunConfig(
                task=Modular(p=self.p, operation=name, train_fraction=self.train_fraction),
                model=Transformer(d_model=self.d_model, d_mlp=4 * self.d_model),
                optimizer=AdamW(lr=self.lr, weight_decay=self.weight_decay),
                steps=self.steps,
                seeds=self.seeds,
            )
            for name in self.operations
        }


PRESETS = {
    "quick": Operations(),
    "debug": Operations(operations=("add", "multiply", "a2+b2"), p=7, d_model=16, steps=40, seeds=(0, 1)),
}


def conduct(study: Operations, session: Session) -> Findings:
    """Show when each operation is learned, and how simple its networks are in either characters."""
    runs = session.train_all(study.arms())
    groups = {"additive": additive(study.p), "multiplicative": multiplicative(study.p)}
    learned = {name: [lane[step_of(LEARNED["test"])] for lane in run.summary["lanes"]] for name, run in runs.items()}
    measured = {
        name: {kind: [bases.measures(one, group) for one in run.networks()] for kind, group in groups.items()}
        for name, run in runs.items()
    }
    written = {name: OPERATIONS[name].written("ab") for name in runs}
    cells = [("operation", "steps to 99 %", "test accuracy at the end", *(f"{kind}: logits" for kind in groups),
              *(f"{kind}: Gini of W_E" for kind in groups))]  # fmt: skip
    for name, run in runs.items():
        final = [lane["final_test_accuracy"] for lane in run.summary["lanes"]]
        row = [written[name], spread(learned[name]), spread(final, "{:.3f}")]
        for measure in ("incorrect_logits_explained", "gini_W_E"):
            row += [spread([lane[measure] for lane in measured[name][kind]], "{:.2f}") for kind in groups]
        cells.append(tuple(row))
    text = (
        f"mod {study.p}, {study.train_fraction:.0%} trained on, {len(study.seeds)} seeds, {study.steps:,} steps; "
        "medians (ranges)\nlogits: fraction of the variance of those of incorrect classes that answer - class "
        f"explains in the group\n{table(cells)}"
    )
    title = f"operations mod {study.p}, {len(study.seeds)} seeds"
    medians = np.array(
        [
            [np.median([x["incorrect_logits_explained"] for x in measured[name][kind]]) for kind in groups]
            for name in runs
        ]
    )
    explained = HeatMaps(
        "Logits of incorrect classes explained, median over seeds",
        [study.steps],
        {"fraction of variance": medians[None]},
        list(written.values()),
        list(groups),
        limits=(0, 1),
        numbers=True,
        unit="fraction of variance",
    )
    return Findings(
        {
            "accuracy": figures.render(FigureOf("accuracy", "Test accuracy", _curves(runs, written), title)),
            "characters": figures.render(FigureOf("characters", "Characters", [explained], title)),
        },
        text,
    )


def _curves(runs: dict[str, Run], written: dict[str, str]) -> list[Lines]:
    """Describe the test accuracy of operations with a group, and of the others."""
    pictures = []
    for title, with_group in (("sums and products", True), ("without a group", False)):
        chosen = [name for name in runs if (OPERATIONS[name].group is not None) == with_group]
        if not chosen:
            continue
        metrics = runs[chosen[0]].metrics
        measured = np.flatnonzero(np.isfinite(metrics["test_accuracy"][0]))
        series = {written[name]: runs[name].metrics["test_accuracy"][:, measured] for name in chosen}
        pictures.append(
            Lines(title, metrics["step"][measured], series, "fraction correct", log_x=True, ylim=(-0.03, 1.03))
        )
    return pictures


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
