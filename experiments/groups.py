"""Which irreducible representations do networks learn when they multiply in a finite group; do neurons read cosets?

A transformer and an MLP on two tokens learn S5 from half of its products. Chughtai et al. (2023) find that networks
learn a few irreps, different ones from seed to seed; Stander et al. (2024) that neurons read cosets of subgroups.
Both are measured of every network. Expected of `S5`: every seed reaches 99 % of the other products, where it ends,
the MLP at steps 500 to 1,300 and the transformer at 400 to 800. Of `mlp`, which trains on: two to four irreps and
nearly all neurons on cosets. On two quiet cores `S5` takes about six minutes, `mlp` four and `debug`
seconds. `--group` takes any other group, such as A5 or D59.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from jaxadd.analysis import performance
from jaxadd.analysis.group.irreps import meaning
from jaxadd.analysis.group.measured import Measured, measure
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig, Stop
from jaxadd.errors import UserError
from jaxadd.models import ModelConfig, PairMLP, Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.pictures import FigureOf, HeatMaps, Lines
from jaxadd.runs import Run
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.tables import spread, table
from jaxadd.tasks import Group
from jaxadd.tasks.group.families import by_name
from jaxadd.views import figures

Architecture = Literal["transformer", "mlp"]
NETWORKS: tuple[Architecture, ...] = get_args(Architecture)


@dataclass(frozen=True)
class Study:
    """Networks that learn to multiply in one group."""

    group: str = "S5"
    """name of the group, such as S5, A5 or D59"""
    networks: tuple[Architecture, ...] = NETWORKS
    """architectures"""
    train_fraction: float = 0.5
    """fraction of the products in the train set"""
    lr: float = 1e-2
    """learning rate of AdamW"""
    weight_decay: float | None = None
    """weight decay of AdamW; by default 2 for the MLP and 1 for the transformer"""
    steps: int = 1_500
    """most updates of each network"""
    stop: Stop = LEARNED["test"]
    """where a lane ends"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """lanes of each network"""

    def __post_init__(self) -> None:
        if not self.networks or len(set(self.networks)) < len(self.networks):
            raise UserError(f"networks must name each architecture once, got {', '.join(self.networks) or 'none'}")

    def arms(self) -> dict[str, RunConfig]:
        """Return a run for each architecture, by its name."""
        models: dict[Architecture, ModelConfig] = {"transformer": Transformer(), "mlp": PairMLP()}
        return {
            name: RunConfig(
                task=Group(
                    name=self.group,
                    train_fraction=self.train_fraction,
                    equals="none" if name == "mlp" else "class",
                ),
                model=models[name],
                optimizer=AdamW(lr=self.lr, weight_decay=self._weight_decay(name)),
                steps=self.steps,
                stop=self.stop,
                seeds=self.seeds,
                eval_every=max(1, self.steps // 60),
                checkpoint_every=max(1, self.steps // 6),
            )
            for name in self.networks
        }

    def _weight_decay(self, network: Architecture) -> float:
        if self.weight_decay is not None:
            return self.weight_decay
        return 2.0 if network == "mlp" else 1.0


PRESETS = {
    "S5": Study(),
    "mlp": Study(networks=("mlp",), steps=2_400, stop=Stop()),
    "debug": Study(group="S3", steps=60, seeds=(0, 1), train_fraction=0.8),
}


def conduct(study: Study, session: Session) -> Findings:
    """Train all networks, and show which irreps each uses and what its neurons read."""
    runs = session.train_all(study.arms())
    states = {name: [measure(network) for network in run.networks()] for name, run in runs.items()}
    text = f"a·b in {study.group}, trained on {study.train_fraction:.0%}\n{table(rows(runs, states))}"
    reached = [
        f"{name}: {LEARNED['test'].threshold:.0%} test accuracy at step {spread(_steps(run))}"
        for name, run in runs.items()
    ]
    irreps = next(iter(states.values()))[0].irreps
    names = [meaning([irrep.name for irrep in irreps], by_name(study.group))]
    return Findings(
        {"groups": figures.render(picture(study, runs, states))}, "\n".join([text, *filter(None, names), *reached])
    )


def _steps(run: Run) -> list[float | None]:
    return [lane[step_of(LEARNED["test"])] for lane in run.summary["lanes"]]


def rows(runs: Mapping[str, Run], states: Mapping[str, list[Measured]]) -> list[tuple[str, ...]]:
    """Return a table with a row for each network: when it generalised, its irreps, and what its neurons read."""
    cells = [("network", "seed", "test ≥ 99 %", "test accuracy", "test loss", "key irreps", "neurons of one irrep",
              "on cosets")]  # fmt: skip
    for name, run in runs.items():
        for lane, state, step in zip(run.summary["lanes"], states[name], _steps(run), strict=True):
            numbers = state.numbers
            similar = ", ".join(f"{irrep} {numbers[f'logit_similarity.{irrep}']:.2f}" for irrep in state.key_names)
            cells.append(
                (
                    name,
                    str(lane["seed"]),
                    "never" if step is None else f"step {step:,}",
                    performance.percent(numbers["test_accuracy"]),
                    f"{numbers['test_loss']:.2e}",
                    similar or "none",
                    f"{numbers['neurons_of_one_irrep']:.0%}",
                    f"{numbers['neurons_on_cosets']:.0%}",
                )
            )
    return cells


def picture(study: Study, runs: Mapping[str, Run], states: Mapping[str, list[Measured]]) -> FigureOf:
    """Describe accuracy over training, and the similarity of each network's logits to each irrep."""
    title = f"Networks that multiply in {study.group}"
    curves = [
        Lines(
            f"accuracy, {name}",
            run.metrics["step"],
            {part: run.metrics[f"{part}_accuracy"] for part in ("train", "test")},
            "fraction correct",
            log_x=True,
            ylim=(-0.03, 1.03),
        )
        for name, run in runs.items()
    ]
    lanes = [(name, seed, state) for name in runs for seed, state in zip(study.seeds, states[name], strict=True)]
    names = [irrep.name for irrep in lanes[0][2].irreps]
    similar = [[state.numbers[f"logit_similarity.{irrep}"] for irrep in names] for *_, state in lanes]
    irreps = HeatMaps(
        "Similarity of the logits to each irrep",
        [study.steps],
        {"cosine": np.array([similar])},
        [f"{name}, seed {seed}" for name, seed, _ in lanes],
        names,
        xlabel="irrep",
        unit="cosine",
        limits=(0, 1),
        numbers=len(names) <= 12,
        least=5e-3,
        power=0.5,
    )
    return FigureOf("groups", title, [*curves, irreps])


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
