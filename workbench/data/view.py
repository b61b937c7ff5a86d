"""View of a user's data set in COCO's own folders, so that all other code reads one layout.

A view is a folder below ``results/`` with links to the user's files. Where classes are chosen or a split is made, its
annotation files are written anew, and its folders have a link to each image. Nothing is written beside the user's
files. Annotations, names and sizes of the images, and the choices decide the name of a view, and the user's paths do
not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data.annotations import Columns, read_annotations
from workbench.data.chosen_classes import choose_classes, may_change
from workbench.data.headers import missing_fault
from workbench.data.images import THREADS
from workbench.data.own_split import divide
from workbench.settings.digest import TRAIN, VAL, annotation_digest, cache_file
from workbench.settings.layout_files import names_in
from workbench.settings.layouts import ALL, COCO, Layout, SplitFiles
from workbench.settings.specs import DataSpec
from workbench.support.errors import WorkbenchError
from workbench.support.files import STALE

MARKER = "source.json"
"""File of a view that states where it comes from. It is written last."""
KIND = "view of a data set"
VERSION = 1
"""Version of the rules that decide a view's content."""
NAMES = {"train": TRAIN, "val": VAL, "test": "test2017"}
"""Split → its name in a view."""


def is_view(folder: Path) -> bool:
    """Whether a folder is a view; a user's folder may have a file of the marker's name."""
    folder = Path(os.path.abspath(folder))
    return re.fullmatch(r"dataset-[0-9a-f]{8}", folder.name) is not None and bool(_source(folder))


def _source(view: Path) -> dict[str, Any]:
    """Content of a view's marker; empty if the view is missing, damaged or not complete."""
    try:
        source = json.loads((view / MARKER).read_text(encoding="utf-8"))
        complete = source["kind"] == KIND and all(os.path.lexists(view / name) for name in source["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return source if complete else {}


def coco_view(layout: Layout, spec: DataSpec, folder: Path, say: Callable[[str], None]) -> Path:
    """Folder of a data set in COCO's own folders: the data set's own one, or a view in ``folder``.

    Args:
        layout: recognised files.
        spec: choice of classes, and the share of a split that is made.
        folder: folder for views.
        say: function that receives lines about the choices.

    Raises:
        WorkbenchError: the annotations have faults, splits have different categories, a class is unknown, a split is
            needed but not stated, or the view cannot be written.
    """
    if layout.whole and spec.split is None:
        remedy = "state the share of the images to test on in the scale's file, such as data: {split: 0.2}"
        raise WorkbenchError(f"{layout.whole.annotations}: {layout.name}; {remedy}")
    chosen, notes = None, list(layout.notes)
    if may_change(layout, spec):
        chosen, dropped = choose_classes(layout, spec)
        notes += dropped
    if layout.name == COCO and chosen is None:
        for note in notes:
            say(note)
        return layout.root
    view = folder / f"dataset-{_key(layout, spec, chosen)}"
    places = [str(path.resolve()) for files in layout.parts.values() for path in (files.annotations, files.images)]
    if _source(view).get("places") != places:
        _write(view, layout, spec, chosen, places)
    for note in [*notes, *_source(view)["notes"]]:
        say(note)
    return view


def content_digest(layout: Layout) -> str:
    """Digest of a data set: annotations, and names and sizes in bytes of the annotated images. Other files beside the
    images do not count, such as results that are written there."""
    facts: list[object] = []
    for split, files in sorted(layout.parts.items()):
        sizes = [(name, _size(_image_path(files, name))) for name in sorted(names_in(files.annotations))]
        facts += [split, annotation_digest(files.annotations, cache_file("digests.json")), sizes]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # reported when the images are read
        return None


def _key(layout: Layout, spec: DataSpec, chosen: list[int] | None) -> str:
    """Eight hex digits of all that decides the content of a view."""
    facts = [VERSION, content_digest(layout), chosen, spec.split if layout.whole else None]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class _Part:
    """Images of one split of a view: ``images`` are indices of the images of ``columns``."""

    split: str
    files: SplitFiles
    columns: Columns
    images: NDArray[np.int64]


def _write(view: Path, layout: Layout, spec: DataSpec, chosen: list[int] | None, places: list[str]) -> None:
    """Write a view under another name and move it, so that a killed call leaves none that seems complete."""
    partial = view.with_name(f"{view.name}.partial-{secrets.token_hex(4)}")
    try:
        _remove_stale(view)
        (partial / "annotations").mkdir(parents=True)
        rewritten = layout.whole is not None or chosen is not None
        notes = _fill(partial, layout, spec, chosen) if rewritten else _link(partial, layout)
        files = sorted(str(path.relative_to(partial)) for path in (*partial.glob("*"), *partial.glob("annotations/*")))
        source = {"kind": KIND, "root": str(layout.root), "places": places, "files": files, "notes": notes}
        (partial / MARKER).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        if os.path.lexists(view):  # of a data set that has moved, or damaged
            os.rename(view, partial.with_name(f"{partial.name}-previous"))
        with contextlib.suppress(OSError):  # another process has just made it
            os.rename(partial, view)
        if not _source(view):
            raise WorkbenchError(f"{view}: cannot be made; remove it")
    except OSError as error:
        raise WorkbenchError(
            f"{view}: cannot be written ({error.strerror}); check path, permissions and free space"
        ) from error
    finally:
        for folder in (partial, partial.with_name(f"{partial.name}-previous")):
            shutil.rmtree(folder, ignore_errors=True)  # removes links, never what they point to


def _remove_stale(view: Path) -> None:
    """Remove views that killed processes have left unfinished."""
    for folder in view.parent.glob("dataset-*.partial-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder)


def _link(view: Path, layout: Layout) -> list[str]:
    """Link the annotation files and the folders of images."""
    for split, files in layout.parts.items():
        os.symlink(files.annotations.resolve(), view / "annotations" / f"instances_{NAMES[split]}.json")
        if layout.root.resolve().is_relative_to(files.images.resolve()):  # the folder has more than images
            _link_images(view / NAMES[split], files, read_annotations(files.annotations).file_names)
        else:
            os.symlink(files.images.resolve(), view / NAMES[split])
    return []


def _fill(view: Path, layout: Layout, spec: DataSpec, chosen: list[int] | None) -> list[str]:
    """Write the annotation files of a view, and link the images; return lines about it."""
    parts, notes = [], []
    for split, files in layout.parts.items():
        columns = read_annotations(files.annotations)  # faults are reported with the name of the user's file
        if split != ALL:
            parts.append(_Part(split, files, columns, np.arange(len(columns.image_ids))))
            continue
        digests = _contents(files, columns)
        try:
            tested = divide(digests, _classes(columns), spec.split)
        except WorkbenchError as error:
            raise WorkbenchError(f"{files.annotations}: {error}; add images") from None
        for side, mask in (("train", ~tested), ("val", tested)):
            parts.append(_Part(side, files, columns, np.flatnonzero(mask)))
        notes.append(f"{layout.name}: {(~tested).sum()} images to learn from, {tested.sum()} to test on")
    unknown = sum(int((part.columns.labels < 0).sum()) for part in parts[: len(layout.parts)])
    if unknown:
        notes.append(f"{unknown} annotations of unknown categories are left out")
    for part in parts:
        names = [part.columns.file_names[i] for i in part.images]
        content = json.dumps(_document(part, chosen))
        (view / "annotations" / f"instances_{NAMES[part.split]}.json").write_text(content, encoding="utf-8")
        _link_images(view / NAMES[part.split], part.files, names)
    return notes


def _image_path(files: SplitFiles, name: str) -> Path:
    """Path of an image. Backslashes of Windows are read as slashes where only such an image exists."""
    path = files.images / name
    slashes = files.images / name.replace("\\", "/")
    return slashes if "\\" in name and not os.path.lexists(path) and os.path.lexists(slashes) else path


def _link_images(folder: Path, files: SplitFiles, names: list[str]) -> None:
    """Link images one by one, under their names in the annotation file."""
    folder.mkdir()
    for name in names:
        link = folder / name
        if not os.path.normpath(link).startswith(f"{folder}{os.sep}"):
            raise WorkbenchError(f"{files.annotations}: the image {name!r} is outside its folder; use a relative name")
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # listed twice, which is reported when the file is read
            os.symlink(Path(os.path.abspath(_image_path(files, name))), link)


def _contents(files: SplitFiles, columns: Columns) -> list[str]:
    """SHA-256 of the content of each image."""

    def sha256(name: str) -> str:
        path = _image_path(files, name)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            fault = missing_fault(path) if is_missing else f"cannot be read ({error.strerror}); check the file"
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


def _document(part: _Part, chosen: list[int] | None) -> dict[str, Any]:
    """Annotation file of a split of a view.

    Ids are those that the reader gave. Only if the chosen classes are in another order than their ids, the categories
    are numbered from 1, because a detector learns classes in the order of the ids.

    Args:
        chosen: indices of the classes, in their order; None for all.
    """
    columns = part.columns
    kept = list(range(len(columns.class_names))) if chosen is None else chosen
    ids = [columns.category_ids[index] for index in kept]
    if ids != sorted(ids):
        ids = list(range(1, len(kept) + 1))
    new = dict(zip(kept, ids, strict=True))
    wanted = set(part.images.tolist())
    sizes = zip(columns.widths.tolist(), columns.heights.tolist(), strict=True)
    sized = [{"width": width, "height": height} if width and height else {} for width, height in sizes]
    rows = zip(columns.image_of.tolist(), columns.labels.tolist(), columns.boxes.tolist(), columns.areas.tolist(),
               columns.crowd.tolist(), columns.ignored.tolist(), strict=True)  # fmt: skip
    return {
        "images": [
            {"id": int(columns.image_ids[i]), "file_name": columns.file_names[i]} | sized[i] for i in sorted(wanted)
        ],
        "annotations": [
            {"id": number, "image_id": int(columns.image_ids[image]), "category_id": new[label], "bbox": box}
            | ({"area": area} if area > 0 else {})
            | {"iscrowd": int(crowd)}
            | ({"ignore": 1} if ignored else {})
            for number, (image, label, box, area, crowd, ignored) in enumerate(rows, start=1)
            if image in wanted and label in new
        ],
        "categories": [{"id": id_, "name": columns.class_names[index]} for index, id_ in new.items()],
    }
