"""`jaxadd hypotheses`: a table of claims over seeds, and one line for a task without any."""

import shutil

import numpy as np

from jaxadd.analysis import addition
from jaxadd.analysis.claims import Finding
from jaxadd.analysis.hypotheses import Score
from jaxadd.cli.commands import hypotheses


def test_claims_about_adding_networks_are_tested_and_drawn(adding, shell, tmp_path, monkeypatch):
    monkeypatch.setattr(addition.claims, "_EXAMPLES", 64)
    run = shutil.copytree(adding, tmp_path / "run")
    status, out, error = shell("jaxadd", "hypotheses", run)
    assert status == 0, error
    assert "claims tested" in error
    folder = run / "hypotheses"
    text = (folder / "report.txt").read_text()
    assert "a head carries column 1's sum" in text
    assert text in out
    assert (folder / "figures" / "claims.png").stat().st_size > 1000


def test_a_task_without_claims_is_one_line(reading, shell):
    status, out, error = shell("jaxadd", "hypotheses", reading)
    assert (status, error) == (0, "")
    assert out.startswith("no claim is registered for HandwrittenDigits; ")
    assert out.count("\n") == 1
    assert not (reading / "hypotheses").exists()


def finding(candidate, score, low, high, matters=1.0):
    return Finding("a claim", candidate, Score(score, low, high, 0.5, 0.6, 0.5 + matters, 0.6))


def test_a_claim_over_seeds_has_a_median_and_the_most_frequent_verdict():
    outcomes = [
        finding("L0H0", 0.95, 0.92, 0.97),
        finding("L0H0", 0.93, 0.91, 0.96),
        finding("L0H1", 0.2, 0.1, 0.3, 3),
    ]
    assert [outcome.score.verdict for outcome in outcomes] == ["holds", "holds", "fails"]
    assert hypotheses.row("a claim", outcomes) == (
        "a claim",
        "L0H0, others in other lanes",
        "0.930 (0.200 to 0.950)",
        "0.100 to 0.970",
        "1 nats",
        "holds, 2 of 3",
    )
    none = finding("L0H0", np.nan, np.nan, np.nan, 0.0)
    assert hypotheses.row("a claim", [none])[2:4] == ("none", "none")
    assert list(hypotheses.by_claim([[none], [], [none]])) == ["a claim"]
