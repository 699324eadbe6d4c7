"""Certify a network: correct on every problem of its task's space, or a problem that it gets wrong."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxadd.analysis.certificates import check as checking
from jaxadd.analysis.certificates import search, spaces
from jaxadd.analysis.certificates.certificate import NOTHING, Certificate, Method
from jaxadd.analysis.certificates.certify import Certification
from jaxadd.analysis.certificates.search import Found
from jaxadd.analysis.trained import Trained
from jaxadd.cli import checkpoint
from jaxadd.cli.guard import note
from jaxadd.errors import UserError
from jaxadd.files import make_folder, write_text
from jaxadd.lanes import find
from jaxadd.models import Network
from jaxadd.runs import load
from jaxadd.tables import table
from jaxadd.tasks import Addition, Modular, Task
from jaxadd.views import terminal
from jaxadd.views.terminal import INDENT

FILE = "certificate.json"
_PROBLEMS = "--problems is for addition, and the certificate has the errors of other tasks"


@dataclass(frozen=True)
class Options:
    """Certify a network: correct on every problem of its task's space, or a problem that it gets wrong.

    The verdict is proven; refuted, with a problem that the network was run on; or unknown, with the fraction of the
    space that is proven and the tightest open case. Modular arithmetic and short additions are enumerated. For
    additions of any length, one or two layers and the least significant digit first, sound bounds are computed over
    all problems at once; two layers only where the second attends by position or distance. Every margin is reduced by
    an allowance for float32, for any order of summation. Other networks that add are searched for errors.

    The certificate goes to RUN/certificate, or to CHECKPOINT-certificate in the current folder; with --seed 3 and
    --digits 20, to RUN/certificate-seed3-digits20. One of another network is never replaced. A certification that was
    killed goes on where it was.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """run folder, or a checkpoint of torch, NumPy or safetensors; see `jaxadd.interop`"""
    step: int | None = None
    """saved step of a run; by default its end"""
    seed: int | None = None
    """seed of the network in a run, by default the first"""
    method: Method | None = None
    """exhaustive, bounds or search; by default exhaustive for small spaces, or else bounds where they cover the
    network and hold for some of a sample of cases, or else search"""
    digits: int | None = None
    """number of digits of each operand, for a network of addition whose positions have no weights; by default as many
    as it was trained on"""
    check: Path | None = None
    """certificate to verify for this network instead of making one"""
    problems: Path | None = None
    """file for the errors found, a sum in each line, as training and `ask` read them"""
    out: Path | None = None
    """folder for the certificate"""
    fields: tuple[str, ...] = ()
    """fields of a checkpoint's architecture that its file does not say, such as heads=4 rope_theta=3"""
    key: str | None = None
    """where in a checkpoint the state dict is, if it holds several"""
    task: Task = field(default=Modular())
    """task of a checkpoint; by default what its sizes, its layout and its own answers say. A run knows its own"""
    typed: tyro.conf.Fixed[tyro.conf.Suppress[frozenset[str]]] = frozenset()
    """the flags that were typed"""


def run(options: Options) -> int:
    """Certify or check, print and write; returns the exit status."""
    trained = _trained(options)
    lane = find([network.seed for network in trained.networks], options.seed)
    network, name = trained.networks[lane], trained.name(lane)
    if options.digits is not None:
        network = network.on(_addition(network, "--digits is for addition").of_length(options.digits))
    if options.check is not None:
        makes = {"--method": options.method, "--problems": options.problems, "--out": options.out}
        if given := [flag for flag, value in makes.items() if value is not None]:
            raise UserError(f"{given[0]} is for making a certificate, and --check verifies one; leave one out")
        return _check(network, options.check)
    seed = options.seed if options.source.is_dir() else None
    which = {"seed": seed, "step": options.step, "digits": options.digits}
    label = "".join(f"-{word}{number}" for word, number in which.items() if number is not None)
    in_run = options.source / f"certificate{label}"
    beside = Path(f"{options.source.stem}-certificate{label}")
    folder = options.out or (in_run if options.source.is_dir() else beside)
    if options.problems is not None:  # What cannot be saved is said before the work.
        _addition(network, _PROBLEMS)
        make_folder(options.problems.parent)
    start = time.monotonic()
    certificate, found = certify_in(folder, network, options.method)
    heading = ", ".join(filter(None, (network.task.question, name)))  # All problems, whatever the split.
    print(f"\n{heading}\n{describe(certificate)}")
    print(f"{'time':<{INDENT}}{time.monotonic() - start:.1f} s")
    print(f"{'certificate':<{INDENT}}{folder / FILE}")
    if options.problems is not None:
        _save_problems(options.problems, network, certificate, found)
    return 0


def certify_in(folder: Path, network: Network, method: Method | None = None) -> tuple[Certificate, Found | None]:
    """Certify a network with its progress shown and kept, and write the certificate to a folder.

    Returns:
      the certificate, and what a search found; see `Certification.run`.
    """
    certification = Certification(network, method)
    _refuse_another(folder / FILE, certification.identity)
    make_folder(folder)
    if certification.method != "exhaustive":
        note("searching for errors first, which takes seconds, and minutes for numbers of twenty digits")
    with _progress(folder, certification.identity) as (done, watch):
        certificate, found = certification.run(done=done, watch=watch)
        text = json.dumps(certificate.to_json(), allow_nan=False, separators=(",", ":"))
        write_text(folder / FILE, text + "\n")  # Where that fails, as on a full disk, the parts are kept.
    return certificate, found


def describe(certificate: Certificate) -> str:
    """Return a certificate in words."""
    c, count = certificate, certificate.problems
    total = f"{count:,}" if count < 10**12 else f"{float(count):.0e}"
    lines = {
        "proven": f"proven: all {total} problems are answered correctly",
        "refuted": f"refuted: {c.counterexample.get('words')}",
        "unknown": f"unknown: {c.proven:.4%} of {total} problems are proven",
    }
    rows = [lines[c.verdict], f"{'method':<{INDENT}}{c.method}"]
    if c.parts:
        kind, least = ("margin", ", the least") if c.method == "exhaustive" else ("bound", " or more")
        if c.margin > NOTHING:
            rows.append(f"{kind:<{INDENT}}{c.margin:.4f} nats{least}")
            above = f"{c.slack:.4f} nats above its allowance{least}" if c.slack > 0 else "not above its allowance"
            rows += [] if c.verdict == "refuted" else [f"{'float32':<{INDENT}}{above}, at {c.where}"]
        else:
            rows.append(f"{kind:<{INDENT}}none")
    if c.reason:
        rows.append(f"{'not proven':<{INDENT}}{c.reason}")
    if c.statistics:
        cells = [("problems drawn at random", "number", "errors", "error rate, 95 % interval")]
        cells += [
            (row["kind"], f"{row['problems']:,}", f"{row['errors']:,}", f"{row['low']:.2e} to {row['high']:.2e}")
            for row in c.statistics
        ]
        rows += ["", table(cells), ""]
    return "\n".join(rows)


def _trained(options: Options) -> Trained:
    given = options.task != Modular() or options.fields or options.key is not None
    words = "--task, --fields and --key are for checkpoint files"
    if not checkpoint.is_file(options.source, options.step, given=bool(given), words=words):
        return load(options.source).trained(options.step)
    fields = checkpoint.parsed(options.fields)
    return checkpoint.trained(
        options.source, options.task, options.seed, key=options.key, fields=fields, typed=options.typed, note=note
    )


def _refuse_another(path: Path, identity: dict[str, Any]) -> None:
    """Raise UserError where there is the certificate of another network or space, which took time to compute."""
    if not path.is_file():
        return
    existing = _read(path)
    if (existing.network, existing.space) != (identity["network"], identity["space"]):
        raise UserError(f"{path} is of another network or other problems; name another folder with --out")


def _read(path: Path) -> Certificate:
    try:
        return Certificate.from_json(json.loads(path.read_text(encoding="utf-8")))
    except UserError as error:
        raise UserError(f"{path} is no certificate: {error}") from error
    except ValueError as error:  # A UserError is one too.
        raise UserError(f"{path} is no certificate: it is no JSON") from error


def _check(network: Network, path: Path) -> int:
    certificate = _read(path)
    with terminal.counting("checking") as watch:
        checking.check(certificate, network, watch)
    print(f"{path} holds: {certificate.verdict}\n{describe(certificate)}")
    return 0


@contextlib.contextmanager
def _progress(
    folder: Path, identity: dict[str, Any]
) -> Iterator[tuple[list[dict[str, Any]], Callable[[float, int, Any], None]]]:
    """Keep the results of parts in a file while a certification runs; yields those of an earlier one, and `watch`."""
    path = folder / "progress.jsonl"
    head = json.dumps(identity, sort_keys=True)
    lines = path.read_text().splitlines() if path.is_file() else []
    done = []
    if lines and lines[0] == head:
        for line in lines[1:]:
            with contextlib.suppress(json.JSONDecodeError):  # The last line of a process that was killed.
                done.append(json.loads(line))
    write_text(path, "\n".join([head, *map(json.dumps, done)]) + "\n")
    if done:
        note(f"{len(done)} parts were examined before")
    with path.open("a", encoding="utf-8") as file, terminal.counting("certifying") as count:

        def watch(made: float, total: int, part: dict[str, Any] | None) -> None:
            count(made, total)
            if part is not None:
                file.write(json.dumps(part) + "\n")
                file.flush()

        yield done, watch
    path.unlink(missing_ok=True)  # Another process may have certified the same network in the meantime.


def _addition(network: Network, words: str) -> Addition:
    """Return the task of a network; raises UserError, with words on what is for addition, where it is another."""
    if not isinstance(network.task, Addition):
        raise UserError(f"{words}; this network is of {network.task.question}")
    return network.task


def _save_problems(path: Path, network: Network, certificate: Certificate, found: Found | None) -> None:
    task = _addition(network, _PROBLEMS)
    if found is None:
        numbers = [number for part in certificate.parts for number in part["suspects"]]
        errors = spaces.problems(task, np.asarray(numbers, np.int64))
        errors = errors[search.judge(network, errors)] if len(errors) else errors
    else:
        errors = found.errors
    answers = np.asarray(task.features(errors).answer) if len(errors) else ()
    write_text(path, "".join(f"{task.text(p, a)}\n" for p, a in zip(errors, answers, strict=True)))
    left = sum(part["open"] for part in certificate.parts) if found is None else 0
    more = f", of {left:,} problems that are not proven" if left > len(errors) else ""
    print(f"{'problems':<{INDENT}}{len(errors)} errors in {path}{more}")
