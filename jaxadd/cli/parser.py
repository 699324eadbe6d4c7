"""The parser of command lines: tyro, with hyphens in values, help that fits the terminal, and errors in one line."""

import contextlib
import io
import itertools
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Sequence
from typing import Any, Literal

import tyro

from jaxadd.errors import UserError

_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _hyphenated(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Write the values of a Literal with hyphens, where they are typed: "test-loss" for "test_loss"."""
    values = typing.get_args(info.type) if typing.get_origin(info.type) is Literal else ()
    if not any("_" in str(value) for value in values):
        return None
    shown = tuple(value.replace("_", "-") for value in values)
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(shown)}}}",
        instance_from_str=lambda words: values[shown.index(words[0])],
        is_instance=lambda value: value in values,
        str_from_instance=lambda value: [value.replace("_", "-")],
        choices=shown,
    )


def read(options: Any, program: str, argv: Sequence[str], description: str, default: Any = tyro.MISSING) -> Any:
    """Return a dataclass that is read from a command line; `--help` prints its help and raises SystemExit(0).

    Args:
      options: the dataclass.
      program: the command as it is typed, for the help.
      argv: the words after it.
      description: what it does, for the help.
      default: an instance with the defaults; those of the class by default.

    Raises:
      UserError: an argument is missing or invalid.
    """
    out, error = _Captured(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            return tyro.cli(
                options,
                prog=program,
                args=list(argv),
                # tyro joins the lines of a paragraph unless one begins with a blank or a bracket.
                description="\n\n".join(" ".join(part.split()) for part in description.split("\n\n")),
                config=(tyro.conf.AvoidSubcommands,),
                registry=_REGISTRY,
                **({} if default is tyro.MISSING else {"default": default}),
            )
    except SystemExit as ended:
        if not ended.code:
            sys.stdout.write(_wrapped(out.getvalue()))
            raise
        raise UserError(_message(error.getvalue(), program, options)) from None


class _Captured(io.StringIO):
    """Standard output for tyro, which draws its boxes only where the encoding has them."""

    encoding = sys.__stdout__.encoding if sys.__stdout__ else "ascii"  # type: ignore[misc]


def _wrapped(text: str) -> str:
    """Break lines that are longer than the terminal is wide between words."""
    width = max(40, shutil.get_terminal_size().columns)
    return "".join(f"{line if len(line) <= width else textwrap.fill(line, width)}\n" for line in text.splitlines())


def _message(printed: str, program: str, options: Any) -> str:
    """Return the message in what tyro prints: a box with a title, the message, a rule, and where to find help."""
    lines = [line.strip("│|╭╮╰╯+ ") for line in printed.splitlines()[1:]]
    is_rule = lambda line: not line.strip("─-")
    message = " ".join(itertools.takewhile(lambda line: not is_rule(line), itertools.dropwhile(is_rule, lines)))
    # What a dataclass raises itself comes with its place in the options, such as "config.task: p must be …".
    raised = re.fullmatch(r"Error parsing (?:Options|config)[.:] ?(.*)", message)
    if raised:
        # A dataclass that names itself as well, as in "base.stop: stop.threshold must be …", is named once.
        return re.sub(r"^(?:[\w.]*\.)?(\w+): (?=\1\.)", "", raised[1])
    message = re.sub(r"^Error parsing (--\S+):", r"\1 cannot be read:", message)
    if missing := re.match(r"Missing value for argument '(\w+)'", message):  # An option stands in its place.
        message = f"Missing from {program}: {_shown(options, missing[1])}"
    return f"{message.strip(' .') or 'an argument is invalid'}; `{program} --help` lists the options"


def _shown(options: Any, name: str) -> str:
    """Return how the help shows a positional argument, such as RUN_OR_FILE for a field `source`."""
    hint = typing.get_type_hints(options, include_extras=True).get(name)
    shown = (getattr(note, "metavar", None) for note in getattr(hint, "__metadata__", ()))
    return next(filter(None, shown), name)
