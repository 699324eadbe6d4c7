"""A look inside a loss spike: what happens at each step, and what the states before it and at its peak show."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis import circuits, spikes
from jaxadd.analysis.spikes import Spike
from jaxadd.lanes import take
from jaxadd.models import structure
from jaxadd.optim import losses, scores
from jaxadd.training.step import TrainState
from jaxadd.training.trainer import Trainer
from jaxadd.trees import named_leaves
from jaxadd.types import Metrics, Params
from jaxadd.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Hardest(NamedTuple):
    """The problem of a batch with the largest loss: its fraction of the batch's loss, inputs, targets, prediction."""

    fraction: Any
    inputs: Any
    targets: Any
    prediction: Any


class Recorder:
    """Looks at one lane at every step of a replay; `see` is called with each state.

    Attributes:
      step: `[T]`.
      looks: of each step, see `spikes.Look`.
      hardest: problem of each step's batch.
      params: parameters at the steps to keep, by step.
    """

    def __init__(self, trainer: Trainer, lane: int, keep: Collection[int]):
        """Prepare to look at a lane of a run, and to keep its parameters at some steps."""
        self.lane, self.keep = lane, keep
        self.step: list[int] = []
        self.looks: list[spikes.Look] = []
        self.hardest: list[Hardest] = []
        self.params: dict[int, Params] = {}
        task, data, hyper = trainer.config.task, trainer.lane_data(lane), take(trainer.hyper, lane)

        @jax.jit
        def look(state: TrainState) -> tuple[spikes.Look, Hardest]:
            batch = task.train_batch(data, state.key, state.step)
            scale = spikes.preconditioner(hyper.optimizer, state.opt_state)
            seen = spikes.look(
                lambda w: trainer.objective(w, batch, hyper, trainer.step.dropout_key(state))[0], state.params, scale
            )
            logits = trainer.predict(state.params)(batch.inputs)
            loss = jnp.mean(losses.cross_entropy(logits, batch.targets), axis=1)
            i = jnp.argmax(jnp.where(jnp.isnan(loss), jnp.inf, loss))
            example = batch.inputs[i], batch.targets[i], scores.greedy(logits[i])
            return seen, Hardest(loss[i] / jnp.sum(loss), *example)

        self._look = look

    def see(self, state: TrainState) -> None:
        """Look at the state of all lanes before a step."""
        one = take(state, self.lane)
        seen, hardest = jax.device_get(self._look(one))
        step = int(one.step)
        self.step.append(step)
        self.looks.append(seen)
        self.hardest.append(hardest)
        if step in self.keep:
            self.params[step] = jax.device_get(one.params)

    @property
    def cosine(self) -> np.ndarray:
        """The cosine of each step's gradient with that of the step before, `[T]`; NaN at the first."""
        pairs = zip(self.looks, self.looks[1:], strict=False)
        return np.array([np.nan, *(float(a.direction @ b.direction) for a, b in pairs)])


class Inside(NamedTuple):
    """A spike that was replayed.

    Attributes:
      trainer: of the run.
      lane: the one with the spike.
      spike: where it is.
      recorder: what was seen at every step.
      metrics: of the lane at the steps replayed, each array `[T, ...]`.
    """

    trainer: Trainer
    lane: int
    spike: Spike
    recorder: Recorder
    metrics: Metrics

    @property
    def title(self) -> str:
        """What the figures are of."""
        config = self.trainer.config
        return f"{config.task.title}, seed {config.seeds[self.lane]}"

    @property
    def peak(self) -> int:
        """The index of the peak among the steps replayed."""
        return int(np.searchsorted(self.recorder.step, self.spike.peak))


def report(inside: Inside) -> tuple[str, dict[str, "Figure"]]:
    """Describe a spike from inside: returns a text, and figures by file name."""
    lines: list[str] = []
    drawn: dict[str, Figure] = {}
    for part in (_steps, _parameters, _evaluations, _attention):
        words, figure = part(inside)
        lines += words
        drawn |= figure
    return "\n".join(lines), drawn


_Part = tuple[list[str], dict[str, "Figure"]]


def _steps(inside: Inside) -> _Part:
    """Describe how loss, gradient and sharpness went."""
    recorder, spike, metrics = inside.recorder, inside.spike, inside.metrics
    step, task = np.array(recorder.step), inside.trainer.config.task
    norms = np.stack([look.norms for look in recorder.looks])
    sharpness = np.array([float(look.sharpness) for look in recorder.looks])
    fraction = np.array([hardest.fraction for hardest in recorder.hardest])
    names = [name for name, _ in named_leaves(recorder.params[spike.peak])]
    hyper = take(inside.trainer.hyper, inside.lane)
    with np.errstate(divide="ignore"):  # A learning rate of 0 is stable at any sharpness.
        factor = np.broadcast_to(np.asarray(hyper.schedule.factor(step)), step.shape)
        limit = np.asarray(spikes.stability_limit(hyper.optimizer)) / factor

    curves = {"train batch": metrics["train_loss"], "test": metrics["test_loss"]}
    if (by_answer := metrics.get("evaluation/digit_loss")) is not None:
        curves |= {f"test {name}": by_answer[:, r] for r, name in enumerate(task.answer_names)}
    dynamics = {
        "fraction of the batch's\nloss in one problem": (fraction, None),
        "cosine with the\ngradient before": (recorder.cosine, None),
        "sharpness / the most that\nthe optimiser is stable at": (sharpness / limit, 1.0),
    }
    gradients = {name: norms[:, i] for i, name in enumerate(names)}
    figure = figures.spike(step, curves, gradients, inside.title, start=spike.start, dynamics=dynamics)

    lines = [] if np.isnan(limit).all() else [_sharpness(step, sharpness, limit, spike)]
    start = int(np.searchsorted(step, spike.start))
    for i in np.unique([max(start - 1, 0), start, inside.peak]):
        hardest, loss = recorder.hardest[i], metrics["train_loss"][i]
        words = task.describe(hardest.inputs, hardest.targets, hardest.prediction).partition("\n")[0]
        lines.append(
            f"step {step[i]:,}: {fraction[i]:.0%} of the batch's loss ({loss:.2g} nats) is of one problem, {words}"
        )
    growth = norms[inside.peak] / np.median(norms[step < spike.start], axis=0)
    largest = ", ".join(f"{names[i]} {growth[i]:,.0f}" for i in np.argsort(-growth)[:3])
    return [*lines, f"gradient at the peak, times its median before: {largest}"], {"inside": figure}


def _sharpness(step: np.ndarray, sharpness: np.ndarray, limit: np.ndarray, spike: Spike) -> str:
    above = step[sharpness > limit]
    when = (
        f"above it from step {above[0]:,} on, {spike.start - above[0]} steps before the spike"
        if above.size
        else "never above it"
    )
    most, at_start = np.nanmax(sharpness / limit), limit[np.searchsorted(step, spike.start)]
    return (
        f"sharpness: the optimiser is stable up to {at_start:,.0f} at the start of the spike; {when}; the most is "
        f"{most:,.2g} times the limit"
    )


def _parameters(inside: Inside) -> _Part:
    """Describe which parameter's movement raised the test loss: single ones exchanged between before and the peak."""
    trainer, params, test = inside.trainer, inside.recorder.params, inside.metrics["test_loss"]
    before, peak = params[min(params)], params[inside.spike.peak]
    batch = trainer.config.task.test_batch(trainer.lane_data(inside.lane))
    loss = lambda w: jnp.mean(losses.cross_entropy(trainer.predict(w)(batch.inputs), batch.targets))
    exchanged = spikes.exchange(loss, before, peak)
    names = [name for name, _ in named_leaves(peak)]
    # A loss that is not finite is the largest.
    most, heals = int(np.argmax(exchanged.moved)), int(np.argmin(np.nan_to_num(exchanged.restored, nan=np.inf)))
    line = (
        f"test loss {test[0]:.2g} before, {test[inside.peak]:.2g} at the peak; with only {names[most]} from the peak "
        f"{exchanged.moved[most]:.2g}, with only {names[heals]} put back {exchanged.restored[heals]:.2g}"
    )
    figure = figures.exchanged(names, exchanged.moved, exchanged.restored, test[0], test[inside.peak], inside.title)
    return [line], {"parameters": figure}


def _evaluations(inside: Inside) -> _Part:
    """Describe which answers and classes of problems break, where the task records them."""
    task, peak = inside.trainer.config.task, inside.peak
    by_answer, by_class = (inside.metrics.get(f"evaluation/{n}") for n in ("digit_loss", "accuracy_by_class"))
    lines: list[str] = []
    drawn: dict[str, Figure] = {}
    if by_answer is not None:
        rise = by_answer[peak] - by_answer[0]
        changes = (f"{task.answer_names[r]} {rise[r]:+.2g}" for r in np.argsort(-rise))
        lines.append(f"rise of the test loss at the peak, by answer: {', '.join(changes)}")
    if by_class is not None:
        errors = 1 - by_class
        changes = (
            f"{name} {errors[0, g]:.1%} to {errors[peak, g]:.1%}"
            for g, name in enumerate(task.class_names)
            if np.isfinite(errors[peak, g])
        )
        lines.append(f"errors before and at the peak, by class: {', '.join(changes)}")
        if by_answer is not None:
            step = np.array(inside.recorder.step)
            names = task.answer_names, task.class_names
            drawn["broken"] = figures.spike_damage(step, by_answer, errors, *names, inside.title)
    return lines, drawn


def _attention(inside: Inside) -> _Part:
    """Describe which head's attention changes most, in a transformer."""
    trainer, params, task = inside.trainer, inside.recorder.params, inside.trainer.config.task
    if not structure.is_transformer(trainer.model):
        return [], {}
    inputs = task.test_batch(trainer.lane_data(inside.lane)).inputs
    states: Sequence[Params] = (params[min(params)], params[inside.spike.peak])
    patterns = [np.asarray(circuits.mean_attention(w, trainer.model, inputs)) for w in states]
    change = np.abs(patterns[1] - patterns[0]).max(axis=(2, 3))
    layer, head = np.unravel_index(np.argmax(change), change.shape)
    line = f"attention: that of L{layer}H{head} changes most, by {change[layer, head]:.2f}"
    return [line], {
        "attention": figures.attention_change(*patterns, task.answer_names, task.position_names, inside.title)
    }
