"""Can a trained transformer be proven to add, on every problem there is?

The networks have one or two layers and write the least significant digit first. Every network is trained, searched
for errors and certified; where that fails, it is trained on with its errors in the mixture, and certified again. What
helps the proof is attention that depends on distance alone and begins sharp, so that columns far away say nothing;
skewed problems and sums of repeated digits, in which they would say most; little weight decay; and a learning rate
that falls to 0.02 of its maximum.

`five` is proven on all 10¹⁰ problems for eight of eight seeds, in less than a minute each; `ten` and `twenty` on all
10²⁰ and 10⁴⁰. Networks that are proven can be certified on longer numbers, see `jaxadd certify --digits`.
`two-layers` is proven on all 10¹⁰ problems for four of four seeds, in three minutes each. `msd` answers the most
significant digit first, and its one layer is refuted. `debug` takes a minute, and ends with a problem that its
network answers incorrectly.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, cast

import numpy as np
import tyro

from jaxadd.analysis.certificates import search
from jaxadd.analysis.certificates.certificate import Certificate
from jaxadd.cli.commands.certify import certify_in
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import Transformer, Weights
from jaxadd.optim.optimizers import AdamW
from jaxadd.optim.schedules import Cosine
from jaxadd.tables import spread, table
from jaxadd.tasks import Addition, Mixture

_LISTED = 0.1  # Weight of listed problems in the mixture: those of repeated digits, or the errors found.


@dataclass(frozen=True)
class Config:
    """A run, and how often networks that are not proven are trained on."""

    base: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    """the first training"""
    rounds: int = 3
    """trainings of a network, at most"""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"rounds must be at least 1, got {self.rounds}")


_BLOCK = Transformer(
    d_model=32,
    heads=4,
    d_head=16,
    d_mlp=64,
    positions="rope",
    position_index="place",
    # Eight pairs turn by 3 to 0.9 radians from one place to the next: sums of them have sharp peaks.
    rope_theta=4.0,
    rope_scale=3.0,
    weights=Weights(scores="distance"),
)


def recipe(digits: int, steps: int = 3_000, order: str = "lsd", model: Transformer = _BLOCK) -> Config:
    """Return the config that trains adders of so many digits."""
    task = Addition(
        digits=digits,
        operand_order="lsd",
        answer_order=order,  # type: ignore[arg-type]
        separators="zeros",
        mixture=Mixture(uniform=0.4, enriched=0.3, cascades=0.2, skewed=0.2),
    )
    run = RunConfig(
        task=task,
        model=model,
        optimizer=AdamW(lr=5e-3, weight_decay=0.05, warmup=100.0, no_decay=("b_Q",)),
        schedule=Cosine(steps=steps, final=0.02),
        steps=steps,
        eval_every=max(1, steps // 10),
        checkpoint_every=max(1, steps // 2),
    )
    return Config(run)


PRESETS = {
    "five": recipe(5),
    "ten": recipe(10),
    "twenty": recipe(20),
    # Two heads a layer, for the column and the one below: those that nothing needs would read free columns.
    "two-layers": recipe(5, model=replace(_BLOCK, layers=2, heads=2)),
    "msd": replace(recipe(5, order="msd"), rounds=1),
    "debug": replace(recipe(2, steps=60, model=replace(_BLOCK, d_model=16, d_mlp=32)), rounds=1),
}


@dataclass(frozen=True)
class Outcome:
    """What became of one network: its last certificate, and the seconds of training and of certification."""

    certificate: Certificate
    rounds: int
    training: float
    certifying: float


def conduct(config: Config, session: Session) -> Findings:
    """Train, certify, and train on the networks that are not proven."""
    outcomes: dict[int, Outcome] = {}
    run, pending = config.base, config.base.seeds
    task = cast(Addition, run.task)
    if not task.mixture.problems:
        run = listing(run, _texts(task, search.repeated_digits(task)))
    errors: tuple[str, ...] = ()
    for number in range(1, config.rounds + 1):
        run = replace(run, seeds=pending)
        start = time.monotonic()
        trained = session.train(run, f"round{number}", f"training {number} ")
        seconds = (time.monotonic() - start) / len(pending)
        for network in trained.networks():
            start = time.monotonic()
            certificate, found = certify_in(session.folder / f"round{number}" / f"seed{network.seed}", network)
            before = outcomes.get(network.seed)
            outcomes[network.seed] = Outcome(
                certificate,
                number,
                seconds + (before.training if before else 0),
                time.monotonic() - start + (before.certifying if before else 0),
            )
            kind = "least margin" if certificate.method == "exhaustive" else "bound"
            bound = f", {kind} {certificate.margin:.4f} nats" if certificate.parts else ""
            print(f"seed {network.seed}, round {number}: {certificate.verdict}{bound}")
            if found is not None:
                errors = (*errors, *_texts(task, found.errors[:100]))
        pending = tuple(seed for seed in pending if outcomes[seed].certificate.verdict != "proven")
        if not pending:
            break
        run = continued(run, str(session.folder / f"round{number}"), errors)
    return Findings({}, report(config, outcomes))


def continued(run: RunConfig, source: str, errors: tuple[str, ...]) -> RunConfig:
    """Return the config that trains the networks of a run on, with the errors found so far in the mixture."""
    run = listing(run, errors) if errors else run
    return replace(run, optimizer=replace(run.optimizer, lr=run.optimizer.lr / 2), init_from=source)


def listing(run: RunConfig, problems: Sequence[str]) -> RunConfig:
    """Return a config with these problems listed in the mixture, in place of others."""
    task = cast(Addition, run.task)
    mixture = replace(task.mixture, listed=_LISTED, problems=tuple(dict.fromkeys(problems)))
    return replace(run, task=replace(task, mixture=mixture))


def _texts(task: Addition, problems: np.ndarray) -> list[str]:
    return [task.text(p, np.zeros(1, int)).partition("=")[0] for p in problems]


def report(config: Config, outcomes: Mapping[int, Outcome]) -> str:
    """Return the table of what became of each network."""
    proven = [outcome for outcome in outcomes.values() if outcome.certificate.verdict == "proven"]
    rows = [("seed", "verdict", "trainings", "training", "certifying", "least bound", "above float32")]
    for seed, o in sorted(outcomes.items()):
        c = o.certificate
        bounded = (f"{c.margin:.3f} nats", f"{c.slack:.3f} nats") if c.parts else ("none", "none")
        rows.append((str(seed), c.verdict, str(o.rounds), f"{o.training:.0f} s", f"{o.certifying:.0f} s", *bounded))
    minutes = [(o.training + o.certifying) / 60 for o in outcomes.values()]
    lines = [
        f"{len(proven)} of {len(outcomes)} networks proven on all {float(config.base.task.space):.0e} problems",  # type: ignore[attr-defined]
        f"minutes of training and certification: {spread(minutes, '{:.1f}')}",
        table(rows),
    ]
    lines += [
        f"seed {s}: {o.certificate.counterexample['words']}"
        for s, o in outcomes.items()
        if o.certificate.counterexample
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
