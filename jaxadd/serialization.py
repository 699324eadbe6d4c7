"""Frozen configs as plain data: JSON and back, fields by dotted path, differences.

A nested dataclass is written with the name of its class as "kind". A class from outside this package, such as a task
of your own, is written as "module:Class" and imported from there when the config is read.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

from jaxadd.errors import UserError

_PACKAGE = __name__.partition(".")[0]


def to_json(config: Any) -> dict[str, Any]:
    """Return a frozen dataclass as plain data."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {"kind": kind_of(type(config))} | {name: _plain(value) for name, value in values.items()}


def kind_of(cls: type) -> str:
    """Return the name under which a class is written: its own within this package, else "module:Class"."""
    module = cls.__module__
    if module == "__main__" and (spec := sys.modules[module].__spec__) is not None:
        module = spec.name  # `python -m NAME` runs NAME as __main__.
    return cls.__name__ if module.partition(".")[0] == _PACKAGE else f"{module}:{cls.__qualname__}"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return to_json(value) if is_dataclass(value) else value


def from_json(data: Any, expected: Any) -> Any:
    """Return the value that `to_json` wrote.

    Args:
      data: plain data.
      expected: the annotation of the value: a dataclass, a union of them, or a base class of them.

    Raises:
      UserError: the class is not one of those expected, cannot be imported, or has other fields now.
    """
    if not isinstance(data, dict):
        of = get_args(expected)[0] if get_origin(expected) is tuple else None
        return tuple(from_json(item, of) for item in data) if isinstance(data, list) else data
    cls = _class(data.get("kind"), expected)
    hints = get_type_hints(cls)
    hints = {f.name: hints[f.name] for f in fields(cls)}
    values = {name: value for name, value in data.items() if name != "kind"}
    if values.keys() != hints.keys():
        wrong = ", ".join(sorted(values.keys() ^ hints.keys()))
        raise UserError(f"the fields of {cls.__name__} have changed since this was written: {wrong}")
    return cls(**{name: from_json(value, hints[name]) for name, value in values.items()})


def _class(kind: Any, expected: Any) -> type:
    bases = get_args(expected) or (expected,)
    choices = {kind_of(cls): cls for base in bases for cls in _family(base) if is_dataclass(cls)}
    if kind in choices:
        return choices[kind]
    module, colon, name = str(kind).partition(":")
    if colon:
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"{kind} cannot be imported ({error}); start Python where the module {module} can be found"
            ) from error
        cls = getattr(found, name, None)
        if isinstance(cls, type) and is_dataclass(cls) and issubclass(cls, bases):
            return cls
    raise UserError(f"expected one of {', '.join(choices)}, got kind {kind!r}")


def _family(cls: Any) -> Iterator[type]:
    """Yield a class and every class that derives from it."""
    if isinstance(cls, type):
        yield cls
        for derived in cls.__subclasses__():
            yield from _family(derived)


# --- fields by path ------------------------------------------------------------------------------------------


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every field by its path, as in "optimizer.lr"; the class of a nested config is under its own path."""
    result: dict[str, Any] = {}
    for name, value in to_json(config).items():
        if name == "kind":
            result |= {prefix.removesuffix("."): value} if prefix else {}
        elif isinstance(value, dict):
            result |= flat(getattr(config, name), f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def single_values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every field that holds one value, not a list, by its path, as in "task.mixture.uniform"."""
    result: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            result |= single_values(value, f"{prefix}{f.name}.")
        elif not isinstance(value, tuple):
            result[prefix + f.name] = value
    return result


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """Return the config with fields replaced by path; raises UserError for an unknown path or an invalid value."""
    for name in values:
        _check_path(config, name)
    return replace(config, **changed(config, values))


def changed(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config that values by existing paths change; each dataclass checks its own together."""
    inside: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        inside.setdefault(head, {})[rest] = value
    result = {}
    for head, given in inside.items():
        part = getattr(config, head)
        result[head] = given[""] if "" in given else replace(part, **changed(part, given))
    return result


def _check_path(config: Any, name: str) -> None:
    part = config
    for head in name.split("."):
        if not is_dataclass(part) or head not in {f.name for f in fields(part)}:
            raise UserError(f"no field is named {name}; there are {', '.join(flat(config))}")
        part = getattr(part, head)


def difference(ours: Any, theirs: Any) -> list[str]:
    """List the fields in which two configs differ, as "optimizer.lr: 0.001 here, 0.003 there"."""
    a, b = flat(ours), flat(theirs)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return [f"{name}: {a.get(name, 'absent')} here, {b.get(name, 'absent')} there" for name in names]
