"""Does it matter whether a network is trained on the answer in sequence, or on all its tokens in parallel?

Both targets, both answer orders, the same operands, model and seeds: only what the network sees of the answer
differs. Expected: sequential networks see the answer digits before, which reveal a carry where a column sums to base
- 1, and learn the leading digits sooner; in parallel the order should not matter to one layer, whose answer positions
see only the question. `quick` takes about half an hour on two cores, `debug` a minute.
"""

import sys
from dataclasses import dataclass

import numpy as np

from jaxadd.analysis.addition.exact import FORCED, UNIFORM, exact_matches
from jaxadd.analysis.plateaus import steps_to_reach
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import Run
from jaxadd.tables import spread, table
from jaxadd.tasks import Addition
from jaxadd.views import figures

THRESHOLDS = (1.0, 0.1)  # Nats.


@dataclass(frozen=True)
class Targets:
    """Sequential and parallel targets, most and least significant digit first."""

    digits: int = 5
    """digits N of each operand"""
    base: int = 10
    """base of the numerals"""
    layers: int = 1
    """blocks"""
    d_model: int = 128
    """width of the residual stream; the MLP has four times as many neurons"""
    heads: int = 4
    """attention heads"""
    batch_size: int = 256
    """fresh problems per step"""
    lr: float = 1e-3
    """learning rate of AdamW"""
    weight_decay: float = 0.1
    """weight decay of AdamW"""
    steps: int = 3_000
    """updates of each run"""
    eval_every: int = 100
    """steps between evaluations"""
    seeds: tuple[int, ...] = tuple(range(8))
    """lanes of each run"""

    def arms(self) -> dict[str, RunConfig]:
        """Return the four runs by target and order."""
        return {
            f"{target}-{order}": RunConfig(
                task=Addition(
                    digits=self.digits,
                    base=self.base,
                    target=target,
                    answer_order=order,
                    batch_size=self.batch_size,
                ),
                model=Transformer(layers=self.layers, d_model=self.d_model, heads=self.heads, d_mlp=4 * self.d_model),
                optimizer=AdamW(lr=self.lr, weight_decay=self.weight_decay),
                steps=self.steps,
                seeds=self.seeds,
                eval_every=self.eval_every,
                checkpoint_every=1_000,
            )
            for target in ("sequential", "parallel")
            for order in ("msd", "lsd")
        }


PRESETS = {
    "quick": Targets(),
    "debug": Targets(digits=2, d_model=32, steps=200, eval_every=20, seeds=(0, 1)),
}


def conduct(study: Targets, session: Session) -> Findings:
    """Compare the runs: when each digit is learned, how many problems are solved at the end, and rank tests."""
    runs = session.train_all(study.arms())
    steps = {arm: digit_steps(run) for arm, run in runs.items()}
    exact = {arm: 100 * exact_matches(run.networks()) for arm, run in runs.items()}
    kinds = ("uniform", *(f"cascade {n}" for n in range(study.digits)))
    first = [("train loss below", "digit", *runs)]
    for t, threshold in enumerate(THRESHOLDS):
        digits = reversed(range(next(iter(steps.values())).shape[-1]))
        first += [(f"{threshold:g} nats", f"A{k}", *(spread(steps[arm][t, :, k]) for arm in runs)) for k in digits]
        first.append((f"{threshold:g} nats", "all", *(spread(steps[arm][t].max(axis=-1)) for arm in runs)))
    solved = [("exact match, %", *runs)]
    solved += [(kind, *(spread(exact[arm][:, i], "{:.1f}") for arm in runs)) for i, kind in enumerate(kinds)]

    compared = {arm: np.append(exact[arm].T, [steps[arm][-1].max(axis=-1)], axis=0) for arm in runs}
    pairs = [
        ("sequential-msd", "parallel-msd"),
        ("sequential-lsd", "parallel-lsd"),
        ("sequential-msd", "sequential-lsd"),
        ("parallel-msd", "parallel-lsd"),
    ]
    tests = [("p of Mann-Whitney's U", *(f"{a} / {b}" for a, b in pairs))]
    for i, name in enumerate((*kinds, f"all digits below {THRESHOLDS[-1]:g}")):
        tests.append((name, *(f"{rank_test(compared[a][i], compared[b][i]):.2g}" for a, b in pairs)))
    text = "\n\n".join(
        [
            f"first step at which the smoothed train loss of a digit falls below a threshold: median (range) over "
            f"{len(study.seeds)} seeds\n{table(first)}",
            f"exact match at step {study.steps:,} of {UNIFORM:,} uniform problems and {FORCED:,} of each cascade "
            f"length, forced from the units on: median (range)\n{table(solved)}",
            f"two-sided rank tests, {len(study.seeds)} seeds against {len(study.seeds)}, uncorrected\n{table(tests)}",
        ]
    )
    metrics = {arm: run.metrics for arm, run in runs.items()}
    title = f"{study.digits}-digit addition, {len(study.seeds)} seeds, median and range"
    drawn = figures.arms(metrics, {arm: values[-1] for arm, values in steps.items()}, THRESHOLDS[-1], title)
    return Findings({"targets": drawn}, text)


def digit_steps(run: Run) -> np.ndarray:
    """Compute when the smoothed train loss of each digit falls below each threshold: `[thresholds, S, A]`, inf for
    never.
    """
    metrics, order = run.metrics, run.config.task.read_digits
    loss = metrics["train_position_loss"]
    steps = np.full((len(THRESHOLDS), len(loss), len(order)), np.inf)
    for t, threshold in enumerate(THRESHOLDS):
        for s in range(len(loss)):
            for r, digit in enumerate(order):
                reached = steps_to_reach(loss[s, :, r], metrics["step"], threshold)
                steps[t, s, digit] = np.inf if reached is None else reached
    return steps


def rank_test(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sided p value of the Mann-Whitney U test; 1 where all values are equal."""
    from scipy.stats import mannwhitneyu

    return 1.0 if len(set(a) | set(b)) == 1 else float(mannwhitneyu(a, b).pvalue)


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
