"""Text of users: shown as it was written, in one line, and never interpreted."""

import csv
import html
import io
import re

import multimark
import pytest

from tests.report.odd_text import ODD_TEXTS
from workbench.report.text import code, csv_text, markdown, original_text, plain, shortened, visible, wrapped

odd = pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)


def rendered(markdown_text):
    """Text that a reader of GitHub's Markdown sees, and the tags around it."""
    page = multimark.markdown_to_html(markdown_text, unsafe=True, extensions=["table", "strikethrough"])
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split()), set(re.findall(r"<(\w+)", page))


@odd
def test_text_is_one_visible_line(text):
    line = plain(text)
    assert len(line.splitlines()) == 1
    assert line.isprintable() or "\u200d" in line
    line.encode()  # no half surrogates
    assert len(plain(text, 20)) <= 20
    assert len(visible(text).splitlines()) == 1


@odd
def test_markdown_shows_the_text(text):
    seen, tags = rendered(f"| a |\n|---|\n| {markdown(text)} |\n")
    assert seen == f"a {plain(text)}"
    assert tags == {"table", "thead", "tbody", "tr", "th", "td"}
    # A cell of a page is a document, in which headings and lists begin.
    assert rendered(markdown(text)) == (plain(text), {"p"})
    assert rendered(f"## {markdown(text)}") == (plain(text), {"h2"})
    assert "$" not in markdown(text)  # GitHub's formulas
    assert "{{" not in markdown(text)  # great-tables' units


@odd
def test_a_name_is_code_only_if_that_shows_it(text):
    assert rendered(code(text))[0] == plain(text)
    assert code("t3_full_vfl") == "`t3_full_vfl`"


@odd
def test_no_cell_of_a_csv_is_a_formula(text):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([csv_text(text)])
    cell = next(csv.reader(io.StringIO(file.getvalue(), newline="")))[0]
    assert not re.match(r"\s*[=+\-@＝]", cell)
    assert not cell.startswith(("\t", "\n", "\r"))
    cell.encode()
    if text.replace("\n", "").replace("\t", "").isprintable():
        assert original_text(cell) == text


@pytest.mark.parametrize("text", ["-0.3", "+1", "-1e-5", "-", "12", ".5", "VFNet", "'quoted'", "R-50", "480-960"])
def test_numbers_and_words_stay_in_a_csv(text):
    assert csv_text(text) == text == original_text(text)


@pytest.mark.parametrize("text", ["=1", "'=1", "''=1", "-a", "'-", "'", "''", "'-0.3", "\t", "\n=", "'\n"])
def test_the_apostrophe_is_reversible(text):
    assert original_text(csv_text(text)) == text


@pytest.mark.parametrize("text", ["raw VFNet + FL", "FCOS+ATSS", "w/ctr", "480-960", "0.5", "AP_x y", "R2-101 (DCN)!"])
def test_ordinary_labels_stay_as_they_are(text):
    assert markdown(text) == text


def test_a_long_text_keeps_its_start_and_its_end():
    assert shortened("a" * 50 + "b" * 50, 10) == "aaaaaa…bbb"
    assert shortened("中" * 20, 11) == "中中中中…中"
    assert shortened("abc", 3) == "abc"


def test_lines_of_wide_letters_are_half_as_long():
    assert wrapped("中国" * 3, 4) == "中国\n中国\n中国"
    assert wrapped("one two three", 8) == "one two\nthree"
