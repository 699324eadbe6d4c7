"""Experiments of several runs: they compare them, and go on."""

import pytest
from lines import assert_one_line

from experiments import plateau_law
from jaxadd.runs import load


def test_a_study_compares_its_runs_and_goes_on(few, few_figures, shell, tmp_path):
    words = ["--digits", 1, "--base", 3, "--d-model", 8, "--heads", 2, "--steps", 20, "--eval-every", 10]
    words += ["--batch-size", 32, "--seeds", 0, 1, "--name", "a"]
    status, out, error = shell("sequential_vs_parallel", *words)
    assert status == 0, error
    folder = tmp_path / "runs" / "sequential_vs_parallel" / "a"
    assert (folder / "figures" / "targets.png").is_file()
    assert "p of Mann-Whitney's U" in (folder / "report.txt").read_text()
    runs = sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file())
    assert runs == ["parallel-lsd", "parallel-msd", "sequential-lsd", "sequential-msd"]
    again = shell("sequential_vs_parallel", *words)
    assert again[0] == 0
    assert again[1] == out, "nothing is trained again, and the same is found"
    status, _, error = shell("jaxadd", "resume", folder / "parallel-msd", "--steps", 22)
    assert status == 0, error
    assert (folder / "parallel-msd" / "figures" / "digits.png").is_file()
    assert load(folder / "parallel-msd").config.steps == 22


def test_a_group_is_learned_by_two_networks(few_figures, shell, tmp_path):
    words = ["debug", "--steps", 20, "--networks", "mlp", "--name", "a"]
    status, out, error = shell("groups", *words)
    assert status == 0, error
    assert "a·b in S3, trained on 80%" in out
    assert "key irreps" in out
    assert (tmp_path / "runs" / "groups" / "a" / "figures" / "groups.png").is_file()
    status, _, error = shell("groups", "debug", "--group", "S20")
    assert status == 2
    assert_one_line(error, "S20 has 2.4e+18 elements")


def test_a_power_of_the_base_is_fitted_to_the_seeds_that_left_everywhere():
    square = [(base, [4 * base**2, 3 * base**2, None if base == 3 else base]) for base in (2, 3, 5)]
    assert plateau_law.power([*square, (10, None)]) == "base^2.00, 2 of 3 seeds"
    assert plateau_law.power(square[:2]) == "too few bases"
    assert plateau_law.power([(base, [None]) for base in (2, 3, 5)]) == "no seed left all"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "words", "found"),
    [
        ("plateau_law", ["--bases", 2, 3, "--digits", 1, "--d-model", 8, "--seeds", 0], "too few bases"),
        ("single_digit", [], "researcher"),
        ("architectures", ["--blocks", "qwen", "--seeds", 0, "--steps", 10], "qwen   2,752"),
    ],
)
def test_other_studies(few, few_figures, shell, tmp_path, study, words, found):
    status, out, error = shell(study, "debug", *words, "--name", "a")
    assert status == 0, error
    assert found in out
    assert list((tmp_path / "runs" / study / "a" / "figures").glob("*.png"))
