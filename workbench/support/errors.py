"""The one exception that a user's mistake raises: a single line that says what, where and what to do."""


class WorkbenchError(Exception):
    """A mistake in the input (a file, a setting, a command line), told in one line and without a traceback."""


def one_line(error: Exception) -> str:
    """What an error of a library says, in one line: its first, and the second where that is what the first announces.

    The system's error (no space left) is told instead of what a library makes of it.
    """
    error = error.__context__ if isinstance(error.__context__, OSError) else error
    first, *more = str(error).splitlines() or [type(error).__name__]
    return f"{first} {more[0].strip()}" if first.endswith(":") and more else first
