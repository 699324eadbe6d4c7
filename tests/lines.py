"""What is expected of an error that a person can fix."""


def assert_one_line(error, words):
    """Assert that standard error ends in one line that says what happened."""
    last = error.splitlines()[-1]
    assert last.startswith("error: "), error
    assert words in last
    assert "Traceback" not in error
