"""Reader of YOLO's format: ``data.yaml``, and a text file for each image with boxes or polygons in shares of its size.

Source of the format: Ultralytics YOLO, detection data sets, https://docs.ultralytics.com/datasets/detect.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.convert.remarks import Remarks
from workbench.convert.source import (
    IMAGES,
    DataSet,
    SourceImage,
    Thing,
    below,
    class_name,
    files_below,
    number,
)
from workbench.data.findings import shown
from workbench.data.images import read_headers
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_text
from workbench.support.plain_yaml import read_yaml

SLACK = 0.01
"""Distance in shares of an image by which rounding may take a value out of the image."""


def read_yolo(root: Path, remarks: Remarks) -> DataSet:
    """Read a data set.

    The paths of ``data.yaml`` may be folders, lists of folders, or text files with a path in each line.

    Raises:
        WorkbenchError: there is no ``data.yaml``, or a file cannot be read. Other faults are added to ``remarks``.
    """
    file = _settings_file(root)
    settings = read_yaml(file)
    if "kpt_shape" in settings:
        raise WorkbenchError(f"{file}: kpt_shape: labels with keypoints are not converted; export boxes")
    classes = _class_names(settings, file)
    paths = {split: _images_of(split, settings, root, file, remarks) for split in ("train", "val", "test")}
    paths = {split: found for split, found in paths.items() if found}
    if not paths:
        remarks.raise_faults()
        raise WorkbenchError(f"{file}: train, val and test name no images; state the folders of the images")
    splits = {split: _read_split(split, found, root, classes, remarks) for split, found in paths.items()}
    return DataSet(splits, classes)


def _settings_file(root: Path) -> Path:
    files = [path for path in sorted(root.iterdir()) if path.suffix.lower() in (".yaml", ".yml")]
    named = [path for path in files if path.stem.lower() == "data"]
    if len(named or files) != 1:
        several = f"{len(named or files)} YAML files" if files else "no data.yaml"
        raise WorkbenchError(f"{root}: {several}; put one there that states names, train and val")
    return (named or files)[0]


def _class_names(settings: dict[str, Any], file: Path) -> list[str]:
    """Names of the classes, by their numbers. ``names`` is a list, or a mapping with the keys 0, 1, 2 …"""
    names = settings.get("names")
    if isinstance(names, dict):
        keys = [str(key) for key in range(len(names))]
        if set(names) != set(keys):
            raise WorkbenchError(f"{file}: names: the keys are {shown(list(names))}; number the classes from 0")
        names = [names[key] for key in keys]
    if not isinstance(names, list) or not names or None in (known := [class_name(name) for name in names]):
        raise WorkbenchError(f"{file}: names is {shown(names)}; list the names of the classes")
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise WorkbenchError(f"{file}: names: two classes are called {shown(twice)}; give each a name of its own")
    count = settings.get("nc", len(known))
    if count != len(known):
        raise WorkbenchError(f"{file}: nc is {shown(count)}, but names has {len(known)} classes; correct one of them")
    return known


def _images_of(split: str, settings: dict[str, Any], root: Path, file: Path, remarks: Remarks) -> list[Path]:
    """Images of a split, in order; a fault for a split whose path does not exist."""
    value = settings.get(split, settings.get("valid") if split == "val" else None)
    values = value if isinstance(value, list) else [] if value is None else [value]
    base = settings.get("path")
    images: dict[Path, None] = {}
    for entry in values:
        places = _places(root, base if isinstance(base, str) else "", str(entry))
        place = next((path for path in places if path.exists()), None)
        if place is None:
            text = f"{split}: {entry} does not exist (looked for {' and '.join(below(root, p) for p in places)})"
            if split == "test":  # exporters name it, even if they export none
                remarks.note("split is left out, because its folder is missing", f"{file.name}: {text}")
            else:
                remarks.fault(file.name, text, "correct the path, or remove the line")
        elif place.is_dir():
            images |= dict.fromkeys(files_below(place, IMAGES))
        else:
            images |= dict.fromkeys(_listed(place, root, remarks))
    return list(images)


def _places(root: Path, base: str, entry: str) -> list[Path]:
    """Possible places of a path of ``data.yaml``, the likely one first.

    Exporters write ``../train/images`` for the folder ``train/images`` beside ``data.yaml``, and a ``path`` of another
    machine.
    """
    entry = entry.replace("\\", "/")
    inside = entry
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    parts = (root / base / inside, root / inside, root / base / entry)
    return list(dict.fromkeys(Path(os.path.normpath(path)) for path in parts))


def _listed(file: Path, root: Path, remarks: Remarks) -> Iterable[Path]:
    """Images of a text file with a path in each line, relative to the file or to the data set."""
    for line, text in enumerate(read_text(file, "paths of images").splitlines(), 1):
        name = text.strip().replace("\\", "/")
        if not name:
            continue
        places = [Path(os.path.normpath(folder / name)) for folder in (file.parent, root)]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            problem, remedy = f"the image {shown(name)} is missing", "copy it there, or remove the line"
            remarks.fault(f"{below(root, file)} line {line}", problem, remedy)
        else:
            yield path


def _read_split(split: str, paths: list[Path], root: Path, classes: list[str], remarks: Remarks) -> list[SourceImage]:
    """Images of a split with their objects. An image without a label file has no objects."""
    labels = [_label_file(path, root) for path in paths]
    if not any(label.is_file() for label in labels):
        problem = f"no label files for the {len(paths)} images of {split} (looked for {below(root, labels[0])})"
        remarks.fault("labels", problem, "put the labels there, or remove the split from data.yaml")
        return []
    _refuse_orphans(paths, labels, root, remarks)
    top = os.path.commonpath([path.parent for path in paths])
    owners: dict[Path, Path] = {}
    images = []
    for path, label, header in zip(paths, labels, read_headers(paths), strict=True):
        if owners.setdefault(label, path) != path:
            problem = f"belongs to {below(root, owners[label])} and {below(root, path)}"
            remarks.fault(below(root, label), problem, "give each image a name of its own, or remove one")
        things: list[Thing] = []
        if label.is_file():
            # A fault of the header is reported later, with the faults of the other images.
            size = (1, 1) if isinstance(header, str) else header.shown_size
            things = _read_labels(label, size, classes, root, remarks)
        else:
            remarks.note("images have no label file, so they are images without objects", below(root, path))
        images.append(SourceImage(path, path.relative_to(top).as_posix(), things))
    return images


def _label_file(path: Path, root: Path) -> Path:
    """Label file of an image: in ``labels`` in place of the last folder ``images`` of its path, else beside it."""
    start = root if path.is_relative_to(root) else Path(path.anchor)
    folders = list(path.parent.relative_to(start).parts)
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(start, *folders, f"{path.stem}.txt")


def _refuse_orphans(paths: list[Path], labels: list[Path], root: Path, remarks: Remarks) -> None:
    """Add a fault for each file that looks like labels, in a folder of labels, whose image does not exist."""
    folders = {label.parent: path.parent for path, label in zip(paths, labels, strict=True)}
    for folder, images in folders.items():
        stems = {path.stem for path in images.iterdir() if path.suffix.lower() in IMAGES}
        for file in sorted(folder.glob("*.txt")):
            if file.stem not in stems and file.is_file() and re.match(rb"\s*\d+\s+[\d.]+\s", file.read_bytes()[:200]):
                place, problem = below(root, file), f"its image is missing in {below(root, images)}/"
                remarks.fault(place, problem, "copy the image there, or remove the labels")


def _read_labels(file: Path, size: tuple[int, int], classes: list[str], root: Path, remarks: Remarks) -> list[Thing]:
    """Objects of a label file."""
    things, name = [], below(root, file)
    for line, text in enumerate(read_text(file, "labels").splitlines(), 1):
        values, place = text.split(), f"{name} line {line}"
        if not values:
            continue
        numbers = [number(value) for value in values]
        if None in numbers:
            remarks.fault(place, f"has the value {shown(values[numbers.index(None)])}", "use numbers")
        elif len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            remedy = "use a class and 4 numbers for a box, or a class and at least 3 points for a polygon"
            remarks.fault(place, f"has {len(values)} values", remedy)
        elif numbers[0] not in range(len(classes)):
            remedy = f"use the numbers of the classes, 0 to {len(classes) - 1}, or add names to data.yaml"
            remarks.fault(place, f"has the class {values[0]}", remedy)
        elif not all(-SLACK <= value <= 1 + SLACK for value in numbers[1:]):
            wrong = next(
                v for v, value in zip(values[1:], numbers[1:], strict=True) if not -SLACK <= value <= 1 + SLACK
            )
            remarks.fault(place, f"has the value {wrong}", "use shares of the image's width and height, from 0 to 1")
        else:
            things.append(Thing(classes[int(numbers[0])], _box(numbers[1:], size), place))
            if len(values) > 5:
                remarks.note("polygons become the smallest box that contains them", place)
    return things


def _box(shares: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Box in pixels from its centre and size, or from the points of a polygon, in shares of the image's size."""
    width, height = size
    if len(shares) == 4:
        x, y, w, h = shares
        x, y = x - w / 2, y - h / 2
    else:
        xs, ys = shares[::2], shares[1::2]
        x, y = min(xs), min(ys)
        w, h = max(xs) - x, max(ys) - y
    return x * width, y * height, w * width, h * height
