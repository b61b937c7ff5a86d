"""Page of a data set, ``data.html``, and contact sheet of its pictures, ``data.png``, for ``workbench data``."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from workbench.commands.data_split import Split
from workbench.commands.own_files import is_marked_html, is_marked_png, marked_html, marked_png, refuse_foreign
from workbench.data.coco import corners
from workbench.data.transforms import decode_image
from workbench.report.figures.detections import NAMED, draw_objects
from workbench.report.figures.sheet import contact_sheet
from workbench.report.page import Gallery, Photograph, TableView, sectioned_page
from workbench.report.text import markdown, plain, visible
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_bytes_atomically

Table = Sequence[Sequence[str]]
MARK = "workbench data"
PICTURES = 12
"""Largest number of pictures of each split on the page."""
SIDE = 640
"""Longest side of a picture on the page, in pixels."""


FILES = {"data.html": is_marked_html, "data.png": is_marked_png}
"""Files of a call, and the function that recognises an unchanged file of an earlier call."""


@dataclass(frozen=True, eq=False)
class DrawnImage:
    """Image of a split with its true boxes.

    Attributes:
        picture: image as viewers show it, at most 640 pixels wide and high if it was larger.
        name: split and file name.
        objects: numbers of its objects, in words.
    """

    picture: Image.Image
    name: str
    objects: str


def refuse_foreign_pages(folder: Path) -> None:
    """Raise a WorkbenchError if a file to be written exists, and is not an unchanged file of an earlier call."""
    for name, is_own in FILES.items():
        refuse_foreign(folder / name, lambda path, is_own=is_own: is_own(path, MARK), MARK)


def write_pages(folder: Path, html: str, drawn: Sequence[DrawnImage]) -> str:
    """Write the page and the contact sheet; return a line about the files."""
    refuse_foreign_pages(folder)
    sheet = contact_sheet([d.picture for d in drawn], [d.name for d in drawn])
    write_bytes_atomically(folder / "data.png", marked_png(sheet, MARK))
    write_bytes_atomically(folder / "data.html", marked_html(html, MARK))
    names = " and ".join(visible(folder / name) for name in FILES)
    return f"{len(drawn)} images with their true boxes: {names}"


def chosen(split: Split) -> list[int]:
    """Indices of at most twelve readable images: six for the rarest classes, and others evenly spaced over the file."""
    readable = np.flatnonzero(split.readable)
    image_of, labels = split.columns.image_of, split.columns.labels
    usable = split.objects & split.readable[image_of]
    counts = np.bincount(labels[usable], minlength=len(split.columns.class_names))
    picked: dict[int, None] = {}
    shown: set[int] = set()
    for label in np.argsort(counts, kind="stable").tolist():
        if len(picked) == PICTURES // 2:
            break
        if counts[label] and label not in shown:
            image = int(image_of[np.flatnonzero(usable & (labels == label))[0]])
            picked[image] = None
            shown.update(labels[usable & (image_of == image)].tolist())
    others = readable[~np.isin(readable, list(picked))]
    spaced = np.linspace(0, len(others) - 1, min(PICTURES - len(picked), len(others))).round().astype(int)
    return sorted([*picked, *others[spaced].tolist()])


def draw_images(split: Split) -> tuple[list[DrawnImage], list[WorkbenchError]]:
    """Draw the chosen images of a split with their objects and crowds; the errors are of images that are damaged."""
    drawn, faults = [], []
    for index in chosen(split):
        try:
            drawn.append(_draw(split, index))
        except WorkbenchError as error:
            faults.append(error)
    return drawn, faults


def _draw(split: Split, index: int) -> DrawnImage:
    c = split.columns
    pixels = decode_image(split.paths[index], int(c.heights[index]), int(c.widths[index]))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    factor = min(1.0, SIDE / max(image.size))
    if factor < 1:
        image = ImageOps.contain(image, (SIDE, SIDE))
    crowd = c.crowd & (c.labels >= 0) & c.visible
    of_image = np.flatnonzero((c.image_of == index) & (split.objects | crowd))
    labels = c.labels[of_image]
    picture = draw_objects(image, corners(c.boxes[of_image]) * factor, labels, c.crowd[of_image], c.class_names)
    name = f"{split.name}/{c.file_names[index]}"
    return DrawnImage(picture, plain(name), _in_words(labels, c.crowd[of_image], c.class_names))


def _in_words(labels: NDArray[np.int64], crowd: NDArray[np.bool_], class_names: Sequence[str]) -> str:
    """Numbers of the objects of each class, the most frequent class first, such as ``3 dog, 1 person (crowd)``."""
    names = [class_names[label] + " (crowd)" * bool(c) for label, c in zip(labels.tolist(), crowd, strict=True)]
    return ", ".join(f"{number} {plain(name)}" for name, number in Counter(names).most_common()) or "no objects"


def data_page(
    title: str,
    lead: Sequence[str],
    tables: Mapping[str, Table],
    folded: Mapping[str, Table],
    drawn: Sequence[DrawnImage],
) -> str:
    """HTML page of a data set, which loads no other file.

    Args:
        lead: lines of plain text above the tables.
        tables, folded: heading → lines of a table, its headings first; readers open the tables in ``folded``.
    """
    pictures = [
        Photograph(_jpeg(d.picture), f"{d.name} with true boxes: {d.objects}", f"{d.name}: {d.objects}") for d in drawn
    ]
    note = (
        f"Of each split up to {PICTURES // 2} images for the rarest classes, and others evenly spaced over the file. "
        f"Of more than {NAMED} boxes of an image, only the largest of each class and crowds are named. "
        "A class has one colour."
    )
    return sectioned_page(
        plain(title),
        [*map(markdown, lead)],
        {name: _view(lines) for name, lines in tables.items()},
        [],
        {name: _view(lines) for name, lines in folded.items()},
        Gallery(f"{len(pictures)} images with their true boxes", note, pictures),
    )


def _view(lines: Table) -> TableView:
    cells = [[markdown(cell) for cell in line] for line in lines[1:]]
    return TableView(lines[0], cells, ["left", *["right"] * (len(lines[0]) - 1)], [])


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=85)
    return content.getvalue()
