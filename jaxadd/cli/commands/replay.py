"""Run a part of a run again, exactly, and record every step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxadd.analysis.report import training_figures
from jaxadd.cli.output import rendered, save
from jaxadd.errors import UserError
from jaxadd.files import read_npz
from jaxadd.runs import open_run, replay
from jaxadd.runs.folder import Files
from jaxadd.views import terminal


@dataclass(frozen=True)
class Options:
    """Run a part of a run again, exactly, and record every step densely: a look inside a loss spike.

    The steps are run from the nearest checkpoint before them. The test set is evaluated at every step, and the
    recorded train losses must come out again bit for bit; whether they do is printed. Everything goes to a folder of
    its own, RUN/replays/NAME.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run folder, such as runs/modular_addition/quick"""
    start: Annotated[int, tyro.conf.arg(name="from")]
    """first step to record"""
    to: int
    """last step to record"""
    snapshots: tuple[str, ...] = ()
    """steps at which to keep the parameters: numbers, or ranges such as 100:200:10, end included"""
    name: str | None = None
    """name of the replay's folder; FROM-TO by default"""


def run(options: Options) -> int:
    """Replay and draw; returns the exit status."""
    steps = [step for text in options.snapshots for step in parse_steps(text)]
    title = open_run(options.run).title
    with terminal.progress_bar(options.to) as (watch, note):
        folder = replay(options.run, options.start, options.to, steps, name=options.name, watch=watch, note=note)
    metrics = read_npz(Files(folder).metrics)
    title = f"{title}: steps {options.start:,} to {options.to:,} again"
    save(folder, "", rendered(training_figures(metrics, title, log_steps=False)))
    return 0


def parse_steps(text: str) -> list[int]:
    """Return the steps that "120" or "100:200:10" (end included) names; raises UserError for anything else."""
    try:
        numbers = [int(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or sorted(numbers[:2]) != numbers[:2] or min(numbers[2:], default=1) < 1:
        raise UserError(f"--snapshots takes steps such as 120, 100:200 or 100:200:10, got {text!r}")
    first, last, every = numbers if len(numbers) == 3 else (numbers[0], numbers[-1], 1)
    return list(range(first, last + 1, every))
