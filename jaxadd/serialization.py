"""Frozen configs as plain data: JSON and back, fields by dotted path, differences.

A nested dataclass is written with the name of its class as "kind". A class from outside this package, such as a
user's task, is written as "module:Class" and imported when the config is read.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

from jaxadd.errors import UserError

_PACKAGE = __name__.partition(".")[0]


def to_json(config: Any) -> dict[str, Any]:
    """Return a frozen dataclass as plain data."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {"kind": kind_of(type(config))} | {name: _plain(value) for name, value in values.items()}


def kind_of(cls: type) -> str:
    """Return the name under which a class is written: "Class" within this package, else "module:Class"."""
    module = cls.__module__
    if module == "__main__" and (spec := sys.modules[module].__spec__) is not None:
        module = spec.name  # `python -m NAME` runs NAME as __main__.
    return cls.__name__ if module.partition(".")[0] == _PACKAGE else f"{module}:{cls.__qualname__}"


def check_importable(config: Any) -> None:
    """Raise UserError where a class of the config cannot be imported when the config is read in another process."""
    kind = kind_of(type(config))
    module, _, name = kind.partition(":")
    if module == "__main__" or "<locals>" in name:
        where = "a script or notebook" if module == "__main__" else "a function"
        raise UserError(
            f"{type(config).__name__} is defined in {where}, so that a saved run of it could not be read again; "
            "define it at the top of a module, which can be imported, or train without a folder"
        )
    for f in fields(config):
        if is_dataclass(value := getattr(config, f.name)):
            check_importable(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return to_json(value) if is_dataclass(value) else value


def from_json(data: Any, expected: Any) -> Any:
    """Return the value that `to_json` wrote as plain data.

    Args:
      data: plain data.
      expected: annotation of the value: a dataclass, a union of dataclasses, or a base class of them.

    Raises:
      UserError: the class is not an expected one, cannot be imported, or has other fields now.
    """
    if not isinstance(data, dict):
        item_type = get_args(expected)[0] if get_origin(expected) is tuple else None
        return tuple(from_json(item, item_type) for item in data) if isinstance(data, list) else data
    cls = _class(data.get("kind"), expected)
    hints = get_type_hints(cls)
    hints = {f.name: hints[f.name] for f in fields(cls)}
    values = {name: value for name, value in data.items() if name != "kind"}
    if values.keys() != hints.keys():
        changes = ", ".join(sorted(values.keys() ^ hints.keys()))
        raise UserError(f"the fields of {cls.__name__} have changed since this was written: {changes}")
    return cls(**{name: from_json(value, hints[name]) for name, value in values.items()})


def _class(kind: Any, expected: Any) -> type:
    bases = get_args(expected) or (expected,)
    choices = {kind_of(cls): cls for base in bases for cls in _with_subclasses(base) if is_dataclass(cls)}
    if kind in choices:
        return choices[kind]
    module_name, colon, name = str(kind).partition(":")
    if module_name == "__main__":
        raise UserError(f"{name} was defined in a script or notebook; define it in a module, which can be imported")
    if colon:
        try:
            cls: Any = importlib.import_module(module_name)
        except ImportError as error:
            raise UserError(
                f"{kind} cannot be imported ({error}); start Python where the module {module_name} can be found"
            ) from error
        for part in name.split("."):
            cls = getattr(cls, part, None)
        if isinstance(cls, type) and is_dataclass(cls) and issubclass(cls, bases):
            return cls
    raise UserError(f"expected one of {', '.join(choices)}, got kind {kind!r}")


def _with_subclasses(cls: Any) -> Iterator[type]:
    """Yield a class and all its subclasses; nothing for an annotation that is not a class."""
    if isinstance(cls, type):
        yield cls
        subclasses: list[type] = cls.__subclasses__()
        for subclass in subclasses:
            yield from _with_subclasses(subclass)


# --- fields by path ------------------------------------------------------------------------------------------


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every field by its path, such as "optimizer.lr"; the class of a nested config has its path."""
    result: dict[str, Any] = {}
    for name, value in to_json(config).items():
        if name == "kind":
            result |= {prefix.removesuffix("."): value} if prefix else {}
        elif isinstance(value, dict):
            result |= flat(getattr(config, name), f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def class_default(config: Any, path: str) -> Any:
    """Return the default of a field, by an existing path, in its own class, as plain data."""
    *owners, name = path.split(".")
    for owner in owners:
        config = getattr(config, owner)
    (default,) = ((f.default, f.default_factory) for f in fields(config) if f.name == name)
    value, factory = default
    return _plain(value if factory is MISSING else factory())


def unused(config: Any, prefix: str = "") -> dict[str, str]:
    """Return the fields that have no effect beside the others, by path, and what each is for, in words.

    A config that has such fields says so by a method `unused_fields`, whose names may be paths too.
    """
    result: dict[str, str] = {}
    for f in fields(config):
        if is_dataclass(value := getattr(config, f.name)):
            result |= unused(value, f"{prefix}{f.name}.")
    own = getattr(config, "unused_fields", dict)
    return result | {prefix + name: purpose for name, purpose in own().items()}


def single_values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every field that holds one value, not a tuple, by its path, such as "task.mixture.uniform"."""
    result: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            result |= single_values(value, f"{prefix}{f.name}.")
        elif not isinstance(value, tuple):
            result[prefix + f.name] = value
    return result


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """Return the config with some fields replaced by path; raises UserError for unknown paths and invalid values."""
    for name in values:
        _check_path(config, name)
    return replace(config, **changed(config, values))


def changed(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new values of the top-level fields that `values`, by existing paths, change.

    All changes to a nested dataclass are made at once, so that it checks its fields together.
    """
    by_field: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        by_field.setdefault(head, {})[rest] = value
    result = {}
    for head, changes in by_field.items():
        part = getattr(config, head)
        result[head] = changes[""] if "" in changes else replace(part, **changed(part, changes))
    return result


def _check_path(config: Any, name: str) -> None:
    part = config
    for head in name.split("."):
        if not is_dataclass(part) or head not in {f.name for f in fields(part)}:
            raise UserError(f"no field is named {name}; there are {', '.join(flat(config))}")
        part = getattr(part, head)


def difference(here: Any, there: Any) -> list[str]:
    """Return the fields in which two configs differ, such as "optimizer.lr: 0.001 here, 0.003 there"."""
    a, b = flat(here), flat(there)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return [f"{name}: {a.get(name, 'absent')} here, {b.get(name, 'absent')} there" for name in names]
