"""Files of a view: annotation files that are written anew, and links to the user's files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data.annotations import Columns, read_annotations
from workbench.data.coco import image_path
from workbench.data.headers import missing_fault
from workbench.data.images import THREADS
from workbench.data.own_split import divide
from workbench.settings.digest import EVALUATED, TRAIN
from workbench.settings.layout_files import names_in
from workbench.settings.layouts import ALL, Layout, SplitFiles
from workbench.settings.specs import DataSpec
from workbench.support.errors import WorkbenchError

NAMES = {"train": TRAIN} | EVALUATED
"""Split → its name in a view."""


@dataclass(frozen=True)
class _Part:
    """Images of one split of a view: ``images`` are indices of the images of ``columns``."""

    split: str
    files: SplitFiles
    columns: Columns
    images: NDArray[np.int64]


def can_be_linked(layout: Layout) -> bool:
    """Whether a view can have the annotation files and folders as they are.

    An image whose name leads out of the folder of the images needs a link below the folder of the view, so that the
    digest of the folder covers it.
    """
    return not any(_leads_out(name) for files in layout.parts.values() for name in names_in(files.annotations))


def _leads_out(name: str) -> bool:
    """Whether a name of an image is absolute, or leads to a folder above the folder of the images."""
    return os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir


def _name_in_view(name: str) -> str:
    """Name of an image in a view whose images are linked one by one: below the folder, and unique."""
    if not _leads_out(name):
        return name
    folder, base = os.path.split(name)
    return f"outside/{hashlib.sha256(json.dumps(folder).encode()).hexdigest()[:8]}/{base}"


def link_files(view: Path, layout: Layout) -> None:
    """Link the annotation files and the folders of images into a view, if ``can_be_linked``."""
    for split, files in layout.parts.items():
        os.symlink(files.annotations.resolve(), view / "annotations" / f"instances_{NAMES[split]}.json")
        if layout.root.resolve().is_relative_to(files.images.resolve()):  # the folder has more than images
            _link_images(view / NAMES[split], files, read_annotations(files.annotations).file_names)
        else:
            os.symlink(files.images.resolve(), view / NAMES[split])


def write_files(view: Path, layout: Layout, spec: DataSpec, chosen: list[int] | None) -> list[str]:
    """Write the annotation files of a view, link its images one by one, and return lines about the split.

    Args:
        chosen: indices of the classes, in their order; None for all categories of the files.

    Raises:
        WorkbenchError: the annotations have faults, an image is missing, or there are too few images for a split.
    """
    parts, notes = [], []
    for split, files in layout.parts.items():
        columns = read_annotations(files.annotations)  # faults are reported with the name of the user's file
        if split != ALL:
            parts.append(_Part(split, files, columns, np.arange(len(columns.image_ids))))
            continue
        digests = _contents(files, columns)
        try:
            tested = divide(digests, _classes(columns), spec.split)
        except WorkbenchError as error:
            raise WorkbenchError(f"{files.annotations}: {error}; add images") from None
        for side, mask in (("train", ~tested), ("val", tested)):
            parts.append(_Part(side, files, columns, np.flatnonzero(mask)))
        notes.append(f"{layout.name}: {(~tested).sum()} images to learn from, {tested.sum()} to test on")
    unknown = sum(int((part.columns.labels < 0).sum()) for part in parts[: len(layout.parts)])
    if unknown:
        notes.append(f"{unknown} annotations of unknown categories are left out")
    for part in parts:
        names = [part.columns.file_names[i] for i in part.images]
        content = json.dumps(_document(part, chosen))
        (view / "annotations" / f"instances_{NAMES[part.split]}.json").write_text(content, encoding="utf-8")
        _link_images(view / NAMES[part.split], part.files, names)
    return notes


def _link_images(folder: Path, files: SplitFiles, names: list[str]) -> None:
    """Link images one by one, under their names in the annotation file of the view."""
    folder.mkdir()
    for name in names:
        link, path = folder / _name_in_view(name), image_path(files.images, name)
        if not os.path.normpath(link).startswith(f"{folder}{os.sep}"):
            raise WorkbenchError(f"{files.annotations}: the image {name!r} is a folder; write the name of a file")
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # listed twice, which is reported when the file is read
            os.symlink(os.path.realpath(path) if _leads_out(name) else os.path.abspath(path), link)


def _contents(files: SplitFiles, columns: Columns) -> list[str]:
    """SHA-256 of the content of each image."""

    def sha256(name: str) -> str:
        path = image_path(files.images, name)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            fault = missing_fault(path) if is_missing else f"cannot be read ({error.strerror}); check the file"
            raise WorkbenchError(f"{path}: {fault}") from error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(sha256, columns.file_names))


def _classes(columns: Columns) -> list[set[int]]:
    """Classes of the objects of each image."""
    classes: list[set[int]] = [set() for _ in columns.image_ids]
    for image, label in zip(columns.image_of.tolist(), columns.labels.tolist(), strict=True):
        if label >= 0:
            classes[image].add(label)
    return classes


def _document(part: _Part, chosen: list[int] | None) -> dict[str, Any]:
    """Annotation file of a split of a view.

    Ids are those that the reader gave. Only if the chosen classes are in another order than their ids, the categories
    are numbered from 1, because a detector learns classes in the order of the ids.

    Args:
        chosen: indices of the classes, in their order; None for all.
    """
    columns = part.columns
    kept = list(range(len(columns.class_names))) if chosen is None else chosen
    ids = [columns.category_ids[index] for index in kept]
    if ids != sorted(ids):
        ids = list(range(1, len(kept) + 1))
    new = dict(zip(kept, ids, strict=True))
    wanted = set(part.images.tolist())
    sizes = zip(columns.widths.tolist(), columns.heights.tolist(), strict=True)
    sized = [{"width": width, "height": height} if width and height else {} for width, height in sizes]
    rows = zip(columns.image_of.tolist(), columns.labels.tolist(), columns.boxes.tolist(), columns.areas.tolist(),
               columns.crowd.tolist(), columns.ignored.tolist(), strict=True)  # fmt: skip
    return {
        "images": [
            {"id": int(columns.image_ids[i]), "file_name": _name_in_view(columns.file_names[i])} | sized[i]
            for i in sorted(wanted)
        ],
        "annotations": [
            {"id": number, "image_id": int(columns.image_ids[image]), "category_id": new[label], "bbox": box}
            | ({"area": area} if area > 0 else {})
            | {"iscrowd": int(crowd)}
            | ({"ignore": 1} if ignored else {})
            for number, (image, label, box, area, crowd, ignored) in enumerate(rows, start=1)
            if image in wanted and label in new
        ],
        "categories": [{"id": id_, "name": columns.class_names[index]} for index, id_ in new.items()],
    }
