"""Reader of CreateML's format: a JSON list of images for each split, with centres and sizes of boxes in pixels.

Source of the format: Apple, Create ML, Building an object detector data source.
"""

from __future__ import annotations

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
    note_unannotated,
    number,
    one_image,
    split_folders,
)
from workbench.data.findings import shown
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json

EXPORTED = "_annotations.createml.json"
"""Usual name of the file. Without it, the only other JSON file of the folder is read."""
SIDES = ("x", "y", "width", "height")


def read_createml(root: Path, remarks: Remarks) -> DataSet:
    """Read a data set: folders ``train``, ``val`` or ``valid``, and ``test``, or one folder without splits.

    Raises:
        WorkbenchError: a file of annotations is missing or cannot be read. Other faults are added to ``remarks``.
    """
    splits = {}
    for split, folder in split_folders(root, ".json", remarks).items():
        images = ImageFiles(folder)
        splits[split] = _read_file(_annotation_file(folder), images, root, remarks)
        note_unannotated(images, splits[split], "CreateML", remarks)
    return DataSet(splits)


def _annotation_file(folder: Path) -> Path:
    if (folder / EXPORTED).is_file():
        return folder / EXPORTED
    files = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if len(files) != 1:
        several = f"{len(files)} JSON files, and none is {EXPORTED}" if files else "no JSON file of CreateML"
        raise WorkbenchError(f"{folder}: {several}; put one file with the annotations of the folder's images there")
    return files[0]


def _read_file(file: Path, images: ImageFiles, root: Path, remarks: Remarks) -> list[SourceImage]:
    """Images of a file."""
    entries = read_json(file, "annotations")
    if not isinstance(entries, list):
        raise WorkbenchError(f"{file}: not a list of images; use a file that CreateML reads")
    result = []
    for index, entry in enumerate(entries, 1):
        place = f"{below(root, file)} image {index}"
        entry = entry if isinstance(entry, dict) else {}
        name = entry.get("image", entry.get("imagefilename"))  # the second form is older
        objects = entry.get("annotations", entry.get("annotation"))
        if not isinstance(name, str) or not isinstance(objects, list):
            remarks.fault(
                place, "not an object with 'image' and a list 'annotations'", "use a file that CreateML reads"
            )
            continue
        paths = images.named(name) or images.called(PurePosixPath(name.replace("\\", "/")).name)
        path = one_image(paths, place, shown(name), root, remarks)
        if path is not None:
            things = [_thing(value, f"{place} object {count}", remarks) for count, value in enumerate(objects, 1)]
            result.append(SourceImage(path, images.name(path), [thing for thing in things if thing]))
    return result


def _thing(value: Any, place: str, remarks: Remarks) -> Thing | None:
    """Object of an image; None, with a fault, for a wrong one."""
    value = value if isinstance(value, dict) else {}
    name, coordinates = class_name(value.get("label")), value.get("coordinates")
    sides = [number(coordinates.get(side)) for side in SIDES] if isinstance(coordinates, dict) else [None]
    if name is None:
        remarks.fault(place, f"has the 'label' {shown(value.get('label'))}", "add the name of its class")
    elif None in sides:
        problem = f"has the 'coordinates' {shown(coordinates)}"
        remarks.fault(place, problem, "state x, y, width and height of its box as numbers")
    elif min(sides[2:]) < 0:
        remarks.fault(place, f"has a negative width or height, {shown(coordinates)}", "correct its width and height")
    else:
        x, y, w, h = sides
        return Thing(name, (x - w / 2, y - h / 2, w, h), place)
    return None
