"""Atomic writing of files, and reading of text, JSON and CSV with one-line errors.

A file is written under a temporary name, then moved. A killed job or a full disk therefore never leaves an incomplete
file that a later step of the pipeline would read as a result.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from workbench.support.errors import WorkbenchError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file and make its folder if necessary; readers see either the old or the new content.

    The content is on the disk before the new name counts, and the new name is on the disk when this function returns.
    The umask decides the permissions, as for every other file.

    Args:
        write: function that receives the open file and writes the content.

    Raises:
        WorkbenchError: the file cannot be written (no space left, no permission). No temporary file remains.
    """
    path = Path(path)
    # In the same folder, because only a move within one file system is atomic.
    # Two processes may write the same file, also two of equal id on two machines of a cluster.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        with temporary.open("wb") as file:
            write(file)
        move_into_place(temporary, path)
    except BaseException as error:  # an interrupt from the keyboard or the scheduler, too
        _remove(temporary)
        # A library that writes into the file may wrap the system's error in an error of its own.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError):
            raise
        raise WorkbenchError(
            f"{path}: cannot be written ({cause.strerror or cause}); free some space or choose another folder"
        ) from error


STALE = 3600
"""Age in seconds of a temporary file that a killed process left behind."""
OWNER = re.compile(r"\d+(-[0-9a-f]{8})?")
"""Process id and random part in the name of a temporary file; earlier versions wrote the process id alone."""


def _remove_stale(path: Path) -> None:
    """Remove temporary files of killed processes; a checkpoint on COCO takes hundreds of megabytes."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            owner = temporary.name.removeprefix(f".{path.name}.").removesuffix(".tmp")
            if OWNER.fullmatch(owner) and time.time() - temporary.stat().st_mtime > STALE:
                temporary.unlink()


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a complete temporary file its name; content and name are on the disk when this function returns.

    Raises:
        OSError: the file cannot be moved.
    """
    _sync(temporary)
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # some network file systems cannot sync a folder and need not
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a temporary file; ignore errors, because an error is being reported already."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content`; see `write_atomically`."""
    write_atomically(path, lambda file: file.write(content))


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8; see `write_atomically`.

    UTF-8 has no half of a surrogate pair, which Python uses for a byte of a file name that is not UTF-8. This character
    becomes an escape such as ``\\udce9``. In JSON, the escape is read as the same character.
    """
    write_bytes_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_json_atomically(path: Path, obj: Any, indent: int | None = 2) -> None:
    """Write `obj` as JSON; see `write_atomically`.

    Args:
        indent: spaces of indentation; None for compact JSON on one line.

    Raises ValueError on NaN and infinity, which JSON does not have; use None for a metric that does not exist.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(obj, indent=indent, separators=separators, allow_nan=False, ensure_ascii=False)
    write_text_atomically(path, text + "\n")


def read_bytes(path: Path, content: str) -> bytes:
    """Read a regular file.

    Args:
        content: noun in the plural for the file's content in messages, such as "annotations" or "settings".

    Raises:
        WorkbenchError: the file is missing, is not a regular file, or cannot be read.
    """
    path = Path(path)
    try:
        # Opening a named pipe would wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise WorkbenchError(f"{path}: {content} cannot be read (this is {kind}, not a file); put the file there")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise WorkbenchError(
            f"{path}: {content} not found; check the path, or run the step that writes them"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise WorkbenchError(
            f"{path}: {content} cannot be read ({reason}); check the path and its permissions"
        ) from error


def read_text(path: Path, content: str) -> str:
    """Read a text file in UTF-8; a byte-order mark is left out. See `read_bytes`.

    Raises:
        WorkbenchError: the file cannot be read, or has another encoding.
    """
    data = read_bytes(path, content)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise WorkbenchError(f"{path}: {content} are in UTF-16, not in UTF-8; save the file in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise WorkbenchError(
            f"{path}: {content} are not text in UTF-8 (line {line}); save the file in UTF-8, or copy it again"
        ) from error


def read_json(path: Path, content: str) -> Any:
    """Read a JSON file whose numbers are finite and of at most 64 bits, and whose objects have no key twice.

    Args:
        content: noun in the plural for the file's content in messages, such as "annotations" or "detections".

    Raises:
        WorkbenchError: the file cannot be read as text, is truncated, is not JSON, or breaks one of these rules.
    """
    text = read_text(path, content)
    try:
        value = json.loads(
            text, parse_float=_float, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_object
        )
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot be written again
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise WorkbenchError(
            f"{path}: {content} are truncated or not JSON ({reason}); write or copy the file again"
        ) from error
    except RecursionError:
        raise WorkbenchError(f"{path}: {content} are nested too deeply; write or copy the file again") from None
    except UnicodeEncodeError:
        reason = "half of a surrogate pair in a text"
        raise WorkbenchError(f"{path}: {content} have {reason}; write or copy the file again") from None
    except ValueError as error:
        raise WorkbenchError(f"{path}: {content} have {error}; write or copy the file again") from None
    return value


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:20]}, which is too large")
    return value


def _integer(text: str) -> int:
    # The length is checked first: Python refuses to convert thousands of digits.
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(f"the number {text[:20]}{'…' * (len(text) > 20)}, which has more than 64 bits")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"the number {text}, which JSON does not have")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' twice in one object")
    return value


def read_object(path: Path, content: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON file with an object that has some keys; see `read_json`.

    Raises:
        WorkbenchError: the file cannot be read as JSON, contains no object, or lacks a key.
    """
    value = read_json(path, content)
    fault = "not an object" if not isinstance(value, dict) else None
    if fault is None and (missing := [key for key in keys if key not in value]):
        fault = f"without the key '{missing[0]}'"
    if fault:
        raise WorkbenchError(f"{path}: {content} are {fault}; delete the file, and run the step that writes it again")
    return value


def read_csv(path: Path, content: str, columns: Iterable[str], numbers: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Read a CSV file with a header: one dict per row, with texts as values.

    Args:
        content: noun in the plural for the file's content in messages, such as "loss curves".
        columns: columns that the file must have; other columns are kept.
        numbers: columns among ``columns`` with finite numbers or nothing; their values become floats, or None.

    Raises:
        WorkbenchError: the file cannot be read as text, lacks a column, or has an uneven row or a wrong number.
    """
    wrong = f"{path}: not a file with {content} ({{}}); delete the file, and run the step that writes it again"
    try:
        header, *lines = csv.reader(io.StringIO(read_text(path, content), newline=""), strict=True)
    except ValueError:
        raise WorkbenchError(wrong.format("it is empty")) from None
    except csv.Error as error:
        raise WorkbenchError(wrong.format(error)) from None
    if missing := [column for column in columns if column not in header]:
        raise WorkbenchError(wrong.format(f"it has no column '{missing[0]}'"))
    if len(set(header)) < len(header):
        raise WorkbenchError(wrong.format(f"it has two columns '{max(header, key=header.count)}'"))
    rows = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise WorkbenchError(wrong.format(f"row {number} has {len(line)} values, not {len(header)}"))
        row: dict[str, Any] = dict(zip(header, line, strict=True))
        for column in numbers:
            try:
                row[column] = _finite(row[column])
            except ValueError:
                shown = repr(row[column])[:40]
                raise WorkbenchError(wrong.format(f"row {number} has {column} {shown}, not a finite number")) from None
        rows.append(row)
    return rows


def _finite(text: str) -> float | None:
    if text == "":
        return None
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value
