"""How small can a transformer be that learns to add ten digits, and how many seeds learn it?

The contest is AdderBoard: digits alone, units first, exact match on ten edge cases and 10,000 random problems; 99 %
passes. The presets are named by their number of parameters, counted without what is tied: the block is that of the
published adders, RMSNorm, rotary positions with base 3, a gated MLP and the embedding as unembedding. They train on
short numbers first and on many carries, with a learning rate that falls along a cosine. `p86` and `p95` embed digits
on an arc, and their rotary positions count the places of digits; `p122` and `p52` are architectures of published
adders. Whether a seed learns is chaotic, and no preset has passed yet; see RESULTS. Published: of 137 parameters some
30 % of 80 seeds converge; trained networks of 122, 57, 52 and 36 parameters pass. `debug` learns nothing.
"""

import sys
from dataclasses import replace

import jax
import numpy as np

from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.models import Network, Transformer, Weights
from jaxadd.optim.filters import GlobalNormClip
from jaxadd.optim.optimizers import AdamW
from jaxadd.optim.schedules import Cosine
from jaxadd.runs import Run
from jaxadd.tables import spread, table
from jaxadd.tasks import Curriculum, Mixture
from jaxadd.tasks.addition import board

_AT_ONCE = 2_002  # Problems; the suite is five times as many.
_BLOCK = Transformer(
    heads=1,
    norm="rmsnorm",
    norm_epsilon=1e-6,
    qk_norm=True,
    positions="rope",
    rope_theta=3.0,
    mlp="gated",
    activation="silu",
    mlp_bias=False,
    weights=Weights(unembed="embed"),
)
_TIED = Weights(embed="arc", unembed="embed", value="key", output="query", norms="shared")


def recipe(model: Transformer, steps: int = 60_000, lr: float = 0.02) -> RunConfig:
    """Return the config that trains a network; the phases of the curriculum are fractions of the steps."""
    short, longer, fade, uniform = (round(steps * part) for part in (1 / 30, 7 / 60, 1 / 4, 3 / 4))
    task = replace(
        board.TASK,
        mixture=Mixture(uniform=0.2, enriched=0.4, cascades=0.4),
        curriculum=Curriculum(lengths=(3, 6, 10), until=(short, longer, fade), fade_begin=fade, fade_end=uniform),
        test_examples=512,
        cascade_examples=32,
    )
    return RunConfig(
        task=task,
        model=model,
        optimizer=AdamW(lr=lr, b2=0.999, weight_decay=0.01, warmup=steps / 60),
        clip=GlobalNormClip(1.0),
        schedule=Cosine(steps=steps, final=0.1),
        steps=steps,
        eval_every=max(1, steps // 60),
        checkpoint_every=max(1, steps // 12),
        seeds=(0, 1, 2, 3),
    )


_BY_PLACE = replace(
    _BLOCK, d_model=3, d_head=4, position_index="place", weights=Weights(embed="arc", unembed="embed")
)

_NARROW = replace(_BY_PLACE, d_head=2, rope_scale=0.5, d_mlp=2)


def _tied(model: Transformer, **ties: str) -> Transformer:
    return replace(model, weights=replace(model.weights, **ties))


PRESETS = {
    "p58": recipe(_NARROW, steps=14_000, lr=0.01),
    "p50": recipe(_tied(_NARROW, norms="shared"), steps=14_000, lr=0.01),
    "p44": recipe(_tied(_NARROW, norms="shared", value="key"), steps=14_000, lr=0.01),
    "p38": recipe(_tied(_NARROW, norms="shared", value="key", output="query"), steps=14_000, lr=0.01),
    "p86": recipe(replace(_BY_PLACE, d_mlp=2), steps=24_000, lr=0.01),
    "p95": recipe(replace(_BY_PLACE, d_mlp=3), steps=24_000, lr=0.01),
    "p122": recipe(replace(_BLOCK, d_model=3, d_head=4, d_mlp=3)),
    "p52": recipe(replace(_BLOCK, d_model=3, d_head=4, d_mlp=2, rope_pairs="interleaved", weights=_TIED)),
    "debug": recipe(replace(_BLOCK, d_model=3, d_head=4, d_mlp=3), steps=60),
}


def conduct(config: RunConfig, session: Session) -> Findings:
    """Train the lanes, and count what each answers of the suite."""
    return Findings({}, report(session.run(config)))


def report(run: Run) -> str:
    """Return the table of a run: what each seed answers of the suite, and how many pass."""
    problems = board.suite()
    networks = run.networks()
    solved = [count_solved(network, problems) for network in networks]
    needed = board.PASSES * len(problems)
    passed = sum(count >= needed for count in solved)
    size = sum(leaf.size for leaf in jax.tree.leaves(run.model.shapes()))
    rows = [("seed", f"correct of {len(problems):,}", "passes")]
    rows += [
        (str(network.seed), f"{count:,}", "yes" if count >= needed else "no")
        for network, count in zip(networks, solved, strict=True)
    ]
    shares = spread([count / len(problems) for count in solved], "{:.2%}")
    return "\n".join(
        [
            f"{size} parameters, {run.config.steps:,} steps: {passed} of {len(networks)} seeds pass",
            f"exact match on the suite: {shares}",
            table(rows),
        ]
    )


def count_solved(network: Network, problems: np.ndarray) -> int:
    """Return how many problems, int32 `[B, 2, 10]`, a network answers without an error when it runs freely."""
    correct = 0
    for start in range(0, len(problems), _AT_ONCE):
        batch = network.task.batch(problems[start : start + _AT_ONCE])
        answers = np.asarray(network.answer(batch.inputs))
        correct += int((answers == np.asarray(batch.targets)).all(axis=1).sum())
    return correct


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
