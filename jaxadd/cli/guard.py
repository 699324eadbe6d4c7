"""Errors in one line: what the user can fix is said on standard error, and becomes the exit status."""

import os
import sys
from collections.abc import Callable

from jaxadd.errors import UserError


def guard(action: Callable[[], int], after_interrupt: str = "") -> int:
    """Act and return the exit status; an error that the user can fix becomes one line and status 2.

    Args:
      action: returns the exit status.
      after_interrupt: added to the line that says that the keyboard interrupted it: what the same command does next.
    """
    try:
        return action()
    except BrokenPipeError:  # Whoever read the output has enough of it, as `head` has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        message = " ".join(str(error).split())
        if isinstance(error, FileExistsError | NotADirectoryError) and error.filename is not None:
            message = f"{error.filename} is a file where a folder should be; move it away or choose another folder"
        print(f"error: {message}", file=sys.stderr)
        return 2
    except SystemExit as ended:  # tyro ends the process after printing its help.
        if ended.code:
            raise
        return 0
    except KeyboardInterrupt:
        print(f"\ninterrupted{after_interrupt}", file=sys.stderr)
        return 130


def note(text: str) -> None:
    """Print a sentence on anything the user should know to standard error."""
    print(f"note: {text}", file=sys.stderr)
