"""Finding the state dict of a network in the content of a file."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop import opaque
from jaxadd.interop.formats import FORMATS, Format
from jaxadd.interop.layouts import listed

_NAMED = 6  # tensors or state dicts that a message lists
_BESIDE = ("_extra_state", "_metadata")


class State(NamedTuple):
    """The state dict of a network.

    Attributes:
      arrays: its tensors by name, without the prefix that all names share.
      format: the family of formats that recognises it.
      path: where it is in the file; empty where the file is the state dict.
    """

    arrays: dict[str, np.ndarray]
    format: Format
    path: tuple[str, ...]


def find(content: Any, key: str | None) -> State:
    """Return the one state dict of a network in the content of a file.

    Args:
      content: as `opaque.plain` returns it.
      key: the path of the state dict, such as "model" or "states.0", or the end of the path; None where there is one.

    Raises:
      UserError: there is none, or there are several and `key` does not choose one.
    """
    candidates = {".".join(path): (path, value) for path, value in opaque.walk(content) if _family(value) is not None}
    chosen = candidates
    if key is not None:
        chosen = {name: one for name, one in candidates.items() if name == key or name.endswith(f".{key}")}
        chosen = {key: chosen[key]} if key in chosen else chosen
    if len(chosen) != 1:
        raise UserError(_misfit(content, list(chosen or candidates), key))
    ((path, value),) = chosen.values()
    family = _family(value)
    assert family is not None
    if parts := _several(value):
        raise UserError(f"it holds several networks, under {listed(parts)}; save the state dict of one in a file")
    for name, item in value.items():
        inside = isinstance(name, str) and "." in name and not name.endswith(_BESIDE)
        if inside and not isinstance(item, np.ndarray):
            kind = item.name if isinstance(item, opaque.Skipped) else type(item).__name__
            raise UserError(f"{name!r} in its state dict is no tensor but {kind}")
    return State(_stripped(value), family, path)


def rest(content: Any, state: State) -> dict[Any, Any]:
    """Return the content of a file without the state dict."""
    if not isinstance(content, dict):
        return {}
    if not state.path:
        return {name: value for name, value in content.items() if not isinstance(value, np.ndarray)}
    return _without(content, state.path)


def _without(value: Any, path: tuple[str, ...]) -> Any:
    if not isinstance(value, dict):
        return value
    result = {}
    for name, part in value.items():
        if str(name)[:100] != path[0]:
            result[name] = part
        elif len(path) > 1:
            result[name] = _without(part, path[1:])
    return result


def _family(value: dict[Any, Any]) -> Format | None:
    names = _stripped(value, arrays=False)
    return next((family for family in FORMATS if family.recognises(names)), None)


def _stripped(value: Mapping[Any, Any], *, arrays: bool = True) -> dict[str, Any]:
    """Return the tensors of a dict by name without the prefix that all names share, such as "module."."""
    kept = {
        name: part
        for name, part in value.items()
        if isinstance(name, str) and (isinstance(part, np.ndarray) or (not arrays and "." in name))
    }
    names = list(kept)
    shared = 0
    if len(names) > 1:
        first, last = min(names).split("."), max(names).split(".")
        while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
            shared += 1
    return {".".join(name.split(".")[shared:]): part for name, part in kept.items()}


def _several(value: Mapping[Any, Any]) -> list[str]:
    """Return the first parts of the names of a state dict where tensors of each alone are a network."""
    groups: dict[str, dict[str, Any]] = {}
    for name, part in value.items():
        if isinstance(name, str) and isinstance(part, np.ndarray):
            head, _, inner = name.partition(".")
            groups.setdefault(head, {})[inner] = part
    networks = [head for head, names in groups.items() if _family(names) is not None]
    return networks if len(networks) > 1 else []


def _misfit(content: Any, candidates: list[str], key: str | None) -> str:
    """Return why there is no one state dict."""
    dicts = list(opaque.walk(content))
    if candidates == [""]:
        return f"the file is a state dict, and has none under {key!r}; leave key out"
    if candidates:
        present = f"it has {listed([repr(name) for name in candidates])}; choose one by key"
        return f"it should hold one state dict{'' if key is None else f' under {key!r}'}, and {present}"
    if any("_modules" in value and "_parameters" in value for _, value in dicts):
        return "it holds a pickled module, whose code is never run; save model.state_dict() instead"
    tensors = {
        ".".join((*path, str(name))): array.shape
        for path, value in dicts
        for name, array in value.items()
        if isinstance(array, np.ndarray)
    }
    known = "; or ".join(family.title for family in FORMATS)
    if not tensors:
        kind = content.name if isinstance(content, opaque.Skipped) else type(content).__name__
        return f"it should hold a state dict of tensors, and holds a {kind} without any; expected {known}"
    named = [f"{name[:60]} {shape}" for name, shape in list(tensors.items())[:_NAMED]]
    more = f" and {len(tensors) - _NAMED} more" if len(tensors) > _NAMED else ""
    return f"no network is known by the names of its tensors, {', '.join(named)}{more}; expected {known}"
