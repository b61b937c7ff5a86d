"""Labels with any text: shown in Markdown and on the page as they were written, and read back from the CSV."""

import csv
import re
from html.parser import HTMLParser

import multimark
import pytest

from tests.report.odd_text import ODD_TEXTS
from workbench.report.page import page
from workbench.report.tables.cells import TableRow, told_apart
from workbench.report.tables.read import read_table_file
from workbench.report.tables.render import table_markdown, table_view, write_table
from workbench.report.text import plain

odd = pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)


def measured(ap):
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APS", "APM", "APL"), ap)
    return (metrics | {"provenance": {"seed": 0, "code_digest": "c0de"}},)


def rows(text):
    """A row whose label has the text, and a row with the text in its note and in the name of a label."""
    return [
        TableRow("a", {"name": text, "gamma": -0.3}, {"AP": 39.0}, "run-1", "", measured(0.3)),
        TableRow("b", {"name": "plain", f"x{text}": 2}, {"AP": 41.0}, "run-2", text, measured(0.4)),
    ]


class Cells(HTMLParser):
    """Text of the cells of a page, and all tags."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.tags, self.inside = [], set(), False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.inside = tag in ("td", "th") or (self.inside and tag not in ("tr", "table"))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data

    @property
    def texts(self):
        return [" ".join(cell.split()) for cell in self.cells]


@odd
def test_markdown_shows_the_label(text):
    markdown = table_markdown(f"Title {text}", rows(text))
    shown = Cells(multimark.markdown_to_html(markdown, unsafe=True, extensions=["table", "strikethrough"]))
    assert not shown.tags & {"script", "b", "a", "img", "em", "del", "blockquote"}
    count = len(shown.texts) // 3
    heading, first, second = (shown.texts[n * count :][:count] for n in range(3))
    assert heading[:4] == ["row", "name", "gamma", plain(f"x{text}".replace("_", " "), 60)]
    assert (first[1], first[2]) == (plain(text, 60), "-0.3")
    assert (second[1], second[3]) == ("plain", "2")
    assert plain(text) in second


@odd
def test_the_page_shows_the_label(text):
    shown = Cells(page(f"Title {text}", table_view(rows(text))))
    assert not shown.tags & {"script", "b", "a", "img", "h1", "ul", "ol", "li", "hr", "pre", "blockquote", "del"}
    for cell in (f"Title {text}", text):
        assert plain(cell) in shown.texts
    assert plain(text, 60) in shown.texts
    assert plain(f"x{text}".replace("_", " "), 60) in shown.texts


@odd
def test_the_csv_is_no_formula_and_gives_the_label_back(text, tmp_path):
    write_table("T", rows(text), tmp_path / "t.csv", tmp_path / "t.md")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [c for c in cells if re.match(r"\s*[=+@＝\t]|\s*-(?![\d.]+$|$)", c)]
    assert "-0.3" in cells
    table = read_table_file(tmp_path / "t.csv")
    assert len(table) == 2
    if text.replace("\n", "").replace("\t", "").isprintable():
        assert table["name"].iloc[0] == table["note"].iloc[1] == text
        assert f"x{text}" in table.columns


def test_rows_with_equal_labels_have_different_names(tmp_path):
    """Equal labels, no labels, and a label that is the name which another row would get."""
    labels = [{"m": "x"}, {"m": "x"}, {"m": None}, {"m": None}, {"m": "x (b)"}, {"m": "y"}]
    equal = [TableRow(row, label, {}, f"run-{row}") for row, label in zip("abcdef", labels, strict=True)]
    write_table("T", equal, tmp_path / "t.csv", tmp_path / "t.md")
    names = list(read_table_file(tmp_path / "t.csv").index)
    assert names[:4] == ["x (a)", "x (b)", "c", "d"]
    assert len(set(names)) == 6


def test_a_name_of_one_row_stays_as_it_is():
    assert told_apart(["x", "y", ""], ["a", "b", "c"]) == ["x", "y", "c"]
    assert told_apart([], []) == []
