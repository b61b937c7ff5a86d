"""Fill the measured tables and figures of README.md and docs/ from the CSV files in results/reference.

    python docs/fill_tables.py            # rewrite every block that is out of date
    python docs/fill_tables.py --check    # exit with 1 and name every block that is out of date

A block is the text between two comments of a Markdown file. Figures are copied from the CSV file digit by digit:

    <!-- table: table3 columns="model, VFL, AP, difference: gain, AP_published: published AP" best -->
    <!-- end -->
    the lowest AP is <!-- value: table2 AP min --> <!-- end --> and that of VFNet is
    (<!-- value: table3 AP row=t3_full_vfl --> <!-- end -->)

Options of a table:
    columns="a, b: heading"   columns of the CSV file with other headings where wanted. Further columns are
                              "published difference", the difference of the published AP of two rows, and "interval".
    where="column=value"      rows to show. Alternatives are separated by semicolons.
    by="a" across="b"         one line per value of a, one column per value of b and per entry of columns.
    best                      the highest AP and the highest published AP in bold.
Joined names, as in "ladder0_table3+ladder1_table3", are one table with a further column, "scale": ladder0 or ladder1.

A lead has the name of a Markdown file in results/reference. Its content is that file's text above the first table:

    <!-- lead: mini_claims -->
    <!-- end -->

A value is a column with ``row=ID``, ``min`` or ``max``; or ``count``, the number of rows; or ``tau``, Kendall's tau-b
between measured and published AP.
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import sys
from decimal import Decimal
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "results/README.md", "results/reference/README.md")
BLOCK = re.compile(r"<!-- (?P<kind>table|value|lead): (?P<options>.*?) -->(?P<content>.*?)<!-- end -->", re.DOTALL)
START = re.compile(r"<!-- *(table|value|lead)\b")
SIGNED = {"difference", "effect", "published", "published difference"}
NOTHING = "–"
NO_NUMBER = ("-", "", "not run")
"""Texts in place of a number in the CSV files."""

Row = dict[str, str]


class BlockError(Exception):
    """A mistake in a block's options."""


def main() -> None:
    """Fill or check all pages."""
    parser = argparse.ArgumentParser(description="Fill the tables of README.md and docs/ from results/reference.")
    parser.add_argument("--check", action="store_true", help="Change nothing; exit with 1 if a block is out of date.")
    check = parser.parse_args().check
    faults = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        filled, changed, mistakes = fill(text, ROOT / "results" / "reference")
        place = page.relative_to(ROOT)
        faults += [f"{place}: {mistake}" for mistake in mistakes]
        if check:
            faults += [f"{place}: {block} is out of date; run make docs" for block in changed]
        elif changed:
            page.write_text(filled, encoding="utf-8")
            print(f"{place}: {len(changed)} blocks filled")
    sys.exit("\n".join(faults) if faults else None)


def pages() -> list[Path]:
    """Markdown files that may have blocks."""
    return sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})


def fill(text: str, reference: Path) -> tuple[str, list[str], list[str]]:
    """Fill the blocks of a page.

    Args:
        text: the page.
        reference: folder of the CSV files.

    Returns:
        The filled page, the opening comments of blocks whose content changed, and a message for each mistake.
    """
    changed: list[str] = []
    mistakes: list[str] = []

    def filled(match: re.Match) -> str:
        kind, options = match["kind"], " ".join(match["options"].split())
        opening = f"<!-- {kind}: {match['options']} -->"
        try:
            content = block(kind, options, reference)
        except BlockError as error:
            mistakes.append(f"<!-- {kind}: {options} -->: {error}")
            return match[0]
        if content != match["content"]:
            changed.append(f"<!-- {kind}: {options} -->")
        return f"{opening}{content}<!-- end -->"

    result = BLOCK.sub(filled, text)
    if len(START.findall(text)) != len(BLOCK.findall(text)):
        mistakes.append("a block has no end or a wrong beginning; write <!-- table: … --> … <!-- end -->")
    if re.search(r"^<!-- *value\b", text, re.MULTILINE):  # Markdown takes such a line for HTML
        mistakes.append("a line begins with a value; begin it with a word")
    return result, changed, mistakes


def block(kind: str, options: str, reference: Path) -> str:
    """Content of a block; raises `BlockError` if the options contain a mistake."""
    try:
        name, *words = shlex.split(options)
    except ValueError as error:
        raise BlockError(f"{error}; check the quotation marks") from None
    named = dict(word.split("=", 1) for word in words if "=" in word)
    flags = [word for word in words if "=" not in word]
    if kind == "lead":
        return f"\n\n{lead(reference / f'{name}.md')}\n\n"
    allowed = {"table": {"columns", "where", "by", "across"}, "value": {"row", "where"}}[kind]
    if unknown := named.keys() - allowed:
        raise BlockError(f"unknown option {min(unknown)!r}; choose from {', '.join(sorted(allowed))}")
    every = joined(name.split("+"), reference)
    rows = [row for row in every if matches(row, named.get("where", ""))]
    if not rows:
        raise BlockError("no row matches; correct where=")
    if kind == "value":
        return value(rows, flags, named.get("row"))
    if "columns" not in named:
        raise BlockError("no columns; add columns=")
    columns = dict(map(heading, commas(named["columns"])))
    if "across" in named:
        lines = pivot(rows, every, commas(named.get("by", "")), named["across"], columns, "best" in flags)
    else:
        lines = plain(rows, every, columns, "best" in flags)
    return "\n\n" + "\n".join(lines) + "\n\n"


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV file."""
    if not path.is_file():
        raise BlockError(f"{path.name} is missing in results/reference; correct the name")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def joined(names: list[str], reference: Path) -> list[Row]:
    """Rows of one CSV file; or of several files, each with the text before ``_`` in the file's name as ``scale``."""
    if len(names) == 1:
        return read_rows(reference / f"{names[0]}.csv")
    return [{**row, "scale": name.split("_")[0]} for name in names for row in read_rows(reference / f"{name}.csv")]


def lead(path: Path) -> str:
    """Text of a Markdown page between its title and its next heading or table."""
    if not path.is_file():
        raise BlockError(f"{path.name} is missing in results/reference; correct the name")
    _, *paragraphs = path.read_text(encoding="utf-8").strip().split("\n\n")
    return "\n\n".join(takewhile(lambda text: not text.startswith(("#", "|")), paragraphs))


def matches(row: Row, where: str) -> bool:
    """Whether a row fulfils ``column=value; column=value``; several values of one column are alternatives."""
    wanted: dict[str, set[str]] = {}
    for part in filter(None, where.split(";")):
        column, _, text = part.strip().partition("=")
        wanted.setdefault(column, set()).add(text)
    return all(entry(row, column) in texts for column, texts in wanted.items())


def commas(text: str) -> list[str]:
    """Parts of a list that commas separate."""
    return [part.strip() for part in text.split(",") if part.strip()]


def heading(text: str) -> tuple[str, str]:
    """Column and its heading from ``column`` or ``column: heading``."""
    column, colon, title = (part.strip() for part in text.partition(":"))
    return column, title if colon else column


def entry(row: Row, column: str) -> str:
    """Text in a column of the CSV file."""
    if column not in row:
        raise BlockError(f"unknown column {column!r}; choose from {', '.join(row)}")
    return row[column]


def identifier(row: Row) -> str:
    """Row id or claim, the first column."""
    return next(iter(row.values()))


def signed(number: Decimal | str) -> str:
    """Number with its sign."""
    return f"{Decimal(number):+}".replace("-", "−")


def cell(row: Row, column: str, every: list[Row]) -> str:
    """Text of a table's cell.

    Args:
        row: the row that is shown.
        column: a column of the CSV file or a further one, see the top of this file.
        every: all rows of the file, among them the one that this row is compared with.
    """
    if column == "published difference":
        return published_difference(row, every)
    if column == "interval":
        low, high = entry(row, "low"), entry(row, "high")
        return NOTHING if low == "-" else f"{signed(low)} to {signed(high)}"
    text = entry(row, column)
    if text in NO_NUMBER:
        return text if text == "not run" else NOTHING
    if text in ("True", "False"):
        return "✓" if text == "True" else ""
    if column in ("row", "claim", "run"):
        return f"`{text}`"
    if column == "AP" and row.get("AP_std", "-") != "-":
        return f"{text} ± {row['AP_std']}"
    if column in SIGNED:
        interval = [row.get(f"{column}_{end}", "-") for end in ("low", "high")]
        return signed(text) + ("" if "-" in interval else f" [{', '.join(map(signed, interval))}]")
    return text


def published_difference(row: Row, every: list[Row]) -> str:
    """Published AP of a row minus the published AP of the row that it is compared with."""
    other = next((other for other in every if identifier(other) == row.get("compared_with")), None)
    if other is None:
        return NOTHING
    return signed(Decimal(entry(row, "AP_published")) - Decimal(entry(other, "AP_published")))


def value(rows: list[Row], flags: list[str], row_id: str | None) -> str:
    """Text of a value."""
    if not flags:
        raise BlockError("no column; name one")
    column, *choice = flags
    if column == "count":
        return str(len(rows))
    if column == "tau":
        from scipy.stats import kendalltau

        orders = ([float(entry(row, name)) for row in rows] for name in ("AP", "AP_published"))
        return f"{kendalltau(*orders).statistic:.2f}"
    if row_id is not None:
        rows = [row for row in rows if identifier(row) == row_id]
        if not rows:
            raise BlockError(f"unknown row {row_id!r}; correct it")
    texts = [entry(row, column) for row in rows]
    if choice in (["min"], ["max"]):
        text = {"min": min, "max": max}[choice[0]]([text for text in texts if text not in NO_NUMBER], key=Decimal)
    elif len(texts) == 1:
        text = texts[0]
    else:
        raise BlockError(f"{len(texts)} rows; add row=, min or max")
    return signed(text) if column in SIGNED else text


def plain(rows: list[Row], every: list[Row], columns: dict[str, str], best: bool) -> list[str]:
    """Lines of a table with one line per row."""
    body = []
    for row in rows:
        texts = {column: cell(row, column, every) for column in columns}
        body.append([bold(text) if best and is_best(row, c, rows) else text for c, text in texts.items()])
    return markdown(list(columns.values()), [alignment(column, rows) for column in columns], body)


def pivot(
    rows: list[Row], every: list[Row], by: list[str], across: str, columns: dict[str, str], best: bool
) -> list[str]:
    """Lines of a table with one line per value of ``by`` and one column per value of ``across``."""
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(tuple(entry(row, column) for column in by), {})[entry(row, across)] = row
    values = list(dict.fromkeys(entry(row, across) for row in rows))
    body = []
    for key, group in groups.items():
        line = list(key)
        for column in columns:
            for row in map(group.get, values):
                text = cell(row, column, every) if row else ""
                line.append(bold(text) if row and best and is_best(row, column, list(group.values())) else text)
        body.append(line)
    titles = [*by, *(f"{title} {text}".strip() for title in columns.values() for text in values)]
    return markdown(titles, [":--"] * len(by) + ["--:"] * (len(columns) * len(values)), body)


def is_best(row: Row, column: str, rows: list[Row]) -> bool:
    """Whether a row has the highest AP, measured or published, of some rows."""
    if column.split("_")[0] != "AP" or entry(row, column) in NO_NUMBER:
        return False
    return Decimal(row[column]) == max(Decimal(other[column]) for other in rows if other[column] not in NO_NUMBER)


def bold(text: str) -> str:
    """Bold text."""
    return f"**{text}**"


def alignment(column: str, rows: list[Row]) -> str:
    """Mark of a column's alignment: numbers to the right, check marks in the middle, text to the left."""
    texts = {row.get(column, "0") for row in rows} - {*NO_NUMBER}
    if texts <= {"True", "False"}:
        return ":-:"
    return "--:" if all(re.fullmatch(r"[-+]?[0-9.]+", text) for text in texts) else ":--"


def markdown(titles: list[str], alignments: list[str], body: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in [titles, alignments, *body]]


if __name__ == "__main__":
    main()
