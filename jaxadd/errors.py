"""The one exception that is meant for users of this package, and the checks that many configs share."""

import math
from typing import Literal, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """A request that cannot be met as it is; the message says what was expected, what was got, and how to fix it."""


def check_choices(config: object) -> None:
    """Raise UserError for a field of a dataclass whose value is not one of the strings that its annotation lists."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise UserError(f"{name} must be one of {', '.join(get_args(hint))}, got {getattr(config, name)!r}")


def check_numbers(config: object, **limits: tuple[float, float]) -> None:
    """Raise UserError for a field outside its half-open range `name=(low, high)`; traced values are not checked."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if isinstance(value, int | float) and not (math.isfinite(value) and low <= value < high):
            expected = f"at least {low:g}" if high == math.inf else f"from {low:g} to below {high:g}"
            raise UserError(f"{type(config).__name__}.{name} must be a number {expected}, got {value}")
