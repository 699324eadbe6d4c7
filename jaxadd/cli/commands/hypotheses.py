"""Test the claims that are made about networks of a task: which of them hold for this run, and how well."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jax
import numpy as np
import tyro

from jaxadd.analysis import claims, hypotheses
from jaxadd.analysis.claims import Finding
from jaxadd.cli.output import save
from jaxadd.runs import load
from jaxadd.tables import table
from jaxadd.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Options:
    """Test the claims that are made about networks of a task: which of them hold for this run, and how well.

    "Activation X matters only through feature f" is tested by replacing X, for every problem, by X on another random
    problem with the same f. The score is 1 - (L_scrubbed - L) / (L_random - L), where L_random takes any other
    problem. A claim holds where the 95 % interval over problems lies above 0.9, and fails where it lies below 0.5.
    The table and a figure go to RUN/hypotheses.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run folder, such as runs/modular_addition/quick"""
    step: int | None = None
    """saved step of the networks; by default the end of the run"""
    seed: int = 0
    """seed of the resampling, and of the problems drawn for it; not of a network, as those of all seeds are tested"""


def run(options: Options) -> int:
    """Test, print and draw; returns the exit status."""
    trained = load(options.run)
    at = "" if options.step is None else f", step {options.step:,}"
    lanes = []
    for network in trained.networks(options.step):
        lanes.append(claims.assess(network, jax.random.key(options.seed)))
        if lanes[-1]:
            print(f"seed {network.seed}: {len(lanes[-1])} claims tested", file=sys.stderr)
    if not any(lanes):
        print(
            f"no claim is registered for {type(trained.config.task).__name__}; `jaxadd.analysis.hypotheses.assess` "
            "tests claims of your own"
        )
        return 0
    findings = by_claim(lanes)
    rows: list[tuple[str, ...]] = [("claim", "best candidate", "score", "95 % interval", "matters by", "verdict")]
    rows += [row(text, outcomes) for text, outcomes in findings.items()]
    save(options.run / "hypotheses", table(rows), {"claims": drawn(findings, trained.title + at)})
    return 0


def by_claim(lanes: Sequence[Sequence[Finding]]) -> dict[str, list[Finding]]:
    """Return the findings of all lanes by claim; a claim may be about a part that not every lane has."""
    texts = dict.fromkeys(finding.text for lane in lanes for finding in lane)
    return {text: [finding for lane in lanes for finding in lane if finding.text == text] for text in texts}


def drawn(findings: Mapping[str, Sequence[Finding]], title: str) -> "Figure":
    """Draw the score of every claim with its interval, for each lane."""
    scores = {
        text: (*(_values(outcomes, name) for name in ("score", "low", "high")), verdict(outcomes))
        for text, outcomes in findings.items()
    }
    thresholds = {"holds": hypotheses.HOLDS, "in part": hypotheses.FAILS, "fails": -np.inf}
    return figures.hypotheses(scores, thresholds, title)


def row(text: str, outcomes: Sequence[Finding]) -> tuple[str, ...]:
    """Return the cells of a claim; of several lanes the median and range, and the outermost ends of the intervals."""
    scores, low, high = (_values(outcomes, name) for name in ("score", "low", "high"))
    known = scores[np.isfinite(scores)]
    median = "none" if not known.size else f"{np.median(known):.3f}"
    if known.size > 1:
        median += f" ({known.min():.3f} to {known.max():.3f})"
    interval = "none" if np.isnan(low).all() else f"{np.nanmin(low):.3f} to {np.nanmax(high):.3f}"
    count = sum(outcome.score.verdict == verdict(outcomes) for outcome in outcomes)
    words = verdict(outcomes) + (f", {count} of {len(outcomes)}" if len(outcomes) > 1 else "")
    candidates = list(dict.fromkeys(outcome.claim for outcome in outcomes))
    best = candidates[0] if len(candidates) == 1 else f"{candidates[0]}, others in other lanes"
    matters = np.median([outcome.score.random - outcome.score.loss for outcome in outcomes])
    return text, best, median, interval, f"{matters:.3g} nats", words


def verdict(outcomes: Sequence[Finding]) -> str:
    """Return the most frequent verdict over lanes."""
    verdicts = [outcome.score.verdict for outcome in outcomes]
    return max(dict.fromkeys(verdicts), key=verdicts.count)


def _values(outcomes: Sequence[Finding], name: str) -> np.ndarray:
    return np.array([getattr(outcome.score, name) for outcome in outcomes])
