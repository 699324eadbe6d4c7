"""Analyse a trained network: the standard measures as numbers, figures and a page."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxadd.analysis.report import Trained, analyse
from jaxadd.cli import checkpoint
from jaxadd.cli.guard import note
from jaxadd.cli.output import rendered, save
from jaxadd.files import make_folder, write_text
from jaxadd.lanes import find
from jaxadd.models.model import Activation
from jaxadd.runs import load
from jaxadd.tasks import Modular, Task
from jaxadd.views import html
from jaxadd.views.terminal import INDENT


@dataclass(frozen=True)
class Options:
    """Analyse a trained network: the standard measures as numbers, figures and a page.

    Of any network: how good it is, and its curves; of a transformer also attention, circuits, composition,
    attribution and logit lens. Of modular addition: key frequencies, restricted and excluded loss and the other
    progress measures of Nanda et al. (2023), over all saved states with the three phases, and Clock or Pizza. Of
    n-digit addition: how good it is by carry class and cascade, and what every head, neuron group and position is
    for, by mean ablation. Of a finite group: the key irreps, how much of logits, weights and neurons is in each
    (Chughtai et al. 2023), the cosets that neurons read (Stander et al. 2024), and which group the table of the
    network's own answers is of.

    Everything goes to RUN/analysis, or to CHECKPOINT-analysis in the current folder: report.html to look at, figures,
    report.txt, and analysis.json with all numbers in one flat object.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """run folder, or a checkpoint of torch, NumPy or safetensors; see `jaxadd.interop`"""
    step: int | None = None
    """saved step of a run; by default its end"""
    seed: int | None = None
    """seed of the network analysed closely: of a run, by default the first; of a checkpoint, that of its split, which
    is not known unless this, a field of --task or the file says it"""
    keys: str | None = None
    """key frequencies by name, such as 3,6,23,39 or "(0, 1),(1, 2)" in a product of groups, or the rule that finds
    them: neurons, neuron-logit-map, embedding, logits"""
    out: Path | None = None
    """folder for the results"""
    activation: Activation | None = None
    """activation function of a checkpoint; by default what its file says, or else that of its kind, such as relu"""
    fields: tuple[str, ...] = ()
    """other fields of a checkpoint's architecture that its file does not say, such as heads=4 rope_theta=3"""
    key: str | None = None
    """where in a checkpoint the state dict is, if it holds several"""
    task: Task = field(default=Modular())
    """task of a checkpoint; by default what its sizes, its layout and its own answers say. A run knows its own"""
    typed: tyro.conf.Fixed[tyro.conf.Suppress[frozenset[str]]] = frozenset()
    """the flags that were typed"""


def run(options: Options) -> int:
    """Measure, print, write and draw; returns the exit status."""
    trained = _trained(options)
    if not trained.networks[0].split_known:
        note(
            "the train split is not known, so all figures are of all problems; where it is, state it with "
            "--task.train-fraction, --task.split and --seed"
        )
    lane = find([network.seed for network in trained.networks], options.seed)
    report, heading = analyse(trained, lane, options.keys), trained.name(lane)
    beside = Path(f"{options.source.stem}-analysis") if options.source.is_file() else options.source / "analysis"
    folder = options.out or beside
    make_folder(folder)
    numbers, page = folder / "analysis.json", folder / "report.html"
    write_text(numbers, json.dumps(finite(report.numbers), indent=2, allow_nan=False) + "\n")
    html.write(page, trained.title, heading, report.blocks)
    head = "\n".join(filter(None, (trained.title, heading)))
    save(folder, f"{head}\n\n{report.text}", rendered(report.figures))
    print(f"{'numbers':<{INDENT}}{numbers}\n{'page':<{INDENT}}{page}")
    return 0


def finite(value: Any) -> Any:
    """Return plain data with None in place of every number that is not finite, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _trained(options: Options) -> Trained:
    given = options.task != Modular() or options.activation is not None or options.fields or options.key is not None
    words = "--task and --activation are for checkpoint files, as are --fields and --key"
    if not checkpoint.is_file(options.source, options.step, given=bool(given), words=words):
        return load(options.source).trained(options.step, history=True, note=note)
    fields = checkpoint.parsed(options.fields)
    fields |= {} if options.activation is None else {"activation": options.activation}
    return checkpoint.trained(
        options.source, options.task, options.seed, key=options.key, fields=fields, typed=options.typed, note=note
    )
