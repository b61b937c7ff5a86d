"""A table for readers: in GitHub's Markdown, and as a page of HTML, drawn by great-tables, for the report.

The same table gives the same bytes, and the page needs nothing but itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STYLE = "td.gt_right, td.gt_center { white-space: nowrap; }"
"""Numbers stay in one line with their intervals; text may break."""


@dataclass(frozen=True)
class Shown:
    """A table for readers, its cells in Markdown.

    Attributes:
        headings: of the columns.
        lines: one a row, as many cells as there are columns.
        alignment: "left", "right" or "centre", of each column.
        notes: paragraphs below the table.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    alignment: Sequence[str]
    notes: Sequence[str]


def markdown_table(shown: Shown) -> str:
    """GitHub's Markdown, its columns aligned as text too."""
    texts = [shown.headings, *shown.lines]
    widths = [max(3, *(len(line[i]) for line in texts)) for i in range(len(shown.headings))]
    pads = {"left": str.ljust, "centre": str.center, "right": str.rjust}
    rows = [
        [pads[a](text, width) for text, width, a in zip(line, widths, shown.alignment, strict=True)] for line in texts
    ]
    ends = {"left": ("-", "-"), "centre": (":", ":"), "right": ("-", ":")}
    rule = [ends[a][0] + "-" * (width - 2) + ends[a][1] for width, a in zip(widths, shown.alignment, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [rows[0], rule, *rows[1:]])


def page(title: str, shown: Shown) -> str:
    """The page; columns in which no row says anything are left out."""
    import pandas as pd
    from great_tables import GT, md

    said = [i for i in range(len(shown.headings)) if any(line[i] not in ("", "–") for line in shown.lines)]
    names = [f"column{i}" for i in said]  # great-tables wants each name once
    frame = pd.DataFrame([[line[i] for i in said] for line in shown.lines], columns=names)
    table = (
        GT(frame, id="table")
        .tab_header(title=title)
        .fmt_markdown(columns=names)
        .cols_label({name: shown.headings[i] for name, i in zip(names, said, strict=True)})
        .tab_options(table_font_size="13px", data_row_padding="3px", heading_align="left")
    )
    for name, i in zip(names, said, strict=True):
        table = table.cols_align("center" if shown.alignment[i] == "centre" else shown.alignment[i], columns=[name])
    for note in shown.notes:
        table = table.tab_source_note(md(note))
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    head += f"<title>{_plain(title)}</title><style>{STYLE}</style></head><body>\n"
    return f"{head}{table.as_raw_html()}\n</body></html>\n"


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
