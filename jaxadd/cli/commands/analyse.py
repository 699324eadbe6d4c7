"""Analyse a trained network: the standard measures as numbers, figures and a page."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from jaxadd import examine, subjects
from jaxadd.cli import experiment
from jaxadd.files import write_text
from jaxadd.lanes import find
from jaxadd.subjects import Subject
from jaxadd.tasks import Addition, Modular
from jaxadd.views import html
from jaxadd.views.terminal import INDENT


@dataclass(frozen=True)
class Analyse:
    """Analyse a trained network: the standard measures as numbers, figures and a page.

    Of modular addition: key frequencies by four rules, restricted and excluded loss and the other progress measures
    of Nanda et al. (2023), over all saved states with the three phases, and Clock or Pizza. Of n-digit addition:
    what every head, neuron group and position is for, by mean ablation. Of both: circuits, composition, attribution,
    logit lens. Everything goes to RUN/analysis, or to CHECKPOINT-analysis beside you: report.html to look at;
    figures; and analysis.json with all numbers in one flat object, whose names `jaxadd.analysis.progress.MEASURES`
    and `clocks.MEASURES` explain.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_PTH")]
    """a run folder, or a torch checkpoint in the mainline's or TransformerLens's format"""
    step: int | None = None
    """of a run: a saved step; the end by default"""
    seed: int | None = None
    """of a run with several: the one looked at closely; the first by default"""
    keys: Literal["neurons", "neuron_logit_map", "embedding", "logits"] | None = None
    """the rule that finds the key frequencies; neurons by default, logits where there are none"""
    out: Path | None = None
    """folder for the results"""
    task: Literal["modular", "addition"] = "modular"
    """of a checkpoint: what it was trained on"""
    p: int = 113
    """of a checkpoint: modulus"""
    train_fraction: float = 0.3
    """of a checkpoint: share of the pairs that it was trained on"""
    split_seed: int = 0
    """of a checkpoint: seed of the published split"""
    operation: Literal["add", "subtract"] = "add"
    """of a checkpoint: a + b or a - b"""
    digits: int = 5
    """of a checkpoint: of each operand"""
    target: Literal["sequential", "parallel", "single"] = "sequential"
    """of a checkpoint: what an addition network sees of the answer"""
    digit: int = 0
    """of a checkpoint with target single: the answer digit predicted, 0 is the units"""
    answer_order: Literal["msd", "lsd"] = "msd"
    """of a checkpoint: the answer digit that comes first"""
    activation: Literal["relu", "gelu"] = "relu"
    """of a checkpoint: it does not say"""


def main(options: Analyse) -> int:
    """Measure, print, write and draw; gives the exit status."""
    subject = _subject(options)
    lane = find(subject.seeds, options.seed)
    if isinstance(subject.task, Modular):
        found = examine.examine_modular(subject, lane, options.keys)
    else:
        found = examine.examine_addition(subject, lane)
    beside = Path(f"{options.source.stem}-analysis") if options.source.is_file() else options.source / "analysis"
    folder = options.out or beside
    folder.mkdir(parents=True, exist_ok=True)
    finite = {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in found.numbers.items()}
    write_text(folder / "analysis.json", json.dumps(finite, indent=2) + "\n")
    html.write(folder / "report.html", subject.title, f"seed {subject.seeds[lane]}", found.blocks)
    experiment.show(folder, experiment.Findings(found.figures, found.text))
    print(f"{'page':<{INDENT}}{folder / 'report.html'}")
    return 0


def _subject(options: Analyse) -> Subject:
    if not options.source.is_file():
        note = lambda text: print(f"note: {text}", file=sys.stderr)
        return subjects.from_run(options.source, options.step, history=True, note=note)
    if options.task == "addition":
        task = Addition(
            digits=options.digits, target=options.target, digit=options.digit, answer_order=options.answer_order
        )
    else:
        task = Modular(
            p=options.p,
            operation=options.operation,
            train_fraction=options.train_fraction,
            split_seed=options.split_seed,
        )
    return subjects.from_checkpoint(options.source, task, activation=options.activation)


if __name__ == "__main__":
    sys.exit(experiment.command("experiments.analyse", Analyse, main))
