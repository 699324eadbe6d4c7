"""Experiments of several runs: they compare them, and go on."""

import pytest

from jaxadd.runs import load


def test_a_study_compares_its_runs_and_goes_on(few, shell, tmp_path):
    words = ["--digits", 1, "--base", 3, "--d-model", 8, "--heads", 2, "--steps", 60, "--eval-every", 20]
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
    status, _, error = shell("jaxadd", "resume", folder / "parallel-msd", "--steps", 80)
    assert status == 0, error
    assert (folder / "parallel-msd" / "figures" / "digits.png").is_file()
    assert load(folder / "parallel-msd").config.steps == 80


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "words", "found"),
    [
        ("plateau_law", ["--bases", 2, 3, 5, "--widths", "--digits", 1, "--d-model", 8], "base^"),
        ("single_digit", [], "researcher"),
        ("architectures", ["--blocks", "qwen", "--seeds", 0, "--steps", 10], "qwen   2,752"),
    ],
)
def test_other_studies(few, shell, tmp_path, study, words, found):
    status, out, error = shell(study, "debug", *words, "--name", "a")
    assert status == 0, error
    assert found in out
    assert list((tmp_path / "runs" / study / "a" / "figures").glob("*.png"))
