"""Reader of data sets in COCO's detection format: ``annotations/instances_<split>.json``, ``<split>/<file_name>``.

Annotations and images are filtered as in the loader that trained the paper's models, with one exception. That loader
also leaves out annotations with ``area: 0`` or less in training. Many tools write 0 for every object, so such an object
is trained on here, and its area is that of its box. This module does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.data.annotations import Columns, read_annotations
from workbench.data.headers import Header, missing_fault
from workbench.data.images import check_images, read_headers
from workbench.settings.digest import annotation_file, image_folder
from workbench.support.errors import WorkbenchError

MIN_SIDE = 32  # pixels; training images with a shorter side are left out


@dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """Image with its ground truth, as in the annotation file.

    Attributes:
        id: COCO's image id.
        file_name: name in the annotation file, with slashes.
        path: path of the image.
        width, height: size in pixels as in the annotation file, or as viewers show the image if the file states none;
            ``transforms.decode_image`` checks it.
        boxes: ``[n, 4]`` float32, ``x1, y1, x2, y2`` in pixels of an image of this size, not clipped to it.
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
        images: records in the order of the file.
        skipped: number of annotations and images that were left out, by reason; only reasons that occurred.
        notes: lines for the log about unusual entries and images.
    """

    root: Path
    split: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    images: list[ImageRecord]
    skipped: dict[str, int]
    notes: tuple[str, ...] = ()


def annotation_path(root: Path | str, split: str) -> Path:
    """Path of the annotations of a split.

    Raises:
        WorkbenchError: the data root or the file is missing.
    """
    root = Path(root)
    if not os.path.isdir(root):  # unlike Path.is_dir, no error for a name that is too long
        raise WorkbenchError(f"{root}: no such data folder; choose the folder that contains annotations/ and {split}/")
    path = annotation_file(root, split)
    if not os.path.exists(path):
        raise WorkbenchError(f"{path}: no such annotation file; put the COCO-format annotations of {split} there")
    return path


def read_coco(
    root: Path | str,
    split: str,
    *,
    training: bool,
    limit: int | None = None,
    headers: bool = False,
    say: Callable[[str], None] | None = None,
) -> CocoDetection:
    """Read one split: ``train2017``, ``val2017``, ``test2017`` or ``test-dev2017`` (with images in ``test2017/``, too).

    An annotation is left out if

    - it is a crowd or has the flag ``ignore``,
    - no part of it is inside its image,
    - it is less than one pixel wide or high,
    - the file does not list its category.

    In training, an image is also left out if a side is under 32 pixels, or if no annotation has a listed category. An
    image with only crowd annotations is kept, without boxes. In evaluation, all images are kept.

    Args:
        training: whether images are left out as described for training.
        limit: number of images to keep, from the beginning; None for all.
        headers: whether to check the headers of all kept images; else, only whether the images exist.
        say: function that receives lines of progress.

    Raises:
        WorkbenchError: a file is missing, damaged or inconsistent, or no image is left.
    """
    path, folder = annotation_path(root, split), image_folder(Path(root), split)
    columns = with_slashes(read_annotations(path), folder)
    columns = _with_sizes(columns, folder, path, None if training else limit, say)
    keep, skipped = ground_truth(columns)
    images = np.arange(len(columns.image_ids))
    if training:
        keep_image, dropped = _filter_images(columns)
        images, skipped = images[keep_image], skipped | dropped
    images = images[:limit]
    if not len(images) or (training and not keep.any()):
        lack = "annotations are left to train on" if len(images) else "images are left"
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "nothing"
        raise WorkbenchError(f"{path}: no {lack} (left out: {reasons}); check the file")
    records = _records(columns, keep, images, folder)
    notes = list(columns.notes)
    if headers:
        paths = [record.path for record in records]
        sizes = [(record.width, record.height) for record in records]
        notes += check_images(paths, sizes, path, read_headers(paths, say))
    else:
        _refuse_missing(records, path)
    return CocoDetection(Path(root), split, columns.category_ids, columns.class_names, records, skipped, tuple(notes))


def image_path(folder: Path, name: str) -> Path:
    """Path of an image. Backslashes of Windows are read as slashes where only such an image exists."""
    path = folder / name
    if "\\" in name and not os.path.lexists(path) and os.path.lexists(slashes := folder / name.replace("\\", "/")):
        return slashes
    return path


def with_slashes(columns: Columns, folder: Path) -> Columns:
    """Columns with the names of images that ``image_path`` finds in a folder."""
    names = list(columns.file_names)
    changed = [i for i, name in enumerate(names) if "\\" in name and image_path(folder, name) != folder / name]
    for index in changed:
        names[index] = names[index].replace("\\", "/")
    note = f"{len(changed)} names of images have backslashes, which are read as slashes"
    return replace(columns, file_names=names, notes=(*columns.notes, note)) if changed else columns


def with_sizes(columns: Columns, images: Sequence[int], headers: Sequence[Header | str]) -> Columns:
    """Columns with the sizes of images of which the file states none, as viewers show these images.

    Args:
        images: indices of these images.
        headers: header of each of them, or its fault; the size of an unreadable image stays 0.
    """
    sizes = [header.shown_size if isinstance(header, Header) else (0, 0) for header in headers]
    if not (count := sum(width > 0 for width, _ in sizes)):
        return columns
    widths, heights = columns.widths.copy(), columns.heights.copy()
    widths[images], heights[images] = np.array(sizes).T
    note = f"{count} images have no width or height in the file; their size is read from the images"
    return replace(columns, widths=widths, heights=heights, notes=(*columns.notes, note))


def _with_sizes(
    columns: Columns, folder: Path, annotations: Path, limit: int | None, say: Callable[[str], None] | None
) -> Columns:
    """Columns with the sizes of the first ``limit`` images; raise if an image without a stated size is unusable."""
    unknown = np.flatnonzero(columns.widths[:limit] == 0).tolist()
    if not unknown:
        return columns
    paths = [folder / columns.file_names[i] for i in unknown]
    headers = read_headers(paths, say)
    columns = with_sizes(columns, unknown, headers)
    sizes = zip(columns.widths[unknown].tolist(), columns.heights[unknown].tolist(), strict=True)
    check_images(paths, list(sizes), annotations, headers)
    return columns


def _refuse_missing(records: list[ImageRecord], annotations: Path) -> None:
    """Raise if images are missing, before hours of training reach them; list folders, which is faster than files."""
    folders = {record.path.parent for record in records}
    names = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    missing = [record.path for record in records if record.path.name not in names[record.path.parent]]
    if missing:
        others = f" ({len(missing)} of {len(records)} images of {annotations} are missing)" if len(missing) > 1 else ""
        raise WorkbenchError(f"{missing[0]}: {missing_fault(missing[0], others)}")


def ground_truth(columns: Columns) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Mask ``[M]`` of the annotations that are ground truth, and numbers of the others by the first reason."""
    w, h = columns.boxes[:, 2:].T
    reasons = {
        "annotations of unknown categories": columns.labels < 0,
        "crowd annotations": columns.crowd,
        "annotations flagged ignore": columns.ignored,
        "annotations empty or outside their image": ~columns.visible,
        "annotations under 1 pixel": (w < 1) | (h < 1),
    }
    return _count(reasons, len(columns.labels))


def _filter_images(columns: Columns) -> tuple[NDArray[np.bool_], dict[str, int]]:
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


def corners(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Boxes ``x, y, width, height`` as ``x1, y1, x2, y2``, ``[G, 4]``."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)


def _records(columns: Columns, keep: NDArray, images: NDArray[np.int64], folder: Path) -> list[ImageRecord]:
    """Records of ``images``; the boxes are views of one array, sorted by image, then in file order."""
    kept = np.flatnonzero(keep)
    kept = kept[np.argsort(columns.image_of[kept], kind="stable")]
    boxes, labels = corners(columns.boxes[kept]), columns.labels[kept]
    starts = np.searchsorted(columns.image_of[kept], images, side="left").tolist()
    ends = np.searchsorted(columns.image_of[kept], images, side="right").tolist()
    ids, widths, heights = (c[images].tolist() for c in (columns.image_ids, columns.widths, columns.heights))
    names = [columns.file_names[i] for i in images.tolist()]
    return [
        ImageRecord(ids[i], name, folder / name, widths[i], heights[i], boxes[a:b], labels[a:b])
        for i, (name, a, b) in enumerate(zip(names, starts, ends, strict=True))
    ]
