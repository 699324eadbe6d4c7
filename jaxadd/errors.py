"""The one exception that is meant for users of this package, and the checks that many configs share."""

import math
from collections.abc import Collection, Sequence
from typing import Literal, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """A request that cannot be met as it is; the message says what was expected, what was got, and how to fix it."""


def check_choices(config: object) -> None:
    """Raise UserError for a field of a dataclass whose value is not one of the strings that its annotation lists."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise UserError(f"{name} must be one of {', '.join(get_args(hint))}, got {getattr(config, name)!r}")


def check_names(what: str, given: Sequence[str], known: Collection[str]) -> None:
    """Raise UserError where names, of an option that is the plural of `what`, are none, unknown or repeated."""
    if not given:
        raise UserError(f"--{what}s names no {what}; there are {', '.join(known)}")
    if len(set(given)) < len(given):
        raise UserError(f"--{what}s may name every {what} once, got {', '.join(given)}")
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"no {what} is named {', '.join(unknown)}; there are {', '.join(known)}")


def check_numbers(config: object, **limits: tuple[float, float]) -> None:
    """Raise UserError for a field outside its half-open range `name=(low, high)`; traced values are not checked."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if isinstance(value, int | float) and not (math.isfinite(value) and low <= value < high):
            expected = f"at least {low:g}" if high == math.inf else f"from {low:g} to below {high:g}"
            raise UserError(f"{type(config).__name__}.{name} must be a number {expected}, got {value}")
