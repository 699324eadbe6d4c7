"""`jaxadd resume`: it goes on, longer if asked to, whoever made the run."""

import pytest
from lines import assert_one_line

from jaxadd.runs import load


def test_a_run_that_was_killed_goes_on_and_one_that_is_complete_is_made_longer(shell, copy):
    (copy / "summary.json").unlink()
    status, _, error = shell("jaxadd", "resume", copy)
    assert status == 0, error
    assert "going on from step 40 of 40" in error
    assert {"curves", "norms", "errors"} == {path.stem for path in (copy / "figures").iterdir()}
    status, _, error = shell("jaxadd", "resume", copy, "--steps", 45)
    assert status == 0, error
    assert "going on from step 40 of 45" in error
    assert load(copy).summary["lanes"][0]["steps"] == 45
    status, _, error = shell("jaxadd", "resume", copy, "--steps", 5)
    assert status == 2
    assert_one_line(error, "is already at step 45; it cannot be cut to 5 steps")
    status, _, error = shell("jaxadd", "resume", copy)
    assert status == 0
    assert "is complete; nothing is left to train" in error


@pytest.mark.parametrize("words", [["nowhere"], ["."]])
def test_a_folder_that_is_no_run(shell, words):
    status, _, error = shell("jaxadd", "resume", *words)
    assert status == 2
    assert_one_line(error, "is not a run folder: there is no ")


def test_a_batch_of_a_sweep_is_not_made_longer_alone(shell, tmp_path):
    assert shell("seed_sweep", "debug", "--seeds", 0, "--steps", 10, "--name", "it")[0] == 0
    (batch,) = (tmp_path / "runs" / "seed_sweep" / "it" / "lanes").iterdir()
    status, _, error = shell("jaxadd", "resume", batch, "--steps", 20)
    assert status == 2
    assert_one_line(error, "belongs to a sweep")
