"""Cells of a table of results: numbers, and words in the place of numbers that do not exist.

This module imports neither torch nor the schema of experiments: a row is plain data. All metrics in a table are COCO's,
×100.
"""

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.evaluation.effects import Effect, effect_of_rows, mean_of_row
from workbench.evaluation.intervals import Bootstrap
from workbench.support.code_digest import SHARED
from workbench.support.errors import WorkbenchError

TEST_DEV = "test-dev"  # part of the name of a metric that was published for this split
MEASURED = ("AP", "AP50", "AP75", "APS", "APM", "APL")
AP_LIMITS = ("AP_low", "AP_high")
DIFFERENCE = ("difference", "difference_low", "difference_high")
COMPARED = "compared_with"

NOT_RUN = "not run"
NOT_DEFINED = "n/a"  # the data set has no ground truth of that size
ONE_SEED = "one seed"  # a deviation over seeds needs two
NOTHING = "-"  # the value does not exist for this row


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        row: id of the row, e.g. "t3_full_vfl".
        labels: settings that the table shows, in the order of the columns. A bool is a check mark in Markdown.
        published: metrics that the paper prints, ×100, and "FPS" in images per second. A metric of another split than
            the measured one has the split in its name, e.g. "AP_test-dev".
        run: name of the run, e.g. "vfnet-star-refine-varifocal-1a2b3c4d"; "" for a row from the literature, which is
            never run.
        note: remark for readers, e.g. "recipe inferred".
        measured: content of metrics.json, one for each training: the keys of `evaluate_detections`, and "provenance"
            with "seed" ("released" for published weights), "code_digest", and "training" with the facts about the
            training. Empty if the row was not run.
        bootstraps: AP of resampled images, one for each of `measured`, in the same order. Shorter than `measured` if an
            evaluation has no resamples.
        compared_with: id of the row whose measured AP is subtracted from the AP of this row; "" for none.
        differences: sentences about known differences of the row's training from the released code.
        worlds: whether each seed draws its own data set, which decides the kind of intervals; see `effect_of_rows`.
    """

    row: str
    labels: dict[str, object]
    published: dict[str, float]
    run: str
    note: str = ""
    measured: tuple[dict[str, Any], ...] = ()
    bootstraps: tuple[Bootstrap, ...] = ()
    compared_with: str = ""
    differences: tuple[str, ...] = ()
    worlds: bool = False


def table_cells(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Return one dictionary per row; all have the same keys, the columns of the CSV.

    The columns, in this order:

    - row, and the labels;
    - AP, AP50, AP75, APS, APM, APL;
    - AP_std: sample standard deviation of AP, if some row has several seeds;
    - AP_low, AP_high: 95 % interval of AP;
    - difference, difference_low, difference_high, compared_with: measured AP minus the measured AP of another row, and
      the 95 % interval, if some row is compared;
    - AP_published and other published metrics, if some row has them;
    - AP_difference: measured minus published AP;
    - run, seeds, code_digest, and note, if some row has a note.

    A value is a number, a bool, or a word that explains why the number does not exist. No value is empty.
    """
    if not rows:
        raise WorkbenchError("table: no rows; name a table or rows of experiments/")
    published, labels = _published_names(rows), label_names(rows)
    columns = {"row", *MEASURED, "AP_std", *AP_LIMITS, *DIFFERENCE, COMPARED, "AP_difference"}
    columns |= {f"{name}_published" for name in published} | {"run", "seeds", "code_digest", "note"}
    for row in rows:
        if clashes := columns & set(row.labels):
            raise WorkbenchError(f"{row.row}: labels: {min(clashes)} is the name of a column; rename the label")
    has_deviation = any(len(r.measured) > 1 for r in rows)
    table = []
    for row in rows:
        line: dict[str, Any] = {"row": row.row}
        line |= {name: _label(row.labels.get(name)) for name in labels}
        line |= {name: mean(row, name) for name in MEASURED}
        if has_deviation:
            line["AP_std"] = _deviation(row)
        line |= _limits(row)
        if references(rows):
            line |= _comparison(row, {r.row: r for r in rows})
        line |= {f"{name}_published": row.published.get(name, NOTHING) for name in published}
        if "AP" in published:
            line["AP_difference"] = _difference(line["AP"], line["AP_published"])
        line |= {
            "run": row.run or "literature",
            "seeds": _seeds(row),
            "code_digest": " ".join(sorted(_digests(row))) or _absent(row),
        }
        if any(r.note for r in rows):
            line["note"] = row.note or NOTHING
        table.append(line)
    return table


def label_names(rows: Sequence[TableRow]) -> list[str]:
    """Return the labels of all rows, in order of appearance."""
    return list(dict.fromkeys(name for r in rows for name in r.labels))


def row_names(labels: Sequence[Mapping[str, object]]) -> list[str]:
    """Describe each row by its labels, without the labels that are equal in all rows; "" if no label remains.

    Args:
        labels: labels of each row, as values or as the text of the CSV. A label that is true is shown by its name.
    """
    names = dict.fromkeys(name for line in labels for name in line)
    varying = [name for name in names if len(labels) == 1 or len({str(line.get(name)) for line in labels}) > 1]
    return [", ".join(filter(None, (_in_words(name, line.get(name)) for name in varying))) for line in labels]


def told_apart(names: Sequence[str], rows: Sequence[str]) -> list[str]:
    """Return different names: a name of several rows is followed by the row's id in brackets.

    Args:
        names: name of each row; the row's id replaces the empty name "".
        rows: id of each row.
    """
    unique, counts = [], Counter(names)
    for name, row in zip(names, rows, strict=True):
        name = (name if counts[name] == 1 else f"{name} ({row})") if name else row
        unique.append(name if name not in unique else f"{name} ({row})")
    return unique


def _in_words(name: str, value: object) -> str:
    text = str(value)
    if text == "True":
        return name
    if value is None or text in ("False", NOTHING):
        return ""
    return f"{name} {float(text):g}" if re.fullmatch(r"[+-]?\d{1,15}(\.\d+)?", text, re.ASCII) else text


def _published_names(rows: Sequence[TableRow]) -> list[str]:
    """Return the metrics that some row publishes: the six of COCO in their order, then all others."""
    names = dict.fromkeys(name for r in rows for name in r.published)
    return [n for n in MEASURED if n in names] + [n for n in names if n not in MEASURED]


def _label(value: object) -> object:
    return NOTHING if value is None or value == "" else value


def _absent(row: TableRow) -> str:
    """Return the word for the measured cells of a row without measurements."""
    return NOT_RUN if row.run else NOTHING


def mean(row: TableRow, name: str) -> float | str:
    """Return the mean of a metric over the trainings, ×100, with two decimals; or a word if it does not exist."""
    if not row.measured:
        return _absent(row)
    values = [m[name] for m in row.measured if m[name] is not None]
    return round(100 * statistics.fmean(values), 2) if values else NOT_DEFINED


def _deviation(row: TableRow) -> float | str:
    """Return the sample standard deviation of AP over the trainings, ×100, or a word if it does not exist."""
    if not row.measured:
        return _absent(row)
    if len(row.measured) == 1:
        return ONE_SEED
    values = [m["AP"] for m in row.measured if m["AP"] is not None]
    return round(100 * statistics.stdev(values), 2) if len(values) > 1 else NOT_DEFINED


def references(rows: Sequence[TableRow]) -> list[str]:
    """Return the ids of the rows with which other rows are compared, in order of appearance."""
    return list(dict.fromkeys(row.compared_with for row in rows if row.compared_with))


def has_interval(row: TableRow) -> bool:
    """Return whether all trainings of a row have resamples."""
    return 0 < len(row.bootstraps) == len(row.measured)


def _limits(row: TableRow) -> dict[str, float | str]:
    """Return the ends of the 95 % interval of AP, ×100, clipped to [0, 100]."""
    if not row.measured:
        return dict.fromkeys(AP_LIMITS, _absent(row))
    low, high = _ends(mean_of_row(row.bootstraps, row.worlds)) if has_interval(row) else (NOTHING, NOTHING)
    if isinstance(low, float):
        low, high = max(low, 0.0), min(high, 100.0)
    return dict(zip(AP_LIMITS, (low, high), strict=True))


def _comparison(row: TableRow, rows: dict[str, TableRow]) -> dict[str, float | str]:
    """Return the difference of measured AP to the row in `compared_with`, and its 95 % interval, ×100.

    The difference is computed from the printed (rounded) AP of both rows. Exception: two rows with some worlds that
    are not the same. Their difference is the mean over the worlds of both rows.
    """
    if not row.compared_with:
        return dict.fromkeys((*DIFFERENCE, COMPARED), NOTHING)
    other = rows[row.compared_with]
    if not (row.measured and other.measured):
        return dict.fromkeys(DIFFERENCE, NOT_RUN) | {COMPARED: other.row}
    difference: float | str = _difference(mean(row, "AP"), mean(other, "AP"))
    ends: tuple[float | str, float | str] = (NOTHING, NOTHING)
    if has_interval(row) and has_interval(other):
        same_seeds, worlds = _seeds(row) == _seeds(other), row.worlds and other.worlds
        effect = effect_of_rows(row.bootstraps, other.bootstraps, worlds, same_seeds and row.run == other.run)
        ends = _ends(effect)
        if worlds and not same_seeds:
            difference = _percent(effect.estimate)
    return dict(zip(DIFFERENCE, (difference, *ends), strict=True)) | {COMPARED: other.row}


def _ends(effect: Effect) -> tuple[float | str, float | str]:
    return _percent(effect.low), _percent(effect.high)


def _percent(value: float) -> float | str:
    return NOTHING if math.isnan(value) else round(100 * value, 2) + 0.0  # never -0.0


def _difference(measured: float | str, published: float | str) -> float | str:
    """Subtract printed (rounded) figures, so that the difference agrees with the figures that readers see."""
    if isinstance(measured, str):
        return measured
    return NOTHING if isinstance(published, str) else round(measured - published, 2) + 0.0  # never -0.0


def _seeds(row: TableRow) -> str:
    """Return the seeds in ascending order, e.g. "0 1 2"; "released" for published weights."""
    if not row.measured:
        return _absent(row)
    return " ".join(sorted((str(m["provenance"]["seed"]) for m in row.measured), key=lambda s: (len(s), s)))


def number_of_seeds(cell: str) -> int:
    """Return the number of trainings that a cell of the column "seeds" lists; see `_seeds`."""
    return 0 if cell in (NOT_RUN, NOTHING) else len(cell.split())


def code_parts(rows: Iterable[TableRow]) -> dict[str, list[str]]:
    """Return the parts of the code with which the rows were trained, each with its digests, sorted.

    Results of earlier versions have one digest of all code, which counts as a digest of the shared part.
    """
    parts: dict[str, list[str]] = {}
    for part in sorted({part for row in rows for part in _digests(row)}):
        name, _, digest = part.rpartition(":")
        parts.setdefault(name or SHARED, []).append(digest)
    return {name: sorted(digests) for name, digests in parts.items()}


def _digests(row: TableRow) -> set[str]:
    return {part for m in row.measured for part in str(m["provenance"]["code_digest"]).split()}
