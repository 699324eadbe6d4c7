"""Files that are whole or absent: each is written under a temporary name beside its own, then renamed."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# What reading a missing, truncated, corrupt or incompatible file can raise.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of an npz file by name."""
    with path.open("rb") as file, np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name to an npz file, whole or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # The stub takes ** for `allow_pickle` as well.
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file; it is renamed to the file at the end, or removed on an error.

    The temporary path of a file is always the same, so that killed processes leave at most one behind. Processes that
    may write the same file at the same time must lock first.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename is not None:
            raise
        # An error of writing, such as a full disk, does not name the file.
        raise OSError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 200 characters; its type where it has no message."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
