"""Files that are whole or absent: written under a temporary name, then moved; JSON is read with one-line errors.

A killed job, or a full disk, must never leave half a file that a later step of the pipeline takes for a result.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from workbench.support.errors import WorkbenchError


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, making its folder where needed; whoever looks finds the old file or the new one whole.

    Raises WorkbenchError where the file cannot be written (no space left, no permission); no temporary file stays.
    """
    path = Path(path)
    # In the same folder, for only a move within one file system is atomic; with the process id, for two may write.
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
            f"{path}: cannot be written ({reason}); free the space or choose another folder"
        ) from error
    except BaseException:  # an interrupt from the keyboard or the scheduler
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    """Remove a temporary file, without a second error on top of the one being told."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8; see `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_json_atomically(path: Path, obj: Any, indent: int | None = 2) -> None:
    """Write `obj` as JSON, indented for readers or, with `indent=None`, compact; see `write_bytes_atomically`.

    Raises ValueError on NaN and infinity, which JSON does not have: a metric that does not exist is None.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(obj, indent=indent, separators=separators, allow_nan=False, ensure_ascii=False)
    write_text_atomically(path, text + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file. `what` names its content in messages, in the plural: "annotations", "detections".

    Raises WorkbenchError, in one line, where the file is missing, unreadable, or not JSON (a truncated one, too).
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorkbenchError(f"{path}: {what} not found; check the path, or run the step that writes them") from error
    except OSError as error:
        raise WorkbenchError(f"{path}: {what} cannot be read ({error.strerror or error}); check the path") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        hint = "write or copy the file again"
        raise WorkbenchError(f"{path}: {what} are truncated or not JSON ({error.msg} at {where}); {hint}") from error
    except UnicodeDecodeError as error:
        raise WorkbenchError(f"{path}: {what} are not JSON in UTF-8; write or copy the file again") from error
