"""Reason why a folder is not a data set in COCO's format, and what to do: convert it, unpack it, name another folder.

Only the standard library is imported, since the pipeline recognises a data set at its start.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from workbench.settings.layout_files import ANNOTATION_WORDS, Glance, Tree, glance, split_of, words_of
from workbench.support.errors import WorkbenchError

TITLES = {"voc": "Pascal VOC", "yolo": "YOLO", "createml": "CreateML", "labelme": "labelme"}
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
        return WorkbenchError(f"{root}: no annotation file in COCO's format ({listed}); {remedy}")
    searched = "looked for .json files here, in annotations/, and in folders named train, val, valid or test"
    return WorkbenchError(f"{root}: no annotation file ({searched}); {remedy}")


def _conversion(tree: Tree, files: Mapping[Path, Glance]) -> str | None:
    """Message for a data set of another tool, with the command that converts it; None for any other folder."""
    form, evidence = next(_forms(tree, files), (None, None))
    if form is None:
        return None
    source, target = (shlex.quote(str(path)) for path in (tree.root, f"{tree.root}-coco"))
    if str(tree.root) in (".", ".."):
        target = shlex.quote(f"{tree.root}/../{tree.root.resolve().name}-coco")
    command = f"workbench convert {form} {source} {target}"
    if form == "yolo" and not _settings_files(tree):
        command = f"add data.yaml with names, train and val, then convert it: {command}"
    else:
        command = f"convert it: {command}"
    return f"{tree.root}: a data set in the format of {TITLES[form]} ({tree.named(evidence)}), not of COCO; {command}"


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
