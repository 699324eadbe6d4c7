"""The `jaxadd` program: `jaxadd COMMAND …`; each command is a module of `cli.commands`."""

import difflib
import importlib
import sys
from collections.abc import Sequence

import jaxadd
from jaxadd.cli.guard import guard
from jaxadd.errors import UserError

# What each command does, for the overview. The module of the same name has the dataclass `Options` and the function
# `run(options)`, which returns the exit status. It is imported when the command is called.
COMMANDS = {
    "analyse": "measure a trained network: numbers, figures and a page to explore",
    "hypotheses": "test the claims that are made about networks of its task",
    "spike": "find the loss spikes of a run and look into the largest, step by step",
    "certify": "prove a network correct on every problem, or find one that it gets wrong",
    "ask": "let a trained network solve problems of your own",
    "export": "write a trained network as a torch checkpoint",
    "resume": "go on with a run that was killed, or make a complete one longer",
    "replay": "run a part of a run again, exactly, and record every step",
    "submit": "submit a sweep to a Slurm cluster as a job array",
    "benchmark": "time a training step beside its alternatives",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0; 2 where the user has something to fix; 130 when interrupted.

    Args:
      argv: the words after the name of the program; those of the process by default.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        print(_overview())
        return 0
    if name == "--version":
        print(f"jaxadd {jaxadd.__version__}")
        return 0
    return guard(lambda: _run(name, rest), "; nothing that was saved before is lost")


def _run(name: str, words: Sequence[str]) -> int:
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"no command is named {name!r}{meant}; there are {', '.join(COMMANDS)}")
    if "" not in sys.path:
        sys.path.append("")  # A task or a sweep of your own is found in the current folder, as by `python -m`.
    from jaxadd.cli.arguments import read_options

    command = importlib.import_module(f"jaxadd.cli.commands.{name}")
    return command.run(read_options(command.Options, f"jaxadd {name}", words))


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "usage: jaxadd COMMAND [options]",
            "",
            "Tools for trained networks and their run folders.",
            "",
            *(f"  {name:<{width}}{what}" for name, what in COMMANDS.items()),
            "",
            "`jaxadd COMMAND --help` lists the options of a command. Networks are trained by experiments, a module",
            "each: `python -m MODULE --help` lists the presets and options of one.",
        ]
    )
