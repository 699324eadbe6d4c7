"""What a pickle of torch or NumPy may call: each is a case of `call`, which computes arrays from checked numbers.

Every other call, class and name becomes a `Skipped` value, so that what stands beside the weights refuses no file.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop.opaque import Lazy, Skipped

_MAX_AXES = 8
STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_DTYPES = frozenset(
    f"{kind}{size}" for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248"), ("b", "1")) for size in sizes
)
# torch.float32 and the like occur in configs, and are read as their names.
_TORCH_DTYPES = frozenset(f"torch.{dtype}" for dtype in STORAGES.values())


@dataclass(frozen=True)
class Global:
    """The name of a class or function in a pickle; nothing is ever looked up by it."""

    name: str


@dataclass(frozen=True)
class Numbers:
    """A storage: numbers `[count]`."""

    values: np.ndarray


class _Dtype(Lazy):
    """A dtype of NumPy in the making, `value` a `np.dtype`."""


class _Array(Lazy):
    """An array of NumPy in the making."""


def find_global(module: Any, name: Any) -> Global | str:
    """Return a global by its name; the name of a dtype of torch as a string."""
    if not isinstance(module, str) or not isinstance(name, str):
        return Global("a nameless object")
    full = f"{module}.{name}"
    if full in _TORCH_DTYPES:
        return full
    # As NumPy 2 and Python 2 write it.
    return Global(full.replace("numpy._core.", "numpy.core.", 1).replace("__builtin__.", "builtins.", 1))


def storage_dtype(name: str) -> np.dtype | None:
    """Return the dtype of a storage by the name of its class, such as "torch.FloatStorage"."""
    return STORAGES.get(name.removeprefix("torch.")) if name.startswith("torch.") else None


def call(function: Any, arguments: Any) -> Any:
    """Return the result of a call or construction; `Skipped` for all but those of tensors, arrays and dictionaries.

    Raises:
      UserError: a tensor exceeds its storage, or its shape is impossible.
    """
    match function, arguments:
        case Global("collections.OrderedDict" | "builtins.dict"), ():
            return {}
        case Global("collections.defaultdict"), (*_,):
            return {}
        case Global("collections.OrderedDict" | "collections.Counter" | "builtins.dict"), (dict(items),):
            return items
        case Global("torch._utils._rebuild_tensor_v2"), (
            Numbers(values), offset, tuple(size), tuple(stride), bool(), dict(), *metadata
        ) if metadata in ([], [None], [{}]):  # fmt: skip
            return _view(values, offset, size, stride)
        case Global("torch._utils._rebuild_parameter"), (np.ndarray() as array, bool(), dict()):
            return array
        case Global("torch._tensor._rebuild_from_type_v2"), (
            Global("torch._utils._rebuild_tensor_v2") as rebuild, Global(), tuple(inner), _
        ):  # fmt: skip
            return call(rebuild, inner)
        case Global("torch.Size"), (tuple(size),):
            return size
        case Global("torch.device"), (str(kind),):
            return kind
        case Global("torch.device"), (str(kind), int(index)):
            return f"{kind}:{index}"
        case Global("builtins.bytes"), ():
            return b""
        case Global("_codecs.encode"), (str(text), str(code)) if code == "latin1":
            return text.encode("latin1", "replace")
        case Global("numpy.dtype"), (str(code), *_):
            return _Dtype(np.dtype(code) if code in _DTYPES else Skipped(f"NumPy's dtype {code[:20]}"))
        case Global("numpy.core.multiarray.scalar"), (_Dtype(), bytes(data)):
            array = _from_bytes(arguments[0], data, (), False)
            return array if isinstance(array, Skipped) else array.item()
        case Global("numpy.core.multiarray._reconstruct"), (Global("numpy.ndarray"), tuple(), bytes()):
            return _Array(Skipped("numpy.ndarray"))
        case Global("numpy.core.numeric._frombuffer"), (bytes(data), _Dtype(), tuple(shape), str(order)):
            return _from_bytes(arguments[1], data, shape, order == "F")
        case Global("copy_reg._reconstructor" | "copyreg._reconstructor" | "copyreg.__newobj__"), (Global(name), *_):
            return Skipped(name)
        case Global(name), _:
            return Skipped(name)
    return Skipped("a call of something that is no function")


def build(target: Any, state: Any) -> None:
    """Complete a value by its state, as BUILD of a pickle does; what is skipped keeps the state as it is."""
    match target, state:
        case _Dtype(), (int(), str(order), *_):
            if order not in ("<", "|", "=", ">"):
                target.value = Skipped("a NumPy dtype of unknown byte order")
            elif isinstance(target.value, np.dtype):
                target.value = target.value.newbyteorder(order)  # type: ignore[arg-type]
        case _Array(), (int(), tuple(shape), _Dtype() as dtype, bool() as fortran, bytes(data)):
            target.value = _from_bytes(dtype, data, shape, fortran)
        case _Array(), (int(), tuple(), _Dtype() as dtype, *_) if isinstance(dtype.value, Skipped):
            target.value = dtype.value
        case Skipped(), dict():
            target.state = state
        case Skipped(), (dict() | None as first, dict() as second):  # Attributes, and slots.
            target.state = first or second
        case _:
            return


def _from_bytes(kind: _Dtype, data: bytes, shape: tuple, fortran: bool) -> np.ndarray | Skipped:
    dtype = kind.value
    if isinstance(dtype, Skipped):
        return dtype
    whole = all(type(n) is int and n >= 0 for n in shape) and len(shape) <= _MAX_AXES
    if not whole or math.prod(shape) * dtype.itemsize != len(data) or math.prod(max(n, 1) for n in shape) >= 2**48:
        return Skipped("a NumPy array of an impossible shape")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _view(numbers: np.ndarray, offset: int, size: tuple, stride: tuple) -> np.ndarray:
    """Return a view of numbers `[count]`, with strides in numbers; raises UserError where it would exceed them."""
    whole = all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    if not whole or len(size) != len(stride) or len(size) > _MAX_AXES:
        raise UserError("a tensor in it has an impossible shape")
    if 0 in size:
        return np.zeros(size, numbers.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= len(numbers) or math.prod(size) > len(numbers):
        raise UserError(f"a tensor of shape {size} in it is larger than its storage of {len(numbers)} numbers")
    # The stride of an axis of length 1 is never used, and may be any number, even one too large for NumPy.
    strides = [s * numbers.itemsize if n > 1 else 0 for n, s in zip(size, stride, strict=True)]
    return np.ndarray(size, numbers.dtype, numbers, offset * numbers.itemsize, strides)
