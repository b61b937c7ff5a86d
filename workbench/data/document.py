"""JSON document of an annotation file, in any encoding that exporters write. This module does not import torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

from workbench.data.findings import shown
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_bytes

PACKED = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstandard file",
}
"""First bytes of compressed files."""


def parse(path: Path) -> object:
    """Parse an annotation file without its segmentations, which would need gigabytes of memory for COCO.

    Encodings: UTF-8 with or without a byte order mark, UTF-16 and UTF-32.

    Raises:
        WorkbenchError: the file is missing, not a regular file, not text, or not JSON that Python can represent.
    """
    text = _decode(_read(path), path)

    def without_segmentation(pairs: list[tuple[str, object]]) -> dict[str, object]:
        item = dict(pairs)
        if len(item) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise WorkbenchError(f"{path}: the key {shown(twice)} occurs twice in one object; keep one")
        item.pop("segmentation", None)
        return item

    try:
        return json.loads(text, object_pairs_hook=without_segmentation)
    except json.JSONDecodeError as error:
        raise WorkbenchError(f"{path}: {_not_json(error)}") from error
    except RecursionError:
        problem = "lists or objects are nested too deeply for an annotation file"
        raise WorkbenchError(f"{path}: {problem}; use a file in COCO's instances format") from None
    except ValueError:  # Python refuses to convert a number of more than 4,300 digits
        raise WorkbenchError(f"{path}: {_longest_number(text)}; correct the number") from None


def _read(path: Path) -> bytes:
    content = read_bytes(path, "annotations")
    for start, kind in PACKED.items():
        if content.startswith(start):
            raise WorkbenchError(f"{path}: {kind}; unpack it")
    return content


def _decode(content: bytes, path: Path) -> str:
    encoding = json.detect_encoding(content[:4])
    if b"\0" in content if encoding.startswith("utf-8") else not content.strip(b"\0"):
        problem = "contains zero bytes, so it is not text"
        raise WorkbenchError(f"{path}: {problem}; use a file in COCO's instances format, or copy the file again")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if "end of data" in error.reason or "truncated" in error.reason:
            raise WorkbenchError(f"{path}: ends in the middle of a character; copy the file again") from None
        byte, line = content[error.start], content.count(b"\n", 0, error.start) + 1
        around = content[max(0, error.start - 10) : error.start + 10].decode("cp1252", errors="replace")
        raise WorkbenchError(
            f"{path}: not UTF-8 (byte 0x{byte:02x} in line {line}), probably saved in a Windows code page (in "
            f"Windows-1252 the text is {around!r}); save the file as UTF-8, or copy the file again"
        ) from None


def _not_json(error: json.JSONDecodeError) -> str:
    """Return ``problem; what to do``. A file that was cut has its error at its end, or in its last word or number."""
    if not error.doc.strip():
        return "not valid JSON, because the file is empty; copy the file again"
    rest = error.doc[error.pos :].strip()
    is_cut = (
        error.msg.startswith("Unterminated string")
        or re.fullmatch(r"|-|\.|\.?\d*[eE][+-]?", rest) is not None  # nothing, or the end of a number
        or (rest.isalpha() and rest in "true false null")
    )
    cut, remedy = (
        (", probably incomplete", "copy the file again") if is_cut else ("", "correct it, or copy the file again")
    )
    return f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}){cut}; {remedy}"


def _longest_number(text: str) -> str:
    digits = max(map(len, re.findall(r"\d{4000,}", text)), default=0)
    return f"contains a number of {digits} digits"
