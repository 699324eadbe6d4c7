"""Find the loss spikes of a run, run it again exactly around the largest, and look at what breaks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxadd.analysis import spikes
from jaxadd.analysis.spikes import Spike
from jaxadd.cli.output import save
from jaxadd.cli.spike_report import Inside, Recorder, report
from jaxadd.errors import UserError
from jaxadd.files import read_npz
from jaxadd.lanes import find, take
from jaxadd.runs import load, replay
from jaxadd.runs.folder import Files
from jaxadd.tables import table
from jaxadd.training.trainer import Trainer
from jaxadd.views import figures, terminal

_SHOWN = 12  # Spikes in the table.
_LONGEST = 200  # Steps that are replayed.

LaneSpike = tuple[int, Spike]
"""A lane and one of its spikes."""


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
    """run folder, such as runs/digit_addition/cascades"""
    seed: int | None = None
    """seed whose spikes are looked for; by default all"""
    step: int | None = None
    """step whose nearest spike is looked into; by default the largest spike is"""
    factor: float = spikes.FACTOR
    """how many times the median before it the loss of a spike is, at least"""
    margin: int = 30
    """steps replayed before the spike and after its peak"""


def run(options: Options) -> int:
    """Find, replay, print and draw; returns the exit status."""
    if not 1 < options.factor < math.inf:
        raise UserError(f"--factor must be above 1 and finite, got {options.factor:g}")
    if options.margin < 1:
        raise UserError(f"--margin must be at least 1, got {options.margin}")
    trained = load(options.run)
    config, metrics = trained.config, trained.metrics
    lanes = range(len(config.seeds)) if options.seed is None else [find(config.seeds, options.seed)]
    by_lane = {s: spikes.find(metrics["train_loss"][s], metrics["step"], factor=options.factor) for s in lanes}
    listed = [(s, spike) for s in lanes for spike in by_lane[s]]
    if not listed:
        print(f"no spike: no train loss stays above {options.factor:g} times the median of the steps before it")
        return 0
    lane, spike = _chosen(listed, options.step)
    seed, overview = config.seeds[lane], _overview(listed, lanes, config.seeds)
    print(f"{overview}\n\nlooking into that of seed {seed} at step {spike.peak:,}\n")

    start = max(0, spike.start - options.margin)
    stop = min(spike.peak + options.margin, start + _LONGEST, int(metrics["step"][-1]))
    trainer = Trainer(config)
    recorder = Recorder(trainer, lane, keep=(start, spike.peak))
    with terminal.progress_bar(stop) as (watch, note):
        folder = replay(
            options.run,
            start,
            stop,
            (start, spike.peak),
            name=f"spike-{start}-{stop}",
            replace=True,
            see=recorder.see,
            watch=watch,
            note=note,
        )
    replayed = read_npz(Files(folder).metrics)
    one = take({name: values for name, values in replayed.items() if not name.endswith("step")}, lane)
    inside = Inside(trainer, lane, spike, recorder, one)
    text, drawn = report(inside)
    curve = figures.spikes(metrics["step"], metrics["train_loss"][lane], by_lane[lane], inside.title)
    save(options.run / "spikes" / f"{spike.peak}-seed{seed}", f"{overview}\n\n{text}", {"run": curve, **drawn})
    return 0


def _chosen(listed: Sequence[LaneSpike], step: int | None) -> LaneSpike:
    """Return the largest spike, or the one nearest to a step."""
    return max(listed, key=_rise) if step is None else min(listed, key=lambda entry: abs(entry[1].peak - step))


def _rise(entry: LaneSpike) -> float:
    return entry[1].height - entry[1].before


def _overview(listed: Sequence[LaneSpike], lanes: Iterable[int], seeds: Sequence[int]) -> str:
    """Return how many spikes the lanes had, and a table of the largest."""
    rows = [("seed", "steps", "peak", "loss before", "at the peak")]
    for s, spike in sorted(listed, key=_rise, reverse=True)[:_SHOWN]:
        steps = f"{spike.start:,} to {'the end' if spike.end is None else f'{spike.end:,}'}"
        rows.append((str(seeds[s]), steps, f"{spike.peak:,}", f"{spike.before:.2g}", f"{spike.height:.2g}"))
    more = f"\nand {len(listed) - _SHOWN} smaller ones" if len(listed) > _SHOWN else ""
    each = ", ".join(f"{sum(s == lane for s, _ in listed)} of seed {seeds[lane]}" for lane in lanes)
    count = f"{len(listed)} spike{'s' if len(listed) > 1 else ''}"
    return f"{count} ({each}), the largest first\n{table(rows)}{more}"
