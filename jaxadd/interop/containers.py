"""The kinds of files that hold networks: torch's zip, NumPy's npz and safetensors; and what other files are."""

import importlib
import json
import os
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop import archive, opaque, unpickling
from jaxadd.interop.archive import Archive
from jaxadd.interop.calls import STORAGES

_HEAD = 4096  # bytes by which a file is recognised
_RAW = "raw bytes, which is how NumPy saves bfloat16; save it as float32"
_MAX_CONFIG = 2**20
_DTYPES = frozenset(STORAGES.values())
_EXPECTED = "expected a checkpoint of torch.save, an .npz or a .safetensors file"


def content(path: Path, max_bytes: int) -> tuple[Any, Counter[str]]:
    """Return what a file holds, and what was skipped in it.

    Args:
      path: an existing file.
      max_bytes: size of the largest file that is read.

    Returns:
      plain data, NumPy arrays and `Skipped` values as `unpickling.load` returns them; of an npz or safetensors file a
      dict of arrays.

    Raises:
      UserError, or one of `archive.DAMAGED`: the file is of no such kind, too large, or damaged.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size > max_bytes:
            raise UserError(f"it has {size} bytes, and max_bytes is {max_bytes}; set max_bytes higher to read it")
        file.seek(0)
        head = file.read(_HEAD)
        if head.startswith(b"PK\x03\x04"):
            archive.check_directory(file)
            if _is_npz(file):
                return _npz(file, max_bytes)
            container = Archive(file)
            return unpickling.load(container.pickle(), container.storage)
        if _is_safetensors(head, size):
            return _safetensors(path), Counter()
    raise UserError(_other(head, size))


def beside(path: Path) -> tuple[dict[Any, Any], str]:
    """Return the config in a JSON file beside a checkpoint, and a note if there is one that cannot be read.

    It has the name of the checkpoint with .json in place of its ending, or config_X.json beside model_X.pt.
    """
    names = [path.with_suffix(".json")]
    if path.stem.startswith("model"):
        names.append(path.with_name("config" + path.stem.removeprefix("model") + ".json"))
    for name in names:
        try:
            if not name.is_file() or name == path:
                continue
            if name.stat().st_size > _MAX_CONFIG:
                return {}, f"{name.name} is too long for a config, and was not read"
            value = json.loads(name.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}, f"{name.name} is not valid JSON, and was not read"
        value, _ = opaque.plain(value)
        return (value, "") if isinstance(value, dict) else ({}, f"{name.name} holds no config, and was not read")
    return {}, ""


def _is_npz(file: BinaryIO) -> bool:
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as entries:
            names = entries.namelist()
    except archive.DAMAGED:
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _npz(file: BinaryIO, max_bytes: int) -> tuple[dict[str, Any], Counter[str]]:
    """Return the arrays of an npz file by name, with `Skipped` in place of those of a dtype that is not read."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(file) as entries:
        if sum(entry.file_size for entry in entries.infolist()) > max_bytes:
            raise UserError(f"its arrays have more than {max_bytes} bytes; set max_bytes higher to read it")
    file.seek(0)
    with np.load(file, allow_pickle=False, max_header_size=10_000) as stored:
        for name in stored.files:
            try:
                array = stored[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                arrays[name] = opaque.Skipped("an array of Python objects")
                continue
            if array.dtype.newbyteorder("=") in _DTYPES:
                arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
            else:
                what = _RAW if array.dtype.kind == "V" else str(array.dtype)[:40]
                arrays[name] = opaque.Skipped(f"an array of {what}")
    return arrays, Counter(value.name for value in arrays.values() if isinstance(value, opaque.Skipped))


def _is_safetensors(head: bytes, size: int) -> bool:
    return size > 10 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        library = importlib.import_module("safetensors")
        numpy = importlib.import_module("safetensors.numpy")
    except ImportError:
        raise UserError(
            "it is a safetensors file, which needs the safetensors library: install jaxadd[safetensors], or "
            "`uv sync --extra safetensors`"
        ) from None
    try:
        return dict(numpy.load_file(path))
    except (library.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"its safetensors data is damaged ({str(error)[:100]})") from error


def _other(head: bytes, size: int) -> str:
    """Return what a file is that holds no network."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = start[:200].lower()
    if not size:
        return f"it is empty; {_EXPECTED}"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself; fetch the real file with `git lfs pull`"
    if lower.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")) or b"<html" in lower:
        return "it is a web page, not the file itself; download the file by its link for raw content"
    if head.startswith(b"\x93NUMPY"):
        return f"it is one array of NumPy without a name; {_EXPECTED}"
    if head.startswith(b"PK"):
        return f"it is a zip that is empty or cut off; {_EXPECTED}"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")):
        return f"it is compressed; unpack it first. Then {_EXPECTED}"
    if head.startswith(b"\x89HDF"):
        return f"it is an HDF5 file; {_EXPECTED}"
    if head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05":
        return (
            "it is a pickle and not the zip that torch.save writes since torch 1.6; if it is an older checkpoint, "
            "load it with torch and save it again"
        )
    text = _as_text(head)
    if text is not None:
        kind = "JSON" if text[:1] in "{[" else "plain text"
        return f"it is {kind}, and not the zip that torch.save writes; {_EXPECTED}"
    return f"it is not the zip that torch.save writes, or the beginning of it is missing; {_EXPECTED}"


def _as_text(head: bytes) -> str | None:
    try:
        text = head[:-4].decode() if len(head) == _HEAD else head.decode()
    except UnicodeDecodeError:
        return None
    return text.strip() if all(letter.isprintable() or letter in "\r\n\t\f" for letter in text) else None
