"""View of a user's data set in COCO's own folders, so that all other code reads one layout.

A view is a folder below ``results/`` with links to the user's files. Where classes are chosen or a split is made, its
annotation files are written anew, and its folders have a link to each image. An image whose name is absolute or has
``..`` gets another name there. Nothing is written beside the user's files. Annotations, names and sizes of the images,
and the choices decide the name of a view, and the user's paths do not.
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from workbench.data.chosen_classes import choose_classes, may_change
from workbench.data.coco import image_path
from workbench.data.view_files import can_be_linked, link_files, write_files
from workbench.settings.digest import annotation_digest, cache_file
from workbench.settings.layout_files import names_in
from workbench.settings.layouts import COCO, Layout
from workbench.settings.specs import DataSpec
from workbench.support.errors import WorkbenchError
from workbench.support.files import STALE

MARKER = "source.json"
"""File of a view that states where it comes from. It is written last."""
KIND = "view of a data set"
VERSION = 1
"""Version of the rules that decide a view's content."""


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


def content_digest(layout: Layout, parts: Iterable[str] | None = None) -> str:
    """Digest of a data set: its annotations, and the names and sizes in bytes of the annotated images.

    Other files beside the images do not count, such as results that are written there.

    Args:
        parts: splits that count; None for all.
    """
    facts: list[object] = []
    for split, files in sorted(layout.parts.items()):
        if parts is not None and split not in parts:
            continue
        sizes = [(name, _size(image_path(files.images, name))) for name in sorted(names_in(files.annotations))]
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


def _write(view: Path, layout: Layout, spec: DataSpec, chosen: list[int] | None, places: list[str]) -> None:
    """Write a view under another name and move it, so that a killed call leaves none that seems complete."""
    partial = view.with_name(f"{view.name}.partial-{secrets.token_hex(4)}")
    try:
        _remove_stale(view)
        (partial / "annotations").mkdir(parents=True)
        notes: list[str] = []
        if layout.whole is not None or chosen is not None or not can_be_linked(layout):
            notes = write_files(partial, layout, spec, chosen)
        else:
            link_files(partial, layout)
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
