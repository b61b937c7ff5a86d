"""Annotation files in COCO's format, parsed, checked and converted to columns, for training and for evaluation.

Whole columns are checked at once, so that train2017 (118,287 images, 860,001 annotations) takes seconds. This module
does not import torch. Source of the format: Lin et al., Microsoft COCO, and https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data import values
from workbench.data.document import parse
from workbench.data.findings import Findings, shown
from workbench.data.values import Entries, entries_of

ONE_CLASS = "object"
"""Name of the class of a file without categories whose annotations are all of one category."""
LARGEST = 1e9
"""Largest coordinate in pixels; single precision cannot represent larger ones to a hundred pixels."""
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class Columns:
    """Annotation file as columns of N images and M annotations.

    Attributes:
        category_ids, class_names: ids and names of the categories, in ascending order of the ids.
        image_ids, file_names: N values, in the order of the file.
        widths, heights: ``[N]``, pixels; both are 0 if the file does not state both.
        image_of: ``[M]``, index of the image of each annotation.
        labels: ``[M]``, class index of each annotation; -1 if the file does not list its category.
        boxes: ``[M, 4]``, ``x, y, width, height`` in pixels.
        areas: ``[M]``, area in square pixels; area of the box if the file states no area above 0.
        crowd, ignored: ``[M]``, flags of each annotation. Neither is trained on, and a detection of either counts
            neither as a hit nor as a miss.
        notes: lines for the log about unusual entries.
    """

    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    image_ids: NDArray[np.int64]
    widths: NDArray[np.int64]
    heights: NDArray[np.int64]
    file_names: list[str]
    image_of: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    notes: tuple[str, ...]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """``[M]``, whether a part of each box is inside its image. Without the size of an image, no box is too far."""
        ends = [np.where(sides > 0, sides, np.inf)[self.image_of] for sides in (self.widths, self.heights)]
        parts = [
            np.minimum(self.boxes[:, axis] + self.boxes[:, axis + 2], end) - np.maximum(self.boxes[:, axis], 0)
            for axis, end in enumerate(ends)
        ]
        return (parts[0] > 0) & (parts[1] > 0)


def read_annotations(path: Path, *, named: bool = True) -> Columns:
    """Read an annotation file, check all of it, and convert it to columns.

    Numbers and ids may be text, ids of annotations and sizes of images may be missing; see ``values`` and ``Columns``.
    A file ``image_info_*.json`` describes test images: its annotations are not read.

    Args:
        named: whether all images must have a file name; an evaluation needs none.

    Raises:
        WorkbenchError: the file is unreadable, or entries are wrong; the message lists each kind of fault.
    """
    findings = Findings(path)
    document = _document(parse(path), findings, test=path.name.startswith("image_info"))
    images = entries_of(document["images"], "image", findings)
    annotations = entries_of(document["annotations"], "annotation", findings)
    categories = _categories(document.get("categories"), annotations, findings)
    category_ids, image_ids = values.ids(categories), values.ids(images)
    names = _class_names(categories)
    file_names = _file_names(images, needed=named)
    _note_equal_names(names, category_ids.numbers, findings)
    _check_pictures(file_names, image_ids.numbers, findings)
    widths, heights = _sizes(images)
    _check_annotation_ids(annotations)
    image_of = _image_of(annotations, image_ids)
    of_category = category_ids.positions(annotations, "category_id")
    boxes = _boxes(annotations)
    areas = _areas(annotations, boxes)
    crowd, ignored = values.flags(annotations, "iscrowd"), values.flags(annotations, "ignore")
    findings.raise_faults()
    by_id = np.argsort(category_ids.numbers)
    labels = np.append(np.argsort(by_id), -1)[of_category]  # a category that is not listed has the index and label -1
    _note_corners(boxes, widths[image_of], heights[image_of], findings)
    return Columns(
        category_ids=tuple(category_ids.numbers[by_id].tolist()),
        class_names=tuple(names[i] for i in by_id),
        image_ids=image_ids.numbers,
        widths=widths,
        heights=heights,
        file_names=file_names,
        image_of=image_of,
        labels=labels,
        boxes=boxes,
        areas=areas,
        crowd=crowd,
        ignored=ignored,
        notes=tuple(findings.notes),
    )


def _document(parsed: object, findings: Findings, *, test: bool) -> dict[str, Any]:
    """Top level of the file, with its lists of images and annotations; raise if the file has none."""
    document = parsed if isinstance(parsed, dict) else {}
    if test:
        document = document | {"annotations": []}
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list):
            findings.fault(f"no list '{key}'", "use a file in COCO's instances format")
    findings.raise_faults()
    return document


def _categories(categories: Any, annotations: Entries, findings: Findings) -> Entries:
    """Categories of the file without repetitions; one category if the file lists none and its annotations name one."""
    if categories is not None and not isinstance(categories, list):
        findings.fault(f"'categories' is {shown(categories)}", "use a list of objects with 'id' and 'name'")
        return Entries("category", [], findings)
    if not categories:
        used = Counter(str(value)[:40] for value in annotations.values("category_id") if isinstance(value, int | str))
        problem = "no list 'categories'" if categories is None else "the list 'categories' is empty"
        if len(used) == 1:
            findings.notes.append(f"{problem}; all annotations are of one class, named '{ONE_CLASS}'")
            value = next(v for v in annotations.values("category_id") if isinstance(v, int | str))
            return Entries("category", [{"id": value, "name": ONE_CLASS}], findings)
        several = f", and the annotations name {len(used)} categories" if used else ""
        findings.fault(problem + several, "add at least one category")
    entries = entries_of(categories or [], "category", findings)
    kept = {_key(item, number): item for number, item in reversed(list(enumerate(entries.items)))}
    if len(kept) < len(entries.items):
        findings.notes.append(f"{len(entries.items) - len(kept)} categories are listed again with equal id and name")
    return Entries("category", list(reversed(kept.values())), findings)


def _key(category: dict[str, Any], number: int) -> object:
    """Key of a category: id and name, or its place in the list (``number``) if an id or a name is wrong."""
    id_, name = category.get("id"), category.get("name")
    return (str(id_), name) if isinstance(id_, int | str) and isinstance(name, str) else number


def _names(entries: Entries, key: str, needed: bool = True) -> list[str]:
    """Names of one key: text or numbers; an empty name for a missing one."""
    raw = entries.values(key)
    names = [str(value) if type(value) is int or (type(value) is float and isfinite(value)) else value for value in raw]
    names = ["" if name is None else name for name in names]
    wrong = [i for i, name in enumerate(names) if not isinstance(name, str) or not name.strip()]
    wrong = [i for i in wrong if needed or raw[i] is not None]
    if wrong:
        first = raw[wrong[0]]
        entries.fault(wrong, f"has no '{key}'" if first is None else f"has the '{key}' {shown(first)}", "enter a name")
    return [name if isinstance(name, str) else "" for name in names]


def _class_names(categories: Entries) -> list[str]:
    """Names of the categories. Half of a surrogate pair, which no file can contain, becomes a replacement character."""
    names = _names(categories, "name")
    whole = [_SURROGATE.sub("\ufffd", name) for name in names]
    if whole != names:
        first = next(i for i, name in enumerate(names) if whole[i] != name)
        categories.findings.notes.append(
            f"the name {shown(names[first])} contains half of a surrogate pair; the class is called {whole[first]!r}"
        )
    return whole


def _file_names(images: Entries, needed: bool) -> list[str]:
    names = _names(images, "file_name", needed)
    if not "".join(names).isprintable():  # few files have such names, and the search below is slow
        odd = [i for i, name in enumerate(names) if "\0" in name or _SURROGATE.search(name)]
        if odd:
            problem = f"has the 'file_name' {shown(names[odd[0]])} with a zero byte or half of a surrogate pair"
            images.fault(odd, problem, "correct the name")
    return names


def _note_equal_names(names: list[str], category_ids: NDArray[np.int64], findings: Findings) -> None:
    for name, count in Counter(names).items():
        if count > 1 and len(set(category_ids.tolist())) == len(names):
            listed = ", ".join(str(id_) for id_, other in zip(category_ids, names, strict=True) if other == name)
            findings.notes.append(
                f"{count} categories are named {shown(name)} (ids {listed}); they are different classes"
            )


def _check_pictures(file_names: list[str], image_ids: NDArray[np.int64], findings: Findings) -> None:
    """Collect a fault if two images name one file, which would be trained on twice, with half of its objects."""
    names = [name.replace("\\", "/") for name in file_names]
    names = [posixpath.normpath(name) if "./" in name or "//" in name else name for name in names]
    if len(set(names)) == len(names) or len(np.unique(image_ids)) < len(names):
        return
    first: dict[str, int] = {}
    twice = [(first[name], i) for i, name in enumerate(names) if first.setdefault(name, i) != i and name]
    if twice:
        one, other = (image_ids[i] for i in twice[0])
        problem = f"the images {one} and {other} have the same 'file_name' {shown(file_names[twice[0][1]])}"
        findings.fault(problem, "give all annotations of a picture to one image", len(twice))


def _sizes(images: Entries) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Widths and heights ``[N]``; 0 for an image without a stated size."""
    sides = list(zip(images.values("width"), images.values("height"), strict=True))
    stated = np.array([w is not None and h is not None for w, h in sides], dtype=bool)
    widths, heights = (np.where(stated, values.whole_numbers(images, key, missing=1), 0) for key in ("width", "height"))
    wrong = np.flatnonzero(stated & ((widths < 1) | (heights < 1))).tolist()
    wrong = [i for i in wrong if None not in map(values.as_whole, sides[i])]
    if wrong:
        size = f"{widths[wrong[0]]}x{heights[wrong[0]]}"
        images.fault(wrong, f"has the size {size}", "correct its width and height")
    return widths, heights


def _check_annotation_ids(annotations: Entries) -> None:
    """Check the ids of annotations. They are used only in messages, and may be missing."""
    if missing := annotations.values("id").count(None):
        annotations.findings.notes.append(f"{missing} annotations have no id")
        annotations = Entries(
            "annotation", [a for a in annotations.items if a.get("id") is not None], annotations.findings
        )
    values.ids(annotations)


def _image_of(annotations: Entries, image_ids: values.Ids) -> NDArray[np.int64]:
    image_of = image_ids.positions(annotations, "image_id")
    orphans = np.flatnonzero(image_of < 0)
    orphans = orphans[[annotations.items[i].get("image_id") is not None for i in orphans.tolist()]]
    if len(orphans):
        owner = shown(annotations.items[orphans[0]]["image_id"])
        annotations.fault(
            orphans,
            f"belongs to image {owner}, which the file does not list",
            "add the image or remove the annotation",
        )
    return image_of


def _boxes(annotations: Entries) -> NDArray[np.float64]:
    boxes, raw = values.boxes(annotations, "bbox"), annotations.values("bbox")
    finite = np.isfinite(boxes).all(axis=1)
    infinite = [i for i in np.flatnonzero(~finite).tolist() if values.as_box(raw[i]) is not None]
    faults = {
        "NaN or infinity": infinite,
        "a negative width or height": np.flatnonzero(finite & (boxes[:, 2:] < 0).any(axis=1)),
        f"a number over {LARGEST:.0e}": np.flatnonzero(finite & (np.abs(boxes) > LARGEST).any(axis=1)),
    }
    for fault, wrong in faults.items():
        if len(wrong):
            annotations.fault(wrong, f"has a box with {fault}, {boxes[wrong[0]].tolist()}", "correct it")
    return boxes


def _areas(annotations: Entries, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas = values.numbers(annotations, "area")
    annotations.fault(np.flatnonzero(np.isinf(areas)), "has an infinite 'area'", "correct it, or leave it out")
    stated = areas > 0
    if count := int((~stated & (boxes[:, 2:] > 0).all(axis=1)).sum()):
        annotations.findings.notes.append(f"{count} annotations state no area above 0; it is width x height of the box")
    return np.where(stated, areas, boxes[:, 2] * boxes[:, 3])


def _note_corners(boxes: NDArray, widths: NDArray, heights: NDArray, findings: Findings) -> None:
    """Note boxes that look like ``x1, y1, x2, y2``: most of them leave their image, and all fit as corners."""
    x, y, w, h = boxes.T
    known = widths > 0
    leaves = known & ((x + w > widths + 1) | (y + h > heights + 1))
    corners = ~known | ((w >= x) & (h >= y) & (w <= widths + 1) & (h <= heights + 1))
    if (count := (leaves & corners).sum()) > len(boxes) / 2:
        findings.notes.append(
            f"{count} of {len(boxes)} boxes end outside their image and look like corners x1, y1, x2, y2; "
            "COCO's boxes are x, y, width, height"
        )
