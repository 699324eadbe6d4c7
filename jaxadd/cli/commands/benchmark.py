"""Time a training step beside its alternatives: PyTorch, the plain model, the machine's own limit, many lanes."""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jaxadd.cli import other_version, timing, torch_peer
from jaxadd.cli.timing import Timed
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.models.model import Precision
from jaxadd.runs import Machine
from jaxadd.tasks import Addition, Modular
from jaxadd.training import costs
from jaxadd.training.step import EVALUATIONS
from jaxadd.training.trainer import Trainer
from jaxadd.views import figures

TASKS = {"modular": Modular(), "addition": Addition()}
_MACHINE = "machine: 2048³ float32 product (GFLOP/s)"
_STEP = "jaxadd: train step"
_TORCH = "PyTorch eager"


@dataclass(frozen=True)
class Options:
    """Time a training step beside its alternatives, or with --lanes many networks at once.

    Prints a table of medians over repeats, interleaved so that a change of the machine's pace affects all rows alike.
    "plain" is the forward pass that computes everything for every example and position. PyTorch rows need torch
    (`uv run --group bench jaxadd benchmark`, with `--extra cuda13` before it on a GPU, where both then run): a tidy
    transcription of the model, eager, with float64 cross-entropy and AdamW.

    With `--lanes 1 8 64 256 1024` the rows are networks side by side, in lane-steps a second and training runs an
    hour, and PyTorch's single network, eager and compiled. The useful fraction is the time that the step's matrix
    products alone would take at the machine's own rate.
    """

    task: Literal["modular", "addition"] = "modular"
    """modular: the setting of Nanda et al., mod 113; addition: five digits in sequence, 256 fresh problems a step"""
    repeats: int = 9
    """number of timings of a row, of which the median is printed"""
    steps: int = 20
    """number of steps in a timing"""
    threads: int | None = None
    """number of threads of PyTorch; by default its own choice"""
    beside: Path | None = None
    """checkout of another version of this project, whose train step is timed as well"""
    precision: Precision = "highest"
    """of float32 matrix products, PyTorch's too: on a GPU highest is float32 throughout and default is TF32"""
    lanes: tuple[int, ...] = ()
    """numbers of networks to time at once, in place of one"""
    figure: Path | None = None
    """PNG file to draw the time by the number of networks in, only with --lanes"""

    def __post_init__(self) -> None:
        if self.figure and not self.lanes:
            raise UserError("--figure draws the times of --lanes, and there are none")
        if self.beside and self.lanes:
            raise UserError("--beside times one network of another version; leave --lanes out")
        for name, values, most in (
            ("repeats", (self.repeats,), 1000),
            ("steps", (self.steps,), EVALUATIONS),
            ("lanes", self.lanes, 2**20),
        ):
            if invalid := [value for value in values if not 1 <= value <= most]:
                raise UserError(f"--{name} must be from 1 to {most:,}, got {invalid[0]:,}")


def run(options: Options) -> int:
    """Time, and print the table; returns the exit status."""
    config = RunConfig(task=TASKS[options.task], model=Transformer(precision=options.precision))
    if options.lanes:
        side_by_side(config, options)
    else:
        one_network(config, options)
    return 0


def one_network(config: RunConfig, options: Options) -> None:
    """Print the times of a step of one network."""
    trainer, steps = Trainer(config), options.steps
    rows: dict[str, tuple[Timed, int]] = {
        _MACHINE: (timing.product(2048, options.precision), 1),
        _STEP: (timing.chunk(trainer, steps, 10**9), steps),
        f"{_STEP}, no lanes, nothing recorded": (timing.without_lanes(trainer, steps), steps),
        f"{_STEP}, test loss every 10": (timing.chunk(trainer, steps, 10), steps),
        f"{_STEP} + full test loss": (timing.chunk(trainer, steps, 1), steps),
        f"{_STEP}, plain model": (timing.plain_steps(trainer, 5), 5),
        "jaxadd: batch alone": (timing.batches(trainer, 10 * steps), 10 * steps),
    }
    if options.task == "modular":
        rows["jaxadd: all progress measures of a saved state"] = (timing.measures(trainer, 10), 10)
    if torch_peer.load(options.threads, options.precision):
        train, evaluate = torch_peer.transcription(trainer)
        rows[f"{_TORCH}: train step"] = (lambda: train(5), 5)
        rows[f"{_TORCH}: train step + full test loss"] = (lambda: [(train(1), evaluate()) for _ in range(5)], 5)
    with contextlib.ExitStack() as stack:
        if options.beside:
            other = other_version.chunk(options.beside, type(config.task).__name__, steps)
            rows[f"{options.beside}: train step"] = (stack.enter_context(other), steps)
        times = interleaved(rows, options.repeats)
    batch, test = (part.targets.shape[0] for part in trainer.abstract_batches())
    print(f"{config.task.title}; {batch:,} examples a step, {test:,} test examples")
    print_table(times, costs.arithmetic(trainer), peers=(_TORCH, str(options.beside)))


def interleaved(rows: Mapping[str, tuple[Timed, int]], repeats: int) -> dict[str, np.ndarray]:
    """Return the quartiles of the time of each row, seconds, all rows in turn timed once in each repeat.

    Args:
      rows: by name, a function and the number of times that it does what is timed.
      repeats: timings of each row.
    """
    for function, _ in rows.values():
        function()  # Compilation and warm-up.
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, (function, count) in rows.items():
            times[name].append(timing.seconds(function) / count)
    return {name: np.percentile(values, [25, 50, 75]) for name, values in times.items()}


def print_table(quartiles: Mapping[str, np.ndarray], flop: int, peers: tuple[str, ...]) -> None:
    """Print the quartiles of every row, and how much faster a step is than the same of its peers."""
    machine = Machine.this(1)
    print(f"{machine.device}; JAX {machine.jax}, Python {machine.python}")
    rate = 2 * 2048**3 / quartiles[_MACHINE][1]
    width = max(48, *map(len, quartiles))
    floor = "floor: arithmetic of a train step at that rate"
    print(f"{_MACHINE:<{width}} {rate / 1e9:.0f}")
    print(f"{floor:<{width}} {1e3 * flop / rate:.1f} ms ({flop / 1e9:.2f} GFLOP)")
    for name, times in quartiles.items():
        if name == _MACHINE:
            continue
        low, median, high = 1e3 * times
        line = f"{name:<{width}} {median:.3g} ms (quartiles {low:.3g} to {high:.3g})"
        for peer in peers:
            same = name.replace("jaxadd", peer)  # The same row of another implementation.
            if name.startswith("jaxadd") and same in quartiles:
                line += f"   {quartiles[same][1] / times[1]:.3g}× as fast as {same}"
        print(line)


def side_by_side(config: RunConfig, options: Options) -> None:
    """Print the rate of many networks at once, and of PyTorch's one."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    rate = 2 * size**3 / timing.median_seconds(timing.product(size, options.precision), options.repeats)
    single, machine = Trainer(config), Machine.this(1)
    flop, steps = costs.arithmetic(single), options.steps
    print(
        f"{config.task.title}; {machine.device}; JAX {machine.jax}; "
        f"matrix precision {options.precision}, {rate / 1e12:.3g} TFLOP/s in a {size}³ product"
    )

    def show(name: str, per_second: float, more: str = "") -> None:
        useful, hourly = per_second * flop / rate, 3600 * per_second / 10_000
        print(f"{name:<24}{per_second:>14,.0f}{useful:>17.1%}{hourly:>24,.1f}{more}", flush=True)

    print(f"{'':<24}{'lane-steps/s':>14}{'useful fraction':>17}{'10,000-step runs/hour':>24}")
    eager = None
    if torch := torch_peer.load(options.threads, options.precision):
        for name, wrap in (("eager", lambda f: f), ("compiled", torch.compile)):
            train, _ = torch_peer.transcription(single, wrap)
            per_second = steps / timing.median_seconds(functools.partial(train, steps), options.repeats)
            eager = eager or per_second
            show(f"PyTorch {name}, one", per_second, f"   {per_second / eager:,.1f} × eager")
    times: dict[int, float] = {}
    for count in sorted(set(options.lanes)):
        try:
            trainer = Trainer(replace(config, seeds=tuple(range(count))))
            times[count] = timing.median_seconds(timing.chunk(trainer, steps, 10**9), options.repeats) / steps
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"jaxadd, {count} at once do not fit the memory")
            continue
        per_second = count / times[count]
        show(f"jaxadd, {count:,} at once", per_second, f"   {per_second / eager:,.1f} × eager" if eager else "")
    if options.figure and times:
        title = f"{config.task.title}, {machine.device}"
        figures.time_by_lanes(list(times), list(times.values()), title).savefig(options.figure)
