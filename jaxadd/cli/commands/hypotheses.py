"""Test the claims people make about networks that add: which of them hold for this run, and how well."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from jaxadd import subjects
from jaxadd.analysis import claims, hypotheses
from jaxadd.analysis.claims import Finding
from jaxadd.cli import experiment
from jaxadd.lanes import take
from jaxadd.views import figures, terminal


@dataclass(frozen=True)
class Hypotheses:
    """Test the claims people make about networks that add: which of them hold for this run, and how well.

    "Activation X matters only through feature f" is tested by replacing X, for every problem, by X on another random
    problem with the same f. The score is 1 - (L_scrubbed - L) / (L_random - L), where L_random takes any other
    problem. A claim holds where the 95 % interval over problems lies above 0.9, and fails where it lies below 0.5.
    The table and a figure go to RUN/hypotheses.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """the run folder, such as runs/modular_addition/quick"""
    step: int | None = None
    """of a checkpoint of it; the end by default"""
    seed: int = 0
    """of the problems drawn and of the resampling"""


def main(options: Hypotheses) -> int:
    """Test, print and draw; gives the exit status."""
    subject = subjects.from_run(options.run, options.step, note=lambda text: print(f"note: {text}", file=sys.stderr))
    lanes = []
    for s, seed in enumerate(subject.seeds):
        params = take(subject.params, s)
        lanes.append(claims.assess(subject.task, params, subject.model.apply, jax.random.key(options.seed)))
        print(f"seed {seed}: {len(lanes[-1])} claims tested", file=sys.stderr)
    if not any(lanes):
        print("no registered claim is about this task; `jaxadd.analysis.hypotheses` tests those of your own")
        return 0
    texts = list(dict.fromkeys(finding.text for lane in lanes for finding in lane))
    by_text = {text: [f for lane in lanes for f in lane if f.text == text] for text in texts}
    rows = [("claim", "borne out by", "score", "95 % interval", "matters by", "verdict")]
    rows += [_row(text, found) for text, found in by_text.items()]
    folder = options.run / "hypotheses"
    folder.mkdir(exist_ok=True)
    drawn = {
        text: (*(np.array([getattr(f.score, n) for f in found]) for n in ("score", "low", "high")), _verdict(found))
        for text, found in by_text.items()
    }
    thresholds = {"holds": hypotheses.HOLDS, "in part": hypotheses.FAILS, "fails": -np.inf}
    figure = figures.hypotheses(drawn, thresholds, subject.title)
    experiment.show(folder, experiment.Findings({"claims": figure}, terminal.table(rows)))
    return 0


def _verdict(found: list[Finding]) -> str:
    verdicts = [f.score.verdict for f in found]
    return max(dict.fromkeys(verdicts), key=verdicts.count)


def _row(text: str, found: list[Finding]) -> tuple[str, ...]:
    """Write a claim's outcome; of several seeds the median and range, and the outermost ends of the intervals."""
    scores, low, high = (np.array([getattr(f.score, name) for f in found]) for name in ("score", "low", "high"))
    known = scores[np.isfinite(scores)]
    median = "none" if not known.size else f"{np.median(known):.3f}"
    if known.size > 1:
        median += f" ({known.min():.3f} to {known.max():.3f})"
    interval = "none" if np.isnan(low).all() else f"{np.nanmin(low):.3f} to {np.nanmax(high):.3f}"
    verdicts = [f.score.verdict for f in found]
    verdict = _verdict(found) + (f", {verdicts.count(_verdict(found))} of {len(found)}" if len(found) > 1 else "")
    claims = list(dict.fromkeys(f.claim for f in found))
    by = claims[0] if len(claims) == 1 else f"{claims[0]}, elsewhere others"
    matters = np.median([f.score.random - f.score.loss for f in found])
    return text, by, median, interval, f"{matters:.3g} nats", verdict


if __name__ == "__main__":
    sys.exit(experiment.command("experiments.hypotheses", Hypotheses, main))
