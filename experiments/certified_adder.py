"""Can a trained transformer be proven to add, on every problem there is?

One layer, the least significant digit first, each digit after those before it. Every network is trained, searched for
errors and certified; where that fails, it is trained on with its errors in the mixture, and certified again.
Seed 0 of `five`, 10¹⁰ problems, and of `ten`, 10²⁰, is proven after the first training; `twenty` has not been tried;
`msd` answers the most significant digit first, which one layer cannot do, and should be refuted by a cascade.
`debug` takes seconds, and ends with a problem that its network gets wrong. Training is plain: what helps the proof is
little weight decay, a learning rate that falls to 0.02 of its maximum, and problems with many carries.
"""

import itertools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, cast

import numpy as np
import tyro

from jaxadd.analysis.certificates.certificate import Certificate
from jaxadd.cli.commands.certify import certify_in
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.models import Network, Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.optim.schedules import Cosine
from jaxadd.tables import spread, table
from jaxadd.tasks import Addition, Mixture

_LISTED = 0.1  # Weight of the errors found in the mixture of the next round, beside a total of 1.


@dataclass(frozen=True)
class Config:
    """A run, and how often networks that are not proven are trained on."""

    base: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    """the first training"""
    rounds: int = 3
    """trainings of a network, at most"""


def recipe(digits: int, steps: int = 6_000, order: str = "lsd", **model: int) -> Config:
    """Return the config that trains adders of so many digits."""
    task = Addition(
        digits=digits,
        operand_order="lsd",
        answer_order=order,  # type: ignore[arg-type]
        mixture=Mixture(uniform=0.4, enriched=0.3, cascades=0.2, listed=_LISTED, problems=repeated(digits)),
    )
    run = RunConfig(
        task=task,
        model=Transformer(**{"d_model": 32, "heads": 4, "d_mlp": 64, **model}),
        optimizer=AdamW(lr=5e-3, weight_decay=0.05, warmup=100.0),
        schedule=Cosine(steps=steps, final=0.02),
        steps=steps,
        eval_every=max(1, steps // 10),
        checkpoint_every=max(1, steps // 2),
    )
    return Config(run)


def repeated(digits: int) -> tuple[str, ...]:
    """Return all sums of two numbers of one repeated digit, such as 777+222.

    There, what attention to other columns does adds up; without them, networks were wrong on 99999+99999 alone.
    """
    return tuple(f"{a * digits}+{b * digits}" for a, b in itertools.product("0123456789", repeat=2))


PRESETS = {
    "five": recipe(5),
    "ten": recipe(10),
    "twenty": recipe(20),
    "msd": replace(recipe(5, order="msd"), rounds=1),
    "debug": replace(recipe(2, steps=60, d_model=16, d_mlp=32), rounds=1),
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
            print(f"seed {network.seed}, round {number}: {certificate.verdict}, bound {certificate.margin:.4f} nats")
            if found is not None:
                errors = (*errors, *_texts(network, found.errors[:100]))
        pending = tuple(seed for seed in pending if outcomes[seed].certificate.verdict != "proven")
        if not pending:
            break
        run = continued(run, str(session.folder / f"round{number}"), errors)
    return Findings({}, report(config, outcomes))


def continued(run: RunConfig, source: str, errors: tuple[str, ...]) -> RunConfig:
    """Return the config that trains the networks of a run on, with errors in the mixture."""
    task = cast(Addition, run.task)
    listed = tuple(dict.fromkeys((*task.mixture.problems, *errors)))
    mixture = replace(task.mixture, listed=_LISTED if listed else 0.0, problems=listed)
    lr = replace(run.optimizer, lr=run.optimizer.lr / 2)
    return replace(run, task=replace(task, mixture=mixture), optimizer=lr, init_from=source)


def _texts(network: Network, problems: np.ndarray) -> list[str]:
    task = cast(Addition, network.task)
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
