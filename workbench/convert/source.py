"""Data set of another tool: its images with their objects, and the search for files that all readers share.

A reader of a format returns a `DataSet`; `workbench.convert.write` writes it in COCO's layout.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.convert.remarks import Remarks
from workbench.data.annotations import LARGEST
from workbench.support.errors import WorkbenchError

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
"""Suffixes of images. A training cannot read the last three formats; they are found so that a message names them."""
WHOLE = "default"
"""Name of the only split of a data set without splits."""
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Split that a folder or an entry names."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Object of an image.

    Attributes:
        name: name of its class.
        box: ``x, y, width, height`` in pixels of the image; ``x`` and ``y`` count from 0.
        place: file and entry that state the object, for messages.
        ignore: whether the object is neither learnt nor counted in an evaluation.
    """

    name: str
    box: tuple[float, float, float, float]
    place: str
    ignore: bool = False


@dataclass(frozen=True, slots=True)
class SourceImage:
    """Image with its objects.

    Attributes:
        path: path of the image.
        name: path below the images of its split, with slashes.
        things: its objects.
        size: width and height in pixels that the annotations state; None if they state none.
    """

    path: Path
    name: str
    things: list[Thing]
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data set of another tool.

    Attributes:
        splits: images of ``train``, ``val`` and ``test``, as far as they exist, or of ``default`` alone.
        classes: names of the classes in their order; None if the format has no list of them.
    """

    splits: dict[str, list[SourceImage]]
    classes: list[str] | None = None


class ImageFiles:
    """Image files below a folder, found by their names. Upper case and forms of accents may differ from the name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = list(files_below(folder, IMAGES))
        self._tables: dict[str, dict[str, list[Path]]] = {"path": {}, "bare path": {}, "name": {}, "stem": {}}
        for path in self.paths:
            name = PurePosixPath(self.name(path))
            keys = (str(name), str(name.with_suffix("")), name.name, name.stem)
            for table, key in zip(self._tables.values(), keys, strict=True):
                table.setdefault(_folded(key), []).append(path)

    def name(self, path: Path) -> str:
        """Path of an image below the folder, with slashes."""
        return path.relative_to(self.folder).as_posix()

    def named(self, name: str) -> list[Path]:
        """Images with a path below the folder, with its suffix; several only if they differ in upper case."""
        wanted = str(PurePosixPath(name.replace("\\", "/")))
        paths = self._tables["path"].get(_folded(wanted), [])
        return [path for path in paths if self.name(path) == wanted] or paths

    def called(self, name: str) -> list[Path]:
        """Images with a name, in any subfolder."""
        return self._tables["name"].get(_folded(name), [])

    def of_stem(self, stem: str) -> list[Path]:
        """Images with a path without suffix; if there is none, images with the last part of the path as their stem."""
        paths = self._tables["bare path"].get(_folded(stem), [])
        exact = [path for path in paths if str(PurePosixPath(self.name(path)).with_suffix("")) == stem]
        return exact or paths or self._tables["stem"].get(_folded(PurePosixPath(stem).name), [])


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def files_below(folder: Path, suffixes: set[str]) -> Iterator[Path]:
    """Files with one of the suffixes in a folder and its subfolders, in order of their names, without hidden ones.

    Raises:
        OSError: a folder cannot be read.
    """
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(place, name)


def subfolder(root: Path, *names: str) -> Path | None:
    """First subfolder with one of the names, in upper or lower case; None if there is none."""
    folders = {name.lower(): root / name for name in sorted(os.listdir(root)) if os.path.isdir(root / name)}
    return next((folders[name] for name in names if name in folders), None)


def split_folders(root: Path, suffix: str, remarks: Remarks) -> dict[str, Path]:
    """Folders ``train``, ``val`` (or ``valid``) and ``test`` below the root; without them, the root as ``default``.

    Args:
        suffix: of annotation files; a note counts those of them that are beside the folders.
    """
    folders: dict[str, Path] = {}
    for name in sorted(os.listdir(root)):
        split = SPLITS.get(name.lower())
        if split is None or not os.path.isdir(root / name):
            continue
        if split in folders:
            remarks.fault(name, f"{folders[split].name} is {split}, too", f"keep one folder for {split}")
        folders[split] = root / name
    if not folders:
        return {WHOLE: root}
    for path in sorted(root.glob(f"*{suffix}")):
        remarks.note(f"{suffix} files are in no folder of a split and are left out", path.name)
    order = ("train", "val", "test")
    return {split: folders[split] for split in sorted(folders, key=order.index)}


def note_unannotated(images: ImageFiles, annotated: list[SourceImage], kind: str, remarks: Remarks) -> None:
    """Note images without a file of annotations. They may show objects, so they are no images without objects."""
    known = {image.path for image in annotated}
    for path in images.paths:
        if path not in known:
            remarks.note(f"images have no {kind} annotations and are left out", images.name(path))


def below(root: Path, path: Path) -> str:
    """Name of a file in messages: its path below the root, or from the root."""
    return Path(os.path.relpath(path, root)).as_posix()


def number(value: Any) -> float | None:
    """Number of at most LARGEST in a value of a file, which may be text; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if abs(result) <= LARGEST else None  # NaN is not


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height that annotations state; None if one is missing or not above 0, as some tools write it."""
    sides = [number(value) for value in (width, height)]
    if None in sides or min(sides) < 1:
        return None
    return int(sides[0]), int(sides[1])


def class_name(value: Any) -> str | None:
    """Name of a class without blanks around it; None for an empty name, or a value that is no name."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return " ".join(str(value).split()) or None


def one_image(paths: list[Path], place: str, wanted: str, root: Path, remarks: Remarks) -> Path | None:
    """The only image of an annotation; else None, with a fault."""
    if len(paths) == 1:
        return paths[0]
    if paths:
        names = " and ".join(below(root, path) for path in paths[:2])
        remarks.fault(place, f"belongs to {names}", "give each image a name of its own, or remove one")
    else:
        remarks.fault(place, f"its image {wanted} is missing", "copy the image there, or remove the annotation")
    return None


def folder_of(source: Path) -> Path:
    """The folder of a data set.

    Raises:
        WorkbenchError: it is missing, or is no folder.
    """
    if not os.path.isdir(source):
        problem = "not a folder" if os.path.lexists(source) else "no such folder"
        raise WorkbenchError(f"{source}: {problem}; name the folder of the data set")
    return source
