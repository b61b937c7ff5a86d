"""Check of all images of a split before the first step: existence, format, size and orientation, from their headers."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path

from workbench.data.headers import Header, read_header
from workbench.settings.digest import cache_file
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

THREADS = 16
CHUNK = 256
"""Number of images that a thread reads at a time."""
REPORT_SECONDS = 10.0
CACHED_FROM = 2000
"""Smallest number of images whose headers are kept in a cache. Reading fewer headers takes a moment."""

_FIELDS = attrgetter("width", "height", "orientation")


def read_headers(paths: Sequence[Path], say: Callable[[str], None] | None = None) -> list[Header | str]:
    """Headers of image files, or ``problem; what to do`` for a file that cannot be used.

    Headers are read in parallel. The headers of many images are kept in a cache of this user. The cache is valid while
    names, sizes in bytes and dates of all files stay the same. Dates only decide whether headers are read again.

    Args:
        say: function that receives a line of progress every ten seconds.
    """
    cache = cache_file(f"headers-{_state(paths)}.json") if len(paths) >= CACHED_FROM else None
    if cache and (headers := _read_cache(cache, len(paths))) is not None:
        return headers
    headers: list[Header | str] = []
    last = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(_read_chunk, (paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK))):
            headers += part
            if say and time.monotonic() - last > REPORT_SECONDS:
                last = time.monotonic()
                say(f"data: headers of {len(headers)}/{len(paths)} images are read")
    if cache and not any(isinstance(header, str) for header in headers):
        with contextlib.suppress(WorkbenchError):  # without a cache, the headers are read again
            write_json_atomically(cache, list(zip(*map(_FIELDS, headers), strict=True)), indent=None)
    return headers


def check_images(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], annotations: Path, headers: Sequence[Header | str]
) -> list[str]:
    """Check that the images of a split are usable and have the stated sizes.

    Args:
        sizes: width and height of each image in the annotations, in pixels.
        annotations: file that lists the images, for messages.
        headers: header of each image.

    Returns:
        Lines for the log about images with an EXIF orientation.

    Raises:
        WorkbenchError: images are unusable; the message states the first fault of each kind, and the number of faults.
    """
    faults: dict[str, list[tuple[Path, str]]] = {}
    turned = stored = 0
    for path, size, header in zip(paths, sizes, headers, strict=True):
        if isinstance(header, str):
            faults.setdefault(header.split(" (")[0].split(";")[0], []).append((path, header))
        elif header.is_turned(*size):
            turned += 1
        elif (header.width, header.height) != size:
            faults.setdefault("of another size", []).append((path, size_fault(header, *size)))
        else:
            stored += header.orientation > 1
    if faults:
        raise WorkbenchError(_message(faults, len(paths), annotations))
    notes = []
    if turned:
        notes.append(f"{turned} images are turned by their EXIF orientation")
    if stored:
        notes.append(f"{stored} images are not turned by their EXIF orientation: their stated size is the stored one")
    return notes


def size_fault(header: Header, width: int, height: int) -> str:
    """Return ``problem; what to do`` for an image whose annotations state another size."""
    shown = "{}x{}".format(*header.shown_size)
    exif = f" ({shown} if turned by its EXIF orientation {header.orientation})" if header.orientation > 1 else ""
    has = f"the image has {header.width}x{header.height} pixels{exif}"
    return f"{has}, but the annotations state {width}x{height}; correct one of them"


def _message(faults: dict[str, list[tuple[Path, str]]], images: int, annotations: Path) -> str:
    """Message in one line: the first fault in full, then the number of faults of each kind, with an example."""
    path, text = next(iter(faults.values()))[0]
    problem, _, remedy = text.rpartition("; ")
    count = sum(map(len, faults.values()))
    if count == 1:
        return f"{path}: {problem}; {remedy}"
    affected = f"{count} of {images} images of {annotations} have"
    if len(faults) == 1:
        return f"{path}: {problem} ({affected} this fault); {remedy}"
    kinds = ", ".join(f"{len(cases)} x {kind} (first: {cases[0][0].name})" for kind, cases in list(faults.items())[:8])
    return f"{path}: {problem} ({affected} faults: {kinds}); {remedy}"


def _state(paths: Sequence[Path]) -> str:
    """Digest of names, sizes in bytes and dates of files; it does not depend on the place of the files."""
    facts = []
    for path in map(os.fspath, paths):
        try:
            status = os.stat(path)
            facts.append(f"{path.rpartition('/')[2]}\0{status.st_size} {status.st_mtime_ns}")
        except (OSError, ValueError):
            facts.append(path.rpartition("/")[2])
    return blake2b("\0".join(facts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _read_chunk(paths: Sequence[Path]) -> list[Header | str]:
    return [read_header(path) for path in paths]


def _read_cache(cache: Path, count: int) -> list[Header | str] | None:
    """Headers in the cache; None if the cache is missing or damaged."""
    try:
        columns = json.loads(cache.read_text(encoding="utf-8"))
        if len(columns) == 3 and all(len(column) == count and {*map(type, column)} == {int} for column in columns):
            return list(map(Header, *columns))
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    return None
