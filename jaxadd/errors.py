"""The one exception of this package that is meant for its user."""


class UserError(ValueError):
    """Something that the user asked for and can mend: says what was expected, what was got, and how to mend it."""
