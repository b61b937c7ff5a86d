"""A table of results, measured beside published: its rows to a pandas frame, to CSV and to Markdown.

Torch-free and independent of the experiments' schema: a row is plain data. All metrics in a table are COCO's ×100.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.files import write_text_atomically

if TYPE_CHECKING:
    import pandas as pd

TEST_DEV = "test-dev"  # part of a published metric's name
MEASURED = ("AP", "AP50", "AP75", "APS", "APM", "APL")

BEST = ("AP", "AP_published", f"AP_{TEST_DEV}_published")  # columns whose best is bold

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
    """

    row: str
    labels: dict[str, object]
    published: dict[str, float]
    run: str
    note: str = ""
    measured: tuple[dict[str, Any], ...] = ()


def table_frame(rows: Sequence[TableRow]) -> "pd.DataFrame":
    """The table as a frame, numbers as numbers and words where there is none; see `_cells` for the columns."""
    import pandas as pd

    return pd.DataFrame(_cells(rows), dtype=object)


def write_table(title: str, rows: Sequence[TableRow], csv: Path, markdown: Path) -> None:
    """Write the table to a CSV and a Markdown file, each of them whole or not at all.

    Raises WorkbenchError where a file cannot be written, or where there are no rows.
    """
    write_text_atomically(csv, _table_csv(rows))
    write_text_atomically(markdown, table_markdown(title, rows))


def table_markdown(title: str, rows: Sequence[TableRow]) -> str:
    """The table in GitHub's Markdown, aligned as text too: a heading, the table, and what a reader must know of it.

    The best measured and the best published AP are bold.
    """
    cells = _cells(rows)
    labels = _label_names(rows)
    best = {column: _best(line.get(column) for line in cells) for column in BEST}
    shown = [column for column in cells[0] if column not in ("AP_std", "code_digest")]
    lines = [[_markdown_cell(column, line, best) for column in shown] for line in cells]
    alignment = [_alignment(column, [line[column] for line in cells], column in labels) for column in shown]
    table = aligned_table([_heading(column) for column in shown], lines, alignment)
    return f"## {title}\n\n{table}\n\n{_footnote(rows)}\n"


def _cells(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """One dictionary a row, all with the same keys, the columns of the CSV:

    row, the labels, AP … APL, AP_std (sample standard deviation, if a row has several seeds), AP_published … (those
    that some row publishes), AP_difference (measured minus published), run, seeds, code_digest, note (if a row has
    one). A value is a number, a bool, or a word that says why there is none; never empty.
    """
    if not rows:
        raise WorkbenchError("table: no rows; name a table, or rows, that the experiments have")
    published, labels = _published_names(rows), _label_names(rows)
    taken = {"row", *MEASURED, "AP_std", "AP_difference", "run", "seeds", "code_digest", "note"} & set(labels)
    if taken:
        raise WorkbenchError(f"table: a label may not be called {', '.join(sorted(taken))}; give it another name")
    several = any(len(r.measured) > 1 for r in rows)
    table = []
    for row in rows:
        line: dict[str, Any] = {"row": row.row}
        line |= {name: _label(row.labels.get(name)) for name in labels}
        line |= {name: _mean(row, name) for name in MEASURED}
        if several:
            line["AP_std"] = _deviation(row)
        line |= {f"{name}_published": row.published.get(name, NOTHING) for name in published}
        if "AP" in published:
            line["AP_difference"] = _difference(line["AP"], line["AP_published"])
        line |= {"run": row.run or "literature", "seeds": _seeds(row), "code_digest": _digests(row)}
        if any(r.note for r in rows):
            line["note"] = row.note or NOTHING
        table.append(line)
    return table


def _label_names(rows: Sequence[TableRow]) -> list[str]:
    """Every label of any row, in order of appearance."""
    return list(dict.fromkeys(name for r in rows for name in r.labels))


def _published_names(rows: Sequence[TableRow]) -> list[str]:
    """The metrics that some row publishes: the usual six in their order, then any other."""
    names = dict.fromkeys(name for r in rows for name in r.published)
    return [n for n in MEASURED if n in names] + [n for n in names if n not in MEASURED]


def _label(value: object) -> object:
    return NOTHING if value is None or value == "" else value


def _absent(row: TableRow) -> str:
    """The word in the measured cells of a row without measurements."""
    return NOT_RUN if row.run else NOTHING


def _mean(row: TableRow, name: str) -> float | str:
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


def _difference(measured: float | str, published: float | str) -> float | str:
    """Measured minus published, of the figures as printed, so that a reader's own subtraction agrees."""
    if isinstance(measured, str):
        return measured
    return NOTHING if isinstance(published, str) else round(measured - published, 2) + 0.0  # never -0.0


def _seeds(row: TableRow) -> str:
    """The seeds in order, as in "0 1 2"; published weights, which have none, are "released"."""
    if not row.measured:
        return _absent(row)
    return " ".join(sorted((str(m["provenance"]["seed"]) for m in row.measured), key=lambda s: (len(s), s)))


def _digest_set(rows: Iterable[TableRow]) -> list[str]:
    return sorted({str(m["provenance"]["code_digest"]) for r in rows for m in r.measured})


def _digests(row: TableRow) -> str:
    return " ".join(_digest_set([row])) or _absent(row)


def _table_csv(rows: Sequence[TableRow]) -> str:
    """CSV with a header, `\\n` at the end of lines; measured figures with two decimals, the rest as they are."""
    cells = _cells(rows)
    two_decimals = {*MEASURED, "AP_std", "AP_difference"}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(cells[0])
    for line in cells:
        writer.writerow([f"{v:.2f}" if c in two_decimals and isinstance(v, float) else str(v) for c, v in line.items()])
    return text.getvalue()


def _best(values: Iterable[Any]) -> float | None:
    return max((v for v in values if isinstance(v, int | float)), default=None)


def _heading(column: str) -> str:
    """A column's name for readers: "AP_published" is "AP published", "AP_difference" is "ΔAP"."""
    return "ΔAP" if column == "AP_difference" else column.replace("_", " ")


def _markdown_cell(column: str, line: dict[str, Any], best: dict[str, float | None]) -> str:
    value = line[column]
    if isinstance(value, bool):
        return "✓" if value else ""
    if isinstance(value, str):
        text = " ".join(value.replace("|", r"\|").split())
        code = column == "row" or (column == "run" and value != "literature")
        return f"`{text}`" if code else "–" if text == NOTHING else text
    if column == "AP_difference":
        return f"{value:+.2f}".replace("-", "−")
    text = f"{value:.2f}" if column in MEASURED else str(value)
    if column == "AP" and isinstance(line.get("AP_std"), float):
        text += f" ± {line['AP_std']:.2f}"
    return f"**{text}**" if column in best and value == best[column] else text


def _alignment(column: str, values: list[Any], is_label: bool) -> str:
    """Text to the left, check marks in the middle, numbers (and the words in their place) to the right."""
    if column in ("row", "run", "seeds", "note"):
        return "left"
    if not is_label:
        return "right"
    values = [v for v in values if v != NOTHING]
    if all(isinstance(v, bool) for v in values):
        return "centre"
    return "right" if all(isinstance(v, int | float) for v in values) else "left"


def aligned_table(header: list[str], lines: list[list[str]], alignment: list[str]) -> str:
    """A GitHub table whose columns line up in plain text, too; each is aligned "left", "centre" or "right"."""
    widths = [max(3, *(len(line[i]) for line in [header, *lines])) for i in range(len(header))]
    pads = {"left": str.ljust, "centre": str.center, "right": str.rjust}
    rows = [
        [pads[a](text, width) for text, width, a in zip(line, widths, alignment, strict=True)]
        for line in [header, *lines]
    ]
    ends = {"left": ("-", "-"), "centre": (":", ":"), "right": ("-", ":")}
    rule = [ends[a][0] + "-" * (width - 2) + ends[a][1] for width, a in zip(widths, alignment, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [rows[0], rule, *rows[1:]])


def _footnote(rows: Sequence[TableRow]) -> str:
    """What holds at every scale: unit and seeds; then the rows that were not run, and mixed versions of the code."""
    counts = {len(r.measured) for r in rows if r.measured}
    unit = "Metrics are COCO's, ×100, the best AP in bold"
    if counts == {1}:
        unit += "; each measured row is a single seed"
    elif counts:
        unit += "; measured figures are means over the seeds, ± the sample standard deviation of AP over them"
    return "\n\n".join([f"{unit}.", *_on_splits(rows), *_on_rows_not_run(rows), *_on_mixed_code(rows)])


def _on_splits(rows: Sequence[TableRow]) -> list[str]:
    if not any(name.endswith(TEST_DEV) for r in rows for name in r.published):
        return []
    return [
        "Two splits stand here: the paper's numbers are those of the evaluation server on test-dev; measured ones, and "
        "the AP that the authors' repository states (AP published), are val2017's, and only these are subtracted."
    ]


def _on_rows_not_run(rows: Sequence[TableRow]) -> list[str]:
    runs = [r for r in rows if r.run]
    missing = [f"`{r.row}`" for r in runs if not r.measured]
    if missing and len(missing) == len(runs):
        return ["None of these rows was run."]
    verb = "was" if len(missing) == 1 else "were"
    return [f"{len(missing)} of {len(runs)} rows {verb} not run: {', '.join(missing)}."] if missing else []


def _on_mixed_code(rows: Sequence[TableRow]) -> list[str]:
    digests = _digest_set(rows)
    if len(digests) < 2:
        return []
    return [
        f"**Warning:** these rows were trained by {len(digests)} versions of the training code "
        f"({', '.join(f'`{d}`' for d in digests)}), so that their differences may come from the code; "
        "the CSV says which row has which."
    ]
