"""What a person sees of a run in the terminal: the header, the progress bar and the outcome."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd import costs, runs
from jaxadd.analysis.answers import exact_match, free_run
from jaxadd.analysis.outcomes import or_never, quantiles
from jaxadd.config import RunConfig
from jaxadd.fit import Progress
from jaxadd.lanes import take
from jaxadd.model import Params
from jaxadd.summaries import LEARNED, step_of
from jaxadd.tasks import Batch
from jaxadd.train import Trainer
from jaxadd.trees import named_leaves, nest

INDENT = 12
_SHOWN_ANSWERS = 5


class Answers(NamedTuple):
    """What the first lane of a run answers to a batch.

    Attributes:
      inputs: `[B, T]`.
      targets: int32 `[B, R]`.
      claims: int32 `[B, R]`, the class of the largest logit; free-running where answers are fed back.
      wrong: int `[·]`, the examples with a wrong claim.
    """

    inputs: np.ndarray
    targets: np.ndarray
    claims: np.ndarray
    wrong: np.ndarray


def final_params(trainer: Trainer, record: runs.Record) -> Params:
    """Give the final parameters of a complete run as the model takes them, with a leading S axis."""
    return nest(record.params, trainer.abstract_state().params)


def answers(trainer: Trainer, record: runs.Record, batch: Batch | None = None) -> Answers:
    """Let the first lane of a finished run answer a batch, its own test set by default."""
    params, split = take((final_params(trainer, record), trainer.data.lane), 0)
    if batch is None:
        batch = trainer.config.task.test_batch(trainer.data._replace(lane=split))
    claims = np.asarray(claim(trainer, params, batch.inputs))
    targets = np.asarray(batch.targets)
    return Answers(np.asarray(batch.inputs), targets, claims, np.flatnonzero((claims != targets).any(axis=-1)))


def claim(trainer: Trainer, params: Params, inputs: jax.Array) -> jax.Array:
    """Let one lane answer: int32 `[B, R]`; an autoregressive task gets the network's own answers so far as input."""
    predict, sizes = trainer.predict(params), trainer.config.task.sizes
    if sizes.autoregressive:
        return jax.jit(lambda inputs: free_run(predict, inputs, sizes.read))(inputs)
    return jax.jit(predict)(inputs).argmax(axis=-1)


def accuracy(trainer: Trainer, record: runs.Record, batch: Batch, at_once: int = 4096) -> np.ndarray:
    """Compute the share of a batch that each lane of a finished run answers rightly at every position: `[S]`.

    For addition this is exact match, teacher-forced and free-running alike; see `answers.exact_match`.
    """
    params = final_params(trainer, record)
    count = len(batch.targets)
    right = np.zeros(len(trainer.config.seeds))
    for start in range(0, count, at_once):
        part = jax.tree.map(lambda x: x[start : start + at_once], batch)  # noqa: B023
        for s in range(len(right)):
            right[s] += _count_right(trainer.model.apply, take(params, s), part)
    return right / count


# Compiled once per network and batch size, however many batches are counted.
@functools.partial(jax.jit, static_argnums=0)
def _count_right(apply: Callable, params: Params, batch: Batch) -> jax.Array:
    return jnp.sum(exact_match(apply(params, batch.inputs)[0], batch.targets))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows of cells out in columns; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def spread(values: Sequence[float | None], form: str = "{:,.0f}") -> str:
    """Write a median with its range, "690 (470 to 760)".

    None, inf and NaN (a lane that diverged) mean never, which comes after all others; how many reached is then told.
    """
    first, middle, last = quantiles(values, (0, 0.5, 1))
    say = lambda value: "never" if np.isinf(value) else form.format(value)  # noqa: E731
    reached = np.isfinite(or_never(values)).sum()
    count = f", {reached} of {len(values)}" if 0 < reached < len(values) else ""
    return say(middle) if first == last else f"{say(middle)} ({say(first)} to {say(last)}{count})"


def title(config: RunConfig) -> str:
    """Name a run for a figure: its task and its lanes."""
    return f"{config.task.title}, " + (
        f"seed {config.seeds[0]}" if len(config.seeds) == 1 else f"{len(config.seeds)} seeds, median and range"
    )


def header(trainer: Trainer, folder: Path) -> str:
    """Describe a run before it starts."""
    config, place = trainer.config, runs.environment()
    batch, test = (jax.tree.leaves(shapes)[0].shape[0] for shapes in trainer.abstract_batches())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trainer.abstract_state().params)) // len(config.seeds)
    stop = f", stops at {config.stop.metric} {config.stop.threshold:g}" if config.stop.metric != "none" else ""
    lines = {
        "task": _fields(config.task),
        "": f"{batch:,} examples a step, {test:,} test examples, {config.task.sizes.classes} classes",
        "model": _fields(config.model),
        " ": f"{parameters:,} parameters, {config.model.dtype}, matrix precision {config.model.precision}",
        "  ": f"{_engineering(costs.arithmetic(trainer))}FLOP in matrix products, a step and lane",
        "optimizer": _fields(config.optimizer),
        "run": f"{config.steps:,} steps{stop}; test set every {config.eval_every}, "
        f"checkpoint every {config.checkpoint_every}; seeds {', '.join(map(str, config.seeds))}",
        "device": f"{place['device']}; JAX {place['jax']}, Python {place['python']}",
        "folder": str(folder),
    }
    return "\n".join(f"{name:<{INDENT}}{text}" for name, text in lines.items())


def _engineering(value: float) -> str:
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= scale:
            return f"{value / scale:.2f} {prefix}"
    return f"{value / 1e3:.1f} k"


def _fields(config: Any) -> str:
    hidden = ("dtype", "precision")
    values = (f"{f.name} {getattr(config, f.name)}" for f in dataclasses.fields(config) if f.name not in hidden)
    return f"{type(config).__name__}: " + ", ".join(values)


def shapes(trainer: Trainer) -> str:
    """List the dtype and shape of every batch, parameter, gradient, optimiser array and activation of one lane."""
    model, (train, test) = trainer.model, trainer.abstract_batches()
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), trainer.abstract_state())
    look = lambda params, batch: model.apply(params, batch.inputs, names=model.names)  # noqa: E731
    _, seen = jax.eval_shape(look, state.params, train)
    gradients, _ = jax.eval_shape(jax.grad(trainer.loss, has_aux=True), state.params, train)
    parts = {
        "batch": {"train": train, "test": test},
        "parameter": state.params,
        "gradient": gradients,
        "optimizer": state.opt_state,
        "activation": {name: seen[name] for name in model.names},
    }
    rows = [(part, *row) for part, tree in parts.items() for row in named_leaves(tree)]
    width = max(len(name) for _, name, _ in rows)
    return "\n".join(
        f"  {part:<11}{name:<{width}}  {leaf.dtype!s:<8} {list(leaf.shape)}" for part, name, leaf in rows
    )


@contextlib.contextmanager
def progress_bar(total: int, label: str = "") -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """Show a bar up to step `total` with losses, accuracies, rate and time left; gives `watch` and `note`."""
    from tqdm import tqdm

    with tqdm(
        total=total,
        desc=f"{label}compiling",
        unit=" steps",
        dynamic_ncols=True,
        # A log file gets a line now and then, not one twice a second.
        mininterval=0.1 if sys.stderr.isatty() else 20,
        delay=0 if sys.stderr.isatty() else 5,
        bar_format="{desc}{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{postfix}, {rate_noinv_fmt}, "
        "{remaining} left",
    ) as bar:

        def watch(progress: Progress) -> None:
            made = min(progress.done, total)
            if bar.desc != label:  # The first chunk: what was made before, and compiling, do not count for the rate.
                bar.set_description_str(label, refresh=False)
                bar.initial = bar.n = bar.last_print_n = made
                bar.start_t = bar.last_print_t = bar._time()
            values = {name: _median(lanes) for name, lanes in progress.latest.items()}
            bar.set_postfix_str(
                "train {train_loss:.1e} {train_accuracy:.1%}, test {test_loss:.1e} {test_accuracy:.1%}".format(
                    **values
                ),
                refresh=False,
            )
            bar.update(made - bar.n)

        def note(text: str) -> None:
            bar.write(f"note: {text}", file=sys.stderr)

        try:
            yield watch, note
        except BaseException:
            bar.leave = False  # What went wrong is said instead.
            raise


def _median(lanes: np.ndarray) -> float:
    return float("nan") if np.isnan(lanes).all() else float(np.nanmedian(lanes))


def outcome(trainer: Trainer, record: runs.Record) -> str:
    """Tell how a run ended: a table of its lanes, its speed, and the first few wrong answers in words."""
    summary, config = record.summary, trainer.config
    columns = ("seed", "status", "steps", "train ≥ 99 %", "test ≥ 99 %", "train loss", "test loss", "test accuracy")
    rows = [columns]
    for lane in summary["lanes"]:
        steps = [lane[step_of(LEARNED[part])] for part in ("train", "test")]
        losses = [lane[f"final_{part}_loss"] for part in ("train", "test")]
        accuracy = lane["final_test_accuracy"]
        rows.append(
            (
                str(lane["seed"]),
                lane["status"],
                f"{lane['steps']:,}",
                *("never" if step is None else f"step {step:,}" for step in steps),
                *("none" if loss is None else f"{loss:.2e}" for loss in losses),
                "none" if accuracy is None else f"{accuracy:.2%}",
            )
        )
    pace = summary["lane_steps_per_second"]
    rate = f" ({pace:.1f} {'steps' if len(config.seeds) == 1 else 'lane-steps'}/s)" if pace else ""
    speed = f"{summary['run_seconds']:.1f} s running{rate}, {summary['compile_seconds']:.1f} s compiling"
    test = answers(trainer, record)
    wrong = f"{len(test.wrong):,} of {len(test.targets):,} test answers (seed {config.seeds[0]})"
    said = [
        f"  {config.task.describe(test.inputs[i], test.targets[i], test.claims[i])}"
        for i in test.wrong[:_SHOWN_ANSWERS]
    ]
    return "\n".join(["", table(rows), "", f"{'time':<{INDENT}}{speed}", f"{'wrong':<{INDENT}}{wrong}", *said])
