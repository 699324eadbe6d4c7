"""Errors in one line: what the user can fix is said on standard error, and becomes the exit status."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from jaxadd.errors import UserError

_INTERRUPTED = 130  # The exit status, 128 + SIGINT.
_PATIENCE = 2.0  # Seconds in which a program that is interrupted should end.


def end_at_once() -> None:
    """Let an interrupt from the keyboard end the process in one line, until `guard` is called.

    It is for the time in which a program imports what it needs. Nothing is to be saved, and an interrupt that is
    raised inside an import may be ignored, or end as any error.
    """
    if _interruptible():
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\ninterrupted before anything was started\n")
    os._exit(_INTERRUPTED)


def guard(action: Callable[[], int], after_interrupt: str = "") -> int:
    """Act and return the exit status; an error that the user can fix becomes one line and status 2.

    Args:
      action: returns the exit status.
      after_interrupt: added to the line that says that the keyboard interrupted it: what the same command does next.
    """
    with _interrupts() as interrupts:
        try:
            return _guarded(action)
        except (Exception, KeyboardInterrupt) as error:
            # In an import or a callback, an interrupt may end as another error.
            if not interrupts and not isinstance(error, KeyboardInterrupt):
                raise
    print(f"\ninterrupted{after_interrupt}", file=sys.stderr)
    return _INTERRUPTED


def _guarded(action: Callable[[], int]) -> int:
    try:
        status = action()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # Whoever read the output has enough of it, as `head` has.
        _drop_output()
        return 1
    except UserError as error:
        return _failed(" ".join(str(error).split()))
    except OSError as error:
        from jaxadd.files import in_words  # With NumPy, before which `end_at_once` is to be called.

        if error.filename is None and error.errno == errno.ENOSPC:  # Errors of all other files name them.
            _drop_output()
            return _failed("standard output or a temporary file could not be written (no space left on device)")
        return _failed(in_words(error))
    except SystemExit as ended:  # tyro ends the process after printing its help.
        if ended.code:
            raise
        return 0


def _failed(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _drop_output() -> None:
    """Send what is still to be written to standard output nowhere, so that Python does not fail on it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Yield a list that grows with every interrupt from the keyboard, which is raised as usual.

    Python ignores one that is raised in a garbage collection or a destructor, and compiled code may ignore one in a
    callback. So it is raised again until the end.
    """
    interrupts: list[int] = []
    if not _interruptible():
        yield interrupts
        return
    ended, main = threading.Event(), threading.get_ident()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if not interrupts:
            threading.Thread(target=repeat, daemon=True).start()
        interrupts.append(number)
        raise KeyboardInterrupt

    def repeat() -> None:
        while not ended.wait(_PATIENCE):
            signal.pthread_kill(main, signal.SIGINT)

    def unraisable(ignored: Any) -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            hook(ignored)

    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    signal.signal(signal.SIGINT, on_interrupt)
    sys.unraisablehook = unraisable
    try:
        yield interrupts
    finally:
        ended.set()
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)


def _interruptible() -> bool:
    """Return whether this thread gets interrupts, and they are not ignored."""
    main = threading.current_thread() is threading.main_thread()
    return main and callable(signal.getsignal(signal.SIGINT))


def note(text: str) -> None:
    """Print a sentence on anything the user should know to standard error."""
    print(f"note: {text}", file=sys.stderr)
