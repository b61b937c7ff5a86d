"""Digest of an annotation file, so that a run's name depends on its labels and not on their folder.

Only the standard library is imported, since the pipeline needs digests at its start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from workbench.support.errors import WorkbenchError


def annotation_digest(path: Path | str, cache: Path | None = None) -> str:
    """Return the BLAKE2b digest (16 bytes, in hex) of a file's content.

    Args:
        path: the file.
        cache: a JSON file that keeps digests, since COCO's annotations take half a second to hash. An entry is valid
            while the file's size and modification time stay the same. A cache that cannot be read or written is
            ignored: that costs time, never the correct answer.

    Raises:
        WorkbenchError: the file is missing or cannot be read.
    """
    path = Path(path).absolute()
    try:
        state = path.stat()
        entries = _read(cache) if cache else {}
        entry = entries.get(str(path))
        if isinstance(entry, dict) and (entry.get("size"), entry.get("mtime_ns")) == (state.st_size, state.st_mtime_ns):
            return entry["digest"]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise WorkbenchError(
            f"{path}: the annotation file cannot be read ({error.strerror}); check data_root"
        ) from error
    if cache:
        entries[str(path)] = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "digest": digest}
        _write(cache, entries)
    return digest


def _read(cache: Path) -> dict:
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(cache: Path, entries: dict) -> None:
    """Replace the cache in one step, so that another process never reads half of it."""
    temporary = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False, encoding="utf-8") as file:
            temporary = file.name
            json.dump(entries, file, indent=1)
        os.replace(temporary, cache)
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
