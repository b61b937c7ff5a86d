"""The cells of a table of results: rows of labels, published and measured figures → numbers, and words where none is.

Torch-free and independent of the experiments' schema: a row is plain data. All metrics in a table are COCO's ×100.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.evaluation.intervals import Bootstrap, difference_interval, mean_interval
from workbench.support.errors import WorkbenchError

TEST_DEV = "test-dev"  # part of a published metric's name
MEASURED = ("AP", "AP50", "AP75", "APS", "APM", "APL")
AP_LIMITS = ("AP_low", "AP_high")
DIFFERENCE = ("difference", "difference_low", "difference_high")
COMPARED = "compared_with"

NOT_RUN = "not run"
NOT_DEFINED = "n/a"  # no ground truth of that size
ONE_SEED = "one seed"  # no deviation over seeds
NOTHING = "-"  # a cell that this row cannot have


@dataclass(frozen=True)
class TableRow:
    """One line of a table.

    Attributes:
        row: its id, e.g. "t3_full_vfl".
        labels: its settings, in the order of the columns; a bool is a check mark in Markdown.
        published: the metrics that the paper prints, ×100, those of another split than the measured one under a name
            such as "AP_test-dev"; and "FPS", images a second.
        run: the run behind it, e.g. "vfnet-star-refine-varifocal-1a2b3c4d"; "" for a row that the paper took from
            the literature and that is never run.
        note: what a reader must know, e.g. "recipe inferred".
        measured: the content of metrics.json, one for each seed: `evaluate_detections`' keys and "provenance" with
            "seed" ("released" for published weights) and "code_digest". Empty where it was not run.
        bootstraps: AP of resampled images, one for each of `measured`, in its order. Fewer where one was evaluated
            before there were any.
        compared_with: id of the row whose measured AP is subtracted from this one's; "" for none.
    """

    row: str
    labels: dict[str, object]
    published: dict[str, float]
    run: str
    note: str = ""
    measured: tuple[dict[str, Any], ...] = ()
    bootstraps: tuple[Bootstrap, ...] = ()
    compared_with: str = ""


def table_cells(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """One dictionary a row, all with the same keys, the columns of the CSV:

    row, the labels, AP … APL, AP_std (sample standard deviation, if a row has several seeds), AP_low and AP_high (its
    95 % interval), difference, difference_low, difference_high, compared_with (measured AP less that of another row,
    with its interval, if a row is compared), AP_published … (those that some row publishes), AP_difference (measured
    minus published), run, seeds, code_digest, note (if a row has one). A value is a number, a bool, or a word that says
    why there is none; never empty.
    """
    if not rows:
        raise WorkbenchError("table: no rows; name a table, or rows, that the experiments have")
    published, labels = _published_names(rows), label_names(rows)
    own = {"row", *MEASURED, "AP_std", *AP_LIMITS, *DIFFERENCE, COMPARED, "AP_difference"}
    taken = (own | {"run", "seeds", "code_digest", "note"}) & set(labels)
    if taken:
        raise WorkbenchError(f"table: a label may not be called {', '.join(sorted(taken))}; give it another name")
    several = any(len(r.measured) > 1 for r in rows)
    table = []
    for row in rows:
        line: dict[str, Any] = {"row": row.row}
        line |= {name: _label(row.labels.get(name)) for name in labels}
        line |= {name: mean(row, name) for name in MEASURED}
        if several:
            line["AP_std"] = _deviation(row)
        line |= _limits(row)
        if references(rows):
            line |= _comparison(row, {r.row: r for r in rows})
        line |= {f"{name}_published": row.published.get(name, NOTHING) for name in published}
        if "AP" in published:
            line["AP_difference"] = _difference(line["AP"], line["AP_published"])
        line |= {"run": row.run or "literature", "seeds": _seeds(row), "code_digest": _digests(row)}
        if any(r.note for r in rows):
            line["note"] = row.note or NOTHING
        table.append(line)
    return table


def label_names(rows: Sequence[TableRow]) -> list[str]:
    """Every label of any row, in order of appearance."""
    return list(dict.fromkeys(name for r in rows for name in r.labels))


def row_names(labels: Sequence[Mapping[str, object]]) -> list[str]:
    """The labels of each row in a few words, without those that are the same in all rows; "" where none is left.

    Values are those of a table's row or, as text, of its CSV: a bool that holds is its label's name.
    """
    names = dict.fromkeys(name for line in labels for name in line)
    told = [name for name in names if len(labels) == 1 or len({str(line.get(name)) for line in labels}) > 1]
    return [", ".join(filter(None, (_in_words(name, line.get(name)) for name in told))) for line in labels]


def _in_words(name: str, value: object) -> str:
    text = str(value)
    if text == "True":
        return name
    if value is None or text in ("False", NOTHING):
        return ""
    try:
        return f"{name} {float(text):g}"
    except ValueError:
        return text


def _published_names(rows: Sequence[TableRow]) -> list[str]:
    """The metrics that some row publishes: the usual six in their order, then any other."""
    names = dict.fromkeys(name for r in rows for name in r.published)
    return [n for n in MEASURED if n in names] + [n for n in names if n not in MEASURED]


def _label(value: object) -> object:
    return NOTHING if value is None or value == "" else value


def _absent(row: TableRow) -> str:
    """The word in the measured cells of a row without measurements."""
    return NOT_RUN if row.run else NOTHING


def mean(row: TableRow, name: str) -> float | str:
    """A metric ×100, the mean over the seeds, to two decimals; or why there is none."""
    if not row.measured:
        return _absent(row)
    values = [m[name] for m in row.measured if m[name] is not None]
    return round(100 * statistics.fmean(values), 2) if values else NOT_DEFINED


def _deviation(row: TableRow) -> float | str:
    """The sample standard deviation of AP ×100 over the seeds, to two decimals; or why there is none."""
    if not row.measured:
        return _absent(row)
    if len(row.measured) == 1:
        return ONE_SEED
    values = [m["AP"] for m in row.measured if m["AP"] is not None]
    return round(100 * statistics.stdev(values), 2) if len(values) > 1 else NOT_DEFINED


def references(rows: Sequence[TableRow]) -> list[str]:
    """The rows that others are compared with, in order of appearance."""
    return list(dict.fromkeys(row.compared_with for row in rows if row.compared_with))


def has_interval(row: TableRow) -> bool:
    """Whether all trainings of a row have their resamples."""
    return 0 < len(row.bootstraps) == len(row.measured)


def _limits(row: TableRow) -> dict[str, float | str]:
    """The ends of the interval of AP, ×100."""
    if not row.measured:
        return dict.fromkeys(AP_LIMITS, _absent(row))
    limits = mean_interval(row.bootstraps)[1:] if has_interval(row) else (math.nan, math.nan)
    return dict(zip(AP_LIMITS, map(_percent, limits), strict=True))


def _comparison(row: TableRow, rows: dict[str, TableRow]) -> dict[str, float | str]:
    """Measured AP less that of the row it is compared with, of the figures as printed; and its interval, ×100."""
    if not row.compared_with:
        return dict.fromkeys((*DIFFERENCE, COMPARED), NOTHING)
    other = rows[row.compared_with]
    if not (row.measured and other.measured):
        return dict.fromkeys(DIFFERENCE, NOT_RUN) | {COMPARED: other.row}
    both = has_interval(row) and has_interval(other)
    same = row.run == other.run and _seeds(row) == _seeds(other)
    limits = difference_interval(row.bootstraps, other.bootstraps, same)[1:] if both else (math.nan, math.nan)
    values = (_difference(mean(row, "AP"), mean(other, "AP")), *map(_percent, limits))
    return dict(zip(DIFFERENCE, values, strict=True)) | {COMPARED: other.row}


def _percent(value: float) -> float | str:
    return NOTHING if math.isnan(value) else round(100 * value, 2)


def _difference(measured: float | str, published: float | str) -> float | str:
    """Of the figures as printed, so that a reader's own subtraction agrees."""
    if isinstance(measured, str):
        return measured
    return NOTHING if isinstance(published, str) else round(measured - published, 2) + 0.0  # never -0.0


def _seeds(row: TableRow) -> str:
    """The seeds in order, as in "0 1 2"; published weights, which have none, are "released"."""
    if not row.measured:
        return _absent(row)
    return " ".join(sorted((str(m["provenance"]["seed"]) for m in row.measured), key=lambda s: (len(s), s)))


def code_digests(rows: Iterable[TableRow]) -> list[str]:
    return sorted({str(m["provenance"]["code_digest"]) for r in rows for m in r.measured})


def _digests(row: TableRow) -> str:
    return " ".join(code_digests([row])) or _absent(row)
