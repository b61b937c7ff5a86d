"""Description of a data set: ``workbench data``.

For a data set on disk: numbers of its splits, all faults of its files, the geometry of its objects beside COCO's, and a
page of pictures with their true boxes. For a data set that the workbench draws: the geometry.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.commands.data_facts import class_lines, fact_lines, facts_of, root_category, warnings_of
from workbench.commands.data_geometry import drawn_images, geometry_lines, split_images
from workbench.commands.data_page import DrawnImage, data_page, draw_images, refuse_foreign_pages, write_pages
from workbench.commands.data_split import Split, read_all
from workbench.report.text import aligned, plain, visible
from workbench.settings.catalog import embedded_settings
from workbench.settings.digest import annotation_digest, cache_file
from workbench.settings.experiment import Head
from workbench.settings.files import OWN, read_scale
from workbench.settings.layouts import Layout
from workbench.settings.specs import ScaleSpec
from workbench.support.errors import WorkbenchError

NAME_LETTERS = 50
"""Most letters of the data set's folder in the name of the folder with its page."""


def describe_data(
    scale: str, root: Path | None, images: int, pages: Path, out: Path | None = None
) -> Iterator[str | WorkbenchError]:
    """Describe a data set at a scale's image size; yield texts, and the faults of its files.

    Args:
        root: folder of a data set with a layout that is recognised; None for the data set of the scale.
        images: largest number of images that are measured for the geometry.
        pages: folder in which a folder for the page of a data set on disk is made.
        out: folder for the page, instead of a folder in ``pages``.

    Raises:
        WorkbenchError: the scale names no data set, the folder does not exist, or a file of the page would replace
            another program's file. Nothing is written.
    """
    spec = read_scale(scale)
    root = root or (Path(spec.root) if spec.root else None)
    if root is not None:
        yield from _describe_files(scale, root, images, pages, out)
        return
    if spec.data.get("kind") != "embedded":
        raise WorkbenchError(
            f"scale {scale} draws no data set: name the folder of one (workbench data FOLDER --scale {scale})"
        )
    if out is not None:
        raise WorkbenchError("--out: a drawn data set has no page; name the folder of a data set, or leave --out out")
    drawn = drawn_images(embedded_settings(scale).drawn_for(0), spec.image, images)
    yield aligned(geometry_lines(drawn, _anchor_scale(spec), scale))


def _describe_files(
    scale: str, root: Path, images: int, pages: Path, out: Path | None
) -> Iterator[str | WorkbenchError]:
    spec = read_scale(scale)
    if out is not None:
        refuse_foreign_pages(out)
    layout, splits, faults = read_all(root, lambda line: print(line, file=sys.stderr, flush=True))
    facts, warnings = facts_of(splits, spec.image)
    drawn: list[DrawnImage] = []
    for split in splits:
        pictures, damaged = draw_images(split)
        drawn, faults = drawn + pictures, faults + damaged
    title = f"{visible(root)} at scale {scale}, {spec.image}"
    root_name = root_category(facts)
    lines = [f"warning: {line}" for line in warnings_of(facts, root_name) + warnings]
    lines += [f"note: {note}" for note in [*layout.notes, *_notes(splits, root_name)]]
    tables = {f"Files: {layout.name}": _file_lines(layout)} if layout.parts else {}
    if facts:
        tables["Splits"] = fact_lines(facts)
    if any(f.split.objects.any() for f in facts):
        measured = list(split_images(splits, spec.image, images))
        heading = f"geometry of {len(measured):,} images beside COCO's"
        tables[heading[0].upper() + heading[1:]] = geometry_lines(measured, _anchor_scale(spec), str(root))
    yield title
    for heading, table in tables.items():
        yield f"\n{heading}\n{aligned(table)}"
    if lines:
        yield "\n" + "\n".join(lines)
    yield from faults
    if drawn:
        folder = out or pages / _name(root, splits)
        shown = [*(f"fault: {fault}" for fault in faults), *lines]
        page = data_page(title, shown, tables, {"Classes": class_lines(facts)}, drawn)
        yield "\n" + write_pages(folder, page, drawn)
    if not faults and spec.data.get("kind") == "coco":
        yield "\n" + _next_step(scale, root)


def _anchor_scale(spec: ScaleSpec) -> float:
    return spec.head.get("anchor_scale", Head().anchor_scale)


def _file_lines(layout: Layout) -> list[tuple[str, ...]]:
    """Table of the files of each split: the headings, then paths below the folder of the data set."""
    files = [
        (split, *(visible(os.path.relpath(path, layout.root)) for path in (files.annotations, files.images)))
        for split, files in layout.parts.items()
    ]
    return [("", "annotations", "images"), *files]


def _notes(splits: Sequence[Split], root_name: str | None) -> list[str]:
    """Notes on unusual entries of the files, and on the root category, which is no class."""
    notes = [f"{visible(split.file)}: {note}" for split in splits for note in split.columns.notes]
    if root_name is not None:
        classes = len(splits[0].columns.class_names) - 1
        state = "has no objects and is the supercategory of all others"
        notes.append(f"category {plain(root_name, 40)!r} {state}; without it, there are {classes} classes")
    return notes


def _next_step(scale: str, root: Path) -> str:
    """Command that trains a detector on a data set."""
    chosen = "" if scale == OWN else f" scale={shlex.quote(scale)}"
    command = f"snakemake --cores all t3_full_vfl --config data_root={shlex.quote(str(root))}{chosen}"
    return f"to train and evaluate a VFNet on it: {command}"


def _name(root: Path, splits: Sequence[Split]) -> str:
    """Name of the folder for the page of a data set: name of its folder, and a digest of its annotations."""
    digests = [annotation_digest(split.file, cache_file("digests.json")) for split in splits]
    digest = hashlib.sha256(" ".join(digests).encode()).hexdigest()[:8]
    return f"{root.resolve().name[:NAME_LETTERS]}-{digest}"
