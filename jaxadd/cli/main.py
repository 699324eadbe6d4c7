"""The `jaxadd` program: `jaxadd COMMAND …`; each command is a module of `cli.commands`."""

import importlib
import sys

import jaxadd
from jaxadd.errors import UserError

# What each command does, for the overview. The module of the same name has the dataclass `Options` and the function
# `run(options)`, which returns the exit status.
COMMANDS = {
    "analyse": "measure a trained network: numbers, figures and a page to explore",
    "hypotheses": "test the claims people make about such networks",
    "spike": "find the loss spikes of a run and look into the largest, step by step",
    "ask": "let a trained network solve problems of your own",
    "export": "write a trained network as a torch checkpoint",
    "resume": "go on with a run that was killed, or make a complete one longer",
    "replay": "run a part of a run again, exactly, and record every step",
    "submit": "submit a sweep to a Slurm cluster as a job array",
    "benchmark": "time a training step beside its alternatives",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0; 2 where the user has something to fix; 130 when interrupted."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        print(_overview())
        return 0
    if name == "--version":
        print(f"jaxadd {jaxadd.__version__}")
        return 0

    from jaxadd.cli.arguments import read
    from jaxadd.cli.experiment import guard

    def action() -> int:
        if name not in COMMANDS:
            raise UserError(f"no command is named {name!r}; there are {', '.join(COMMANDS)}")
        command = importlib.import_module(f"jaxadd.cli.commands.{name}")
        return command.run(read(command.Options, prog=f"jaxadd {name}", args=rest))

    return guard(action)


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxadd COMMAND [options]",
            "",
            "Tools for trained networks and their run folders.",
            "",
            *lines,
            "",
            "`jaxadd COMMAND --help` lists the options of a command. Experiments are modules: `python -m MODULE --help`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
