"""Reading pickles of plain data and tensors, without an unpickler.

Why no file can run code. `load` is a small machine for the operations of pickles, which build lists, dicts, tuples,
numbers and strings. A global is a name, never an object imported or looked up, and a call is a case of the `match`
statement in `calls.call`, which computes arrays from checked numbers; everything else becomes a `Skipped` value that
keeps the name alone. No object is constructed by its class, and no attribute is read or set by a name from the file.

Why memory is bounded. Each operation allocates at most a few hundred bytes beside its argument, and there are at most
MAX_OPERATIONS. Tensors are views of storages, of which many may have the same one, and a view never has more elements
than its storage. The result is at most `opaque.MAX_DEPTH` levels deep, which excludes cycles, and has at most
`opaque.MAX_PARTS` parts, where shared parts are counted each time.
"""

import io
import pickletools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop import calls, opaque
from jaxadd.interop.calls import Global, Numbers
from jaxadd.interop.opaque import Skipped

MAX_OPERATIONS = 2_000_000
_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}
_PUSH = frozenset(
    {
        *("INT", "LONG", "FLOAT", "BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_OTHER_KEY = "an item of a dictionary whose key is no string or number"

Storage = Callable[[str, np.dtype, int], np.ndarray]


def load(data: bytes, storage: Storage) -> tuple[Any, Counter[str]]:
    """Return the value of a pickle, and what was skipped.

    Args:
      data: the pickle.
      storage: `storage(name, dtype, count)` returns the numbers `[count]` of a storage.

    Returns:
      None, bool, int (64 bits), float, str, bytes, NumPy arrays, and lists, tuples and dicts of them; `Skipped` in
      place of everything else, and how often each kind of it occurs. Tensors are read-only views; an OrderedDict,
      defaultdict or Counter is a dict; a torch.device or torch.dtype is its name.

    Raises:
      UserError: the pickle is damaged or too long, or a tensor in it has an impossible shape.
    """
    machine = _Machine(storage)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # A string of an old pickle has an unknown escape.
            for count, (operation, argument) in enumerate(_operations(data)):
                if count == MAX_OPERATIONS:
                    raise UserError(f"its pickle has more than {MAX_OPERATIONS} operations")
                machine.execute(operation, argument)
    except UserError:
        raise
    # A short argument, empty stack, unknown memo.
    except (ValueError, IndexError, KeyError, OverflowError, AttributeError, TypeError) as error:
        raise UserError(f"its pickle is damaged ({type(error).__name__})") from error
    return opaque.plain(machine.result())


def _operations(data: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the operations of a pickle by name, with their arguments; raises UserError for unknown ones."""
    file = io.BytesIO(data)
    while code := file.read(1):
        operation = _OPERATIONS.get(code.decode("latin1"))
        if operation is None:
            raise UserError(f"its pickle is damaged (it has no operation {code!r})")
        if operation.name in ("GLOBAL", "INST"):
            yield operation.name, [file.readline().rstrip(b"\n").decode("utf-8", "replace") for _ in range(2)]
        else:
            yield operation.name, operation.arg.reader(file) if operation.arg else None
        if operation.name == "STOP":
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

    def execute(self, operation: str, argument: Any) -> None:
        stack = self._stack
        if operation in _PUSH:
            stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif not self._collect(operation) and not self._make(operation, argument):
            self._move(operation, argument)

    def _collect(self, operation: str) -> bool:
        """Execute an operation on lists, tuples, dicts and sets; return whether it is one."""
        stack = self._stack
        match operation:
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(Skipped("set"))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = tuple(stack.pop() for _ in range(int(operation[-1])))
                stack.append(items[::-1])
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
                items = self._since_mark()
                made: Any = Skipped("frozenset") if operation == "FROZENSET" else {} if operation == "DICT" else items
                if operation == "DICT":
                    _update(made, items)
                self._stack.append(tuple(items) if operation == "TUPLE" else made)
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS" | "ADDITEMS":
                items = self._since_mark()
                _extend(self._stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = self._since_mark()
                _update(self._stack[-1], items)
            case _:
                return False
        return True

    def _make(self, operation: str, argument: Any) -> bool:
        """Execute an operation on names, calls and states; return whether it is one."""
        stack = self._stack
        match operation:
            case "GLOBAL":
                stack.append(calls.find_global(*argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(calls.find_global(module, name))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(Global("an extension of pickle"))
            case "BINPERSID":
                stack.append(self._load(stack.pop()))
            case "PERSID":
                stack.append(Skipped("an object outside the file"))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(calls.call(function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(calls.call(function, arguments))
            case "INST":
                arguments = tuple(self._since_mark())
                self._stack.append(calls.call(calls.find_global(*argument), arguments))
            case "OBJ":
                function, *arguments = self._since_mark()
                self._stack.append(calls.call(function, tuple(arguments)))
            case "BUILD":
                state = stack.pop()
                calls.build(stack[-1], state)
            case _:
                return False
        return True

    def _move(self, operation: str, argument: Any) -> None:
        """Execute an operation on the memo and the stack."""
        stack = self._stack
        match operation:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise UserError(f"its pickle has the operation {operation}, which is for data outside the file")

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _load(self, reference: Any) -> Numbers | Skipped:
        match reference:
            case ("storage", Global(kind), str(name), str(), int(count)):
                dtype = calls.storage_dtype(kind)
                return Skipped(kind) if dtype is None else Numbers(self._storage(name, dtype, count))
        return Skipped("an object outside the file")


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Skipped):
        raise UserError("its pickle appends to something that is no list")


def _update(target: Any, items: list[Any]) -> None:
    keys, values = items[::2], items[1::2]
    if isinstance(target, Skipped):
        target.state = {} if target.state is None else target.state
        target = target.state
    if type(target) is not dict or len(keys) != len(values):
        raise UserError("its pickle sets items of something that is no dictionary")
    for key, value in zip(keys, values, strict=True):
        if opaque.is_plain_key(key):
            target[key] = value
        else:  # Hashing a deep tuple would overflow the C stack.
            target[_OTHER_KEY] = Skipped(_OTHER_KEY)
