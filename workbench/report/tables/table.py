"""A table of results, measured beside published: its rows to a pandas frame, to CSV and to Markdown."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.report.page import Shown, markdown_table
from workbench.report.tables.cells import (
    AP_LIMITS,
    COMPARED,
    DIFFERENCE,
    MEASURED,
    NOTHING,
    TEST_DEV,
    TableRow,
    code_digests,
    has_interval,
    label_names,
    mean,
    references,
    table_cells,
)
from workbench.support.files import write_text_atomically

if TYPE_CHECKING:
    import pandas as pd

OTHER_IMAGES = (
    "These are not COCO's images: compare how rows lie to each other here and there, not a measured figure with a "
    "published one."
)
BEST = ("AP", "AP_published", f"AP_{TEST_DEV}_published")  # columns whose best is bold


def table_frame(rows: Sequence[TableRow]) -> "pd.DataFrame":
    """The table as a frame, numbers as numbers and words where there is none; see `table_cells` for the columns."""
    import pandas as pd

    return pd.DataFrame(table_cells(rows), dtype=object)


def write_table(title: str, rows: Sequence[TableRow], csv: Path, markdown: Path, on_coco: bool = True) -> None:
    """Write the table to a CSV and a Markdown file, each of them whole or not at all; see `shown`.

    Raises WorkbenchError where a file cannot be written, or where there are no rows.
    """
    write_text_atomically(csv, _table_csv(rows))
    write_text_atomically(markdown, table_markdown(title, rows, on_coco))


def table_markdown(title: str, rows: Sequence[TableRow], on_coco: bool = True) -> str:
    """The table in GitHub's Markdown, aligned as text too: a heading, the table, and what a reader must know of it.

    The best measured and the best published AP are bold.
    """
    said = shown(rows, on_coco)
    return "\n\n".join([f"## {title}", markdown_table(said), *said.notes]) + "\n"


def shown(rows: Sequence[TableRow], on_coco: bool = True) -> Shown:
    """What readers see of a table, the same in Markdown and on a page.

    Args:
        on_coco: measured on the images of the published figures. On others the difference to them means nothing: it is
            left out, and said.
    """
    cells = table_cells(rows)
    labels = label_names(rows)
    best = {column: _best(line.get(column) for line in cells) for column in BEST}
    hidden = _hidden(rows) | (set() if on_coco else {"AP_difference"})
    columns = [column for column in cells[0] if column not in hidden]
    return Shown(
        headings=[_heading(column) for column in columns],
        lines=[[_markdown_cell(column, line, best) for column in columns] for line in cells],
        alignment=[_alignment(column, [line[column] for line in cells], column in labels) for column in columns],
        notes=_footnotes(rows, on_coco),
    )


def _table_csv(rows: Sequence[TableRow]) -> str:
    """CSV with a header, `\\n` at the end of lines; measured figures with two decimals, the rest as they are."""
    cells = table_cells(rows)
    two_decimals = {*MEASURED, "AP_std", *AP_LIMITS, *DIFFERENCE, "AP_difference"}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(cells[0])
    for line in cells:
        writer.writerow([f"{v:.2f}" if c in two_decimals and isinstance(v, float) else str(v) for c, v in line.items()])
    return text.getvalue()


def _hidden(rows: Sequence[TableRow]) -> set[str]:
    """Columns of the CSV that Markdown does without, or shows within another one."""
    one = {COMPARED} if len(references(rows)) < 2 else set()
    return {"AP_std", *AP_LIMITS, *DIFFERENCE[1:], "code_digest", *one}


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
        code = column in ("row", "run", COMPARED) and value not in ("literature", NOTHING)
        return f"`{text}`" if code else "–" if text == NOTHING else text
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
    """Brackets behind a figure, as in " [36.1, 39.6]"; nothing where there is no interval."""
    low, high = (line[name] for name in names)
    return f" [{low:{form}}, {high:{form}}]" if isinstance(low, float) and isinstance(high, float) else ""


def _alignment(column: str, values: list[Any], is_label: bool) -> str:
    """Text to the left, check marks in the middle, numbers (and the words in their place) to the right."""
    if column in ("row", "run", "seeds", "note", COMPARED):
        return "left"
    if not is_label:
        return "right"
    values = [v for v in values if v != NOTHING]
    if all(isinstance(v, bool) for v in values):
        return "centre"
    return "right" if all(isinstance(v, int | float) for v in values) else "left"


def _footnotes(rows: Sequence[TableRow], on_coco: bool) -> list[str]:
    """What holds at every scale: unit, seeds, intervals; then splits, rows not run, mixed versions of the code."""
    counts = {len(r.measured) for r in rows if r.measured}
    unit = "Metrics are COCO's, ×100, the best AP in bold"
    if counts == {1}:
        unit += "; each measured row is a single seed"
    elif counts:
        unit += "; measured figures are means over the seeds, ± the sample standard deviation of AP over them"
    images = [] if on_coco or not any(r.published for r in rows) else [OTHER_IMAGES]
    others = [*_on_splits(rows), *_on_rows_not_run(rows), *_on_mixed_code(rows)]
    return [f"{unit}.", *images, *_on_intervals(rows), *_on_order(rows), *others]


def _on_intervals(rows: Sequence[TableRow]) -> list[str]:
    measured, compared = [r for r in rows if r.measured], references(rows)
    over = "images and seeds" if any(len(r.measured) > 1 for r in measured) else "images"
    text = (
        f"In brackets are 95 % intervals over {over}; AP's is that of endless images, of which AP is lower than of few."
    )
    notes = [text] if any(map(has_interval, measured)) else []
    if measured and compared:
        other = f"`{compared[0]}`" if len(compared) == 1 else "the row that it is compared with"
        notes.append(f"The difference is that of measured AP to {other}, on the same images.")
    without = [f"`{r.row}`" for r in measured if not has_interval(r)]
    if without:
        notes.append(f"Snakemake, or workbench evaluate, adds the intervals that are missing: {', '.join(without)}.")
    return [" ".join(notes)] if notes else []


def _on_order(rows: Sequence[TableRow]) -> list[str]:
    """Do the measured rows lie in the published order? That is what may be compared across scales."""
    from workbench.evaluation.correlation import kendall

    pairs = [(mean(r, "AP"), r.published["AP"]) for r in rows if r.run and "AP" in r.published]
    pairs = [pair for pair in pairs if isinstance(pair[0], float)]
    tau = kendall(*zip(*pairs, strict=True)) if len(pairs) > 2 else math.nan
    if math.isnan(tau):
        return []
    return [f"Kendall's tau-b between measured and published AP, {len(pairs)} rows: {tau:.2f} (1: the same order)."]


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
    digests = code_digests(rows)
    if len(digests) < 2:
        return []
    return [
        f"**Warning:** these rows were trained by {len(digests)} versions of the training code "
        f"({', '.join(f'`{d}`' for d in digests)}), so that their differences may come from the code; "
        "the CSV says which row has which."
    ]
