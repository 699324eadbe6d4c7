"""What a person sees of a run in the terminal: the header, the progress bar and the outcome."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxadd.runs import Machine, Run
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.tables import table
from jaxadd.training import costs
from jaxadd.training.loop import Progress
from jaxadd.training.trainer import Trainer
from jaxadd.trees import named_leaves

INDENT = 12
_SHOWN_ERRORS = 5
_SECONDS_A_LINE = 30.0  # Of progress, where there is no terminal.


def header(trainer: Trainer, folder: Path) -> str:
    """Describe a run before it starts."""
    config, machine = trainer.config, Machine.this(trainer.slots.size)
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
        "device": f"{machine.device}; JAX {machine.jax}, Python {machine.python}",
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
    look = lambda params, batch: model.apply(params, batch.inputs, names=model.names)
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
    """Show how far training is up to step `total`, with losses and accuracies; yields `watch` and `note`.

    A terminal shows a bar with the rate and the time left. Elsewhere, as in a log file, a line is added now and then.
    """
    if not sys.stderr.isatty():
        yield _lines(total, label)
        return
    from tqdm import tqdm

    with tqdm(
        total=total,
        desc=f"{label}compiling",
        unit=" steps",
        dynamic_ncols=True,
        leave=False,  # A run that was complete already leaves no bar.
        bar_format="{desc}{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{postfix}, {rate_noinv_fmt}, "
        "{remaining} left",
    ) as bar:

        def watch(progress: Progress) -> None:
            made, bar.leave = min(progress.done, total), True
            if bar.desc != label:  # The first chunk: what was made before, and compiling, do not count for the rate.
                bar.set_description_str(label, refresh=False)
                bar.initial = bar.n = bar.last_print_n = made
                bar.start_t = bar.last_print_t = bar._time()
            bar.set_postfix_str(_performance(progress), refresh=False)
            bar.update(made - bar.n)

        try:
            yield watch, lambda text: bar.write(f"note: {text}", file=sys.stderr)
        except BaseException:
            bar.leave = False  # What went wrong is said instead.
            raise


@contextlib.contextmanager
def counting(label: str) -> Iterator[Callable[[float, int], None]]:
    """Show how many parts of some work are done; yields a function of the number done, and of all.

    The number may be fractional, within a part that takes long.

    A terminal shows a bar; elsewhere a line is added now and then.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=label, unit=" parts", dynamic_ncols=True, leave=False) as bar:

            def watch(done: float, total: int) -> None:
                bar.total = total
                bar.update(round(done, 1) - bar.n)

            yield watch
        return
    printed = time.monotonic()

    def lines(done: float, total: int) -> None:
        nonlocal printed
        if time.monotonic() - printed >= _SECONDS_A_LINE:
            printed = time.monotonic()
            print(f"{label}: {round(done, 1):,} of {total:,} parts", file=sys.stderr, flush=True)

    yield lines


def _lines(total: int, label: str) -> tuple[Callable[[Progress], None], Callable[[str], None]]:
    """Return `watch` and `note` that print whole lines: of progress at most one every half minute."""
    printed = time.monotonic()

    def watch(progress: Progress) -> None:
        nonlocal printed
        if time.monotonic() - printed >= _SECONDS_A_LINE:
            printed = time.monotonic()
            made = min(progress.done, total)
            print(f"{label}step {made:,} of {total:,}, {_performance(progress)}", file=sys.stderr, flush=True)

    return watch, lambda text: print(f"note: {text}", file=sys.stderr, flush=True)


def _performance(progress: Progress) -> str:
    values = {name: _median(lanes) for name, lanes in progress.latest.items()}
    return "train {train_loss:.1e} {train_accuracy:.1%}, test {test_loss:.1e} {test_accuracy:.1%}".format(**values)


def _median(lanes: np.ndarray) -> float:
    return float("nan") if np.isnan(lanes).all() else float(np.nanmedian(lanes))


def outcome(run: Run) -> str:
    """Describe how a run ended: a table of its lanes, its speed, and the first few errors in words."""
    summary, seeds = run.summary, run.config.seeds
    assert summary is not None, "a run has an outcome when it is complete"
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
    rate = f" ({pace:.1f} {'steps' if len(seeds) == 1 else 'lane-steps'}/s)" if pace else ""
    speed = f"{summary['run_seconds']:.1f} s running{rate}, {summary['compile_seconds']:.1f} s compiling"
    network = run.networks()[0]
    batch = network.task.test_batch(network.data)
    inputs, targets, answers = (np.asarray(x) for x in (batch.inputs, batch.targets, network.answer(batch.inputs)))
    errors = np.flatnonzero((answers != targets).any(axis=-1))
    count = f"{len(errors):,} of {len(targets):,} test answers (seed {seeds[0]})"
    shown = [f"  {network.task.describe(inputs[i], targets[i], answers[i])}" for i in errors[:_SHOWN_ERRORS]]
    return "\n".join(["", table(rows), "", f"{'time':<{INDENT}}{speed}", f"{'errors':<{INDENT}}{count}", *shown])
