"""The `jaxadd` program: its overview, its help, and what it says of a word that is none."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxadd
from jaxadd.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_overview_names_every_command(shell, words):
    status, out, error = shell("jaxadd", *words)
    assert (status, error) == (0, "")
    names = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert names == list(COMMANDS)
    modules = {path.stem for path in (ROOT / "jaxadd" / "cli" / "commands").glob("*.py")} - {"__init__"}
    assert set(names) == modules
    assert all(len(line) <= 118 for line in out.splitlines())


def test_the_version_is_that_of_the_library(shell):
    assert shell("jaxadd", "--version") == (0, f"jaxadd {jaxadd.__version__}\n", "")


def test_the_entry_point_is_the_function_that_returns_a_status():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["jaxadd"].partition(":")
    assert getattr(importlib.import_module(module), name)(["--version"]) == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("anlyse", "error: no command is named 'anlyse' (did you mean analyse?); there are analyse, "),
        ("", "error: no command is named ''; there are analyse, "),
    ],
)
def test_an_unknown_command_is_one_line(shell, word, message):
    status, out, error = shell("jaxadd", word)
    assert (status, out) == (2, "")
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_an_unknown_command_is_refused_without_waiting_for_jax():
    code = "import sys; from jaxadd.cli.main import main; main(['x']); sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_in_lines_that_fit(shell, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, error = shell("jaxadd", command, "--help")
    assert (status, error) == (0, "")
    assert out.startswith(f"usage: jaxadd {command} ")
    assert max(map(len, out.splitlines())) <= 80
    options = importlib.import_module(f"jaxadd.cli.commands.{command}").Options
    for name in options.__dataclass_fields__.keys() - {"typed"}:  # That is the flags themselves, and none of them.
        flag = {"start": "from"}.get(name, name).replace("_", "-")
        positional = {"run": "RUN", "file": "FILE", "source": "RUN_OR_FILE", "problems": "PROBLEM"}
        positional |= {"parts": "PARTS", "command": "COMMAND"}
        assert f"--{flag}" in out or positional.get(name, "?") in out, name
    assert options.__doc__.split(".")[0].split(":")[0] in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ask"], "Missing from jaxadd ask: RUN"),
        (["analyse", "--nope"], "Missing from jaxadd analyse: RUN_OR_FILE; `jaxadd analyse --help`"),
        (["resume", "--nope"], "Missing from jaxadd resume: RUN; `jaxadd resume --help`"),
        (["replay", "run"], "--from INT first step to record"),
        (
            ["analyse", "run", "--task", "digit"],
            "--task must be one of modular, group, addition, handwritten-digits, got digit",
        ),
        (["analyse", "run", "--task=addition", "--task", "modular"], "--task is given twice"),
        (["export", "a", "b", "--layout", "x"], "`jaxadd export --help` lists the options"),
        (["resume", "nowhere"], "nowhere is not a run folder"),
        (["analyse", "nowhere.pth"], "there is no nowhere.pth; name a run folder or a checkpoint file"),
    ],
)
def test_arguments_that_are_missing_or_invalid_are_one_line(shell, words, message):
    status, out, error = shell("jaxadd", *words)
    assert (status, out) == (2, "")
    assert error.count("\n") == 1
    assert message in error
