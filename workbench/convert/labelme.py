"""Reader of labelme's format: a JSON file for each image, with shapes.

Source of the format: labelme 5, https://github.com/wkentaro/labelme.
"""

from __future__ import annotations

import math
import posixpath
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.convert.remarks import Remarks
from workbench.convert.source import (
    DataSet,
    ImageFiles,
    SourceImage,
    Thing,
    below,
    class_name,
    files_below,
    note_unannotated,
    number,
    one_image,
    split_folders,
    stated_size,
)
from workbench.data.findings import shown
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json

FLAT = ("point", "points", "line", "linestrip")
"""Shapes without an area, which are left out. Any other shape becomes the smallest box that contains it."""

Corners = tuple[float, float, float, float]


def read_labelme(root: Path, remarks: Remarks) -> DataSet:
    """Read a data set: folders ``train``, ``val`` or ``valid``, and ``test``, or one folder without splits.

    Raises:
        WorkbenchError: there are no annotations, or a file cannot be read. Other faults are added to ``remarks``.
    """
    splits = {}
    for split, folder in split_folders(root, ".json", remarks).items():
        images = ImageFiles(folder)
        files = list(files_below(folder, {".json"}))
        if not files:
            raise WorkbenchError(f"{folder}: no JSON files of labelme; name the folder that contains them")
        read = [_read_image(file, images, root, remarks) for file in files]
        splits[split] = [image for image in read if image is not None]
        note_unannotated(images, splits[split], "labelme", remarks)
    return DataSet(splits)


def _read_image(file: Path, images: ImageFiles, root: Path, remarks: Remarks) -> SourceImage | None:
    """Image with its objects; None, with a fault, for a wrong one."""
    content, place = read_json(file, "annotations"), below(root, file)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        remarks.fault(place, "no list 'shapes'", "move files that labelme did not write to another folder")
        return None
    paths = _images_of(file, content.get("imagePath"), images)
    path = one_image(paths, place, shown(content.get("imagePath")), root, remarks)
    if path is None:
        return None
    size = stated_size(content.get("imageWidth"), content.get("imageHeight"))
    return SourceImage(path, images.name(path), _things(content["shapes"], place, remarks), size)


def _images_of(file: Path, name: Any, images: ImageFiles) -> list[Path]:
    """Images that ``imagePath`` names, relative to its file or anywhere; else images with the name of the JSON file."""
    stem = file.relative_to(images.folder).with_suffix("")
    if isinstance(name, str) and name:
        path = PurePosixPath(name.replace("\\", "/"))
        for place in (stem.parent / path, stem.parent / path.name):
            if found := images.named(posixpath.normpath(place.as_posix())):
                return found
        if found := images.called(path.name):
            return found
    return images.of_stem(stem.as_posix())


def _things(shapes: list[Any], place: str, remarks: Remarks) -> list[Thing]:
    """Objects of an image. Shapes with one label and one group are the visible parts of one object."""
    objects: dict[object, tuple[str, Corners, str]] = {}
    for index, shape in enumerate(shapes, 1):
        here = f"{place} shape {index}"
        shape = shape if isinstance(shape, dict) else {}
        name, group = class_name(shape.get("label")), shape.get("group_id")
        if name is None:
            remarks.fault(here, f"has the 'label' {shown(shape.get('label'))}", "add the name of its class")
        elif shape.get("shape_type") in FLAT:
            remarks.note("points and lines are left out", here)
        elif corners := _corners(shape, here, remarks):
            key = index if group is None else (name, str(group))
            if key in objects:
                remarks.note("shapes are parts of another shape's object, because their group_id is equal", here)
                corners = _around(objects[key][1], corners)
            objects[key] = name, corners, objects.get(key, (name, corners, here))[2]
    return [Thing(name, (x1, y1, x2 - x1, y2 - y1), here) for name, (x1, y1, x2, y2), here in objects.values()]


def _around(one: Corners, other: Corners) -> Corners:
    """Smallest box that contains two boxes."""
    return (*map(min, one[:2], other[:2]), *map(max, one[2:], other[2:]))


def _corners(shape: dict[str, Any], place: str, remarks: Remarks) -> Corners | None:
    """Corners ``x1, y1, x2, y2`` of the smallest box that contains a shape; None, with a fault, for wrong points."""
    points = shape.get("points")
    pairs = [p if isinstance(p, list) and len(p) == 2 else [None] for p in points] if isinstance(points, list) else []
    numbers = [[number(value) for value in pair] for pair in pairs]
    if len(numbers) < 2 or any(None in pair for pair in numbers):
        remarks.fault(place, f"has the 'points' {shown(points)}", "state at least two points x, y as numbers")
        return None
    kind = shape.get("shape_type")
    if kind == "circle":  # its centre, and a point on it
        (x, y), edge = numbers[0], numbers[1]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*numbers, strict=True)
    end = 1 if kind == "mask" else 0  # the second point of a mask is its last pixel
    return min(xs), min(ys), max(xs) + end, max(ys) + end
