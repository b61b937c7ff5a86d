"""Conversion of a data set of another tool to COCO's layout: ``workbench convert``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from workbench.convert.createml import read_createml
from workbench.convert.labelme import read_labelme
from workbench.convert.remarks import Remarks
from workbench.convert.source import WHOLE, DataSet, folder_of
from workbench.convert.voc import FORMULAS, read_voc
from workbench.convert.write import Counts, checked, count, refuse_place, write_coco
from workbench.convert.yolo import read_yolo
from workbench.support.errors import WorkbenchError
from workbench.support.progress import Reporter

READERS = {"yolo": read_yolo, "createml": read_createml, "labelme": read_labelme}
"""Readers of the formats without options of their own."""
OWN_SPLIT = {
    "voc": "list them in ImageSets/Main/train.txt and val.txt",
    "yolo": "state train and val in data.yaml",
    "createml": "put them into folders train and val, each with a file of annotations",
    "labelme": "put them into folders train and val",
}
"""Way to state the splits in each format."""


def convert(form: str, source: Path, out: Path, counted_from: int | None) -> str:
    """Convert a data set, and return a report of the numbers before and after, with notes.

    Args:
        form: ``voc`` or a key of READERS.
        out: folder that is missing or empty.
        counted_from: number of the first pixel in VOC's files; None for 1, and for the other formats.

    Raises:
        WorkbenchError: the data set has faults, or the folder cannot be written. Nothing is written then.
    """
    if counted_from is not None and form != "voc":
        raise WorkbenchError(f"--counted-from: only files of VOC count pixels; leave it out for {form}")
    first = 1 if counted_from is None else counted_from
    root, remarks = folder_of(source), Remarks(source)
    refuse_place(out, source)
    data = read_voc(root, first, remarks) if form == "voc" else READERS[form](root, remarks)
    if set(data.splits) == {"train"}:
        data = replace(data, splits={WHOLE: data.splits["train"]})
    before = {split: count(images) for split, images in data.splits.items()}
    data = checked(data, root, remarks)
    total = sum(numbers.images for numbers in before.values())
    with Reporter("convert", total) as reporter:
        after = write_coco(data, out, lambda done: reporter.advance(done, "images"))
    lines = [f"VOC: {FORMULAS[first]} (--counted-from {first})"] if form == "voc" else []
    lines += _table(before, after)
    lines += [f"note: {note}" for note in [*remarks.notes, *_missing_splits(form, data)]]
    return "\n".join([*lines, f"{out}: written in COCO's layout"])


def _table(before: dict[str, Counts], after: dict[str, Counts]) -> list[str]:
    """Lines with the numbers of each split, before and after."""
    rows = [("split", "images", "boxes", "ignored", "classes with boxes")]
    for split, old in before.items():
        pairs = zip(vars(old).values(), vars(after[split]).values(), strict=True)
        rows.append((split, *(f"{one} -> {other}" for one, other in pairs)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _missing_splits(form: str, data: DataSet) -> list[str]:
    """Note about splits that the data set lacks."""
    if WHOLE in data.splits:
        state = "without splits, a training tests on a part of the images"
        return [f"{state}; to choose it, {OWN_SPLIT[form]}, and convert again"]
    if missing := [split for split in ("train", "val") if split not in data.splits]:
        state = f"there is no split {' or '.join(missing)}, and a training needs train and val"
        return [f"{state}; {OWN_SPLIT[form]}, and convert again"]
    return []
