"""Reads a data set in COCO's detection format: ``annotations/instances_<split>.json`` and ``<split>/<file_name>``.

What is kept follows the loader that trained the paper's models. Whole columns of annotations are checked
and filtered at once, so that train2017 (118,287 images, 860,001 annotations) takes seconds; torch is not needed.
Source of the format: Lin et al., Microsoft COCO, and https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.support.errors import WorkbenchError

MIN_SIDE = 32  # pixels; a training image with a shorter side is dropped


@dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """One image and its ground truth, as the annotation file states them.

    Attributes:
        id: COCO's image id.
        file_name: as in the annotation file.
        path: where the image lies.
        width, height: in pixels, as stated; ``transforms.decode_image`` checks them.
        boxes: ``[n, 4]`` float32, ``x1, y1, x2, y2`` in pixels of the stored image, not clipped to it.
        labels: ``[n]`` int64, contiguous class indices.
    """

    id: int
    file_name: str
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CocoDetection:
    """A split of a data set.

    Attributes:
        root, split: where it was read from.
        category_ids: class index → COCO's category id, ascending.
        class_names: class index → name.
        images: in file order.
        skipped: how many annotations and images were left out, by reason; reasons that never occurred are absent.
    """

    root: Path
    split: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    images: list[ImageRecord]
    skipped: dict[str, int]


@dataclass(frozen=True, eq=False)
class _Columns:
    """The file as columns: N images, M annotations, their image as an index, their label -1 where unknown."""

    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    image_ids: NDArray[np.int64]
    widths: NDArray[np.int64]
    heights: NDArray[np.int64]
    file_names: list[str]
    image_of: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]  # x, y, w, h
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    ignored: NDArray[np.bool_]


def annotation_path(root: Path | str, split: str) -> Path:
    """Where the annotations of a split lie.

    Raises:
        WorkbenchError: the data root or the file is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise WorkbenchError(f"{root}: no such data folder: name the one that holds annotations/ and {split}/")
    kind = "image_info" if split.startswith("test") else "instances"  # nobody but the evaluation server knows more
    path = root / "annotations" / f"{kind}_{split}.json"
    if not path.is_file():
        raise WorkbenchError(f"{path}: no such annotation file: put the COCO-format annotations of {split} there")
    return path


def read_coco(root: Path | str, split: str, *, training: bool, limit: int | None = None) -> CocoDetection:
    """Reads one split (``train2017``, ``val2017``, ``test-dev2017``, whose images lie in ``test2017/``).

    Annotations are left out when crowd, flagged ``ignore``, outside the image, of no area, under one pixel wide or
    high, or of a category that the file does not list. Training also leaves out images under 32 pixels and those
    without any annotation of a listed category; an image with only crowd annotations stays, with no boxes.
    Evaluation keeps every image.

    Args:
        limit: keep only this many images, the first ones of those that stay.

    Raises:
        WorkbenchError: something is missing, damaged or inconsistent, or nothing is left.
    """
    path = annotation_path(root, split)
    document = _parse(path)
    if path.name.startswith("image_info") and isinstance(document, dict):
        document["annotations"] = []
    columns = validate(document, path)
    keep, skipped = _filter_annotations(columns)
    images = np.arange(len(columns.image_ids))
    if training:
        keep_image, dropped = _filter_images(columns)
        images, skipped = images[keep_image], skipped | dropped
    images = images[:limit]
    if not len(images) or (training and not keep.any()):
        lack = "annotations are left to train on" if len(images) else "images are left"
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "nothing"
        raise WorkbenchError(f"{path}: no {lack} (left out: {reasons}): check the file")
    records = _records(columns, keep, images, Path(root) / split.replace("-dev", ""))
    _refuse_missing(records, path)
    return CocoDetection(Path(root), split, columns.category_ids, columns.class_names, records, skipped)


def _refuse_missing(records: list[ImageRecord], annotations: Path) -> None:
    """Raise where images are not there, before hours of training reach them; folders are listed, not files tried."""
    folders = {record.path.parent for record in records}
    there = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    missing = [record.path for record in records if record.path.name not in there[record.path.parent]]
    if missing:
        more = f" (nor {len(missing) - 1} more of the {len(records)} in {annotations})" if len(missing) > 1 else ""
        raise WorkbenchError(f"{missing[0]}: no such image{more}: copy it there or remove it from the annotations")


def _parse(path: Path) -> dict:
    """The JSON document without segmentations, which make up most of COCO's files and would fill gigabytes."""

    def drop_segmentation(item: dict) -> dict:
        item.pop("segmentation", None)
        return item

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=drop_segmentation)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno} ({error.msg})"
        raise WorkbenchError(f"{path}: not valid JSON at {place}: the file is incomplete, copy it again") from error
    except (UnicodeDecodeError, OSError) as error:
        raise WorkbenchError(f"{path}: cannot be read as text ({error}): copy it again") from error


def validate(document: dict, path: Path) -> _Columns:
    """Checks a parsed annotation file and turns it into columns.

    Raises:
        WorkbenchError: naming the file and the first entry that is wrong.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise WorkbenchError(f"{path}: not a COCO detection file: it has no list '{key}'")
    images, annotations, categories = document["images"], document["annotations"], document["categories"]
    category_ids = _ids(categories, "category", path)
    if not len(category_ids):
        raise WorkbenchError(f"{path}: the list 'categories' is empty: a detector needs at least one class")
    by_id = np.argsort(category_ids)
    names = _values(categories, "name", "category", path)
    image_ids = _ids(images, "image", path)
    widths, heights = (_integers(images, key, "image", path) for key in ("width", "height"))
    for index in np.flatnonzero((widths < 1) | (heights < 1))[:1]:
        size = f"{widths[index]}x{heights[index]}"
        raise WorkbenchError(f"{path}: image {image_ids[index]} has the size {size}: correct its width and height")
    file_names = _values(images, "file_name", "image", path)
    for index in (i for i, name in enumerate(file_names) if not isinstance(name, str) or not name):
        raise WorkbenchError(f"{path}: image {image_ids[index]} has the 'file_name' {file_names[index]!r}: name a file")
    ids = _ids(annotations, "annotation", path)
    of_image = _integers(annotations, "image_id", "annotation", path)
    image_of = _positions(of_image, image_ids)
    for index in np.flatnonzero(image_of < 0)[:1]:
        orphan = f"annotation {ids[index]} belongs to image {of_image[index]}"
        raise WorkbenchError(f"{path}: {orphan}, which the file does not list: add the image or remove the annotation")
    boxes = _numbers(_values(annotations, "bbox", "annotation", path), "bbox", 4, ids, path)
    _check_boxes(boxes, ids, path)
    areas = _numbers([a.get("area") for a in annotations], "area", 1, ids, path)[:, 0]
    return _Columns(
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
    """One column, as it stands in the file; ``kind`` says in a message what an entry is."""
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError, IndexError):
        place = next(i for i, entry in enumerate(entries) if not isinstance(entry, dict) or key not in entry)
        raise WorkbenchError(f"{path}: {kind} number {place + 1} of the file has no '{key}': add it") from None


def _integers(entries: list, key: str, kind: str, path: Path) -> NDArray[np.int64]:
    """One column of whole numbers that fit into 64 bits; 640.0 passes, "640" does not."""
    values = _values(entries, key, kind, path)
    for index, value in enumerate(values):
        if not (type(value) in (int, float) and value % 1 == 0 and abs(value) < 2**63):
            fault = f"{kind} number {index + 1} of the file has the '{key}' {value!r:.40}"
            raise WorkbenchError(f"{path}: {fault}: make it a whole number")
    return np.array(values, dtype=np.int64)


def _ids(entries: list, kind: str, path: Path) -> NDArray[np.int64]:
    ids = _integers(entries, "id", kind, path)
    unique, counts = np.unique(ids, return_counts=True)
    for index in np.flatnonzero(counts > 1)[:1]:
        raise WorkbenchError(f"{path}: {kind} id {unique[index]} occurs {counts[index]} times: ids must be unique")
    return ids


def _positions(wanted: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted id stands in ``ids``; -1 where it does not."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids)
    found = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[found] == wanted, found, -1)


def _numbers(values: list, key: str, width: int, ids: NDArray[np.int64], path: Path) -> NDArray[np.float64]:
    """A column ``[M, width]`` of the annotations, NaN where the file has ``null``."""
    try:
        return np.array(values, dtype=np.float64).reshape(len(values), width)
    except (TypeError, ValueError):
        for annotation, value in zip(ids, values, strict=True):
            with contextlib.suppress(TypeError, ValueError):
                np.array(value, dtype=np.float64).reshape(width)
                continue
            fault = f"annotation {annotation} has the '{key}' {value!r:.60}"
            raise WorkbenchError(f"{path}: {fault}: it needs {width} number(s)") from None
        raise


def _check_boxes(boxes: NDArray[np.float64], ids: NDArray[np.int64], path: Path) -> None:
    faults = {"NaN or infinity": ~np.isfinite(boxes), "a negative width or height": boxes < [-np.inf, -np.inf, 0, 0]}
    for fault, where in faults.items():
        for index in np.flatnonzero(where.any(axis=1))[:1]:
            box = boxes[index].tolist()
            raise WorkbenchError(f"{path}: annotation {ids[index]} has a box with {fault}, {box}: correct it")


def _filter_annotations(columns: _Columns) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which annotations are ground truth ``[M]``, and how many are not, by the first reason that holds."""
    x, y, w, h = columns.boxes.T
    inside_w = np.minimum(x + w, columns.widths[columns.image_of]) - np.maximum(x, 0)
    inside_h = np.minimum(y + h, columns.heights[columns.image_of]) - np.maximum(y, 0)
    reasons = {
        "annotations of unknown categories": columns.labels < 0,
        "crowd annotations": columns.crowd,
        "annotations flagged ignore": columns.ignored,
        "annotations outside their image": (inside_w <= 0) | (inside_h <= 0),
        "annotations without area": columns.areas <= 0,
        "annotations under 1 pixel": (w < 1) | (h < 1),
    }
    return _count(reasons, len(columns.labels))


def _filter_images(columns: _Columns) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which images to train on ``[N]``. Any annotation of a known category keeps an image, even one left out above."""
    annotated = np.zeros(len(columns.image_ids), dtype=bool)
    annotated[columns.image_of[columns.labels >= 0]] = True
    reasons = {
        "images without annotations": ~annotated,
        f"images under {MIN_SIDE} pixels": np.minimum(columns.widths, columns.heights) < MIN_SIDE,
    }
    return _count(reasons, len(annotated))


def _count(reasons: dict[str, NDArray[np.bool_]], length: int) -> tuple[NDArray[np.bool_], dict[str, int]]:
    keep, skipped = np.ones(length, dtype=bool), {}
    for reason, dropped in reasons.items():
        if count := int((keep & dropped).sum()):
            skipped[reason] = count
        keep &= ~dropped
    return keep, skipped


def _records(columns: _Columns, keep: NDArray, images: NDArray[np.int64], folder: Path) -> list[ImageRecord]:
    """The records of ``images``; their boxes are views of one array, sorted by image and in file order within it."""
    kept = np.flatnonzero(keep)
    kept = kept[np.argsort(columns.image_of[kept], kind="stable")]
    corners = columns.boxes[kept]
    corners[:, 2:] += corners[:, :2]
    boxes, labels = corners.astype(np.float32), columns.labels[kept]
    starts = np.searchsorted(columns.image_of[kept], images, side="left").tolist()
    ends = np.searchsorted(columns.image_of[kept], images, side="right").tolist()
    ids, widths, heights = (c[images].tolist() for c in (columns.image_ids, columns.widths, columns.heights))
    names = [columns.file_names[i] for i in images.tolist()]
    return [
        ImageRecord(ids[i], name, folder / name, widths[i], heights[i], boxes[a:b], labels[a:b])
        for i, (name, a, b) in enumerate(zip(names, starts, ends, strict=True))
    ]
