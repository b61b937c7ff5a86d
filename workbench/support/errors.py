"""The exception that a user's mistake raises: one line with the place, the problem and what to do."""


class WorkbenchError(Exception):
    """Mistake in a file, a setting or a command line, reported in one line without a traceback."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # a name in the message may have line breaks


def one_line(error: Exception) -> str:
    """Return the message of a library's error in one line.

    The line is the first line of the message, followed by the second line if the first line ends with a colon. If a
    system error (no space left on device) caused the library's error, the line is the system error's message.
    """
    error = error.__context__ if isinstance(error.__context__, OSError) else error
    first, *more = str(error).splitlines() or [type(error).__name__]
    return f"{first} {more[0].strip()}" if first.endswith(":") and more else first
