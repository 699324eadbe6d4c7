"""Writing pickles of plain data and tensors, without a pickler and without torch."""

import math
import struct
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop.calls import STORAGES
from jaxadd.interop.opaque import MAX_DEPTH


def dump(value: Any) -> tuple[bytes, list[np.ndarray]]:
    """Return a value as a pickle that torch.load reads with weights_only=True.

    Args:
      value: None, bool, int (64 bits), float, str, arrays (NumPy or JAX, written as tensors), and lists, tuples
        and mappings of them. NumPy scalars become Python scalars.

    Returns:
      the pickle, and the storages that it refers to by their index.

    Raises:
      UserError: the value contains anything else.
    """
    out = bytearray(b"\x80\x02")
    storages: list[np.ndarray] = []
    _dump(value, 0, out, storages)
    return bytes(out + b"."), storages


def _dump(value: Any, above: int, out: bytearray, storages: list[np.ndarray]) -> None:
    if above > MAX_DEPTH:
        raise UserError(f"lists and dictionaries can be written up to {MAX_DEPTH} levels deep, and these are deeper")
    if isinstance(value, np.generic):
        value = value.item()
    parts: Any = ()
    match value:
        case None:
            out += b"N"
        case bool():
            out += b"\x88" if value else b"\x89"
        case int():
            out += _integer(value)
        case float():
            out += b"G" + struct.pack(">d", value)
        case str():
            data = value.encode("utf-8", "surrogatepass")
            out += b"X" + struct.pack("<I", len(data)) + data
        case np.ndarray() | jax.Array():
            out += _tensor(np.asarray(value), storages)
        case list() | tuple():
            out += b"](" if isinstance(value, list) else b"("
            parts = value
        case Mapping():
            out += b"}("
            parts = [part for item in value.items() for part in item]
            for key in value:
                if not isinstance(key, str | int | float):
                    raise UserError(f"a key of a dictionary must be a string or a number, got {type(key).__name__}")
        case _:
            raise UserError(
                f"only arrays, numbers, strings, lists and dictionaries can be written, got {type(value)}"
            )
    for part in parts:
        _dump(part, above + 1, out, storages)
    if isinstance(value, list | tuple | Mapping):
        out += b"e" if isinstance(value, list) else b"t" if isinstance(value, tuple) else b"u"


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    if value.bit_length() > 64:
        raise UserError(f"an integer can be written in up to 64 bits, got one of {value.bit_length()}")
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def _tensor(array: np.ndarray, storages: list[np.ndarray]) -> bytes:
    kind = next((name for name, dtype in STORAGES.items() if dtype == array.dtype), None)
    if kind is None:
        known = ", ".join(str(dtype) for dtype in STORAGES.values())
        raise UserError(f"an array can be written of dtype {known}; got {array.dtype}")
    stride = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
    name = str(len(storages))
    storages.append(np.array(array, order="C"))
    plain = lambda value: dump(value)[0][2:-1]
    storage = b"(" + plain("storage") + f"ctorch\n{kind}\n".encode() + plain(name) + plain("cpu") + plain(array.size)
    rest = plain(0) + plain(array.shape) + plain(stride) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + rest + b"tR"
