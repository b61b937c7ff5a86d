"""Reader of data sets in COCO's detection format: ``annotations/instances_<split>.json``, ``<split>/<file_name>``.

Annotations and images are filtered as in the loader that trained the paper's models. Whole columns of annotations are
checked and filtered at once, so that train2017 (118,287 images, 860,001 annotations) takes seconds. This module does
not import torch. Source of the format: Lin et al., Microsoft COCO, and https://cocodataset.org/#format-data.
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

MIN_SIDE = 32  # pixels; training images with a shorter side are left out


@dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """Image with its ground truth, as in the annotation file.

    Attributes:
        id: COCO's image id.
        file_name: as in the annotation file.
        path: path of the image.
        width, height: size in pixels as in the annotation file; ``transforms.decode_image`` checks it.
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
    """Split of a data set.

    Attributes:
        root, split: folder of the data set and name of the split.
        category_ids: class index → COCO's category id, ascending.
        class_names: class index → name.
        images: in file order.
        skipped: number of annotations and images that were left out, by reason; only reasons that occurred.
    """

    root: Path
    split: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    images: list[ImageRecord]
    skipped: dict[str, int]


@dataclass(frozen=True, eq=False)
class _Columns:
    """Annotation file as columns of N images and M annotations.

    ``image_of`` is the index of an annotation's image. A label is -1 if the category is unknown.
    """

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
    """Path of the annotations of a split.

    Raises:
        WorkbenchError: the data root or the file is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise WorkbenchError(f"{root}: no such data folder; choose the folder that contains annotations/ and {split}/")
    kind = "image_info" if split.startswith("test") else "instances"  # annotations of test are not public
    path = root / "annotations" / f"{kind}_{split}.json"
    if not path.is_file():
        raise WorkbenchError(f"{path}: no such annotation file; put the COCO-format annotations of {split} there")
    return path


def read_coco(root: Path | str, split: str, *, training: bool, limit: int | None = None) -> CocoDetection:
    """Read one split: ``train2017``, ``val2017`` or ``test-dev2017`` (whose images are in ``test2017/``).

    An annotation is left out if it is a crowd, has the flag ``ignore``, is outside its image, has no area, is less than
    one pixel wide or high, or has a category that the file does not list.

    In training, an image is also left out if a side is under 32 pixels, or if no annotation has a listed category. An
    image with only crowd annotations is kept, without boxes. In evaluation, all images are kept.

    Args:
        training: whether images are left out as described for training.
        limit: number of images to keep, from the beginning; None for all.

    Raises:
        WorkbenchError: a file is missing, damaged or inconsistent, or no image is left.
    """
    path = annotation_path(root, split)
    document = _parse(path)
    if path.name.startswith("image_info") and isinstance(document, dict):
        document["annotations"] = []
    columns = _columns(document, path)
    keep, skipped = _filter_annotations(columns)
    images = np.arange(len(columns.image_ids))
    if training:
        keep_image, dropped = _filter_images(columns)
        images, skipped = images[keep_image], skipped | dropped
    images = images[:limit]
    if not len(images) or (training and not keep.any()):
        lack = "annotations are left to train on" if len(images) else "images are left"
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "nothing"
        raise WorkbenchError(f"{path}: no {lack} (left out: {reasons}); check the file")
    records = _records(columns, keep, images, Path(root) / split.replace("-dev", ""))
    _refuse_missing(records, path)
    return CocoDetection(Path(root), split, columns.category_ids, columns.class_names, records, skipped)


def _refuse_missing(records: list[ImageRecord], annotations: Path) -> None:
    """Raise if images are missing, before hours of training reach them; list folders, which is faster than files."""
    folders = {record.path.parent for record in records}
    names = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    missing = [record.path for record in records if record.path.name not in names[record.path.parent]]
    if missing:
        others = f" ({len(missing)} of {len(records)} images of {annotations} are missing)" if len(missing) > 1 else ""
        raise WorkbenchError(f"{missing[0]}: no such image{others}; copy it there or remove it from the annotations")


def _parse(path: Path) -> dict:
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


def _columns(document: dict, path: Path) -> _Columns:
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


def _filter_annotations(columns: _Columns) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Mask ``[M]`` of the annotations that are ground truth, and numbers of the others by the first reason."""
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
    """Mask ``[N]`` of the images to train on, and numbers of the others by reason.

    Any annotation of a listed category keeps an image, even an annotation that is not ground truth.
    """
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
    """Records of ``images``; the boxes are views of one array, sorted by image, then in file order."""
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
