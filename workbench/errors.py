"""The one exception that a user's mistake raises: a single line that says what, where and what to do."""


class WorkbenchError(Exception):
    """A mistake in the input (a file, a setting, a command line), told in one line and without a traceback."""
