"""Listings of the folders of a data set, words in names, and a glance at JSON files without parsing them.

Only the standard library is imported, since the pipeline recognises a data set at its start.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from workbench.support.errors import WorkbenchError

ANNOTATION_WORDS = {"annotation", "annotations", "anns", "ann", "labels", "label"}
IMAGE_WORDS = {"images", "image", "imgs", "img", "data"}
LIKELY = ANNOTATION_WORDS | {"instances", "coco"}
"""Words in the names of the files that are opened first."""
BOTH = "trainval"
"""Split of a name with words for train and val."""
OTHER_TASKS = {"captions", "keypoints", "stuff", "panoptic"}
"""Words in the names of COCO's files for other tasks, which have images, annotations and categories, too."""
NAMES = 16
"""Number of names of images that a glance reads."""
FOLDERS = 500
"""Largest number of subfolders of a folder that are considered."""
LONGEST = 1 << 24
"""Largest number of bytes of a list of categories."""
GLANCES = 40
"""Largest number of JSON files of a folder that are opened; labelme writes a file for each image."""
_LISTS = {key: re.compile(rb'"%s"\s*:\s*\[' % key.encode()) for key in ("images", "annotations", "shapes")}
_SPLIT = re.compile(r"(train|val|valid|test)(ing|ation|set|data|images?|imgs?|annotations?|labels?)?")
_CATEGORIES = re.compile(rb'"categories"\s*:\s*(?=\[)')
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')

Content = bytes | mmap.mmap


def words_of(name: str) -> set[str]:
    """Words of a name in lower case: ``instances_Train2017`` has ``instances`` and ``train``."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def split_of(name: str) -> str | None:
    """Split that a name states: ``train``, ``val``, ``test`` or ``trainval``; None for no split, or several."""
    words = words_of(name)
    splits = {match[1].replace("valid", "val") for word in words if (match := _SPLIT.fullmatch(word))}
    splits |= {"train", "val"} if BOTH in words else set()
    if splits == {"train", "val"}:
        return BOTH
    return splits.pop() if len(splits) == 1 else None


class Tree:
    """Folder of a data set. Each of its folders is listed once; hidden files and folders are left out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, tuple[list[str], list[str]]] = {}

    def folders(self, folder: Path) -> list[Path]:
        """Subfolders of a folder, in order of their names."""
        return [folder / name for name in self._listing(folder)[0][:FOLDERS]]

    def files(self, folder: Path) -> list[str]:
        """Names of the files in a folder, in order."""
        return self._listing(folder)[1]

    def named(self, path: Path) -> str:
        """Name of a file or folder in messages: its path below the root."""
        return os.path.relpath(path, self.root)

    def _listing(self, folder: Path) -> tuple[list[str], list[str]]:
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    shown = [e for e in entries if not e.name.startswith(".")]
                    parts = [sorted(e.name for e in shown if e.is_dir()), sorted(e.name for e in shown if e.is_file())]
            except OSError as error:
                reason = f"cannot be listed ({error.strerror})"
                raise WorkbenchError(f"{folder}: {reason}; check the path and its permissions") from error
            self._listings[folder] = parts[0], parts[1]
        return self._listings[folder]


@dataclass(frozen=True)
class Glance:
    """Kind of a JSON file, judged without parsing it.

    Attributes:
        kind: ``coco``, ``createml``, ``labelme``, ``via``, ``supervisely``, ``broken``, ``task`` (COCO's format for
            another task) or ``other``.
        problem: reason why the file has no annotations in COCO's format; empty if it has.
        names: first names of images, as stated.
    """

    kind: str
    problem: str = ""
    names: tuple[str, ...] = ()


def glance(file: Path) -> Glance:
    """Glance at a JSON file. COCO's ``instances_train2017.json`` of 450 MB takes milliseconds."""
    if other := words_of(file.stem) & OTHER_TASKS:
        return Glance("task", f"has annotations for {other.pop()} by its name")
    try:
        with _opened(file) as content:
            return _judged(content)
    except (OSError, UnicodeDecodeError) as error:
        return Glance("broken", f"cannot be read ({getattr(error, 'strerror', None) or error})")


def _judged(content: Content) -> Glance:
    ends = content[:64].strip()[:1], content[-64:].strip()[-1:]
    if ends == (b"[", b"]"):
        is_createml = re.match(rb'\s*\[\s*\{\s*"(image|imagefilename|annotations?)"\s*:', content[:4096]) is not None
        return Glance("createml" if is_createml else "other", "is a list, not an object with 'images'")
    if ends != (b"{", b"}"):
        return Glance("broken", "not valid JSON, probably incomplete")
    missing = [key for key in ("images", "annotations") if not _LISTS[key].search(content)]
    if not missing:
        return Glance("coco", names=tuple(islice(_names(content), NAMES)))
    return Glance(_tool_of(content) if len(missing) == 2 else "other", f"has no list '{missing[0]}'")


def _tool_of(content: Content) -> str:
    """Tool that wrote a JSON object without COCO's lists, by the keys of its format; else ``other``."""
    if content.find(b'"imagePath"') >= 0 and _LISTS["shapes"].search(content):
        return "labelme"
    if content.find(b'"_via_settings"') >= 0:  # a project
        return "via"
    if content.find(b'"file_attributes"') >= 0 and content.find(b'"regions"') >= 0:  # exported annotations
        return "via"
    is_supervisely = content.find(b'"classTitle"') >= 0 or content.find(b'"projectType"') >= 0
    return "supervisely" if is_supervisely else "other"


def _names(content: Content) -> Iterator[str]:
    """Names of images in the order of the file."""
    for match in _FILE_NAME.finditer(content):
        try:
            yield json.loads(match[1])
        except ValueError:
            continue


def names_in(file: Path) -> set[str]:
    """All names of images in an annotation file.

    Raises:
        WorkbenchError: the file cannot be read.
    """
    with _readable(file), _opened(file) as content:
        return set(_names(content))


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn errors about a file into one line. A pipe is refused before it is opened, which would wait for ever."""
    if os.path.exists(file) and not os.path.isfile(file):
        raise WorkbenchError(f"{file}: not a regular file; put the annotation file there")
    try:
        yield
    except OSError as error:
        raise WorkbenchError(
            f"{file}: the annotation file cannot be read ({error.strerror}); check data_root"
        ) from error
    except UnicodeDecodeError as error:
        raise WorkbenchError(f"{file}: not text in UTF-8 ({error.reason}); copy the file again") from error


def read_categories(file: Path) -> list[dict]:
    """Categories of an annotation file as they are stated, without parsing the rest; an empty list if there are none.

    A file of 450 MB is searched once in a process, as long as it does not change.

    Raises:
        WorkbenchError: the file cannot be read.
    """
    with _readable(file):
        status = os.stat(file)
        return _categories(file, (status.st_ino, status.st_size, status.st_mtime_ns))


@cache
def _categories(file: Path, state: tuple[int, ...]) -> list[dict]:
    """Categories of a file in this state."""
    with _opened(file) as content:
        for match in _CATEGORIES.finditer(content):
            text = content[match.end() : match.end() + LONGEST].decode("utf-8", "replace")
            try:
                listed = json.JSONDecoder().raw_decode(text)[0]
            except ValueError:
                continue
            if all(isinstance(entry, dict) for entry in listed):
                return listed
    return []


def json_files(tree: Tree) -> Iterator[tuple[Path, Glance]]:
    """JSON files with a glance at each: in the root, and in folders for annotations or splits down to two levels."""
    folders = [tree.root]
    for folder in tree.folders(tree.root):
        if _describes(folder, IMAGE_WORDS | ANNOTATION_WORDS):
            folders += [folder, *(inner for inner in tree.folders(folder) if _describes(inner, ANNOTATION_WORDS))]
    seen: set[str] = set()
    for folder in folders:
        names = [name for name in tree.files(folder) if name.lower().endswith(".json")]
        for file in (folder / name for name in _likely_first(names, tree.files(folder))[:GLANCES]):
            real = os.path.realpath(file)
            if real not in seen:  # else another link to the file
                seen.add(real)
                yield file, glance(file)


def _likely_first(names: list[str], files: list[str]) -> list[str]:
    """Names of JSON files: likely words first, then any other, and the files of single images last."""
    if len(names) <= GLANCES:
        return names
    images = {os.path.splitext(name)[0] for name in files if not name.lower().endswith(".json")}
    return sorted(names, key=lambda n: (not split_of(n) and not words_of(n) & LIKELY, os.path.splitext(n)[0] in images))


def _describes(folder: Path, words: set[str]) -> bool:
    return split_of(folder.name) is not None or bool(words_of(folder.name) & words)


@contextmanager
def _opened(file: Path) -> Iterator[Content]:
    """Content of a file in UTF-8. A file in UTF-16 or UTF-32 is converted, any other is mapped into memory.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    with file.open("rb") as opened:
        start = opened.read(4)
        opened.seek(0)
        encoding = json.detect_encoding(start)
        if encoding == "utf-8" and start:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield content
        else:
            yield opened.read().decode(encoding).encode("utf-8", "surrogatepass")
