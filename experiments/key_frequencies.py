"""How many key frequencies does a network use, by the modulus P? Does their number grow as log P?

Addition mod several primes, each with the same network, optimizer settings and seeds; key frequencies are counted by
three rules in the networks that learned, and their number is fitted by a line in log P and by a line in P. McCracken
et al. (2025) derive a growth as log P from their account of neurons as approximate cosets. `quick` takes about five
minutes on two cores, `debug` seconds.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import fourier
from jaxadd.analysis.modular import progress
from jaxadd.analysis.modular.problem import Problem, whole_problem
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import Model, Network, Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.pictures import FigureOf, Lines
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.tables import spread, table
from jaxadd.tasks import Modular
from jaxadd.types import Params
from jaxadd.views import figures


@dataclass(frozen=True)
class Moduli:
    """Networks that differ in the modulus alone."""

    moduli: tuple[int, ...] = (17, 23, 31, 43, 59, 83)
    """moduli P"""
    train_fraction: float = 0.5
    """fraction of the pairs in the train set"""
    d_model: int = 128
    """width D; the MLP has 4 D neurons"""
    lr: float = 1e-2
    """learning rate of AdamW"""
    weight_decay: float = 3.0
    """weight decay of AdamW"""
    steps: int = 300
    """updates of each run"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """lanes of each run"""

    def __post_init__(self) -> None:
        if len(set(self.moduli)) < max(2, len(self.moduli)):
            raise UserError(f"moduli must name at least two, and none twice, got {self.moduli}")

    def arms(self) -> dict[str, RunConfig]:
        """Return a run for each modulus."""
        return {
            str(p): RunConfig(
                task=Modular(p=p, train_fraction=self.train_fraction),
                model=Transformer(d_model=self.d_model, d_mlp=4 * self.d_model),
                optimizer=AdamW(lr=self.lr, weight_decay=self.weight_decay),
                steps=self.steps,
                seeds=self.seeds,
            )
            for p in sorted(self.moduli)
        }


PRESETS = {
    "quick": Moduli(),
    "debug": Moduli(moduli=(7, 11), d_model=16, steps=60, seeds=(0, 1)),
}
RULES = ("neurons", "logits", "embedding")


def conduct(study: Moduli, session: Session) -> Findings:
    """Count the key frequencies of the networks that learned, and fit their number by P."""
    runs = session.train_all(study.arms())
    moduli = np.array([int(p) for p in runs])
    steps = [[lane[step_of(LEARNED["test"])] for lane in run.summary["lanes"]] for run in runs.values()]
    counts = {rule: np.full((len(study.seeds), len(runs)), np.nan) for rule in RULES}
    for i, run in enumerate(runs.values()):
        for s, network in enumerate(run.networks()):
            if steps[i][s] is not None:
                for rule, count in counted(network).items():
                    counts[rule][s, i] = count
    cells = [("P", "steps to 99 %", *(f"key frequencies by {rule}" for rule in RULES))]
    for i, p in enumerate(moduli):
        known = {rule: found[np.isfinite(found[:, i]), i] for rule, found in counts.items()}
        cells.append((str(p), spread(steps[i]), *(spread(x, "{:.0f}") if len(x) else "" for x in known.values())))
    fits = [("rule", "key frequencies for each doubling of P, 95 % interval", "R² of log P", "R² of P")]
    for rule, found in counts.items():
        lane, column = np.nonzero(np.isfinite(found))
        if len(np.unique(column)) > 1:
            slope, low, high, by_log = fit(np.log2(moduli[column]), found[lane, column])
            by_p = fit(moduli[column], found[lane, column])[-1]
            fits.append((rule, f"{slope:.2f} ({low:.2f} to {high:.2f})", f"{by_log:.2f}", f"{by_p:.2f}"))
    text = (
        f"a + b mod P, {study.train_fraction:.0%} trained on, {len(study.seeds)} seeds, {study.steps:,} steps; "
        f"median (range) of the networks that learned\n{table(cells)}\n\n{table(fits)}"
    )
    picture = Lines(
        "median and range over seeds", moduli, dict(counts), "key frequencies", xlabel="P", log_x=True
    )  # fmt: skip
    title = f"a + b mod P, {len(study.seeds)} seeds"
    return Findings({"key_frequencies": figures.render(FigureOf("keys", "Key frequencies", [picture], title))}, text)


def counted(network: Network) -> dict[str, int]:
    """Count the key frequencies of one network, by rule."""
    problem = whole_problem(network.task, network.data.lane)
    return {rule: int(count) for rule, count in _counted(network.params, network.model, problem).items()}


@functools.partial(jax.jit, static_argnames="model")
def _counted(params: Params, model: Model, problem: Problem) -> dict[str, jax.Array]:
    state = progress.State(params, model, problem, jnp.zeros(fourier.count(problem.orders), bool))
    found = (
        fourier.keys_of_neurons(state.neurons),
        fourier.keys_of_logits(state.logits, problem.answers),
        fourier.keys_of_embedding(state.embedding),
    )
    return {rule: jnp.sum(keys) for rule, keys in zip(RULES, found, strict=True)}


def fit(x: Sequence[float] | np.ndarray, y: np.ndarray) -> tuple[float, float, float, float]:
    """Fit a line by least squares.

    Returns:
      slope; the ends of its 95 % interval, over 2,000 bootstrap samples of the points; and R², NaN where all y agree.
    """
    x = np.asarray(x, float)
    slope_of = lambda i: np.cov(x[i], y[i])[0, 1] / max(np.var(x[i], ddof=1), 1e-12)
    generator = np.random.default_rng(0)
    slopes = [slope_of(generator.integers(0, len(x), len(x))) for _ in range(2_000)]
    slope = slope_of(np.arange(len(x)))
    rest = y - y.mean() - slope * (x - x.mean())
    explained = 1 - np.sum(rest**2) / total if (total := np.sum((y - y.mean()) ** 2)) else np.nan
    return slope, *np.quantile(slopes, (0.025, 0.975)).tolist(), explained


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
