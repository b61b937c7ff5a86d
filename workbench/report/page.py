"""Table for readers: in GitHub's Markdown, and as an HTML page of the report, drawn by great-tables.

The same table gives the same bytes. The page loads no other file.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.report.text import LETTERS, markdown, plain

STYLE = "td.gt_right, td.gt_center { white-space: nowrap; }"
"""CSS that keeps a number and its interval on one line; text may break."""


@dataclass(frozen=True)
class TableView:
    """Table as readers see it. The cells are Markdown; `report.text.markdown` converts text of users.

    Attributes:
        headings: headings of the columns, plain text.
        lines: one entry per row, with one cell per column.
        alignment: "left", "right" or "centre" for each column.
        notes: paragraphs below the table.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    alignment: Sequence[str]
    notes: Sequence[str]


def markdown_table(view: TableView) -> str:
    """Return the table in GitHub's Markdown. The columns are aligned in the source text, too."""
    texts = [[markdown(heading, LETTERS) for heading in view.headings], *view.lines]
    widths = [max(3, *(len(line[i]) for line in texts)) for i in range(len(view.headings))]
    pads = {"left": str.ljust, "centre": str.center, "right": str.rjust}
    rows = [
        [pads[a](text, width) for text, width, a in zip(line, widths, view.alignment, strict=True)] for line in texts
    ]
    ends = {"left": ("-", "-"), "centre": (":", ":"), "right": ("-", ":")}
    rule = [ends[a][0] + "-" * (width - 2) + ends[a][1] for width, a in zip(widths, view.alignment, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [rows[0], rule, *rows[1:]])


def page(title: str, view: TableView) -> str:
    """Return the HTML page. A column that is empty in all rows is left out.

    Args:
        title: plain text.
    """
    import pandas as pd
    from great_tables import GT, md

    filled = [i for i in range(len(view.headings)) if any(line[i] not in ("", "–") for line in view.lines)]
    names = [f"column{i}" for i in filled]  # great-tables needs unique names; headings may be equal
    frame = pd.DataFrame([[line[i] for i in filled] for line in view.lines], columns=names)
    table = (
        GT(frame, id="table")
        .tab_header(title=plain(title))
        .fmt_markdown(columns=names)
        .cols_label({name: md(markdown(view.headings[i], LETTERS)) for name, i in zip(names, filled, strict=True)})
        .tab_options(table_font_size="13px", data_row_padding="3px", heading_align="left")
    )
    for name, i in zip(names, filled, strict=True):
        table = table.cols_align("center" if view.alignment[i] == "centre" else view.alignment[i], columns=[name])
    for note in view.notes:
        table = table.tab_source_note(md(note))
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    head += f"<title>{html.escape(plain(title), quote=False)}</title><style>{STYLE}</style></head><body>\n"
    return f"{head}{table.as_raw_html()}\n</body></html>\n"
