"""Experiments in the characters of groups: what they show, and what they refuse."""

import numpy as np
import pytest
from lines import assert_one_line

from experiments import key_frequencies


@pytest.mark.parametrize(
    ("name", "words", "found"),
    [
        ("operations", ("--operations", "add", "a2+b2"), "a² + b²"),
        ("basis", (), "logit variance explained"),
        ("key_frequencies", (), "key frequencies by neurons"),
    ],
)
def test_presets_for_a_look_end_with_a_table_and_a_figure(few_figures, shell, tmp_path, name, words, found):
    status, out, error = shell(name, "debug", *words, "--name", "a")
    assert status == 0, error
    assert found in out
    assert list((tmp_path / "runs" / name / "a" / "figures").glob("*.png"))


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("operations", ["--operations", "power"], "operation must be one of add"),
        ("operations", ["--operations", "divide-if-odd", "--p", 15], "no inverse mod 15, 3 the first of them"),
        ("basis", ["--task", "addition"], "this experiment compares characters mod P, of two operands"),
        ("basis", ["--task.p", 2], "mod 2 the only unit is 1"),
        ("key_frequencies", ["--moduli", 7, 7], "at least two, and none twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(shell, name, words, message):
    status, _, error = shell(name, "debug", *words)
    assert status == 2
    assert_one_line(error, message)


def test_a_fit_knows_a_logarithm_from_a_line():
    moduli = np.repeat([8, 16, 32, 64, 128], 3)
    slope, low, high, explained = key_frequencies.fit(np.log2(moduli), 2 * np.log2(moduli) + 1)
    assert (slope, explained) == (pytest.approx(2), pytest.approx(1))
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)
    assert key_frequencies.fit(moduli, 2 * np.log2(moduli) + 1)[-1] < 0.9
    noisy = np.log2(moduli) + np.random.default_rng(1).normal(size=15)
    _, low, high, _ = key_frequencies.fit(np.log2(moduli), noisy)
    assert low < 1 < high
