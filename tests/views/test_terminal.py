"""The progress bar on a terminal, and whole lines in its place elsewhere."""

import io
import sys

import numpy as np
import pytest

from jaxadd.errors import UserError
from jaxadd.training.loop import Progress
from jaxadd.views import terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(done):
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    return Progress(done, {name: np.array([0.5]) for name in names}, np.array([done]), np.array([0]))


@pytest.fixture
def written(monkeypatch):
    """Show progress on a kind of standard error; returns what was written."""

    def show(kind, done=(5, 10), error=None):
        monkeypatch.setattr(sys, "stderr", kind())
        try:
            with terminal.progress_bar(10, "it ") as (watch, note):
                for step in done:
                    watch(progress(step))
                note("a sentence")
                if error:
                    raise error
        except UserError:
            print("error: wrong", file=sys.stderr)
        return sys.stderr.getvalue()

    return show


def test_without_a_terminal_there_are_whole_lines(written, monkeypatch):
    assert written(io.StringIO) == "note: a sentence\n"
    assert written(io.StringIO, error=UserError("wrong")) == "note: a sentence\nerror: wrong\n"
    monkeypatch.setattr(terminal, "_SECONDS_A_LINE", 0)
    assert written(io.StringIO).splitlines() == [
        *(f"it step {step} of 10, train 5.0e-01 50.0%, test 5.0e-01 50.0%" for step in (5, 10)),
        "note: a sentence",
    ]


def test_on_a_terminal_notes_and_errors_have_lines_of_their_own(written):
    said = written(Terminal)
    assert "\rnote: a sentence\n" in said
    last = said.splitlines()[-1]
    assert said.endswith("\n")
    assert "10/10" in last
    assert last.rstrip().endswith("left"), last  # Spaces follow where the line before was longer.
    assert written(Terminal, error=UserError("wrong")).endswith(" \rerror: wrong\n")
    assert written(Terminal, done=()).endswith(" \r")
