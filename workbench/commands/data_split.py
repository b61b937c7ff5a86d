"""Splits of a data set on disk with all their faults, for ``workbench data``.

A training stops at the first file with faults. Here every file is read, so that a user sees the faults of all files at
once, and what is right.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.data.annotations import Columns, read_annotations
from workbench.data.coco import corners, ground_truth, with_sizes, with_slashes
from workbench.data.headers import Header
from workbench.data.images import THREADS, check_images, read_headers
from workbench.data.splits import refuse_other_categories
from workbench.settings.layouts import ALL, COCO, Layout, SplitFiles, survey
from workbench.support.errors import WorkbenchError


@dataclass(frozen=True, eq=False)
class Split:
    """Split of a data set, of N images and M annotations.

    Attributes:
        role: ``train``, ``val``, ``test``, or ``all`` for a data set without splits.
        name: role, or ``train2017`` in COCO's own folders.
        file: annotation file.
        columns: content of the file. The size of an image without a stated size is read from the image; 0 if the image
            is unreadable.
        paths: ``N`` paths of images.
        headers: header of each image, or its fault.
    """

    role: str
    name: str
    file: Path
    columns: Columns
    paths: list[Path]
    headers: list[Header | str]

    @cached_property
    def objects(self) -> NDArray[np.bool_]:
        """``[M]``, whether an annotation is an object for the detector, as for a training."""
        return ground_truth(self.columns)[0]

    @cached_property
    def sized(self) -> NDArray[np.int64]:
        """Indices of the images whose size is known."""
        return np.flatnonzero(self.columns.widths > 0)

    @cached_property
    def turned(self) -> NDArray[np.bool_]:
        """``[N]``, whether an image is turned by its EXIF orientation."""
        sizes = zip(self.headers, self.columns.widths.tolist(), self.columns.heights.tolist(), strict=True)
        return np.array([isinstance(h, Header) and h.is_turned(*size) for h, *size in sizes], dtype=bool)

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """``[N]``, whether an image has a usable header and the stated size."""
        sizes = zip(self.headers, self.columns.widths.tolist(), self.columns.heights.tolist(), strict=True)
        stored = [isinstance(h, Header) and (h.width, h.height) == tuple(size) for h, *size in sizes]
        return self.turned | np.array(stored, dtype=bool)

    def ground_truth(self, image: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes ``[G, 4]`` (``x1, y1, x2, y2`` in pixels) and labels ``[G]`` of the objects of an image."""
        kept, first = self._by_image
        of_image = kept[first[image] : first[image + 1]]
        return corners(self.columns.boxes[of_image]), self.columns.labels[of_image]

    @cached_property
    def _by_image(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the objects, sorted by image, and place of each image's first object among these indices."""
        kept = np.flatnonzero(self.objects)
        kept = kept[np.argsort(self.columns.image_of[kept], kind="stable")]
        return kept, np.searchsorted(self.columns.image_of[kept], np.arange(len(self.paths) + 1))


def read_all(root: Path, say: Callable[[str], None]) -> tuple[Layout, list[Split], list[WorkbenchError]]:
    """Read all splits of a data set, and all headers of their images.

    Args:
        say: function that receives lines of progress.

    Returns:
        The layout, the splits whose annotations are readable, and the faults of all files: each with one message.

    Raises:
        WorkbenchError: no layout is recognised.
    """
    layout, faults = survey(root)
    splits: list[Split] = []
    for role, files in layout.parts.items():
        try:
            split, faults_of_images = _read(role, files.images.name if layout.name == COCO else role, files, say)
        except WorkbenchError as error:
            faults.append(error)
            continue
        splits.append(split)
        faults += faults_of_images
        is_learnt = role in ("train", ALL)
        needed, what = (split.objects, "objects to learn") if is_learnt else (split.headers, "images to test on")
        if not any(needed):
            faults.append(WorkbenchError(f"{split.file}: no {what}; add some to the file"))
    for other in splits[1:] if splits and splits[0].role == "train" else []:
        train, place = splits[0].columns, str(other.file)
        owner = f"{os.path.relpath(splits[0].file, other.file.parent)} has"
        try:
            refuse_other_categories(other.columns, train.category_ids, train.class_names, place, owner)
        except WorkbenchError as error:
            faults.append(error)
    return layout, splits, faults


def _read(role: str, name: str, files: SplitFiles, say: Callable[[str], None]) -> tuple[Split, list[WorkbenchError]]:
    """Split, and the fault of its images if there is one; raise if the annotations have faults."""
    file = files.annotations
    columns = with_slashes(read_annotations(file), files.images)
    paths = [files.images / file_name for file_name in columns.file_names]
    headers = read_headers(paths, say)
    unknown = np.flatnonzero(columns.widths == 0).tolist()
    columns = with_sizes(columns, unknown, [headers[i] for i in unknown])
    sizes = zip(columns.widths.tolist(), columns.heights.tolist(), strict=True)
    faults = []
    try:
        notes = check_images(paths, list(sizes), file, headers)
        columns = replace(columns, notes=(*columns.notes, *notes))
    except WorkbenchError as error:
        faults.append(error)
    return Split(role, name, file, columns, paths, headers), faults


def content_digests(*splits: Split) -> list[list[str | None]]:
    """SHA-256 of the bytes of the images of each split; None for a file that cannot be equal to one of another split.

    Only files whose size in bytes occurs in several splits are read, and all links to a file are one file. A picture
    that was encoded again has other bytes, and is not noticed.
    """
    states = [[_state(path) for path in split.paths] for split in splits]
    counts = Counter(size for side in states for size in {state[0] for state in side if state})
    sizes = {size for size, count in counts.items() if count > 1}
    files = {
        state: path
        for split, side in zip(splits, states, strict=True)
        for path, state in zip(split.paths, side, strict=True)
        if state and state[0] in sizes
    }
    with ThreadPoolExecutor(THREADS) as pool:
        digests = dict(zip(files, pool.map(_sha256, files.values()), strict=True))
    return [[digests.get(state) for state in side] for side in states]


def _state(path: Path) -> tuple[int, int, int] | None:
    """Size in bytes and identity of a file, which are equal for all links to it; None if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # reported as a fault of the image
        return None
