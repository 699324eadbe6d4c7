"""The one exception of this package that is meant for its user, and the check that many configs share."""

from typing import Literal, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """Something that the user asked for and can mend: says what was expected, what was got, and how to mend it."""


def check_choices(config: object) -> None:
    """Raise UserError for a field of a dataclass that is none of the strings its annotation lists."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise UserError(f"{name} must be one of {', '.join(get_args(hint))}, got {getattr(config, name)!r}")
