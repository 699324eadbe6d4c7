"""How small can a transformer be that learns to add ten digits, and how many seeds learn it?

The contest is AdderBoard: digits alone, units first, exact match on ten edge cases and 10,000 random problems; 99 %
passes. The presets are named by their number of parameters; weights that are used twice count once. The block is
that of the published adders: RMSNorm, rotary positions, a gated MLP, and the embedding as unembedding. Networks train
on short numbers first and on many carries, with AdamW and a learning rate that falls along a cosine. Whether a seed
learns is chaotic. Networks whose train loss ends low are refined by Levenberg-Marquardt steps, which so few
parameters allow.

`p40` ends with networks that pass: 2 of seeds 0 to 3, and 3 of seeds 0 to 7. `p34`, `p40`, `p44`, `p50`, `p58` and
`p86` embed digits on an arc, and their rotary positions count the places of digits. The attention of `p34` and `p40`
depends on distance alone and begins sharp; `p44`, `p50` and `p58` have a head of width 2. `p122` and `p52` are
architectures of published adders. In the published results, some 30 % of 80 seeds of a network with 137 parameters
converge, and trained networks with 122, 57, 52 and 36 parameters pass. `debug` learns nothing.
"""

import sys
from dataclasses import dataclass, field, replace
from typing import Annotated

import jax
import numpy as np
import tyro

from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.models import Network, Transformer, Weights
from jaxadd.optim import scores
from jaxadd.optim.filters import GlobalNormClip, NoClip
from jaxadd.optim.optimizers import AdamW, LevenbergMarquardt
from jaxadd.optim.schedules import Constant, Cosine
from jaxadd.runs import Run
from jaxadd.tables import spread, table
from jaxadd.tasks import Curriculum, Mixture
from jaxadd.tasks.addition import board

_AT_ONCE = 2_002  # Problems; the suite is five times as many.
_RECENT = 20  # Steps over which the final loss is averaged.
_PART = 0.3  # Of a step that is made. It is seldom refused, so that damping falls; whole steps stay on plateaus.
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


@dataclass(frozen=True)
class Config:
    """A run, and how its networks are refined."""

    base: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    """the first training"""
    refine_steps: int = 150
    """Levenberg-Marquardt steps after the first training; 0 for none"""
    refine_batch: int = 2048
    """problems in the batch of such a step"""
    refine_below: float = 1.0
    """networks whose final train loss, nats, is below this are refined"""

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        return {} if self.refine_steps else dict.fromkeys(("refine_batch", "refine_below"), "refine_steps above 0")


def recipe(model: Transformer, steps: int = 60_000, lr: float = 0.02) -> Config:
    """Return the config that trains a network; the phases of the curriculum are fractions of the steps."""
    short, longer, fade, uniform = (round(steps * part) for part in (1 / 30, 7 / 60, 1 / 4, 3 / 4))
    task = replace(
        board.TASK,
        mixture=Mixture(uniform=0.2, enriched=0.4, cascades=0.4),
        curriculum=Curriculum(lengths=(3, 6, 10), until=(short, longer, fade), fade_begin=fade, fade_end=uniform),
        test_examples=512,
        cascade_examples=32,
    )
    run = RunConfig(
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
    return Config(run)


def _tied(model: Transformer, **ties: str) -> Transformer:
    return replace(model, weights=replace(model.weights, **ties))


_BY_PLACE = replace(
    _BLOCK, d_model=3, d_head=4, position_index="place", weights=Weights(embed="arc", unembed="embed")
)
# One pair of coordinates, of which eleven places are less than one turn.
_NARROW = replace(_BY_PLACE, d_head=2, d_mlp=2, rope_scale=0.5)

_BY_DISTANCE = Weights(embed="arc", unembed="embed", scores="distance", value_rank=1, norms="final")
_P86 = replace(_BY_PLACE, d_mlp=2)
_P34 = replace(_P86, qk_norm=False, weights=_BY_DISTANCE)
_P31 = replace(_P34, norm_weight=False, weights=replace(_BY_DISTANCE, norms="free"))

PRESETS = {
    "p40": replace(recipe(replace(_P31, d_mlp=3), steps=8_000, lr=0.01), refine_steps=300, refine_batch=1024),
    "p34": replace(recipe(_P34, steps=8_000, lr=0.01), refine_steps=500, refine_batch=1024, refine_below=1.2),
    "p44": recipe(_tied(_NARROW, norms="shared", value="key"), steps=14_000, lr=0.01),
    "p50": recipe(_tied(_NARROW, norms="shared"), steps=14_000, lr=0.01),
    "p58": recipe(_NARROW, steps=14_000, lr=0.01),
    "p86": recipe(_P86, steps=14_000, lr=0.01),
    "p122": recipe(replace(_BLOCK, d_model=3, d_head=4, d_mlp=3)),
    "p52": recipe(replace(_BLOCK, d_model=3, d_head=4, d_mlp=2, rope_pairs="interleaved", weights=_TIED)),
    "debug": Config(
        replace(recipe(_P34, steps=60).base, seeds=(0,), eval_every=30),
        refine_steps=2,
        refine_batch=64,
        refine_below=99.0,
    ),
}


def smallest() -> Network:
    """Return a trained adder of 31 parameters, each rounded to six digits; `certify` proves it on all 10²⁰ sums.

    It is one of 86 parameters that was refined, compressed to 34 and then to 31, see RESULTS.
    """
    model = _P31.build(board.TASK.sizes)
    params = {
        "embed": {"radius": 6316.53, "start": -0.65086, "stride": 0.0489441},
        "blocks.0": {
            "attn": {
                "b_Q": [[-0.709818, 37.2202, 14.9004, -4.30024]],
                "W_V": [[[-46.308], [-100.678], [0.777582]]],
                "W_O": [[[60.025, 128.838, 165.352]]],
            },
            "mlp": {
                "W_gate": [[0.720744, 1.88344], [-1.86601, 0.65516], [-1.10339, 1.11945]],
                "W_in": [[14.0592, 23.3179], [8.84723, -162.889], [8.19759, -79.7542]],
                "W_out": [[-172.659, -151.3, -149.963], [1.17161, 22.861, 14.0319]],
            },
        },
    }
    single = jax.tree.map(lambda shape, w: np.asarray(w, np.float32), model.shapes(), params)
    return Network(model.matrices(single), model.untied, board.TASK)


def conduct(config: Config, session: Session) -> Findings:
    """Train the lanes, refine those that learned, and count what each answers."""
    runs = {"trained": session.train(config.base, "adam", "training ")}
    if config.refine_steps and (learned := _below(runs["trained"], config.refine_below)):
        run = refined(config, str(session.folder / "adam"), learned)
        runs["refined"] = session.train(run, "refined", "refining ")
    return Findings({}, report(config, runs))


def _below(run: Run, most: float) -> tuple[int, ...]:
    """Return the seeds whose final train loss, averaged over some steps, is below a number of nats."""
    losses = np.mean(np.asarray(run.metrics["train_loss"])[:, -_RECENT:], axis=1)
    return tuple(seed for seed, loss in zip(run.config.seeds, losses, strict=True) if loss < most)


def refined(config: Config, source: str, seeds: tuple[int, ...]) -> RunConfig:
    """Return the config that goes on from the networks of a run by Levenberg-Marquardt steps."""
    steps = config.refine_steps
    mixture = Mixture(uniform=0.8, enriched=0.15, cascades=0.05)
    task = replace(config.base.task, mixture=mixture, curriculum=Curriculum(), batch_size=config.refine_batch)
    return replace(
        config.base,
        task=task,
        optimizer=LevenbergMarquardt(lr=_PART),
        clip=NoClip(),
        schedule=Constant(),
        steps=steps,
        eval_every=max(1, steps // 15),
        checkpoint_every=max(1, steps // 15),
        seeds=seeds,
        init_from=source,
    )


def report(config: Config, runs: dict[str, Run]) -> str:
    """Return the table: what each seed answers of the suite after each training, and how many pass."""
    problems = board.suite()
    needed = board.PASSES * len(problems)
    counts = {name: {net.seed: count_solved(net, problems) for net in run.networks()} for name, run in runs.items()}
    size = lambda run: sum(leaf.size for leaf in jax.tree.leaves(run.model.shapes()))
    rows = [("seed", *(f"{name}, {size(run)} parameters" for name, run in runs.items()), "passes")]
    last, passed, final = list(runs)[-1], 0, []
    for seed in config.base.seeds:
        solved = [counts[name].get(seed) for name in runs]
        at_last = counts[last].get(seed, counts["trained"][seed])
        passed += at_last >= needed
        final.append(at_last / len(problems))
        cells = ("" if count is None else f"{count:,}" for count in solved)
        rows.append((str(seed), *cells, "yes" if at_last >= needed else "no"))
    lines = [
        f"{size(runs[last])} parameters, {config.base.steps:,} steps: {passed} of {len(final)} seeds pass",
        f"exact match on the suite, {len(problems):,} problems: {spread(final, '{:.2%}')}",
        table(rows),
    ]
    return "\n".join(lines)


def count_solved(network: Network, problems: np.ndarray) -> int:
    """Return how many problems, int32 `[B, 2, 10]`, a network answers without an error when it runs freely.

    One pass over each problem with its answer shows that: the first error of the two is the same.
    """
    correct = 0
    for start in range(0, len(problems), _AT_ONCE):
        batch = network.task.batch(problems[start : start + _AT_ONCE])
        correct += int(np.sum(scores.exact_match(network(batch.inputs), batch.targets)))
    return correct


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
