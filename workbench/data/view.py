"""View of a user's data set in COCO's own folders, so that all other code reads one layout.

A view is a folder below ``results/`` with links to the user's files. Where classes are chosen or a split is made, the
view has annotation files of its own instead. Nothing is written beside the user's files. The content of the annotations
and the choices decide the name of a view; if the data set has moved, the links follow.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.annotations import Columns, read_annotations
from workbench.data.document import parse
from workbench.data.headers import missing_fault
from workbench.data.images import THREADS
from workbench.data.own_split import divide
from workbench.settings.digest import TRAIN, VAL, annotation_digest, cache_file, listing_digest
from workbench.settings.layout_files import read_categories
from workbench.settings.layouts import ALL, COCO, Layout, SplitFiles
from workbench.settings.specs import DataSpec
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json
from workbench.support.strict_yaml import choose

MARKER = "source.json"
"""File of a view that states where it comes from. It is written last."""
VERSION = 1
"""Version of the rules that decide a view's content."""
NAMES = {"train": TRAIN, "val": VAL, "test": "test2017"}
"""Split → its name in a view."""

Categories = list[dict[str, Any]]


def is_view(folder: Path) -> bool:
    """Whether a folder is a view."""
    return os.path.isfile(folder / MARKER)


def coco_view(layout: Layout, spec: DataSpec, folder: Path, say: Callable[[str], None]) -> Path:
    """Folder of a data set in COCO's own folders: the data set's own one, or a view in ``folder``.

    Args:
        layout: recognised files.
        spec: choice of classes, and the share of a split that is made.
        folder: folder for views.
        say: function that receives lines about the choices.

    Raises:
        WorkbenchError: the annotations have faults, a class is unknown, a split is needed but not stated, or the view
            cannot be written.
    """
    chosen, notes = _choose_categories(layout, spec)
    if layout.whole and spec.split is None:
        remedy = "state the share of the images to test on in the scale's file, such as data: {split: 0.2}"
        raise WorkbenchError(f"{layout.whole.annotations}: {layout.name}; {remedy}")
    if layout.name == COCO and chosen is None:
        return layout.root
    view = folder / f"dataset-{_key(layout, spec, chosen)}"
    if not is_view(view):
        _write(view, layout, spec, chosen, notes)
    source = read_json(view / MARKER, "source of a data set")
    _link(view, _links(layout, chosen, source["front"]))
    for note in source["notes"]:
        say(note)
    return view


def _key(layout: Layout, spec: DataSpec, chosen: Categories | None) -> str:
    """Eight hex digits of all that decides the content of a view."""
    facts: list[object] = [VERSION, chosen]
    for split, files in sorted(layout.parts.items()):
        facts += [split, annotation_digest(files.annotations, cache_file("digests.json"))]
    if layout.whole:
        facts += [spec.split, listing_digest(layout.whole.images)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def _choose_categories(layout: Layout, spec: DataSpec) -> tuple[Categories | None, list[str]]:
    """Categories of the view, None for all of the file, and lines about those that are left out."""
    files = [files.annotations for files in layout.parts.values()]
    stated = sorted(read_categories(files[0]), key=lambda category: str(category.get("id")).zfill(20))
    notes = list(layout.notes)
    if isinstance(spec.classes, list):
        names = [category.get("name") for category in stated]
        for name in spec.classes:
            choose(name, names, "class", files[0])
        chosen = [stated[names.index(name)] for name in spec.classes]
    else:
        candidates = stated if spec.drop_unused else [c for c in stated if _is_root(c, stated)]
        used = _used(files) if candidates else set()
        unused = [c for c in candidates if str(c.get("id")) not in used]
        chosen = [c for c in stated if c not in unused]
        if unused:
            listed = ", ".join(str(c.get("name")) for c in unused[:8])
            notes.append(f"without objects and therefore no class: {listed}{', …' * (len(unused) > 8)}")
    return (None if chosen == stated else chosen), notes


def _is_root(category: dict[str, Any], stated: Categories) -> bool:
    """Whether a category is the supercategory of all others; exporters of COCO's format add such a category."""
    others = [other for other in stated if other is not category]
    return bool(others) and all(other.get("supercategory") == category.get("name") for other in others)


def _used(files: Iterable[Path]) -> set[str]:
    """Ids of the categories with annotations, as texts."""
    used: set[str] = set()
    for file in files:
        columns = read_annotations(file)
        used |= {str(columns.category_ids[label]) for label in np.unique(columns.labels[columns.labels >= 0])}
    return used


def _write(view: Path, layout: Layout, spec: DataSpec, chosen: Categories | None, notes: list[str]) -> None:
    """Write a view under another name and move it, so that a killed call leaves none that seems complete."""
    partial = view.with_name(f"{view.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "annotations").mkdir(parents=True)
        front, counts = _write_annotations(partial / "annotations", layout, spec, chosen)
        source = {"root": str(layout.root), "layout": layout.name, "front": front, "notes": notes + counts}
        (partial / MARKER).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        if not os.path.isdir(view):
            os.rename(partial, view)
    except OSError as error:
        raise WorkbenchError(
            f"{view}: cannot be written ({error.strerror}); free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_annotations(
    folder: Path, layout: Layout, spec: DataSpec, chosen: Categories | None
) -> tuple[dict[str, str], list[str]]:
    """Write the annotation files of a view that are no links.

    Returns:
        For each split, the folder at the start of all names of its images, which the view's names do not have; and
        lines about the split.
    """
    front: dict[str, str] = {}
    notes: list[str] = []
    for split, files in layout.parts.items() if layout.whole or chosen is not None else ():
        columns = read_annotations(files.annotations)  # faults are reported with the name of the user's file
        if split == ALL:
            tested = divide(_contents(files, columns), _classes(columns), spec.split)
            sides = {"train": ~tested, "val": tested}
            notes.append(f"{layout.name}: {(~tested).sum()} images to learn from, {tested.sum()} to test on")
        else:
            sides = {split: np.ones(len(columns.image_ids), dtype=bool)}
        document = parse(files.annotations)
        front[split] = _common_folder(columns.file_names)
        for side, mask in sides.items():
            content = json.dumps(_selected(document, mask, chosen, front[split]))
            (folder / f"instances_{NAMES[side]}.json").write_text(content, encoding="utf-8")
    return front, notes


def _links(layout: Layout, chosen: Categories | None, front: dict[str, str]) -> dict[str, Path]:
    """Links of a view: name → the user's file or folder."""
    links = {}
    for split, files in layout.parts.items():
        for side in ("train", "val") if split == ALL else (split,):
            links[NAMES[side]] = (files.images / front.get(split, "")).resolve()
            if split != ALL and chosen is None:
                links[f"annotations/instances_{NAMES[side]}.json"] = files.annotations.resolve()
    return links


def _link(view: Path, links: dict[str, Path]) -> None:
    """Make the links of a view that are missing or point elsewhere."""
    for name, target in links.items():
        link = view / name
        if os.path.islink(link) and os.readlink(link) == str(target):
            continue
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        try:
            os.symlink(target, temporary)
            os.replace(temporary, link)
        except OSError as error:
            raise WorkbenchError(f"{link}: cannot be made ({error.strerror}); remove the folder {view}") from error


def _contents(files: SplitFiles, columns: Columns) -> list[str]:
    """SHA-256 of the content of each image."""

    def sha256(name: str) -> str:
        path = files.images / name
        if "\\" in name and not path.exists():
            path = files.images / name.replace("\\", "/")
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            fault = (
                missing_fault(path) if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            )
            raise WorkbenchError(f"{path}: {fault}") from error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(sha256, columns.file_names))


def _classes(columns: Columns) -> list[set[int]]:
    """Classes of the objects of each image."""
    classes: list[set[int]] = [set() for _ in columns.image_ids]
    for image, label in zip(columns.image_of.tolist(), columns.labels.tolist(), strict=True):
        if label >= 0:
            classes[image].add(label)
    return classes


def _common_folder(names: list[str]) -> str:
    """Folder at the start of all names, such as ``images`` of ``images/a.jpg``; empty if there is none."""
    folders = {posixpath.dirname(name) for name in names}
    if any(folder == "" or folder.startswith(("/", "..")) for folder in folders):
        return ""
    return posixpath.commonpath(folders)


def _selected(document: Any, mask: np.ndarray, chosen: Categories | None, front: str) -> dict[str, Any]:
    """Annotation file with some of the images and of the categories.

    Ids stay, unless the chosen categories are in another order than their ids: a detector learns classes in the order
    of the ids, so the categories are then numbered from 1.
    """
    images = [entry for entry, kept in zip(document["images"], mask.tolist(), strict=True) if kept]
    ids = {str(entry["id"]) for entry in images}
    annotations = [entry for entry in document["annotations"] if str(entry["image_id"]) in ids]
    content = {key: value for key, value in document.items() if key not in ("images", "annotations", "categories")}
    categories = document.get("categories")
    if chosen is not None:
        numbers = [category["id"] for category in chosen]
        renumbered = numbers != sorted(numbers)
        new = {str(old): i if renumbered else old for i, old in enumerate(numbers, start=1)}
        categories = [category | {"id": new[str(category["id"])]} for category in chosen]
        annotations = [
            entry | {"category_id": new[str(entry["category_id"])]}
            for entry in annotations
            if str(entry["category_id"]) in new
        ]
    if front:
        images = [entry | {"file_name": posixpath.relpath(entry["file_name"], front)} for entry in images]
    content |= {"images": images, "annotations": annotations}
    return content if categories is None else content | {"categories": categories}
