"""Reason why a folder is not a data set in COCO's format, and what to do: convert it, export it, name another folder.

Only the standard library is imported, since the pipeline recognises a data set at its start.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from workbench.settings.layout_files import (
    ANNOTATION_WORDS,
    GLANCES,
    IMAGE_WORDS,
    Glance,
    Tree,
    glance,
    split_of,
    words_of,
)
from workbench.support.errors import WorkbenchError

TITLES = {"voc": "Pascal VOC", "yolo": "YOLO", "createml": "CreateML", "labelme": "labelme"}
"""Formats that ``workbench convert`` reads."""
EXPORTED = {"via": "VIA", "supervisely": "Supervisely"}
"""Formats of tools that export COCO's format, too."""
LISTED = 4
"""Largest number of files or folders in a message."""
LOOKED = 20
"""Largest number of subfolders in which a data set is searched."""


def refusal(tree: Tree, files: Mapping[Path, Glance], is_data_set: Callable[[Path], bool]) -> WorkbenchError:
    """Error for a folder without an annotation file in COCO's format.

    Args:
        files: JSON files with a glance at each.
        is_data_set: function that recognises a folder with a layout.
    """
    root = tree.root
    if hint := _conversion(tree, files):
        return WorkbenchError(hint)
    for file, look in files.items():
        if look.kind == "broken":
            return WorkbenchError(f"{file}: {look.problem}; copy the annotation file again")
    if inside := [folder for folder in tree.folders(root)[:LOOKED] if is_data_set(folder)]:
        names = ", ".join(str(folder) for folder in inside[:LISTED])
        which = "it" if len(inside) == 1 else "one of them"
        return WorkbenchError(f"{root}: no data set, but one level below is {names}; name {which} in place of {root}")
    for folder in tree.folders(root)[:LOOKED]:
        inner = Tree(folder)
        if hint := _conversion(inner, {folder / n: glance(folder / n) for n in _named(inner, folder, ".json")[:1]}):
            return WorkbenchError(hint)
    remedy = "put the annotations there, such as annotations/instances_train.json, in COCO's instances format"
    if not tree.folders(root) and not tree.files(root):
        return WorkbenchError(f"{root}: an empty folder; choose the folder of a data set")
    if files:
        listed = ", ".join(f"{tree.named(file)} {look.problem}" for file, look in list(files.items())[:LISTED])
        unopened = _unopened(tree, files)
        remedy += ", or write annotations in the name of the annotation file" if unopened else ""
        return WorkbenchError(f"{root}: no annotation file in COCO's format ({listed}{unopened}); {remedy}")
    searched = "looked for .json files here, in annotations/, and in folders named train, val, valid or test"
    return WorkbenchError(f"{root}: no annotation file ({searched}); {remedy}")


def _unopened(tree: Tree, files: Mapping[Path, Glance]) -> str:
    """Clause about the first folder with more JSON files than are opened; an empty text without such a folder."""
    for folder in dict.fromkeys(file.parent for file in files):
        if (count := len(_named(tree, folder, ".json"))) > GLANCES:
            return f"; of the {count} .json files in {tree.named(folder)}/, {GLANCES} are opened"
    return ""


def file_beside(tree: Tree, train: Path) -> Path | None:
    """Annotation file in a folder beside the folder of train, if the name of that folder states no split.

    Exporters of COCO's format name folders train, val, valid, validation and test. Others, such as ``dev``, are not
    interpreted, but they are not passed over in silence either.

    Args:
        train: annotation file of train.
    """
    if train.parent == tree.root or split_of(train.parent.name) is None:
        return None
    for folder in tree.folders(train.parent.parent):
        if split_of(folder.name) is None and not words_of(folder.name) & (IMAGE_WORDS | ANNOTATION_WORDS):
            for name in _named(tree, folder, ".json")[:GLANCES]:
                if glance(folder / name).kind == "coco":
                    return folder / name
    return None


def _conversion(tree: Tree, files: Mapping[Path, Glance]) -> str | None:
    """Message for a data set of another tool, with the way to COCO's format; None for any other folder."""
    form, evidence = next(_forms(tree, files), (None, None))
    if form is None:
        return None
    title = (TITLES | EXPORTED)[form]
    problem = f"{tree.root}: a data set in the format of {title} ({tree.named(evidence)}), not of COCO"
    if form in EXPORTED:
        return f"{problem}; export it from {title} in COCO's format"
    source, target = (shlex.quote(str(path)) for path in (tree.root, f"{tree.root}-coco"))
    if str(tree.root) in (".", ".."):
        target = shlex.quote(f"{tree.root}/../{tree.root.resolve().name}-coco")
    command = f"workbench convert {form} {source} {target}"
    if form == "yolo" and not _settings_files(tree):
        command = f"add data.yaml with names, train and val, then convert it: {command}"
    else:
        command = f"convert it: {command}"
    return f"{problem}; {command}"


def _forms(tree: Tree, files: Mapping[Path, Glance]) -> Iterator[tuple[str, Path]]:
    """Formats of other tools, each with a file that shows it."""
    for kind in ("createml", "labelme"):
        yield from ((kind, file) for file, look in files.items() if look.kind == kind)
    likely = [folder for folder in tree.folders(tree.root) if _is_likely(folder)]
    folders = [tree.root, *likely, *(inner for folder in likely for inner in tree.folders(folder) if _is_likely(inner))]
    for folder in folders:
        for name in _named(tree, folder, ".xml")[:1]:
            if b"<annotation" in _start(folder / name):
                yield "voc", folder / name
    if settings := [file for file in _settings_files(tree) if b"names" in _start(file)]:
        yield "yolo", settings[0]
    for folder in folders:
        if {"labels"} & {part.lower() for part in folder.relative_to(tree.root).parts}:
            yield from (("yolo", folder / name) for name in _named(tree, folder, ".txt")[:1])
    for kind in EXPORTED:
        yield from ((kind, file) for file, look in files.items() if look.kind == kind)


def _is_likely(folder: Path) -> bool:
    """Whether a folder may have annotations, by its name."""
    return split_of(folder.name) is not None or bool(words_of(folder.name) & ANNOTATION_WORDS)


def _settings_files(tree: Tree) -> list[Path]:
    return [tree.root / name for suffix in (".yaml", ".yml") for name in _named(tree, tree.root, suffix)]


def _named(tree: Tree, folder: Path, suffix: str) -> list[str]:
    return [name for name in tree.files(folder) if name.lower().endswith(suffix)]


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            return content.read(1 << 16)
    except OSError:
        return b""
