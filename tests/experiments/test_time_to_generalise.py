"""The comparison of methods: each is searched, its best settings are repeated, and the soonest comes first."""

import re

import pytest
from lines import assert_one_line

from experiments import time_to_generalise
from experiments.time_to_generalise import METHODS, Comparison
from jaxadd import sweeps
from jaxadd.cli.arguments import KINDS

REACHED = "step_of_test_accuracy_0.99"


def test_a_comparison_from_the_command_line(shell, tmp_path):
    words = ("time_to_generalise", "debug", "--methods", "lion", "--points", 4, "--name", "it")
    status, out, error = shell(*words)
    assert status == 0, error
    assert "0 of 2" in out
    folder = tmp_path / "runs" / "time_to_generalise" / "it"
    assert (folder / "figures" / "survival.png").stat().st_size > 1000
    assert sorted(path.parent.name for path in folder.glob("lion/*/sweep.csv")) == ["best", "search"]
    assert shell(*words)[1] == out


def test_methods_are_named_as_their_flags_are():
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in METHODS)
    flags = {kind: value for kinds in KINDS.values() for value, kind in kinds.items()}
    for name, method in METHODS.items():
        kinds = {flags[type(value)] for value in method.fields.values()}
        assert name in kinds or name in ("adamw", "small-init"), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods"], "--methods names no method; there are adamw, lion"),
        (["--methods", "lion", "lion"], "may name every method once"),
        (["--methods", "Lion"], "no method is named Lion; there are adamw, lion"),
        (["--points", 0], "--points must be at least 1, got 0"),
    ],
)
def test_a_comparison_that_is_none(shell, words, message):
    status, _, error = shell("time_to_generalise", "debug", *words)
    assert status == 2
    assert_one_line(error, message)


def lane(reached, status="finished", accuracy=0.5):
    row = {REACHED: reached, "status": status, "final_test_accuracy": accuracy}
    return row | {"seconds": 2.0, "steps": reached or 500}


def test_the_best_setting_is_the_soonest_then_the_most_accurate_and_a_diverged_one_last():
    best = [
        lane(100, "stopped at its threshold"),
        lane(300, "stopped at its threshold"),
        lane(None, accuracy=0.9),
        lane(None, accuracy=0.1),
        lane(None, "diverged", accuracy=None),
    ]
    assert sorted(reversed(best), key=time_to_generalise._merit) == best


def test_the_best_setting_that_brings_more_seeds_there_stands_for_its_method():
    """Two methods; in the search each setting has its own step, and the sooner setting loses a seed when repeated."""
    comparison = Comparison(methods=("adamw", "lion"), points=4, seeds=(0, 1, 2), steps=500)
    trained = []

    def train(sweep, name, label):
        trained.append((sweep, name))
        lanes = [one for structure in sweeps.structures(sweep) for one in structure.lanes]
        if name.endswith("search"):
            return [one.setting | lane((300, 100, 200, None)[i]) for i, one in enumerate(lanes)]
        steps = (90, None, 110, 210, 190, 230) if name.startswith("adamw") else (400, 410, 420, 500, 500, None)
        return [one.setting | lane(step) for one, step in zip(lanes, steps, strict=True)]

    text = time_to_generalise.compare(comparison, train).text
    assert [name for _, name in trained] == ["adamw/search", "adamw/best", "lion/search", "lion/best"]
    (search, _), (best, _) = trained[:2]
    tried = [one.setting for structure in sweeps.structures(search) for one in structure.lanes]
    assert best.settings() == [tried[1], tried[2]], "the two soonest of the search"
    assert [len(set(sweep.base.seeds) & {0, 1, 2}) for sweep, _ in trained] == [0, 3, 0, 3]
    first, second, third, fourth = text.splitlines()[-4:]
    assert first.startswith("AdamW")
    assert re.search(r"3 of 3 +210 \(200 to 220\) +2\.0 \(2\.0 to 2\.0\) +3 of 4", first)
    assert "2 of 3" in second
    assert third.startswith("Lion")
    assert "410 (405 to 415)" in third
    assert "500 (500 to never)" in fourth
