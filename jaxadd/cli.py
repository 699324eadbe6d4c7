"""The command line of an experiment: presets and flags in, a header, a progress bar and a report out."""

import contextlib
import dataclasses
import hashlib
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
import tyro

from jaxadd import config as configs
from jaxadd import runs
from jaxadd.config import RunConfig
from jaxadd.fit import Progress
from jaxadd.train import DIVERGED, Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Trainer, runs.Record], Mapping[str, "Figure"]]
SHOWN_ERRORS = 5


@dataclass(frozen=True)
class _Arguments:
    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    runs: Path = Path("runs")
    """folder that run folders go to"""
    name: str | None = None
    """name of the run folder; by default the preset and what was changed of it"""


def main(
    module: str, about: str, presets: Mapping[str, RunConfig], draw: Draw, argv: Sequence[str] | None = None
) -> int:
    """Run one experiment from the command line.

    Args:
      module: its name, such as "experiments.modular_addition".
      about: the first paragraph of its help.
      presets: configs by name; the first is the default.
      draw: makes the figures by file name, of a finished run.
      argv: the arguments; those of the process by default.

    Returns:
      the exit status: 0, or 2 where the user has something to mend.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with user_errors() as outcome:
        preset, config, arguments = _parse(module, about, presets, argv)
        name = arguments.name or _name(preset, config, presets[preset])
        experiment = module.rpartition(".")[2]
        outcome.status = run(config, arguments.runs / experiment / name, draw)
    return outcome.status


def run(config: RunConfig, folder: Path, draw: Draw, *, extend: bool = False) -> int:
    """Train in a folder with everything shown, then report and draw; gives the exit status."""
    trainer = Trainer(config)
    print(header(trainer, folder))
    if config.debug:
        print(shapes(trainer))
    with progress_bar(config) as (watch, note):
        record = runs.train(trainer, folder, extend=extend, watch=watch, note=note)
    print(report(trainer, record))
    for name, figure in draw(trainer, record).items():
        (folder / "figures").mkdir(exist_ok=True)
        figure.savefig(folder / "figures" / f"{name}.png")
        print(f"figure    {folder / 'figures' / name}.png")
    print(f"folder    {folder}")
    return 0


class _Outcome:
    status = 2


@contextlib.contextmanager
def user_errors() -> Iterator[_Outcome]:
    """Turn what a user can mend into one line on standard error; `status` is then 2, or 130 when interrupted."""
    outcome = _Outcome()
    try:
        yield outcome
    except (ValueError, OSError) as error:
        if not _is_for_user(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        outcome.status = 130
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)


def _is_for_user(error: BaseException) -> bool:
    """Say whether this package raised an error on purpose, or the disk did; any other is a defect to be seen whole."""
    if isinstance(error, OSError):
        return True
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return str(Path(__file__).parent) in trace.tb_frame.f_code.co_filename


# --- arguments -------------------------------------------------------------------------------------------


def _parse(
    module: str, about: str, presets: Mapping[str, RunConfig], argv: list[str]
) -> tuple[str, RunConfig, _Arguments]:
    preset = argv.pop(0) if argv and not argv[0].startswith("-") else next(iter(presets))
    if preset not in presets:
        raise ValueError(f"no preset is named {preset!r}; there are {', '.join(presets)}")
    config = presets[preset]
    kinds = {c.__name__.lower(): c for c in typing.get_args(typing.get_type_hints(RunConfig)["optimizer"])}
    if "--optimizer" in argv:
        place = argv.index("--optimizer")
        kind = argv[place + 1] if place + 1 < len(argv) else ""
        if kind not in kinds:
            raise ValueError(f"--optimizer must be one of {', '.join(kinds)}, got {kind!r}")
        config = dataclasses.replace(config, optimizer=kinds[kind]())
        del argv[place : place + 2]
    usage = (
        f"{about.strip()}\n\nusage: python -m {module} [{'|'.join(presets)}] [--optimizer {'|'.join(kinds)}] [options]\n"
        f"These are the options and values of preset {preset}."
    )
    arguments = tyro.cli(
        _Arguments,
        default=_Arguments(config),
        args=argv,
        prog=f"python -m {module}",
        description=usage,
        config=(tyro.conf.AvoidSubcommands,),
    )
    return preset, arguments.config, arguments


def _name(preset: str, config: RunConfig, default: RunConfig) -> str:
    """Name a run after its preset and what was changed of it, so that other settings get another folder."""
    changes = [
        part.split(" here")[0].replace(": ", "=").replace(" ", "").replace("/", "_")
        for part in configs.difference(config, default)
        if " absent here" not in part
    ]
    name = ",".join([preset, *changes])
    return name if len(name) <= 100 else f"{name[:88]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


# --- what is shown -----------------------------------------------------------------------------------------


def header(trainer: Trainer, folder: Path) -> str:
    """Describe a run before it starts: task, model, device, versions, precision, size, arithmetic per step."""
    config, sizes = trainer.config, trainer.config.task.sizes
    split = {name: part.shape[1] for name, part in trainer.data.lane.items()}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trainer.abstract_state().params)) // len(config.seeds)
    place = runs.environment()
    seeds = ", ".join(map(str, config.seeds[:8])) + ("…" if len(config.seeds) > 8 else "")
    lines = {
        "task": f"{_fields(config.task)}\n{split['train']:,} train and {split['test']:,} test examples, {sizes.classes} classes",
        "model": f"{_fields(config.model)}\n{parameters:,} parameters",
        "optimiser": _fields(config.optimizer),
        "run": f"{config.steps:,} steps, test set every {config.eval_every}; seed {seeds}",
        "device": f"{place['device']}; JAX {place['jax']}, Python {place['python']}",
        "precision": f"{config.model.dtype}, matrix products {config.model.precision}",
        "arithmetic": f"{trainer.arithmetic() / 1e9:.3g} GFLOP a step and lane, in matrix products",
        "folder": str(folder),
    }
    return "\n".join(f"{name:<11}{text.replace(chr(10), chr(10) + ' ' * 11)}" for name, text in lines.items())


def _fields(config: Any) -> str:
    values = (
        f"{f.name} {getattr(config, f.name)}"
        for f in dataclasses.fields(config)
        if f.name not in ("dtype", "precision")
    )
    return f"{type(config).__name__}: " + ", ".join(values)


def shapes(trainer: Trainer) -> str:
    """List the shape of every batch, parameter and activation of one lane."""
    task, model = trainer.config.task, trainer.model
    state = trainer.init()
    lane = jax.tree.map(lambda x: x[0], trainer.data.lane)
    data = trainer.data._replace(lane=lane)
    params = jax.tree.map(lambda w: w[0], state.params)
    batch = jax.eval_shape(lambda: task.train_batch(data, state.key[0], state.step[0]))
    test = jax.eval_shape(lambda: task.test_batch(data))
    logits, seen = jax.eval_shape(lambda b: model.apply(params, b.inputs, names=model.names), batch)
    rows = {f"batch {name}": value for name, value in batch._asdict().items()}
    rows |= {f"test {name}": value for name, value in test._asdict().items()}
    rows |= {f"parameter {name}": value for name, value in runs.flatten(params).items()}
    rows |= {f"activation {name}": value for name, value in seen.items()} | {"logits": logits}
    return "\n".join(f"  {name:<40} {value.dtype!s:<8} {list(value.shape)}" for name, value in rows.items())


@contextlib.contextmanager
def progress_bar(config: RunConfig) -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """Show a bar with losses, accuracies, rate and time left; gives `watch` and `note` for `runs.train`."""
    from tqdm import tqdm

    shown = set()
    with tqdm(
        total=config.steps,
        desc="compiling",
        unit="step",
        dynamic_ncols=True,
        # A log file gets a line now and then, not one twice a second.
        mininterval=0.1 if sys.stderr.isatty() else 15,
        bar_format="{desc}{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{postfix} · {rate_fmt} · {remaining} left",
    ) as bar:

        def watch(progress: Progress) -> None:
            made = min(progress.done, config.steps)
            if bar.desc:
                # What a resumed run had made before does not count for its rate.
                bar.set_description_str("", refresh=False)
                bar.initial = bar.n = max(0, made - 1)
                bar.unpause()
                bar.start_t = bar.last_print_t
            median = {
                name: np.nanmedian(values) if not np.isnan(values).all() else np.nan
                for name, values in progress.latest.items()
            }
            bar.set_postfix_str(
                " · train {train_loss:.2e} {train_accuracy:.1%} · test {test_loss:.2e} {test_accuracy:.1%}".format(
                    **median
                )[3:],
                refresh=False,
            )
            bar.update(made - bar.n)
            for lane in np.flatnonzero(progress.status == DIVERGED):
                if lane not in shown:
                    shown.add(lane)
                    note(
                        f"seed {config.seeds[lane]} diverged: its loss or gradient was not finite at step {progress.step[lane]}"
                    )

        def note(text: str) -> None:
            bar.write(text, file=sys.stderr)

        yield watch, note


def report(trainer: Trainer, record: runs.Record) -> str:
    """Tell how a run ended: a table of its lanes, its speed, and the first few wrong answers in words."""
    summary = record.summary
    columns = ["seed", "status", "steps", "train ≥ 99 %", "test ≥ 99 %", "train loss", "test loss", "test accuracy"]
    rows = [columns]
    for lane in summary["lanes"]:
        steps = [lane[f"step of {part}_accuracy >= 0.99"] for part in ("train", "test")]
        rows.append(
            [str(lane["seed"]), lane["status"], f"{lane['steps']:,}"]
            + ["never" if step is None else f"step {step:,}" for step in steps]
            + [_number(lane[f"final {name}"]) for name in ("train_loss", "test_loss")]
            + ["none" if lane["final test_accuracy"] is None else f"{lane['final test_accuracy']:.2%}"]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    speed = f"{summary['run_seconds']:.1f} s running"
    if summary["steps_per_second"]:
        speed += f" ({summary['steps_per_second']:.1f} steps/s)"
    return "\n".join(
        [*table, f"time      {speed}, {summary['compile_seconds']:.1f} s compiling", wrong_answers(trainer, record)]
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2e}"


def wrong_answers(trainer: Trainer, record: runs.Record) -> str:
    """Put the first wrong test answers of the first lane into words."""
    params = runs.nest(record.params, trainer.abstract_state().params)
    params, lane = jax.tree.map(lambda x: x[0], (params, trainer.data.lane))
    batch = trainer.config.task.test_batch(trainer.data._replace(lane=lane))
    logits, _ = jax.jit(trainer.model.apply)(params, batch.inputs)
    inputs, targets, claims = (np.asarray(x) for x in (batch.inputs, batch.targets, logits.argmax(-1)))
    wrong = np.flatnonzero((targets != claims).any(axis=1))
    said = [f"  {trainer.config.task.describe(inputs[i], targets[i], claims[i])}" for i in wrong[:SHOWN_ERRORS]]
    count = f"wrong     {len(wrong):,} of {len(targets):,} test answers (seed {trainer.config.seeds[0]})"
    return "\n".join([count + (", such as" if said else ""), *said])
