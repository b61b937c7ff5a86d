"""Reader of Pascal VOC's format: an XML file for each image, and lists of the images of each split.

Layouts: ``Annotations``, ``JPEGImages`` and ``ImageSets/Main`` as in Pascal VOC, or XML files beside (or below) the
images in ``train``, ``val`` or ``valid``, and ``test``, as exporters write them.
Source of the format: Everingham et al., The Pascal Visual Object Classes Challenge, development kit, 2012.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from workbench.convert.remarks import Remarks
from workbench.convert.source import (
    IMAGES,
    WHOLE,
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
    subfolder,
)
from workbench.data.findings import shown
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_bytes, read_text

LISTS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",), WHOLE: ("default",)}
"""Names of the lists of a split in ``ImageSets/Main``; the first one that exists counts."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FORMULAS = {
    1: "pixels are counted from 1, and the last pixel belongs to the box: x = xmin - 1, width = xmax - xmin + 1",
    0: "corners are positions in the image, counted from 0: x = xmin, width = xmax - xmin",
}
"""Meaning of the corners, by the number of the first pixel."""


def read_voc(root: Path, counted_from: int, remarks: Remarks) -> DataSet:
    """Read a data set; see the module.

    Args:
        counted_from: 1 or 0, a key of FORMULAS.

    Raises:
        WorkbenchError: there are no annotations, or a file cannot be read. Other faults are added to ``remarks``.
    """
    annotations = subfolder(root, "annotations")
    if annotations is not None:
        images = ImageFiles(subfolder(root, "jpegimages", "images") or root)
        parts = {split: (annotations, images, files) for split, files in _listed(root, annotations, remarks).items()}
    else:
        folders = split_folders(root, ".xml", remarks)
        if WHOLE in folders:
            _refuse_several(root)
        parts = {
            split: (folder, ImageFiles(folder), list(_files(folder).values())) for split, folder in folders.items()
        }
    if not any(files for *_, files in parts.values()):
        raise WorkbenchError(
            f"{root}: no XML files in Annotations/, train/, valid/, test/ or in the folder itself; name the folder of "
            "Annotations/ and JPEGImages/, or of XML files beside their images"
        )
    splits: dict[str, list[SourceImage]] = {}
    for split, (folder, images, files) in parts.items():
        read = [_read_image(root, folder, images, file, counted_from, remarks) for file in files]
        splits[split] = [image for image in read if image is not None]
        if annotations is None:
            note_unannotated(images, splits[split], "XML", remarks)
    return DataSet(splits)


def _refuse_several(root: Path) -> None:
    """Raise a WorkbenchError for a folder of data sets, such as ``VOCdevkit`` with ``VOC2007`` and ``VOC2012``."""
    folders = [(path.name, subfolder(path, "annotations")) for path in sorted(root.iterdir()) if path.is_dir()]
    inside = [name for name, annotations in folders if annotations and any(annotations.glob("*.xml"))]
    if inside:
        problem = f"contains {len(inside)} data sets of Pascal VOC"
        raise WorkbenchError(f"{root}: {problem}; name one of them, such as {root / inside[0]}")


def _files(folder: Path) -> dict[str, Path]:
    """XML files below a folder, by their paths without suffix."""
    return {_stem(folder, path): path for path in files_below(folder, {".xml"})}


def _stem(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _listed(root: Path, annotations: Path, remarks: Remarks) -> dict[str, list[Path]]:
    """XML files of each split, from the lists of ``ImageSets/Main``; all of them as one split without lists."""
    files = _files(annotations)
    sets = subfolder(root, "imagesets")
    main = sets and (subfolder(sets, "main") or sets)
    splits = {}
    for split, names in LISTS.items():
        lists = [main / f"{name}.txt" for name in names if (main / f"{name}.txt").is_file()] if main else []
        if lists and not (split == WHOLE and splits):
            splits[split] = _read_list(lists[0], root, files, remarks)
    if not splits:
        return {WHOLE: list(files.values())}
    listed = {file for chosen in splits.values() for file in chosen}
    for file in files.values():
        if file not in listed:
            remarks.note("XML files are in no list of ImageSets/Main and are left out", file.name)
    return splits


def _read_list(file: Path, root: Path, files: dict[str, Path], remarks: Remarks) -> list[Path]:
    """XML files of a list. A line may also have the image's suffix or folders, or a flag 1, 0 or -1 behind the name."""
    result: dict[Path, None] = {}
    for line, text in enumerate(read_text(file, "names of images").splitlines(), 1):
        name = text.strip().replace("\\", "/")
        if not name:
            continue
        forms = [form for text in (name, re.sub(r"\s+-?[01]$", "", name)) for form in (text, _without_suffix(text))]
        forms += [PurePosixPath(form).name for form in forms]
        known = [form for form in forms if form in files]
        if known:
            result[files[known[0]]] = None
        else:
            problem = f"{shown(name)} has no XML file in Annotations/"
            remedy = "add one (without objects if the image shows none), or remove the line"
            remarks.fault(f"{below(root, file)} line {line}", problem, remedy)
    return list(result)


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix.lower() in IMAGES else name


def _read_image(
    root: Path, folder: Path, images: ImageFiles, file: Path, counted_from: int, remarks: Remarks
) -> SourceImage | None:
    """Image with its objects; None, with a fault, if the image is missing or is not the only one."""
    place, stem = below(root, file), _stem(folder, file)
    tree = _parse(file)
    filename = (tree.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    paths = images.of_stem(stem) or images.called(filename) or images.of_stem(PurePosixPath(filename).stem or stem)
    if len(paths) > 1:
        paths = [path for path in paths if path.name == filename] or paths
    path = one_image(paths, place, filename or stem, root, remarks)
    if path is None:
        return None
    objects = enumerate(tree.findall("object"), 1)
    things = [_thing(entry, f"{place} object {index}", counted_from, remarks) for index, entry in objects]
    size = stated_size(tree.findtext("size/width"), tree.findtext("size/height"))
    return SourceImage(path, images.name(path), [thing for thing in things if thing], size)


def _parse(file: Path) -> ElementTree.Element:
    try:
        tree = ElementTree.fromstring(read_bytes(file, "annotations"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: an unusual encoding
        raise WorkbenchError(f"{file}: not valid XML ({error}); correct it, or copy the file again") from None
    if tree.tag != "annotation":
        raise WorkbenchError(f"{file}: not an annotation of Pascal VOC but <{tree.tag}>; move it out of the folder")
    return tree


def _thing(entry: ElementTree.Element, place: str, counted_from: int, remarks: Remarks) -> Thing | None:
    """Object of an XML file; None, with a fault, for a wrong one. Boxes of parts (head, hand) are not read."""
    name = class_name(entry.findtext("name"))
    if name is None:
        remarks.fault(place, "has no name", "add the name of its class")
        return None
    texts = [entry.findtext(f"bndbox/{corner}") for corner in CORNERS]
    corners = [number(text) for text in texts]
    if None in corners:
        corner = CORNERS[corners.index(None)]
        value = texts[corners.index(None)]
        problem = f"has no {corner} in a bndbox" if value is None else f"has the {corner} {shown(value)}"
        remarks.fault(place, problem, "state the four corners of its box as numbers")
        return None
    x1, y1, x2, y2 = corners
    if x2 < x1 or y2 < y1:
        remarks.fault(place, f"its box ends before it begins ({', '.join(texts)})", "exchange its corners")
        return None
    if counted_from == 1 and min(x1, y1) < 1:
        remarks.note("boxes begin before pixel 1; if the files count from 0, add --counted-from 0", place)
    ignore = (entry.findtext("difficult") or "").strip() == "1"
    if ignore:
        remarks.note("objects are difficult and get 'ignore': they are neither learnt nor counted", place)
    first = counted_from
    return Thing(name, (x1 - first, y1 - first, x2 - x1 + first, y2 - y1 + first), place, ignore)
