"""Find the loss spikes of a run, run it again exactly around the largest, and look at what breaks."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxadd.analysis import circuits, spikes
from jaxadd.analysis.addition import ablation
from jaxadd.analysis.spikes import Spike
from jaxadd.cli import experiment
from jaxadd.errors import UserError
from jaxadd.files import read_npz
from jaxadd.lanes import find, take
from jaxadd.optim import losses
from jaxadd.optim.optimizers import Adam, AdamW
from jaxadd.runs import replay, train
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.carries import CLASSES
from jaxadd.training.step import TrainState
from jaxadd.training.trainer import Trainer
from jaxadd.trees import named_leaves
from jaxadd.types import Metrics, Params
from jaxadd.views import figures, terminal

_SHOWN = 12  # spikes in the table
_LONGEST = 200  # steps looked into


@dataclass(frozen=True)
class Options:
    """Find the loss spikes of a run, run it again exactly around the largest, and look at what breaks.

    A spike is a train loss above --factor times the median of the 100 steps before, three steps long or more. Around
    the largest (in nats) every step is replayed with the test set evaluated, and of each state the gradient by
    parameter, the curvature that Adam meets there, and the problem with the largest loss are measured. Then single
    parameters are exchanged between the states before the spike and at its peak. Tables and figures go to
    RUN/spikes/STEP-seedSEED.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """the run folder, such as runs/digit_addition/cascades"""
    seed: int | None = None
    """look at this seed only"""
    step: int | None = None
    """look at the spike nearest to this step instead of the largest"""
    factor: float = spikes.FACTOR
    """how far above the median before it the loss of a spike is"""
    margin: int = 30
    """steps looked at before the spike and after its peak"""


@dataclass
class _Inside:
    """What is collected at every step; `see` is called with each state."""

    trainer: Trainer
    lane: int
    step: list[int] = field(default_factory=list)
    norms: list[np.ndarray] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)
    worst: list["_Worst"] = field(default_factory=list)
    params: dict[int, Params] = field(default_factory=dict)
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        task, data = self.trainer.config.task, self.trainer.lane_data(self.lane)
        hyper = take(self.trainer.hyper, self.lane)

        @jax.jit
        def look(state: TrainState) -> tuple[spikes.Look, "_Worst"]:
            batch = task.train_batch(data, state.key, state.step)
            scale = None
            if isinstance(hyper.optimizer, AdamW | Adam):
                scale = spikes.adam_scale(state.opt_state, hyper.optimizer.b2, hyper.optimizer.eps)
            seen = spikes.look(lambda w: self.trainer.objective(w, batch, hyper)[0], state.params, scale)
            logits = self.trainer.predict(state.params)(batch.inputs)
            loss = jnp.mean(losses.cross_entropy(logits, batch.targets), axis=1)
            i = jnp.argmax(loss)
            example = batch.inputs[i], batch.targets[i], jnp.argmax(logits[i], axis=-1)
            return seen, _Worst(loss[i] / jnp.sum(loss), *example)

        self._look = look
        self._direction = None

    def see(self, state: TrainState) -> None:
        own = take(state, self.lane)
        seen, worst = jax.device_get(self._look(own))
        step = int(own.step)
        self.step.append(step)
        self.norms.append(seen.norms)
        self.cosine.append(np.nan if self._direction is None else float(self._direction @ seen.direction))
        self.sharpness.append(float(seen.sharpness))
        self.worst.append(worst)
        self._direction = seen.direction
        if step in self.keep:
            self.params[step] = jax.device_get(own.params)


class _Worst(NamedTuple):
    """The problem of a batch with the largest loss: its share in the sum, inputs, targets and the claim."""

    share: Any
    inputs: Any
    targets: Any
    claim: Any


def main(options: Options) -> int:
    """Find, replay, print and draw; gives the exit status."""
    if options.factor <= 1 or options.margin < 1:
        raise UserError("--factor must be above 1 and --margin at least 1")
    record = train.load(options.run)
    config, metrics = record.origin.config, record.metrics
    lanes = range(len(config.seeds)) if options.seed is None else [find(config.seeds, options.seed)]
    found = {s: spikes.find(metrics["train_loss"][s], metrics["step"], factor=options.factor) for s in lanes}
    listed = [(s, spike) for s in lanes for spike in found[s]]
    if not listed:
        print(f"no spike: no train loss stays above {options.factor:g} times the median of the steps before it")
        return 0
    distance = lambda entry: abs(entry[1].peak - (options.step or 0))
    lane, spike = max(listed, key=_rise) if options.step is None else min(listed, key=distance)
    seed = config.seeds[lane]
    overview = _overview(listed, lanes, config.seeds)
    print(f"{overview}\n\nlooking into that of seed {seed} at step {spike.peak:,}\n")

    start = max(0, spike.start - options.margin)
    stop = min(spike.peak + options.margin, start + _LONGEST, int(metrics["step"][-1]))
    trainer = Trainer(config)
    inside = _Inside(trainer, lane, keep=(start, spike.peak))
    with terminal.progress_bar(stop) as (watch, note):
        again = replay.replay(
            options.run,
            start,
            stop,
            (start, spike.peak),
            name=f"spike-{start}-{stop}",
            replace=True,
            see=inside.see,
            watch=watch,
            note=note,
        )
    replayed = take({k: v for k, v in read_npz(again / "metrics.npz").items() if not k.endswith("step")}, lane)
    findings = _conclude(trainer, lane, spike, inside, replayed, terminal.title(config))
    folder = options.run / "spikes" / f"{spike.peak}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "run": figures.spikes(
            metrics["step"], metrics["train_loss"][lane], found[lane], f"{config.task.title}, seed {seed}"
        )
    }
    experiment.show(folder, experiment.Findings(drawn | findings.figures, f"{overview}\n\n{findings.text}"))
    return 0


def _rise(entry: tuple[int, Spike]) -> float:
    return entry[1].height - entry[1].before


def _overview(listed: Sequence[tuple[int, Spike]], lanes: Iterable[int], seeds: Sequence[int]) -> str:
    """Tell how many spikes the lanes had, and list the largest."""
    rows = [("seed", "steps", "peak", "loss before", "at the peak")]
    for s, spike in sorted(listed, key=_rise, reverse=True)[:_SHOWN]:
        steps = f"{spike.start:,} to {'the end' if spike.end is None else f'{spike.end:,}'}"
        rows.append((str(seeds[s]), steps, f"{spike.peak:,}", f"{spike.before:.2g}", f"{spike.height:.2g}"))
    more = f"\nand {len(listed) - _SHOWN} smaller ones" if len(listed) > _SHOWN else ""
    per = ", ".join(f"{sum(s == lane for s, _ in listed)} of seed {seeds[lane]}" for lane in lanes)
    return f"{len(listed)} spikes ({per}), the largest first\n{terminal.table(rows)}{more}"


def _conclude(
    trainer: Trainer, lane: int, spike: Spike, inside: _Inside, replayed: Metrics, title: str
) -> experiment.Findings:
    task, names = trainer.config.task, [name for name, _ in named_leaves(inside.params[spike.peak])]
    step, norms = np.array(inside.step), np.stack(inside.norms)
    before, peak = inside.params[min(inside.params)], inside.params[spike.peak]
    digits = [f"A{d}" for d in task.read_digits] if isinstance(task, Addition) else []
    train, test = replayed["train_loss"], replayed["test_loss"]
    curves = {"train batch": train, "test": test}
    curves |= {f"test {name}": replayed["evaluation/digit_loss"][:, r] for r, name in enumerate(digits)}
    sharp = np.array(inside.sharpness)
    optimizer = take(trainer.hyper, lane).optimizer
    limit = spikes.adam_limit(optimizer.lr, optimizer.b1) if np.isfinite(sharp).any() else np.nan
    worst = np.array([w.share for w in inside.worst])
    dynamics = {
        "share of the batch's loss\nin one problem": (worst, None),
        "cosine with the\ngradient before": (np.array(inside.cosine), None),
        "sharpness, in units of\nwhat Adam bears": (sharp / limit, 1.0),
    }
    gradients = {name: norms[:, i] for i, name in enumerate(names)}
    where = f"{task.title}, seed {trainer.config.seeds[lane]}"
    drawn = {"inside": figures.spike(step, curves, gradients, where, start=spike.start, dynamics=dynamics)}

    batch = task.test_batch(trainer.lane_data(lane))
    apply = trainer.model.apply
    exchanged = spikes.exchange(
        lambda w: jnp.mean(losses.cross_entropy(apply(w, batch.inputs)[0], batch.targets)), before, peak
    )
    at = int(np.searchsorted(step, spike.peak))
    drawn["parameters"] = figures.exchanged(names, exchanged.moved, exchanged.restored, test[0], test[at], where)

    lines = []
    if np.isfinite(limit):
        above = step[sharp > limit]
        when = (
            f"above it from step {above[0]:,} on, {spike.start - above[0]} steps before the spike"
            if above.size
            else "never above it"
        )
        lines.append(
            f"sharpness: Adam bears {limit:,.0f}; {when}; the most is {np.nanmax(sharp) / limit:,.2g} times that"
        )
    begun = int(np.searchsorted(step, spike.start))
    for i in np.unique([max(begun - 1, 0), begun, at]):
        example = inside.worst[i]
        said = task.describe(example.inputs, example.targets, example.claim).partition("\n")[0]
        lines.append(
            f"step {step[i]:,}: {worst[i]:.0%} of the batch's loss ({train[i]:.2g} nats) is of one problem, {said}"
        )
    growth = norms[at] / np.median(norms[step < spike.start], axis=0)
    lines.append(
        "gradient at the peak, times its median before: "
        + ", ".join(f"{names[i]} {growth[i]:,.0f}" for i in np.argsort(-growth)[:3])
    )
    most, heals = int(np.argmax(exchanged.moved)), int(np.argmin(exchanged.restored))
    lines.append(
        f"test loss {test[0]:.2g} before, {test[at]:.2g} at the peak; with only {names[most]} moved "
        f"{exchanged.moved[most]:.2g}, with only {names[heals]} put back {exchanged.restored[heals]:.2g}"
    )
    if digits:
        loss, right = replayed["evaluation/digit_loss"], replayed["evaluation/accuracy_by_class"]
        drawn["broken"] = figures.spike_damage(step, loss, 1 - right, digits, CLASSES, where)
        rise = loss[at] - loss[0]
        lines.append(
            "digits, rise of the test loss at the peak: "
            + ", ".join(f"{digits[r]} {rise[r]:+.2g}" for r in np.argsort(-rise))
        )
        lines.append(
            "classes, wrong answers before and at the peak: "
            + ", ".join(
                f"{name} {1 - right[0, g]:.1%} to {1 - right[at, g]:.1%}"
                for g, name in enumerate(CLASSES)
                if np.isfinite(right[at, g])
            )
        )
    if any(name.endswith("hook_pattern") for name in trainer.model.names):
        patterns = [circuits.mean_attention(w, apply, batch.inputs, task.sizes.read) for w in (before, peak)]
        tokens = ablation.token_names(task) if digits else ("a", "b", "=")
        change = patterns[1] - patterns[0]
        layer, head = np.unravel_index(np.argmax(np.abs(change).max(axis=(2, 3))), change.shape[:2])
        lines.append(f"attention: that of L{layer}H{head} changes most, by {np.abs(change[layer, head]).max():.2f}")
        drawn["attention"] = figures.attention_change(*patterns, digits or ["="], tokens, where)
    return experiment.Findings(drawn, "\n".join(lines))


if __name__ == "__main__":
    sys.exit(experiment.command("experiments.spike", Options, main))
