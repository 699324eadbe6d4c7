"""Run a part of a run again, exactly, and record every step densely: how one looks inside a loss spike."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxadd import cli, replays, report, runs
from jaxadd.errors import UserError
from jaxadd.files import read_npz


@dataclass(frozen=True)
class Replay:
    """Run a part of a run again, exactly, and record every step densely: how one looks inside a loss spike.

    The steps are run from the nearest checkpoint before them. The test set is evaluated at every step, and
    the recorded train losses must be met again bit for bit; whether they were is printed. Everything goes
    to a folder of its own, RUN/replays/NAME.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """the run folder, such as runs/modular_addition/quick"""
    start: Annotated[int, tyro.conf.arg(name="from")]
    """the first step to record"""
    to: int
    """the last step to record"""
    snapshots: tuple[str, ...] = ()
    """steps at which to keep the parameters: numbers, or ranges such as 100:200:10, end included"""
    name: str | None = None
    """name of the replay's folder; FROM-TO by default"""


def main(options: Replay) -> int:
    """Replay and draw; gives the exit status."""
    steps = [step for text in options.snapshots for step in parse_steps(text)]
    config = runs.read_origin(options.run).config
    with report.progress_bar(options.to) as (watch, note):
        folder = replays.replay(
            options.run, options.start, options.to, steps, name=options.name, watch=watch, note=note
        )
    title = f"{report.title(config)}: steps {options.start:,} to {options.to:,} again"
    cli.show(folder, cli.Findings(cli.standard_figures(read_npz(folder / "metrics.npz"), title, log_steps=False)))
    return 0


def parse_steps(text: str) -> list[int]:
    """Read "120" or "100:200:10" (end included) as steps; raises ValueError for anything else."""
    try:
        numbers = [int(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or sorted(numbers[:2]) != numbers[:2] or min(numbers[2:], default=1) < 1:
        raise UserError(f"--snapshots takes steps such as 120, 100:200 or 100:200:10, got {text!r}")
    first, last, every = numbers if len(numbers) == 3 else (numbers[0], numbers[-1], 1)
    return list(range(first, last + 1, every))


if __name__ == "__main__":
    sys.exit(cli.command("experiments.replay", Replay, main))
