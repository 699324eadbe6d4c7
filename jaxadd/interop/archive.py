"""The container of torch checkpoints: an uncompressed zip of one pickle and raw storages.

Nothing is unpacked to disk, and names inside the zip are only looked up, so that they cannot refer to other files. No
more is read than the file holds: sizes are checked against that of the file before anything is allocated.
"""

import os
import sys
import zipfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from jaxadd.errors import UserError

MAX_PICKLE_BYTES = 2**25
MAX_ENTRIES = 200_000
_ENTRY_MARK = b"PK\x01\x02"  # The start of every entry of the directory of a zip.
# Errors of the zipfile module for damaged and hostile files.
DAMAGED = (zipfile.BadZipFile, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, OverflowError)


class Archive:
    """The container of a checkpoint, open for reading."""

    def __init__(self, file: BinaryIO):
        """Read and check the directory.

        Args:
          file: seekable file that `check_directory` has passed, which must stay open while the archive is read.

        Raises:
          UserError, or one of DAMAGED: the file is not a zip as torch.save writes it.
        """
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._zip = zipfile.ZipFile(file)
        entries = self._zip.infolist()
        names = {entry.filename for entry in entries}
        if len(names) < len(entries):
            raise UserError("two of its entries have the same name")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise UserError(f"its entry {entry.filename!r} is compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > size:
            raise UserError("its entries have more bytes than the file")
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise UserError(
                f"it is a zip that torch.save did not write: a checkpoint has one entry data.pkl, and this file has "
                f"{len(pickles) or 'none'}"
            )
        if f"{pickles[0].removesuffix('data.pkl')}constants.pkl" in names:
            raise UserError("it is a program that torch.jit.save wrote; load it with torch and save its state_dict()")
        self._root = pickles[0].removesuffix("data.pkl")
        order = self._zip.read(f"{self._root}byteorder") if f"{self._root}byteorder" in names else b"little"
        if order not in (b"little", b"big"):
            raise UserError(f"its byte order must be little or big, got {order[:20]!r}")
        self._order = "<" if order == b"little" else ">"
        self._storages: dict[str, np.ndarray] = {}

    def pickle(self) -> bytes:
        """Return the pickle."""
        entry = self._zip.getinfo(f"{self._root}data.pkl")
        if entry.file_size > MAX_PICKLE_BYTES:
            raise UserError(f"its data.pkl has {entry.file_size} bytes, more than the {MAX_PICKLE_BYTES} allowed")
        return self._zip.read(entry)

    def storage(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        """Return a storage of `count` numbers, a read-only array `[count]`; each is read only once."""
        if name not in self._storages:
            try:
                entry = self._zip.getinfo(f"{self._root}data/{name}")
            except KeyError:
                raise UserError(f"it lacks the storage {name!r}") from None
            self._check_count(name, dtype, count, entry.file_size)
            bits = np.frombuffer(self._zip.read(entry), f"{self._order}u{dtype.itemsize}")
            native = bits.astype(f"=u{dtype.itemsize}", copy=False)
            numbers = native != 0 if dtype == np.bool_ else native.view(dtype)
            numbers.flags.writeable = False
            self._storages[name] = numbers
        numbers = self._storages[name]
        self._check_count(name, dtype, count, numbers.nbytes)
        if numbers.dtype != dtype:
            raise UserError(f"its storage {name!r} is declared as both {numbers.dtype} and {dtype}")
        return numbers

    def _check_count(self, name: str, dtype: np.dtype, count: int, size: int) -> None:
        if count * dtype.itemsize != size:
            raise UserError(f"its storage {name!r} has {size} bytes, which are not {count} numbers of {dtype}")


def check_directory(file: BinaryIO) -> None:
    """Raise UserError for more entries than a checkpoint has, before the zipfile module makes an object of each."""
    file.seek(0)
    count, tail = 0, b""
    while chunk := file.read(2**20):
        count += (tail + chunk).count(_ENTRY_MARK)
        tail = chunk[1 - len(_ENTRY_MARK) :]
    if count > MAX_ENTRIES:
        raise UserError(f"it has more than {MAX_ENTRIES} entries")


def write(file: BinaryIO, pickle: bytes, storages: Sequence[np.ndarray]) -> None:
    """Write a container; equal content yields equal bytes.

    Args:
      file: file open for writing.
      pickle: pickle that refers to storages by their index in `storages`.
      storages: arrays in C order.
    """
    entries = {"data.pkl": pickle, "byteorder": sys.byteorder.encode()}
    entries |= {f"data/{i}": storage.tobytes() for i, storage in enumerate(storages)} | {"version": b"3\n"}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0)), data)
