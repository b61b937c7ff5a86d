"""Fonts for text in any script: matplotlib's DejaVu Sans, and installed fonts for letters that it does not have.

A letter that no font has is drawn as an escape such as ``\\u4e2d``, never as an empty box.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import ImageDraw, ImageFont

from workbench.report.text import LETTERS, plain, shortened

BASE = "DejaVu Sans"  # part of matplotlib
NO_LETTERS = re.compile(r"last ?resort|blank|^cm|^STIX(NonUni|Size)|emoji|symbol|dingbats", re.IGNORECASE)
"""Names of families that draw boxes, nothing, other signs or only coloured signs in the place of letters."""

Font = tuple[str, int]  # file, and number of the font in the file


def drawable(text: object, most: int = LETTERS) -> str:
    """Return text in one line that the fonts of this machine can draw.

    Args:
        most: most letters; a longer text loses its middle.
    """
    drawn = "".join(c if _font_of(c) else _fallback(c) for c in plain(text, most))
    return shortened(drawn, most)  # an escape is longer than its letter


def legend_names(names: Iterable[str], most: int = LETTERS) -> list[str]:
    """Return names that a figure can draw, all different: a number is added where shortened names are equal."""
    shown, count = [], Counter[str]()
    for name in names:
        text = drawable(name, most) or "–"
        text = f" {text}" if text.startswith("_") else text  # matplotlib leaves "_name" out of a legend
        count[text] += 1
        shown.append(text if count[text] == 1 else f"{text} ({count[text]})")
    return shown


def set_fonts(figure: Figure) -> None:
    """Set further fonts for all texts of a figure if a text has letters that DejaVu Sans lacks."""
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    for axes in figure.axes:
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    families = {_families()[font] for text in texts for c in text.get_text() if (font := _font_of(c))}
    if others := sorted(families - {BASE}):
        for text in texts:
            text.set_fontfamily([BASE, *others])


class Pen:
    """Pen that writes text of any script on an image of Pillow, in one size.

    Attributes:
        height: height of a line in pixels.
    """

    def __init__(self, draw: ImageDraw.ImageDraw, size: int) -> None:
        self.draw, self.size = draw, size
        self.ascent, descent = _pillow_font(_base(), size).getmetrics()
        self.height = self.ascent + descent

    def length(self, text: str) -> float:
        """Return the length of a text in pixels."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def write(self, left: float, top: float, text: str, colour: str) -> None:
        """Write a text that `drawable` returned."""
        for font, part in self._parts(text):
            self.draw.text((left, top + self.ascent), part, fill=colour, font=font, anchor="ls")
            left += font.getlength(part)

    def _parts(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        parts = groupby(text, lambda c: _font_of(c) or _base())
        return [(_pillow_font(font, self.size), "".join(letters)) for font, letters in parts]


def _fallback(c: str) -> str:
    if unicodedata.category(c) in ("Mn", "Cf"):  # the word is readable without this accent or joiner
        return ""
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"


@functools.cache
def _font_of(c: str) -> Font | None:
    """Return the first font that has a letter; None if no font has it."""
    if c in _base_letters():
        return _base()
    return next((font for font in _others() if ord(c) in _letters(font)), None)


@functools.cache
def _base() -> Font:
    return _file(font_manager.findfont(BASE))


@functools.cache
def _base_letters() -> frozenset[str]:
    """Return the letters that DejaVu Sans has both regular and bold, because titles are bold."""
    bold = _letters(_file(font_manager.findfont(f"{BASE}:bold")))
    return frozenset(map(chr, _letters(_base()) & bold))


def _file(font: object) -> Font:
    return str(font), getattr(font, "face_index", 0)


@functools.cache
def _families() -> dict[Font, str]:
    return {_entry(entry): entry.name for entry in font_manager.fontManager.ttflist} | {_base(): BASE}


@functools.cache
def _others() -> Sequence[Font]:
    """Return the installed fonts in the order in which they are tried: upright and regular ones first."""
    entries = [e for e in font_manager.fontManager.ttflist if not NO_LETTERS.search(e.name)]
    entries.sort(key=lambda e: (e.style != "normal", abs(_weight(e.weight) - 400), e.name, _entry(e)))
    return [_entry(entry) for entry in entries]


def _entry(entry: font_manager.FontEntry) -> Font:
    return entry.fname, getattr(entry, "index", 0)  # before matplotlib 3.11: the first font of each file


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else font_manager.weight_dict.get(weight, 400)


@functools.cache
def _letters(font: Font) -> frozenset[int]:
    try:
        face = FT2Font(font[0], face_index=font[1]) if font[1] else FT2Font(font[0])
        return frozenset(face.get_charmap()) if face.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):  # removed since matplotlib listed it, or damaged
        return frozenset()


@functools.cache
def _pillow_font(font: Font, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font[0], size, index=font[1])
