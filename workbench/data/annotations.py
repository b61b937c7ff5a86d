"""Annotation files in COCO's format, parsed, checked and converted to columns.

Whole columns are checked at once, so that train2017 (118,287 images, 860,001 annotations) takes seconds. This module
does not import torch. Source of the format: Lin et al., Microsoft COCO, and https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.support.errors import WorkbenchError


@dataclass(frozen=True, eq=False)
class Columns:
    """Annotation file as columns of N images and M annotations.

    Attributes:
        category_ids, class_names: ids and names of the categories, in ascending order of the ids.
        image_ids, widths, heights, file_names: N values, in the order of the file.
        image_of: ``[M]``, index of the image of each annotation.
        labels: ``[M]``, class index of each annotation; -1 if the file does not list its category.
        boxes: ``[M, 4]``, ``x, y, width, height`` in pixels.
        areas: ``[M]``, area in square pixels; area of the box if the file states none.
        crowd, ignored: ``[M]``, flags of each annotation.
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


def parse(path: Path) -> dict:
    """Parse the JSON document without segmentations, which would need gigabytes of memory for COCO."""

    def drop_segmentation(item: dict) -> dict:
        item.pop("segmentation", None)
        return item

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=drop_segmentation)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno} ({error.msg})"
        raise WorkbenchError(f"{path}: not valid JSON at {place}, probably incomplete; copy the file again") from error
    except (UnicodeDecodeError, OSError) as error:
        raise WorkbenchError(f"{path}: cannot be read as text ({error}); copy the file again") from error


def columns_of(document: dict, path: Path) -> Columns:
    """Check a parsed annotation file and convert it to columns.

    Raises:
        WorkbenchError: an entry is wrong; the message names the file and the first wrong entry.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise WorkbenchError(f"{path}: no list '{key}'; use a file in COCO's instances format")
    images, annotations, categories = document["images"], document["annotations"], document["categories"]
    category_ids = _ids(categories, "category", path)
    if not len(category_ids):
        raise WorkbenchError(f"{path}: the list 'categories' is empty; add at least one category")
    by_id = np.argsort(category_ids)
    names = _values(categories, "name", "category", path)
    image_ids = _ids(images, "image", path)
    widths, heights = (_integers(images, key, "image", path) for key in ("width", "height"))
    for index in np.flatnonzero((widths < 1) | (heights < 1))[:1]:
        size = f"{widths[index]}x{heights[index]}"
        raise WorkbenchError(f"{path}: image {image_ids[index]} has the size {size}; correct its width and height")
    file_names = _values(images, "file_name", "image", path)
    for index in (i for i, name in enumerate(file_names) if not isinstance(name, str) or not name):
        raise WorkbenchError(
            f"{path}: image {image_ids[index]} has the 'file_name' {file_names[index]!r}; enter a name"
        )
    ids = _ids(annotations, "annotation", path)
    of_image = _integers(annotations, "image_id", "annotation", path)
    image_of = _positions(of_image, image_ids)
    for index in np.flatnonzero(image_of < 0)[:1]:
        orphan = f"annotation {ids[index]} belongs to image {of_image[index]}"
        raise WorkbenchError(f"{path}: {orphan}, which the file does not list; add the image or remove the annotation")
    boxes = _numbers(_values(annotations, "bbox", "annotation", path), "bbox", 4, ids, path)
    _check_boxes(boxes, ids, path)
    areas = _numbers([a.get("area") for a in annotations], "area", 1, ids, path)[:, 0]
    return Columns(
        category_ids=tuple(category_ids[by_id].tolist()),
        class_names=tuple(str(names[i]) for i in by_id),
        image_ids=image_ids,
        widths=widths,
        heights=heights,
        file_names=file_names,
        image_of=image_of,
        labels=_positions(_integers(annotations, "category_id", "annotation", path), category_ids[by_id]),
        boxes=boxes,
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowd=np.array([bool(a.get("iscrowd")) for a in annotations], dtype=bool),
        ignored=np.array([bool(a.get("ignore")) for a in annotations], dtype=bool),
    )


def _values(entries: list, key: str, kind: str, path: Path) -> list:
    """Values of one key in the order of the file; ``kind`` is the name of an entry in messages."""
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError, IndexError):
        place = next(i for i, entry in enumerate(entries) if not isinstance(entry, dict) or key not in entry)
        raise WorkbenchError(f"{path}: {kind} number {place + 1} of the file has no '{key}'; add it") from None


def _integers(entries: list, key: str, kind: str, path: Path) -> NDArray[np.int64]:
    """Whole numbers of one key that fit into 64 bits; 640.0 is accepted, "640" is not."""
    values = _values(entries, key, kind, path)
    for index, value in enumerate(values):
        if not (type(value) in (int, float) and value % 1 == 0 and abs(value) < 2**63):
            fault = f"{kind} number {index + 1} of the file has the '{key}' {value!r:.40}"
            raise WorkbenchError(f"{path}: {fault}; use a whole number")
    return np.array(values, dtype=np.int64)


def _ids(entries: list, kind: str, path: Path) -> NDArray[np.int64]:
    ids = _integers(entries, "id", kind, path)
    unique, counts = np.unique(ids, return_counts=True)
    for index in np.flatnonzero(counts > 1)[:1]:
        raise WorkbenchError(f"{path}: {kind} id {unique[index]} occurs {counts[index]} times; make the ids unique")
    return ids


def _positions(wanted: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of each wanted id in ``ids``; -1 if ``ids`` does not contain it."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids)
    positions = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[positions] == wanted, positions, -1)


def _numbers(values: list, key: str, width: int, ids: NDArray[np.int64], path: Path) -> NDArray[np.float64]:
    """Column ``[M, width]`` of the annotations; NaN for ``null``."""
    try:
        return np.array(values, dtype=np.float64).reshape(len(values), width)
    except (TypeError, ValueError):
        for annotation, value in zip(ids, values, strict=True):
            with contextlib.suppress(TypeError, ValueError):
                np.array(value, dtype=np.float64).reshape(width)
                continue
            fault = f"annotation {annotation} has the '{key}' {value!r:.60}"
            expected = "a number" if width == 1 else f"{width} numbers"
            raise WorkbenchError(f"{path}: {fault}; use {expected}") from None
        raise


def _check_boxes(boxes: NDArray[np.float64], ids: NDArray[np.int64], path: Path) -> None:
    faults = {"NaN or infinity": ~np.isfinite(boxes), "a negative width or height": boxes < [-np.inf, -np.inf, 0, 0]}
    for fault, wrong in faults.items():
        for index in np.flatnonzero(wrong.any(axis=1))[:1]:
            box = boxes[index].tolist()
            raise WorkbenchError(f"{path}: annotation {ids[index]} has a box with {fault}, {box}; correct it")
