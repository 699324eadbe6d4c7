"""Errors in one line, and the exit status."""

import subprocess
import sys

import pytest

from jaxadd.cli.guard import guard
from jaxadd.errors import UserError


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a line\nand another"), 2, "error: a line and another\n"),
        (
            OSError(28, "No space left on device", "runs/a"),
            2,
            "error: runs/a could not be written (no space left on device)\n",
        ),
        (NotADirectoryError(20, "Not a directory", "runs"), 2, "error: runs is a file where a folder should be; "),
        (KeyboardInterrupt(), 130, "\ninterrupted; more follows\n"),
        (SystemExit(0), 0, ""),
    ],
)
def test_what_a_user_can_fix_is_a_line_and_a_status(tmp_path, monkeypatch, capsys, error, status, line):
    monkeypatch.chdir(tmp_path)  # Where there is no folder runs, as there is after a first experiment.
    assert guard(raising(error), "; more follows") == status
    out, said = capsys.readouterr()
    assert out == ""
    assert said.startswith(line)
    assert said.count("\n") == line.count("\n") or line.endswith("; ")


def test_output_that_cannot_be_written_is_named():
    script = """
from jaxadd.cli.guard import guard
raise SystemExit(guard(lambda: print("words") or 0))
"""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        2,
        "error: standard output or a temporary file could not be written (no space left on device)\n",
    )


@pytest.mark.parametrize("error", [ValueError("cannot reshape"), ZeroDivisionError(), SystemExit(3)])
def test_other_errors_are_not_hidden(error):
    with pytest.raises(type(error)):
        guard(raising(error))


def test_the_status_is_that_of_the_action():
    assert guard(lambda: 7) == 7
