"""Files that are whole or absent: each is written under a temporary name beside its own, then renamed."""

import contextlib
import errno
import os
import re
import secrets
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

    Every call has a temporary path of its own: of several processes that write one file at the same time, the last to
    finish wins, and the file is always whole. A process that is killed leaves its temporary file behind;
    `Files.remove_unfinished` removes those of a run folder.
    """
    if not path.name:  # Such as ".", of which there is no temporary path.
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # `_final` knows it by the first .part, and `remove_unfinished` by the last.
    part = path.with_name(f".{path.name}.part.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) != part:
            raise
        if error.errno in _PLACES and not (error.errno == errno.ENOENT and path.parent.is_dir()):
            raise OSError(error.errno, error.strerror, str(path)) from error
        # An error of writing, such as a full disk, does not name the file.
        raise OSError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # Such as a read-only file system: then there is nothing to remove.
            part.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, where they do not exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # Of a special file system, such as /proc.
        raise OSError(f"{folder} cannot be created: no folder can be created in {_existing(folder)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 200 characters; its type where it has no message."""
    if isinstance(error, OSError) and error.strerror:
        return _lower(error.strerror)
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def in_words(error: OSError) -> str:
    """Return what is wrong with which file or folder, as a person would say it, without names of temporary files."""
    if error.errno is None or not error.strerror:
        return " ".join(str(error).split())
    reason, name = _lower(error.strerror), error.filename2 or error.filename
    if not isinstance(name, str | os.PathLike):
        return reason
    path = _final(Path(name))
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        if path.is_dir():
            return f"{path} exists already; remove it or choose another name"
        return f"{_existing(path)} is a file where a folder should be; move it away or choose another folder"
    if error.errno == errno.EISDIR:
        return f"{path} is a folder; name a file"
    if error.errno == errno.ENOENT:
        return f"there is no {path}"
    unreadable = path.exists() and not os.access(path, os.R_OK)
    if error.errno in (errno.EACCES, errno.EPERM) and unreadable:
        return f"{path} cannot be read ({reason})"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{path} cannot be written to ({reason})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{path} could not be written ({reason})"
    return f"{path} cannot be used ({reason})"


# The errors that are about the place of a file, not about its contents.
_PLACES = (errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM)


def _final(path: Path) -> Path:
    """Return the file or folder for which a temporary file or a lock stands."""
    for i, part in enumerate(path.parts):
        if part == ".lock":
            return Path(*path.parts[:i])
        if temporary := re.fullmatch(r"\.(.+?)\.(part|old)(\..*)?", part):
            return Path(*path.parts[:i], temporary[1])
    return path


def _existing(path: Path) -> Path:
    """Return the nearest of a path and the folders above it that exists; the path itself where none does."""
    return next((place for place in (path, *path.parents) if os.path.lexists(place) and place.name), path)


def _lower(reason: str) -> str:
    return reason[:1].lower() + reason[1:]
