"""Pickles of plain data and tensors, read without an unpickler.

Why no file can run code. `load` is a small machine for the operations in _ARGUED and _BARE, which build lists,
dicts, tuples, numbers and strings. A global is a name in a closed list, never an object imported or looked up, and
a call is a case of the one `match` statement in `_call`, which computes arrays from checked numbers. No object is
constructed by its class, and no attribute is read or set by a name from the file.

Why memory is bounded. Each operation makes at most a few hundred bytes beside what its own argument holds, and
there are at most MAX_OPERATIONS. Tensors are views of storages, however many refer to the same one, and a view
never has more elements than its storage. What is built is at most MAX_DEPTH levels deep, which leaves no cycles,
and has at most MAX_OPERATIONS parts even where shared parts are counted each time.
"""

import io
import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError

_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}
MAX_OPERATIONS = 2_000_000
MAX_DEPTH = 50
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
_DTYPES = frozenset(dtype.str[1:] for dtype in STORAGES.values() if dtype != jnp.bfloat16)
# torch.float32 and the like stand in configs; they are read as their names.
_TORCH_DTYPES = frozenset(f"torch.{dtype}" for dtype in STORAGES.values())
_CALLS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        "torch.device",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "_codecs.encode",
    }
)
_PUSH = frozenset(
    {
        *("BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
_ARGUED = _PUSH | {"BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "PROTO", "FRAME"}
_BARE = frozenset(
    {
        *("MARK", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MEMOIZE"),
        *("STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD"),
    }
)
_PLAIN = (type(None), bool, int, float, str, bytes, np.ndarray)
_KEYS = (str, int, float)

Storage = Callable[[str, np.dtype, int], np.ndarray]


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Numbers:
    values: np.ndarray


def load(data: bytes, storage: Storage) -> Any:
    """Build what a pickle describes.

    Args:
      data: the pickle.
      storage: `storage(name, dtype, count)` gives the numbers `[count]` of a storage.

    Returns:
      None, bool, int (64 bits), float, str, bytes, NumPy arrays, and lists, tuples and dicts of them. Tensors are
      read-only views; an OrderedDict is a dict; a torch.device or torch.dtype is its name.

    Raises:
      UserError: it holds or asks for anything else, or is damaged.
    """
    machine = _Machine(storage)
    try:
        for count, (operation, argument) in enumerate(_operations(data)):
            if count == MAX_OPERATIONS:
                raise UserError(f"its pickle has more than {MAX_OPERATIONS} operations")
            machine.do(operation, argument)
    except UserError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError) as error:  # A short argument, empty stack, unknown memo.
        raise UserError(f"its pickle is damaged ({type(error).__name__})") from error
    value = machine.result()
    _check_plain(value, 0, {})
    return value


def _operations(data: bytes) -> Iterator[tuple[str, Any]]:
    """List the operations of a pickle by name, with their arguments; one that is unknown is refused unread."""
    file = io.BytesIO(data)
    while code := file.read(1):
        operation = _OPERATIONS.get(code.decode("latin1"))
        name = operation.name if operation else f"{code!r}"
        if name == "GLOBAL":
            yield name, ".".join(file.readline().rstrip(b"\n").decode("ascii") for _ in range(2))
        elif name in _ARGUED and operation is not None and operation.arg is not None:
            yield name, operation.arg.reader(file)
        elif name in _BARE:
            yield name, None
        else:
            raise UserError(f"its pickle has the operation {name}, which torch.save does not write")
        if name == "STOP":
            return
    raise UserError("its pickle is damaged (it has no end)")


class _Machine:
    def __init__(self, storage: Storage):
        self._storage = storage
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # The stacks below each mark.
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        if self._below or len(self._stack) != 1:
            raise UserError("its pickle is damaged (it ends in the middle)")
        return self._stack[0]

    def do(self, operation: str, argument: Any) -> None:
        if operation in _PUSH:
            if isinstance(argument, int) and argument.bit_length() > 64:
                raise UserError("it holds an integer of more than 64 bits")
            self._stack.append(argument)
            return
        stack = self._stack
        match operation:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(operation == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = tuple(stack.pop() for _ in range(int(operation[-1])))
                stack.append(items[::-1])
            case "TUPLE":
                items = self._since_mark()
                self._stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS":
                items = self._since_mark()
                _extend(self._stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = self._since_mark()
                _update(self._stack[-1], items)
            case "GLOBAL":
                stack.append(_named(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(f"{module}.{name}" if type(module) is type(name) is str else "a nameless object"))
            case "BINPERSID":
                stack.append(_Numbers(self._find(stack.pop())))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                state = stack.pop()
                _set_state(stack[-1], state)

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _find(self, reference: Any) -> np.ndarray:
        match reference:
            case ("storage", _Global(kind), str(name), str(), int(count)) if kind.removeprefix("torch.") in STORAGES:
                return self._storage(name, STORAGES[kind.removeprefix("torch.")], count)
        raise UserError("it refers to something outside itself that is no storage of numbers")


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise UserError("its pickle appends to something that is no list")
    target.extend(items)


def _update(target: Any, items: list[Any]) -> None:
    keys, values = items[::2], items[1::2]
    if type(target) is not dict or len(keys) != len(values):
        raise UserError("its pickle sets items of something that is no dictionary")
    for key in keys:
        check_key(key)  # Hashing a deep tuple would overflow the C stack.
    target.update(zip(keys, values, strict=True))


def check_key(key: Any) -> None:
    """Raise UserError for a key of a dictionary that is no string or number."""
    if not isinstance(key, _KEYS):
        raise UserError(f"a key of a dictionary must be a string or a number, got {type(key).__name__}")


def _named(name: str) -> _Global | str:
    if name in _TORCH_DTYPES:
        return name
    name = name.replace("numpy._core.", "numpy.core.", 1)  # As NumPy 2 writes it.
    if name not in _CALLS and not (name.startswith("torch.") and name.removeprefix("torch.") in STORAGES):
        raise UserError(
            f"it holds or calls {name[:100]!r}, and only tensors and plain data are read; save the model's "
            "state_dict() and numbers, strings, lists and dictionaries beside it"
        )
    return _Global(name)


def _call(function: Any, arguments: Any) -> Any:
    """Compute what a call stands for: the complete list of what a file can ask to be done."""
    match function, arguments:
        case _Global("collections.OrderedDict"), ():
            return {}
        case _Global("torch._utils._rebuild_tensor_v2"), (
            _Numbers(values), offset, tuple(size), tuple(stride), bool(), dict(), *metadata
        ) if metadata in ([], [None], [{}]):  # fmt: skip
            return _view(values, offset, size, stride)
        case _Global("torch._utils._rebuild_parameter"), (np.ndarray() as array, bool(), dict()):
            return array
        case _Global("torch.Size"), (tuple(size),):
            return size
        case _Global("torch.device"), (str(kind),):
            return kind
        case _Global("torch.device"), (str(kind), int(index)):
            return f"{kind}:{index}"
        case _Global("numpy.dtype"), (str(code), *_) if code in _DTYPES:
            return np.dtype(code)
        case _Global("_codecs.encode"), (str(text), str(code)) if code == "latin1":
            return text.encode("latin1")
        case _Global("numpy.core.multiarray.scalar"), (np.dtype() as kind, bytes(data)) if len(data) == kind.itemsize:
            return np.frombuffer(data, kind)[0].item()
        case _Global("numpy.core.multiarray._reconstruct"), (_Global("numpy.ndarray"), tuple(), bytes()):
            return np.zeros(0)
    name = function.name if isinstance(function, _Global) else type(function).__name__
    raise UserError(f"its pickle calls {name} with arguments that torch.save does not write")


def _view(numbers: np.ndarray, offset: int, size: tuple, stride: tuple) -> np.ndarray:
    """View numbers `[count]` in a shape, strides counted in numbers; raises UserError where it would leave them."""
    whole = all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    if not whole or len(size) != len(stride) or len(size) > _MAX_AXES:
        raise UserError("a tensor in it has an impossible shape")
    if 0 in size:
        return np.zeros(size, numbers.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= len(numbers) or math.prod(size) > len(numbers):
        raise UserError(f"a tensor of shape {size} in it is larger than its storage of {len(numbers)} numbers")
    # A stride over an axis of length 1 is never walked, and may be any number, too large for NumPy too.
    strides = [s * numbers.itemsize if n > 1 else 0 for n, s in zip(size, stride, strict=True)]
    return np.ndarray(size, numbers.dtype, numbers, offset * numbers.itemsize, strides)


def _set_state(target: Any, state: Any) -> None:
    match target, state:
        case dict(), dict():  # A state dict's _metadata, the versions of its modules.
            return
        case np.dtype(), (int(), str(order), *_) if order in ("<", "|"):
            return
        case np.ndarray(), (int(), tuple(shape), np.dtype() as dtype, bool() as fortran, bytes(data)):
            whole = all(type(n) is int and n >= 0 for n in shape) and len(shape) <= _MAX_AXES
            if whole and math.prod(shape) * dtype.itemsize == len(data):
                target.__setstate__((1, shape, dtype, fortran, data))  # type: ignore[arg-type]  # NumPy's stub wants its own bool.
                return
    raise UserError(f"its pickle sets a state of {type(target).__name__} that torch.save does not write")


def _check_plain(value: Any, above: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Count the levels and the parts of a value, each shared part as often as it occurs; raises UserError.

    Args:
      value: checked.
      above: levels above it.
      known: what was counted, by id, so that shared parts are walked once.
    """
    if type(value) in _PLAIN:
        return 0, 1
    if type(value) not in (list, tuple, dict):
        name = value.name if isinstance(value, _Global) else type(value).__name__
        raise UserError(f"it holds {name}, which is no plain data")
    if id(value) not in known and above <= MAX_DEPTH:
        parts = value.values() if type(value) is dict else value
        counts = [_check_plain(part, above + 1, known) for part in parts]
        known[id(value)] = 1 + max((c[0] for c in counts), default=0), 1 + sum(c[1] for c in counts)
    levels, total = known.get(id(value), (MAX_DEPTH, 0))
    if above + levels > MAX_DEPTH:
        raise UserError(f"its lists and dictionaries are more than {MAX_DEPTH} levels deep")
    if total > MAX_OPERATIONS:
        raise UserError(f"it has more than {MAX_OPERATIONS} parts")
    return levels, total
