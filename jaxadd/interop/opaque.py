"""What a file holds beside plain data: it is neither imported, constructed nor called, and only its name is kept."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

MAX_DEPTH = 50
MAX_PARTS = 2_000_000
_PLAIN = (type(None), bool, int, float, str, bytes, np.ndarray)
_NAMED = 6  # values that a note names


class Skipped:
    """A value in a file that was not built.

    Attributes:
      name: what it is, such as "argparse.Namespace".
      state: the attributes or items that the file states of it, as they were read; None where it states none.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str, state: dict[Any, Any] | None = None):
        self.name = name[:200]
        self.state = state

    def __repr__(self) -> str:
        return f"<skipped {self.name}>"


class Lazy:
    """A value that a pickle completes after it has named it, such as an array; `plain` puts `value` in its place."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value


def is_plain_key(key: Any) -> bool:
    """Return whether a key of a dictionary is kept; to hash any other, such as a deep tuple, may not end well."""
    return key is None or isinstance(key, str | float | bytes) or (isinstance(key, int) and key.bit_length() <= 64)


def plain(value: Any) -> tuple[Any, Counter[str]]:
    """Return a copy of a value that holds only plain data, and `Skipped` in place of everything else.

    The copy is at most MAX_DEPTH levels deep, without cycles, and has at most MAX_PARTS parts, where shared parts are
    counted each time. The attributes of what is skipped are copied likewise.

    Returns:
      the copy, and the number of skipped values by name.
    """
    copier = _Copier()
    return copier.copy(value, 0)[0], copier.skipped


def note(skipped: Mapping[str, int]) -> str:
    """Return one line that names what was skipped; empty where nothing was."""
    if not skipped:
        return ""
    named = [name[:60] + (f" ({count} times)" if count > 1 else "") for name, count in list(skipped.items())[:_NAMED]]
    more = f" and {len(skipped) - _NAMED} more kinds" if len(skipped) > _NAMED else ""
    return f"skipped beside the weights, without running anything: {', '.join(named)}{more}"


def walk(value: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Yield every dictionary in a copy by `plain` once, with its path; the attributes of skipped values too."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        path, item = waiting.pop()
        item = item.state if isinstance(item, Skipped) else item
        if not isinstance(item, dict | list | tuple) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            yield path, item
        parts = item.items() if isinstance(item, dict) else enumerate(item)
        inner = [
            ((*path, str(name)[:100]), part)
            for name, part in parts
            if isinstance(part, dict | list | tuple | Skipped)
        ]
        waiting.extend(reversed(inner))


class _Copier:
    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        # By id of what is copied: the copy, its levels and its parts; None while it is being copied.
        self._known: dict[int, tuple[Any, int, int] | None] = {}

    def copy(self, value: Any, above: int) -> tuple[Any, int, int]:
        """Return the copy of a value, and the numbers of its levels and parts."""
        value = value.value if isinstance(value, Lazy) else value
        if isinstance(value, int) and value.bit_length() > 64:
            return self._skip("an integer of more than 64 bits")
        if type(value) in _PLAIN:
            return value, 0, 1
        if isinstance(value, Skipped):
            self.skipped[value.name] += id(value) not in self._known
        elif type(value) not in (list, tuple, dict):
            return self._skip(getattr(value, "name", type(value).__name__))
        known = self._known.get(id(value), ())
        if known is None:
            return self._skip("a value inside itself")
        if above + (known[1] if known else 0) > MAX_DEPTH:
            return self._skip(f"lists and dictionaries more than {MAX_DEPTH} levels deep")
        if not known:
            self._known[id(value)] = None
            known = self._container(value, above)
            self._known[id(value)] = known
        return known

    def _container(self, value: Any, above: int) -> tuple[Any, int, int]:
        if isinstance(value, Skipped):
            state, levels, parts = (None, 0, 1) if value.state is None else self.copy(value.state, above)
            return Skipped(value.name, state if isinstance(state, dict) else None), levels, parts
        items = list(value.values()) if isinstance(value, dict) else value
        parts = [self.copy(item, above + 1) for item in items]
        total = 1 + sum(part[2] for part in parts)
        if total > MAX_PARTS:
            return self._skip(f"a value of more than {MAX_PARTS} parts")
        copies = [part[0] for part in parts]
        copy = dict(zip(value, copies, strict=True)) if isinstance(value, dict) else type(value)(copies)
        return copy, 1 + max((part[1] for part in parts), default=0), total

    def _skip(self, name: str) -> tuple[Skipped, int, int]:
        self.skipped[name[:200]] += 1
        return Skipped(name), 0, 1
