"""`jaxadd replay`: it records every step again, and says whether it is exact."""

import pytest
from lines import assert_one_line

from jaxadd.cli.commands.replay import parse_steps


def test_a_part_is_replayed_and_drawn(shell, copy):
    words = ("--from", 5, "--to", 12, "--snapshots", "5", "8:12:2")
    status, out, error = shell("jaxadd", "replay", copy, *words)
    assert status == 0, error
    assert "8 recorded train losses are reproduced bit for bit" in error
    folder = copy / "replays" / "5-12"
    assert f"folder      {folder}" in out
    snapshots = [path.name for path in sorted((folder / "snapshots").iterdir())]
    assert snapshots == [f"{i:08d}.npz" for i in (5, 8, 10, 12)]
    assert {path.stem for path in (folder / "figures").iterdir()} == {"curves", "norms"}
    for wrong, message in (
        (words, "exists already; remove it or choose another name"),
        (("--from", 5, "--to", 99), "0 to 40"),
        (("--from", 1, "--to", 2, "--snapshots", "x"), "got 'x'"),
        (("--from", 1, "--to", 2, "--name", "../x"), "without slashes"),
    ):
        status, _, error = shell("jaxadd", "replay", copy, *wrong)
        assert status == 2
        assert_one_line(error, message)


@pytest.mark.parametrize(("text", "steps"), [("7", [7]), ("3:5", [3, 4, 5]), ("0:10:4", [0, 4, 8])])
def test_steps_in_words(text, steps):
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["x", "9:3", "1:9:0", "1:2:3:4", ""])
def test_words_that_are_no_steps(text):
    with pytest.raises(ValueError, match="--snapshots takes steps such as"):
        parse_steps(text)
