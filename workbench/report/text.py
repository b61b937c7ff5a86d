"""Text of users (labels, class names, file names), made safe for the place where it is shown.

Such text may contain newlines, Markdown, HTML, formulas of spreadsheets, invisible or broken characters. Each function
returns text that is shown as written, in one line, and never interpreted.
"""

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path

LETTERS = 60  # largest number of letters of a label in a table or a legend

_JOINERS = "\u200c\u200d"  # invisible, but part of Persian and Indic words and of emoji
_MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"} | {c: f"\\{c}" for c in "\\`*[]{}|~"}
    # `$` begins a formula on GitHub, and `{{` a unit in great-tables
)
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is not emphasis
_BLOCK = re.compile(r"(#{1,6}|[-+]|-{2,}|=+|\d{1,9}[.)])(?=\s|$)")  # heading, list or rule at the start of a line
_FORMULA = re.compile(r"[\s']*[=+\-@＝＋－＠]|'*[\t\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-")  # or the dash of an empty cell


def visible(text: str | Path) -> str:
    r"""Return text with escapes such as ``\x07`` for control characters, invisible marks and half surrogate pairs."""
    return "".join(_escaped(c) if _is_invisible(c) else c for c in str(text))


def plain(text: object, most: int | None = None) -> str:
    """Return text in one line: blanks and newlines become one blank, and other invisible characters become escapes.

    Args:
        most: largest number of letters; a longer text loses its middle. None for no limit.
    """
    line = visible(" ".join(str(text).split()))
    return line if most is None else shortened(line, most)


def width(text: str) -> int:
    """Return the number of letters of a text. Wide letters (Chinese, Japanese, Korean) count twice."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shortened(text: str, most: int) -> str:
    """Return text with at most ``most`` letters, counted by `width`; an ellipsis replaces the middle of a longer text.

    The end is kept, because long names often differ there.
    """
    if width(text) <= most:
        return text
    tail = _cut(text[::-1], most // 3)[::-1]
    return _cut(text, most - 1 - width(tail)) + "…" + tail


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return a table as plain text: the first column is aligned to the left, and the other columns to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(row) for row in rows)


def wrapped(text: str, letters: int) -> str:
    """Return text broken into lines of at most ``letters`` letters, counted by `width`."""
    filler = "\x00"  # takes the place of the second half of a wide letter
    filled = "".join(c + filler * (width(c) - 1) for c in text)
    return "\n".join(line.replace(filler, "") for line in textwrap.wrap(filled, letters))


def markdown(text: object, most: int | None = None) -> str:
    """Return text for a cell or a heading in Markdown, or in HTML made from this Markdown; see `plain`."""
    line = _UNDERSCORE.sub(r"\\_", plain(text, most).translate(_MARKDOWN))
    if block := _BLOCK.match(line):
        line = f"{line[: block.end() - 1]}\\{line[block.end() - 1 :]}"
    return line


def code(name: str) -> str:
    """Return a name in Markdown: as code, unless it has letters that end the code or the cell."""
    return markdown(name) if re.search(r"[`|\\{]|[^ -~]", name) else f"`{name}`"


def csv_text(text: str) -> str:
    """Return text for a cell of a CSV that no spreadsheet reads as a formula; `original_text` is the inverse.

    An apostrophe precedes a text that begins like a formula, except numbers and the dash of an empty cell.
    """
    # The csv module quotes a newline, but not a carriage return. Half a surrogate pair and NUL cannot be written.
    text = "".join(c if c in "\t\n" else visible(c) for c in text.replace("\r\n", "\n").replace("\r", "\n"))
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def original_text(cell: str) -> str:
    """Return the text from which `csv_text` made a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def json_text(text: str | Path) -> str:
    r"""Return text that every reader of JSON accepts: bytes of a name that are not UTF-8 become ``\xff``."""
    return "".join(_escaped(c) if unicodedata.category(c) == "Cs" else c for c in str(text))


def _is_invisible(c: str) -> bool:
    kind = unicodedata.category(c)
    if kind in ("Cc", "Cs", "Zl", "Zp"):
        return True
    is_noncharacter = ord(c) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(c) <= 0xFDEF
    return is_noncharacter or (kind == "Cf" and c not in _JOINERS)


def _escaped(c: str) -> str:
    number = ord(c)
    if 0xDC80 <= number <= 0xDCFF:  # Python's form of a byte of a file name that is not UTF-8
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _cut(text: str, most: int) -> str:
    """Return the longest start of a text with at most ``most`` letters."""
    end = 0
    while end < len(text) and width(text[: end + 1]) <= most:
        end += 1
    return text[:end]
