"""Experiments that are sweeps: what they draw, refuse and conclude."""

import re
from dataclasses import replace

import pytest

from experiments import frac_train, seed_sweep, time_to_generalise
from experiments.time_to_generalise import Contest
from jaxadd import sweeps
from jaxadd.cli.commands import submit
from jaxadd.optim.optimizers import Lion
from jaxadd.training.trainer import Trainer

REACHED = "step_of_test_accuracy_0.99"


@pytest.mark.parametrize(
    ("experiment", "words", "said", "figure"),
    [
        ("frac_train", [], "published, one run", "fractions"),
        ("phase_diagram", [], "comprehension", "phases"),
        ("time_to_generalise", ["--recipes", "Lion"], "0 of 2", "survival"),
        ("seed_sweep", ["--task", "addition", "--task.digits", "1", "--steps", "10"], "seed", "curves"),
    ],
)
def test_other_sweeps_from_the_command_line(shell, tmp_path, experiment, words, said, figure):
    status, out, error = shell(experiment, "debug", *words, "--name", "it")
    assert status == 0, error
    assert said in out
    assert (tmp_path / "runs" / experiment / "it" / "figures" / f"{figure}.png").stat().st_size > 1000


def test_a_sweep_that_is_complete_is_told_of_again_without_training(shell, monkeypatch):
    status, out, error = shell("frac_train", "debug")
    assert status == 0, error
    monkeypatch.delattr(Trainer, "chunk")
    assert shell("frac_train", "debug")[:2] == (0, out)


def test_a_diagram_needs_a_grid(shell):
    words = ("--design", "list", "--axes", "optimizer.lr=1e-3,1e-2", "optimizer.weight_decay=0,1")
    status, _, error = shell("phase_diagram", "debug", *words, "task.train_fraction=0.5,0.7")
    assert status == 2
    assert "this experiment draws a grid, got design list" in error


@pytest.mark.parametrize(
    ("theirs", "steps", "censored", "said"),
    [
        (150, [120, 200], None, "yes"),
        (111, [120, 200], None, "yes"),  # Reached between the evaluations at 110 and 120.
        (110, [120, 200], None, "no"),
        (201, [120, 200], None, "no"),
        (900, [120, None], None, "no"),  # The other diverged.
        (900, [120, None], 1000, "yes"),
        (1500, [120, None], 1000, "not known"),
        (100, [120, None], 1000, "no"),
        (900, [None, None], 1000, "no"),
        (1500, [None, None], 1000, "not known"),
        (1500, [None, None], None, "no"),
    ],
)
def test_a_published_step_beside_a_range(theirs, steps, censored, said):
    assert frac_train.inside_range(theirs, steps, 10, censored) == said


def test_only_the_published_setting_is_set_beside_the_published_runs(tmp_path):
    sweep = frac_train.PRESETS["published"].sweep()
    rows = [
        {frac_train.AXIS: lane.setting[frac_train.AXIS], "step_of_test_loss_1": 150, "status": "finished"}
        for structure in sweeps.structures(sweep)
        for lane in structure.lanes
    ]
    assert "7,583" in frac_train.conclude(sweep, tmp_path, rows).text
    other = replace(sweep, base=replace(sweep.base, optimizer=Lion()))
    assert "7,583" not in frac_train.conclude(other, tmp_path, rows).text


def test_a_contest_that_is_none():
    for wrong, said in (
        ({"recipes": ()}, "no recipe"),
        ({"recipes": ("Lion", "Lion")}, "once"),
        ({"points": 0}, "points"),
    ):
        with pytest.raises(ValueError, match=said):
            Contest(**wrong)


def test_a_wave_is_not_made_longer_than_its_sweep(shell, tmp_path):
    words = ("--seeds", "0", "--steps", "10", "--name", "it")
    assert shell("seed_sweep", "debug", *words)[0] == 0
    (wave,) = (tmp_path / "runs" / "seed_sweep" / "it" / "lanes").iterdir()
    status, _, error = shell("resume", wave, "--steps", "20")
    assert status == 2
    assert "is a wave of a sweep" in error


def test_the_reason_of_a_failed_task_is_found_in_its_log(tmp_path):
    log = tmp_path / "log.err"
    assert submit._last_error(log) == f"see {log}"
    log.write_text("error: the disk is full\nTraceback\n  File\nCalledProcessError\n")
    assert submit._last_error(log) == "the disk is full"


def test_settings_that_differ_little_are_told_apart():
    rows = [{"a": value, "b": 3} for value in (0.9995, 0.99951, 0.9995)]
    groups = seed_sweep._by_setting(rows, ["a", "b"])
    assert [len(group) for group in groups.values()] == [2, 1]
    assert list(groups) == ["a 0.99950000000000006, b 3", "a 0.99951000000000001, b 3"]
    assert list(seed_sweep._by_setting(rows[:1], ["a", "b"])) == ["a 0.9995, b 3"]


def lane_of_a_contest(reached, status="finished", accuracy=0.5):
    found = {REACHED: reached, "status": status, "final_test_accuracy": accuracy}
    return found | {"seconds": 2.0, "steps": reached or 500}


def test_the_best_setting_is_the_soonest_then_the_most_accurate_and_a_diverged_one_last():
    best = [
        lane_of_a_contest(100, "stopped at its threshold"),
        lane_of_a_contest(300, "stopped at its threshold"),
        lane_of_a_contest(None, accuracy=0.9),
        lane_of_a_contest(None, accuracy=0.1),
        lane_of_a_contest(None, "diverged", accuracy=None),
    ]
    assert sorted(reversed(best), key=time_to_generalise._merit) == best


def test_the_finalist_that_brings_more_seeds_there_stands_for_its_recipe():
    """Two recipes, in the search each setting has its own step; the sooner setting loses a seed in the finals."""
    contest = Contest(recipes=("AdamW", "Lion"), points=4, seeds=(0, 1, 2), steps=500)
    asked = []

    def train(sweep, name, label):
        asked.append((sweep, name))
        lanes = [lane for structure in sweeps.structures(sweep) for lane in structure.lanes]
        if name.endswith("search"):
            return [lane.setting | lane_of_a_contest((300, 100, 200, None)[i]) for i, lane in enumerate(lanes)]
        steps = (90, None, 110, 210, 190, 230) if name.startswith("AdamW") else (400, 410, 420, 500, 500, None)
        return [lane.setting | lane_of_a_contest(step) for lane, step in zip(lanes, steps, strict=True)]

    text = time_to_generalise.contend(contest, train).text
    (search, _), (final, _) = asked[:2]
    tried = [lane.setting for structure in sweeps.structures(search) for lane in structure.lanes]
    assert final.settings() == [tried[1], tried[2]], "the two soonest of the search"
    assert [len(set(sweep.base.seeds) & {0, 1, 2}) for sweep, _ in asked] == [0, 3, 0, 3]
    first, second, third, fourth = text.splitlines()[-4:]
    assert first.startswith("AdamW")
    assert re.search(r"3 of 3 +210 \(200 to 220\) +2\.0 \(2\.0 to 2\.0\) +3 of 4", first)
    assert "2 of 3" in second
    assert third.startswith("Lion")
    assert "410 (405 to 415)" in third
    assert "500 (500 to never)" in fourth


def test_a_task_that_is_out_of_time_is_queued_again():
    task = submit.Task(("true",))
    again = task.checkpoint()
    assert again.function == task
