"""Table of results, measured next to published: rows to CSV, to Markdown and to the table of an HTML page."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.report.page import TableView, markdown_table
from workbench.report.tables.agreement import on_agreement
from workbench.report.tables.cells import (
    AP_LIMITS,
    COMPARED,
    DIFFERENCE,
    MEASURED,
    NOTHING,
    TEST_DEV,
    TableRow,
    code_parts,
    has_interval,
    label_names,
    mean,
    references,
    table_cells,
)
from workbench.report.tables.training_notes import on_known_differences, on_mixed_arithmetic
from workbench.report.text import LETTERS, code, csv_text, markdown
from workbench.support.files import write_text_atomically

OTHER_IMAGES = (
    "These are not COCO's images: compare the order of the rows, and the differences between rows. Do not compare a "
    "measured figure with a published one."
)
BEST = ("AP", "AP_published", f"AP_{TEST_DEV}_published")  # columns whose best value is bold


def write_table(title: str, rows: Sequence[TableRow], csv: Path, markdown: Path, on_coco: bool = True) -> None:
    """Write the table to a CSV file and a Markdown file. Each file is written completely or not at all.

    Args:
        on_coco: see `table_view`.

    Raises:
        WorkbenchError: there are no rows, or a file cannot be written.
    """
    write_text_atomically(csv, table_csv(rows))
    write_text_atomically(markdown, table_markdown(title, rows, on_coco))


def table_markdown(title: str, rows: Sequence[TableRow], on_coco: bool = True) -> str:
    """Return the table in GitHub's Markdown, with a heading above and notes below.

    The columns are aligned in the source text, too. The best measured AP and the best published AP are bold.
    """
    view = table_view(rows, on_coco)
    return "\n\n".join([f"## {markdown(title)}", markdown_table(view), *view.notes]) + "\n"


def blocks_markdown(title: str, blocks: Mapping[str, TableView]) -> str:
    """Return several blocks of a table in GitHub's Markdown, each below its heading; see `table_markdown`."""
    parts = [f"## {markdown(title)}"]
    for heading, view in blocks.items():
        parts += [f"### {markdown(heading)}", markdown_table(view), *view.notes]
    return "\n\n".join(parts) + "\n"


def table_view(rows: Sequence[TableRow], on_coco: bool = True) -> TableView:
    """Return the table as readers see it, the same in Markdown and on an HTML page.

    Args:
        on_coco: True if AP was measured on the images of the published figures. On other images the difference to
            published AP means nothing: its column is left out, and a note explains why.
    """
    cells = table_cells(rows)
    labels = label_names(rows)
    best = {column: _best(line.get(column) for line in cells) for column in BEST}
    hidden = _hidden(rows) | (set() if on_coco else {"AP_difference"})
    columns = [column for column in cells[0] if column not in hidden]
    return TableView(
        headings=[_heading(column) for column in columns],
        lines=[[_markdown_cell(column, line, best) for column in columns] for line in cells],
        alignment=[_alignment(column, [line[column] for line in cells], column in labels) for column in columns],
        notes=_footnotes(rows, on_coco),
    )


def table_csv(rows: Sequence[TableRow]) -> str:
    """Return CSV with a header and `\\n` line ends. Measured figures have two decimals. No text is a formula."""
    cells = table_cells(rows)
    two_decimals = {*MEASURED, "AP_std", *AP_LIMITS, *DIFFERENCE, "AP_difference"}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_text, cells[0]))
    for line in cells:
        writer.writerow(
            [f"{v:.2f}" if c in two_decimals and isinstance(v, float) else csv_text(str(v)) for c, v in line.items()]
        )
    return text.getvalue()


def _hidden(rows: Sequence[TableRow]) -> set[str]:
    """Return the columns of the CSV that Markdown leaves out, or shows within another column."""
    reference = {COMPARED} if len(references(rows)) < 2 else set()
    return {"AP_std", *AP_LIMITS, *DIFFERENCE[1:], "code_digest", *reference}


def _best(values: Iterable[Any]) -> float | None:
    return max((v for v in values if isinstance(v, int | float)), default=None)


def _heading(column: str) -> str:
    """Return a column's heading: "AP_published" becomes "AP published", "AP_difference" becomes "ΔAP"."""
    return "ΔAP" if column == "AP_difference" else column.replace("_", " ")


def _markdown_cell(column: str, line: dict[str, Any], best: dict[str, float | None]) -> str:
    value = line[column]
    if isinstance(value, bool):
        return "✓" if value else ""
    if isinstance(value, str):
        if value == NOTHING:
            return "–"
        if column in ("row", "run", COMPARED) and value != "literature":
            return code(value)
        return markdown(value, None if column == "note" else LETTERS)
    if column == DIFFERENCE[0]:
        return (f"{value:+.2f}" + _limits(line, DIFFERENCE[1:], "+.2f")).replace("-", "−")
    if column == "AP_difference":
        return f"{value:+.2f}".replace("-", "−")
    text = f"{value:.2f}" if column in MEASURED else str(value)
    if column == "AP" and isinstance(line.get("AP_std"), float):
        text += f" ± {line['AP_std']:.2f}"
    text = f"**{text}**" if column in best and value == best[column] else text
    return text + _limits(line, AP_LIMITS, ".1f") if column == "AP" else text


def _limits(line: dict[str, Any], names: Sequence[str], form: str) -> str:
    """Return an interval in brackets, e.g. " [36.1, 39.6]"; "" if there is no interval."""
    low, high = (line[name] for name in names)
    return f" [{low:{form}}, {high:{form}}]" if isinstance(low, float) and isinstance(high, float) else ""


def _alignment(column: str, values: list[Any], is_label: bool) -> str:
    """Return the alignment of a column: text left, check marks centred, numbers (and the words for them) right."""
    if column in ("row", "run", "seeds", "note", COMPARED):
        return "left"
    if not is_label:
        return "right"
    values = [v for v in values if v != NOTHING]
    if all(isinstance(v, bool) for v in values):
        return "centre"
    return "right" if all(isinstance(v, int | float) for v in values) else "left"


def _footnotes(rows: Sequence[TableRow], on_coco: bool) -> list[str]:
    """Return the notes: unit, seeds, images, intervals, order, agreement, splits, rows not run, and warnings."""
    unit = f"Metrics are COCO's, ×100; the best AP is bold.{_on_seeds(rows)}"
    images = [] if on_coco or not any(r.published for r in rows) else [OTHER_IMAGES]
    agreement = on_agreement(rows) if on_coco else []
    others = [*agreement, *_on_splits(rows), *_on_rows_not_run(rows), *on_known_differences(rows)]
    warnings = [*_on_mixed_code(rows), *on_mixed_arithmetic(rows)]
    return [unit, *images, *_on_intervals(rows), *_on_order(rows), *others, *warnings]


def _on_seeds(rows: Sequence[TableRow]) -> str:
    """Return a sentence, after a blank, about the number of seeds, and a list of rows if the numbers differ."""
    seeds: dict[int, list[str]] = {}
    for row in rows:
        if row.measured:
            seeds.setdefault(len(row.measured), []).append(code(row.row))
    if not seeds:
        return ""
    if seeds.keys() == {1}:
        return " Each measured row has a single seed."
    over = f"{max(seeds)} seeds" if len(seeds) == 1 else "the seeds"
    text = f" Measured figures are means over {over}; ± is the sample standard deviation of AP over the seeds."
    if len(seeds) > 1:
        listed = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(seeds.items(), reverse=True))
        text += f" **The rows have different numbers of seeds.** {listed}."
    return text


def _on_intervals(rows: Sequence[TableRow]) -> list[str]:
    measured, compared = [r for r in rows if r.measured], references(rows)
    several = any(len(r.measured) > 1 for r in measured)
    worlds = several and any(r.worlds for r in measured)
    over = "images and seeds" if several else "images"
    text = (
        f"Brackets are 95 % confidence intervals over {over}, of the AP on an unlimited set of such images. AP on few "
        "images is biased upwards, so it may be near the upper end."
    )
    if worlds:
        text = (
            "Each seed draws its own world, a data set for all rows. Brackets are 95 % confidence intervals over "
            "worlds, of the mean AP in all such worlds."
        )
    notes = [text] if any(map(has_interval, measured)) else []
    if measured and compared:
        other = code(compared[0]) if len(compared) == 1 else 'the row in "compared with"'
        on = "in the same worlds" if worlds else "on the same images"
        notes.append(f"The difference is the measured AP minus the measured AP of {other}, {on}.")
    without = [code(r.row) for r in measured if not has_interval(r)]
    if without:
        notes.append(
            f"Intervals are missing for {', '.join(without)}; run Snakemake or workbench evaluate to add them."
        )
    return [" ".join(notes)] if notes else []


def _on_order(rows: Sequence[TableRow]) -> list[str]:
    """Compare the order of the measured rows with the published order, which may be compared across scales."""
    from scipy.stats import kendalltau

    pairs = [(mean(r, "AP"), r.published["AP"]) for r in rows if r.run and "AP" in r.published]
    pairs = [pair for pair in pairs if isinstance(pair[0], float)]
    tau = kendalltau(*zip(*pairs, strict=True)).statistic if len(pairs) > 2 else math.nan
    if math.isnan(tau):
        return []
    return [f"Kendall's tau-b between measured and published AP of {len(pairs)} rows: {tau:.2f} (1: the same order)."]


def _on_splits(rows: Sequence[TableRow]) -> list[str]:
    if not any(name.endswith(TEST_DEV) for r in rows for name in r.published):
        return []
    return [
        "The table has two splits. The paper's numbers are from the evaluation server on test-dev. Measured numbers, "
        "and the AP that the authors' repository states (AP published), are on val2017; only val2017 is subtracted."
    ]


def _on_rows_not_run(rows: Sequence[TableRow]) -> list[str]:
    runs = [r for r in rows if r.run]
    missing = [code(r.row) for r in runs if not r.measured]
    if missing and len(missing) == len(runs):
        return ["None of these rows was run."]
    verb = "was" if len(missing) == 1 else "were"
    return [f"{len(missing)} of {len(runs)} rows {verb} not run: {', '.join(missing)}."] if missing else []


def _on_mixed_code(rows: Sequence[TableRow]) -> list[str]:
    mixed = {part: digests for part, digests in code_parts(rows).items() if len(digests) > 1}
    if not mixed:
        return []
    listed = "; ".join(f"{part}: {', '.join(map(code, digests))}" for part, digests in mixed.items())
    return [
        f"**Warning:** these rows were trained by {max(map(len, mixed.values()))} versions of the training code "
        f"({listed}). Differences between rows may come from the code; "
        "the column code_digest of the CSV lists the versions of each row."
    ]
