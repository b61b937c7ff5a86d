"""Atomic writing of files, and reading of JSON with one-line errors.

A file is written under a temporary name, then moved. A killed job or a full disk therefore never leaves an incomplete
file that a later step of the pipeline would read as a result.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from workbench.support.errors import WorkbenchError


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` and make its folder if necessary; readers see either the old or the new content.

    Raises WorkbenchError if the file cannot be written (no space left, no permission). No temporary file remains.
    """
    path = Path(path)
    # In the same folder, because only a move within one file system is atomic.
    # With the process id, because two processes may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        reason = error.strerror or error
        raise WorkbenchError(
            f"{path}: cannot be written ({reason}); free some space or choose another folder"
        ) from error
    except BaseException:  # an interrupt from the keyboard or the scheduler
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    """Remove a temporary file; ignore errors, because an error is being reported already."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8; see `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_json_atomically(path: Path, obj: Any, indent: int | None = 2) -> None:
    """Write `obj` as JSON; see `write_bytes_atomically`.

    Args:
        indent: spaces of indentation; None for compact JSON on one line.

    Raises ValueError on NaN and infinity, which JSON does not have; use None for a metric that does not exist.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(obj, indent=indent, separators=separators, allow_nan=False, ensure_ascii=False)
    write_text_atomically(path, text + "\n")


def read_json(path: Path, content: str) -> Any:
    """Read a JSON file.

    Args:
        content: noun in the plural for the file's content in messages, such as "annotations" or "detections".

    Raises WorkbenchError if the file is missing, unreadable, truncated or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorkbenchError(
            f"{path}: {content} not found; check the path, or run the step that writes them"
        ) from error
    except OSError as error:
        raise WorkbenchError(f"{path}: {content} cannot be read ({error.strerror or error}); check the path") from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise WorkbenchError(
            f"{path}: {content} are truncated or not JSON ({reason}); write or copy the file again"
        ) from error
    except UnicodeDecodeError as error:
        raise WorkbenchError(f"{path}: {content} are not JSON in UTF-8; write or copy the file again") from error
