"""Files that are whole or not there: each is written beside its place and renamed into it."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# What reading a missing, truncated, corrupt or foreign file can raise.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file by name."""
    with path.open("rb") as file, np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name, whole or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place beside a file to write to; it is renamed into the file at the end, or removed on an error.

    It is the same place every time, so that a kill leaves no litter: whoever may write a file together with others
    locks first.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename is not None:
            raise
        # What fails at writing, as on a full disk, does not say where.
        raise OSError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """Give the first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
