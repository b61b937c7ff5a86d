"""Changes of the settings in a test's copy of ``experiments``, and the messages about mistakes."""

from pathlib import Path

import pytest

from workbench.settings import files
from workbench.support.errors import WorkbenchError


def change(path: Path, old: str, new: str, count: int = 1) -> None:
    """Replace a text that the file must contain."""
    text = path.read_text()
    assert old in text, f"{path} has no {old}"
    path.write_text(text.replace(old, new, count))
    files.forget()


def error_of(function, *arguments) -> str:
    """Message of the WorkbenchError of a call, which must be one line."""
    with pytest.raises(WorkbenchError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)
