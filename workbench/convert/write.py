"""Data set of another tool, checked and written in COCO's layout. Images are copied as they are."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench.convert.remarks import Remarks
from workbench.convert.source import WHOLE, DataSet, SourceImage, Thing, below
from workbench.data.annotations import read_annotations
from workbench.data.images import check_images, read_headers
from workbench.settings.digest import TRAIN, VAL
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

PLACES = {
    "train": (f"annotations/instances_{TRAIN}.json", TRAIN),
    "val": (f"annotations/instances_{VAL}.json", VAL),
    "test": ("annotations/instances_test2017.json", "test2017"),
    WHOLE: (f"annotations/instances_{WHOLE}.json", f"images/{WHOLE}"),
}
"""Annotation file and folder of images of each split."""
DIGITS = 6
"""Digits behind the point of a written coordinate. The digits that labels in shares add behind it have no meaning."""


@dataclass(frozen=True)
class Counts:
    """Numbers of a split: images, objects, objects with ``ignore`` among them, and classes with objects."""

    images: int
    boxes: int
    ignored: int
    classes: int


def count(images: list[SourceImage]) -> Counts:
    """Numbers of a split of the source."""
    things = [thing for image in images for thing in image.things]
    return Counts(len(images), len(things), sum(t.ignore for t in things), len({t.name for t in things}))


def refuse_place(out: Path, source: Path) -> None:
    """Raise a WorkbenchError unless ``out`` is missing or an empty folder, outside the source."""
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        problem = "contains files" if os.path.isdir(out) else "exists and is not a folder"
        raise WorkbenchError(f"{out}: {problem}, and nothing is overwritten; choose a new folder")
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
        raise WorkbenchError(f"{out}: is in the data set {source}; choose a folder outside it")


def checked(data: DataSet, root: Path, remarks: Remarks) -> DataSet:
    """Data set with the size of every image, without objects that no training can use.

    An object is left out if its box has no size or no part of it is inside the image.

    Raises:
        WorkbenchError: there are faults, images are unusable or differ in size, or no object is left.
    """
    _refuse_images(data, root, remarks)
    remarks.raise_faults()
    splits = {split: _sized(images, root) for split, images in data.splits.items()}
    for images in splits.values():
        for image in images:
            image.things[:] = [thing for thing in image.things if _is_usable(thing, image.size, remarks)]
    if not any(image.things for images in splits.values() for image in images):
        raise WorkbenchError(
            f"{root}: no objects are left ({'; '.join(remarks.notes) or 'nothing is annotated'}); check it"
        )
    return replace(data, splits=splits)


def _refuse_images(data: DataSet, root: Path, remarks: Remarks) -> None:
    """Add a fault for each image that is in two splits, that has annotations twice, or whose name is not UTF-8."""
    owners: dict[str, str] = {}
    for split, images in data.splits.items():
        for image, copies in Counter(image.path for image in images).items():
            place, owner = below(root, image), owners.setdefault(os.path.realpath(image), split)
            if owner != split:
                remarks.fault(place, f"is in {owner} and in {split}", "remove it from one of them")
            if copies > 1:
                remarks.fault(place, "has annotations twice", "keep one of them")
            if re.search("[\ud800-\udfff]", place):
                remarks.fault(ascii(place), "the name is not UTF-8", "rename the file")


def _sized(images: list[SourceImage], root: Path) -> list[SourceImage]:
    """Images with their size: the stated one, else the size as viewers show the image (turned by EXIF)."""
    paths = [image.path for image in images]
    headers = read_headers(paths)
    shown = [(0, 0) if isinstance(header, str) else header.shown_size for header in headers]
    sizes = [image.size or size for image, size in zip(images, shown, strict=True)]
    check_images(paths, sizes, root, headers)
    return [replace(image, size=size) for image, size in zip(images, sizes, strict=True)]


def _is_usable(thing: Thing, size: tuple[int, int], remarks: Remarks) -> bool:
    x, y, w, h = thing.box
    if w <= 0 or h <= 0:
        remarks.note("boxes have no width or no height and are left out", thing.place)
        return False
    if x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0:
        remarks.note("boxes are outside their image and are left out", thing.place)
        return False
    return True


def write_coco(data: DataSet, out: Path, progress: Callable[[int], None]) -> dict[str, Counts]:
    """Write a checked data set into a new folder, which gets its name when it is complete.

    Args:
        out: folder that is missing or empty.
        progress: function that is called after each image with the number of finished images.

    Returns:
        Numbers of each split, read from the written files.

    Raises:
        WorkbenchError: the folder cannot be written.
    """
    names = sorted({t.name for images in data.splits.values() for image in images for t in image.things})
    categories = {name: number for number, name in enumerate(data.classes or names, 1)}
    counts: dict[str, Counts] = {}
    with _new_folder(out) as folder:
        done = objects = 0
        for split, images in data.splits.items():
            file, place = (folder / part for part in PLACES[split])
            place.mkdir(parents=True)
            for number, image in enumerate(images, done + 1):
                (place / image.name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(image.path, place / image.name)
                progress(number)
            write_json_atomically(file, _document(images, categories, done, objects), indent=None)
            counts[split] = _read_back(file)
            done, objects = done + len(images), objects + counts[split].boxes
    return counts


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Folder beside ``out`` that is renamed to ``out`` at the end, or removed after an error."""
    out = Path(os.path.realpath(out))
    unfinished = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
        try:
            yield unfinished
            os.rename(unfinished, out)  # fails if a file was put into the folder meanwhile
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise WorkbenchError(
            f"{error.filename or out}: cannot be copied or written ({reason}); check permissions and free space"
        ) from error


def _document(images: list[SourceImage], categories: dict[str, int], done: int, objects: int) -> dict[str, Any]:
    """Annotation file of a split in COCO's format.

    Args:
        categories: id of each class, by its name.
        done, objects: numbers of images and objects of the splits before, so that no id is in two splits.
    """
    entries, annotations = [], []
    for id_, image in enumerate(images, done + 1):
        width, height = image.size
        entries.append({"id": id_, "file_name": image.name, "width": width, "height": height})
        for thing in image.things:
            box = [_plain(value) for value in thing.box]
            annotation = {
                "id": objects + len(annotations) + 1,
                "image_id": id_,
                "category_id": categories[thing.name],
                "bbox": box,
                "area": _plain(box[2] * box[3]),
                "iscrowd": 0,
                "segmentation": [],
            }
            annotations.append(annotation | ({"ignore": 1} if thing.ignore else {}))
    listed = [{"id": id_, "name": name, "supercategory": ""} for name, id_ in categories.items()]
    return {"images": entries, "annotations": annotations, "categories": listed}


def _plain(value: float) -> float:
    """Number as it is written, without ``.0``."""
    value = round(value, DIGITS)
    return int(value) if value == int(value) else value


def _read_back(file: Path) -> Counts:
    columns = read_annotations(file)
    classes = len(np.unique(columns.labels))
    return Counts(len(columns.image_ids), len(columns.labels), int(columns.ignored.sum()), classes)
