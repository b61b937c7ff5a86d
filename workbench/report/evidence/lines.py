"""List of the registered trainings, ``results/reference/trainings.csv``: one line per row of a table and seed.

``pilot.csv`` beside it has the same form, for the trainings of a pilot.

Claims and tables of the evidence are computed from this file alone, without any other result. A training that is listed
is not run again. Nothing heavy is imported, because the Snakefile reads the file.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.settings.data import WORLDS
from workbench.settings.files import catalogue
from workbench.settings.registration import FILE, Planned, Study, registered_study
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_text, write_text_atomically
from workbench.support.strict_yaml import choose

METRICS = ("AP", "AP50", "AP75", "AP80", "AP90", "APS", "APM", "APL")
"""Metrics of a line, as fractions; None if the split has no object of that size."""
SPEARMAN = "Spearman"
COLUMNS = (
    *("scale", "row", "seed", "world", "run", "evaluation"),
    *(*METRICS, SPEARMAN),
    *("seconds", "code", "split", "commit"),
)
RESTORE = "restore the file from git, then run workbench evidence add"
Key = tuple[str, str, int, str, str]
"""Scale, row, seed, run and code: a training and its variant. A file lists each of them once."""


@dataclass(frozen=True)
class Line:
    """Measurements of one training in one variant.

    Attributes:
        scale: name of the scale.
        row: id of the row, which decides run and variant.
        seed: seed of the training.
        world: number of the world that was drawn for the seed; None if all seeds share the test images.
        run: folder name of the run, with the hash of its settings.
        evaluation: folder name of the evaluation.
        metrics: each of `METRICS`.
        spearman: rank correlation of score and IoU of the training; None if it was not ranked yet.
        seconds: duration of the training.
        code: digest of the code of training and evaluation, as the evaluation states it.
        split: digest of the evaluated split, eight hex digits.
        commit: commit that was checked out for the training, with ``+`` if files differed; ``unknown`` outside git.
    """

    scale: str
    row: str
    seed: int
    world: int | None
    run: str
    evaluation: str
    metrics: Mapping[str, float | None]
    spearman: float | None
    seconds: float
    code: str
    split: str
    commit: str

    @property
    def key(self) -> Key:
        """Identity of the line."""
        return self.scale, self.row, self.seed, self.run, self.code

    @property
    def title(self) -> str:
        """Title in messages."""
        return f"{self.scale}, {self.row}, seed {self.seed}"

    def cells(self) -> list[str]:
        """Text of each of `COLUMNS`."""
        named = [self.scale, self.row, self.seed, self.world, self.run, self.evaluation]
        numbers = [*(self.metrics[name] for name in METRICS), self.spearman, self.seconds]
        return ["" if value is None else str(value) for value in (*named, *numbers, self.code, self.split, self.commit)]


def evidence_file(results: Path) -> Path:
    """Path of the list."""
    return results / "reference" / "trainings.csv"


def pilot_file(results: Path) -> Path:
    """Path of the list of the trainings of a pilot."""
    return results / "reference" / "pilot.csv"


def study_of(scale: str) -> Study:
    """Return the registered study of a scale; raise a WorkbenchError if there is none."""
    study = registered_study(scale)
    if study is None:
        raise WorkbenchError(f"scale {scale}: no study is registered; choose the scale of a study in {FILE}")
    return study


def registered_keys(study: Study | Planned, scale: str) -> dict[Key, None]:
    """Identities of all lines of a study or pilot, seed after seed."""
    rows = study.rows.items()
    return {(scale, id_, seed, row.run, row.code.evaluation): None for seed in study.seeds for id_, row in rows}


def read_lines(file: Path) -> dict[Key, Line]:
    """Lines of the list by identity; none if the file does not exist.

    Raises:
        WorkbenchError: the file is not such a list, has a line twice, or has an unknown row or a value that is out of
            range. The message names file and line.
    """
    if not file.exists():
        return {}
    lines: dict[Key, Line] = {}
    numbers: dict[Key, int] = {}
    reader = csv.reader(io.StringIO(read_text(file, "measurements of trainings"), newline=""), strict=True)
    try:
        if tuple(next(reader, ())) != COLUMNS:
            raise WorkbenchError(f"{file}, line 1: not the columns {', '.join(COLUMNS)}; {RESTORE}")
        for cells in reader:
            place = f"{file}, line {reader.line_num}"
            line = line_of(cells, place)
            if line.key in lines:
                raise WorkbenchError(f"{place}: {line.title} is in line {numbers[line.key]}, too; remove one of them")
            lines[line.key], numbers[line.key] = line, reader.line_num
    except csv.Error as error:
        raise WorkbenchError(f"{file}, line {reader.line_num}: not CSV ({error}); {RESTORE}") from None
    return lines


def write_lines(file: Path, lines: Iterable[Line]) -> None:
    """Write the list; readers see either the old or the new content."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(line.cells() for line in lines)
    write_text_atomically(file, text.getvalue())


def line_of(cells: Sequence[str], place: str, remedy: str = RESTORE) -> Line:
    """Line with these cells.

    Raises:
        WorkbenchError: an unknown scale or row, or a value of another form or out of range. The message names
            ``place`` and the remedy.
    """
    if len(cells) != len(COLUMNS):
        raise WorkbenchError(f"{place}: {len(cells)} values, not {len(COLUMNS)}; {remedy}")
    texts = dict(zip(COLUMNS, cells, strict=True))
    choose(texts["scale"], catalogue().scale_names, "scale", place)
    choose(texts["row"], catalogue().rows, "row", place)
    values: dict[str, Any] = {}
    for column, (read, form) in FORMS.items():
        try:
            values[column] = read(texts[column])
        except ValueError:
            raise WorkbenchError(f"{place}: {column} is {texts[column]!r:.60}, not {form}; {remedy}") from None
    if not values["evaluation"].endswith(f"-{values['split']}"):
        raise WorkbenchError(f"{place}: {values['evaluation']} is not an evaluation of {values['split']}; {remedy}")
    metrics = {name: values.pop(name) for name in METRICS}
    return Line(texts["scale"], texts["row"], metrics=metrics, spearman=values.pop(SPEARMAN), **values)


def _number(low: float, high: float, *, whole: bool = False, empty: bool = False) -> Callable[[str], float | None]:
    """Function that reads a number from ``low`` to ``high`` as Python writes it; with ``empty``, also nothing."""

    def read(text: str) -> float | None:
        if empty and not text:
            return None
        value = int(text) if whole else float(text)
        if not (math.isfinite(value) and low <= value <= high) or str(value) != text:
            raise ValueError(text)
        return value

    return read


def _matching(pattern: str) -> Callable[[str], str]:
    """Function that reads a text of one form."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(text)
        return text

    return read


FORMS: dict[str, tuple[Callable[[str], Any], str]] = {
    "seed": (_number(0, 999_999_999, whole=True), "a seed"),
    "world": (_number(0, WORLDS - 1, whole=True, empty=True), "the number of a world, or empty"),
    "run": (_matching(r"\S+-[0-9a-f]{8}"), "the name of a run"),
    "evaluation": (_matching(r"\S+"), "the name of an evaluation"),
    **dict.fromkeys(METRICS, (_number(0, 1, empty=True), "a fraction, or empty")),
    SPEARMAN: (_number(-1, 1, empty=True), "a correlation, or empty"),
    "seconds": (_number(0, 1e9), "a number of seconds"),
    "code": (_matching(r"[^\s:]+:[0-9a-f]{8}( [^\s:]+:[0-9a-f]{8})*"), "a digest of code"),
    "split": (_matching(r"[0-9a-f]{8}"), "a digest of eight hex digits"),
    "commit": (_matching(r"[0-9a-f]{40}\+?|unknown"), "a commit"),
}
"""Column → function that reads a cell, and description of the right form for messages."""
