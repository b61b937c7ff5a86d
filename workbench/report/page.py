"""Tables and pictures for readers: in GitHub's Markdown, and as an HTML page. great-tables draws the tables.

The same content gives the same bytes. The page loads no other file.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench.report.text import LETTERS, markdown, plain

STYLE = """td.gt_right, td.gt_center { white-space: nowrap; }
h1, p, li, summary { font-family: sans-serif; font-size: 13px; }
h1 { font-size: 18px; }
summary { cursor: pointer; }
.sections { max-width: 1200px; }
.sections .gt_table { width: 100% !important; }
.sections td.gt_left:last-child { white-space: nowrap; }
h2 { font-family: sans-serif; font-size: 16px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 16px; }
figure { margin: 0; }
figure img { max-width: 100%; max-height: 640px; }
figcaption { font-family: sans-serif; font-size: 13px; overflow-wrap: anywhere; }"""
"""CSS that keeps a number and its interval on one line; text may break. Tables of one page have equal widths."""


@dataclass(frozen=True)
class TableView:
    """Table as readers see it. The cells are Markdown; `report.text.markdown` converts text of users.

    Attributes:
        headings: headings of the columns, plain text.
        lines: one entry per row, with one cell per column.
        alignment: "left", "right" or "centre" for each column.
        notes: paragraphs below the table.
        colours: number of a line → colour behind its last cell, in HTML.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    alignment: Sequence[str]
    notes: Sequence[str]
    colours: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Photograph:
    """Picture on a page.

    Attributes:
        jpeg: content of the JPEG file, which becomes part of the page.
        description: plain text in place of the picture, for readers who cannot see it.
        caption: line below the picture, plain text.
    """

    jpeg: bytes
    description: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures on a page, with a heading in plain text and a paragraph in Markdown."""

    heading: str
    note: str
    pictures: Sequence[Photograph]


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
    return _document(title, _table(title, view, "table"))


def sectioned_page(
    title: str,
    lead: Sequence[str],
    sections: Mapping[str, TableView],
    notes: Sequence[str],
    folded: Mapping[str, TableView],
    gallery: Gallery | None = None,
) -> str:
    """Return an HTML page of several tables, and of pictures; see `page`.

    Args:
        title: plain text.
        lead: paragraphs above the tables, in Markdown.
        sections: heading of each table, plain text → table.
        notes: paragraphs below the tables, in Markdown.
        folded: line of plain text → table that a reader opens by a click on the line.
        gallery: pictures at the end of the page.
    """
    body = ['<div class="sections">', f"<h1>{_escaped(title)}</h1>", *map(_note, lead)]
    body += [_table(heading, view, f"table{n}") for n, (heading, view) in enumerate(sections.items())]
    body += [_note(note) for note in notes]
    for n, (line, view) in enumerate(folded.items()):
        table = _table(line, view, f"folded{n}")
        body.append(f"<details><summary>{_escaped(line)}</summary>\n{table}\n</details>")
    if gallery:
        body += [f"<h2>{_escaped(gallery.heading)}</h2>", _note(gallery.note)]
        body += ['<div class="pictures">', *map(_figure, gallery.pictures), "</div>"]
    return _document(title, "\n".join([*body, "</div>"]))


def _table(title: str, view: TableView, name: str) -> str:
    """Return the HTML of a table that great-tables draws. ``name`` is unique on the page."""
    import pandas as pd
    from great_tables import GT, loc, md, style

    filled = [i for i in range(len(view.headings)) if any(line[i] not in ("", "–") for line in view.lines)]
    names = [f"column{i}" for i in filled]  # great-tables needs unique names; headings may be equal
    frame = pd.DataFrame([[line[i] for i in filled] for line in view.lines], columns=names)
    table = (
        GT(frame, id=name)
        .tab_header(title=plain(title))
        .fmt_markdown(columns=names)
        .cols_label({name: md(markdown(view.headings[i], LETTERS)) for name, i in zip(names, filled, strict=True)})
        .tab_options(table_font_size="13px", data_row_padding="3px", heading_align="left")
    )
    for column, i in zip(names, filled, strict=True):
        table = table.cols_align("center" if view.alignment[i] == "centre" else view.alignment[i], columns=[column])
    for line, colour in view.colours.items():
        table = table.tab_style(style.fill(colour), loc.body(columns=names[-1], rows=[line]))
    for note in view.notes:
        table = table.tab_source_note(md(note))
    return table.as_raw_html()


def _note(text: str) -> str:
    from great_tables import md

    content = md(text).to_html()
    return content if content.startswith("<p>") else f"<p>{content}</p>"  # several blocks are paragraphs already


def _figure(picture: Photograph) -> str:
    source = f"data:image/jpeg;base64,{b64encode(picture.jpeg).decode()}"
    image = f'<img src="{source}" alt="{html.escape(plain(picture.description))}">'
    return f"<figure>{image}<figcaption>{_escaped(picture.caption)}</figcaption></figure>"


def _document(title: str, body: str) -> str:
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    head += f"<title>{_escaped(title)}</title><style>{STYLE}</style></head><body>\n"
    return f"{head}{body}\n</body></html>\n"


def _escaped(text: str) -> str:
    return html.escape(plain(text), quote=False)
