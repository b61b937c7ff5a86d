"""Text of any script in figures and drawings: with a font that has it, else as an escape, and never a box."""

import subprocess
import sys
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from tests.report.odd_text import ODD_TEXTS
from workbench.report.figures import fonts
from workbench.report.figures.detections import draw_detections
from workbench.report.figures.fonts import Pen, drawable, legend_names
from workbench.report.figures.style import STYLE, write_figure

odd = pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
CACHES = [f for f in vars(fonts).values() if hasattr(f, "cache_clear")]


@pytest.fixture
def chinese_font(tmp_path, monkeypatch):
    """Installed font with one letter, U+4E2D, drawn as a full square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(point)
    pen.closePath()
    glyphs = {".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()}
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({0x4E2D: "square"})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (1000, 0) for name in glyphs})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Test Hei", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "hei.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(tmp_path / "hei.ttf")
    for cache in CACHES:
        cache.cache_clear()
    yield "中"
    for cache in CACHES:
        cache.cache_clear()


def ink(text):
    """Share of dark pixels in the box of a text."""
    image = Image.new("L", (400, 60), 255)
    pen = Pen(ImageDraw.Draw(image), 40)
    pen.write(0, 0, text, "black")
    return (np.asarray(image)[:, : int(pen.length(text))] < 128).mean()


def test_a_font_that_has_the_letters_is_used(chinese_font, tmp_path):
    assert drawable("中国 猫") == "中\\u56fd \\u732b"
    assert ink("中") > 0.6
    figure = Figure()
    text = figure.text(0.1, 0.5, drawable("Кошка 中"))
    with warnings.catch_warnings(action="error"), mpl.rc_context(STYLE):
        write_figure(figure, tmp_path / "a.png", tmp_path / "a.pdf")
    assert text.get_fontfamily() == ["DejaVu Sans", "Test Hei"]


def test_without_such_a_font_the_text_is_readable():
    assert drawable("Кошка ü ש") == "Кошка ü ש"
    assert drawable("\ue000x") == "\\ue000x"
    assert len(drawable("\ue000" * 100, 60)) <= 60


def test_a_font_that_draws_boxes_is_never_used():
    assert not any("Resort" in fonts._families()[font] for font in fonts._others())
    assert fonts._font_of("\ufdd0") is None


@odd
def test_odd_text_is_drawn_on_pictures(text):
    image = Image.new("RGB", (700, 100), (90, 90, 90))
    drawn = np.asarray(draw_detections(image, [[5, 40, 690, 90]], [0.9], [0], [text]))
    assert (drawn[:38] != 90).any()
    for letter in drawable(text):
        assert fonts._font_of(letter), f"{letter!r} has no font"


def test_odd_text_is_drawn_in_figures(tmp_path):
    with warnings.catch_warnings(action="error"), mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 10))
        shown = [figure.text(0.01, n / 50, drawable(text)) for n, text in enumerate(ODD_TEXTS.values())]
        titles = [figure.text(0.5, text.get_position()[1], text.get_text(), weight="bold") for text in shown]
        write_figure(figure, tmp_path / "a.png", tmp_path / "a.pdf")
    assert all(text.get_window_extent().width < figure.bbox.width for text in shown)
    assert not any(text.get_parse_math() for text in titles)


def test_names_of_a_legend_are_all_different_and_none_is_hidden():
    long = ["a" * 50 + end + "b" * 50 for end in "xy"]
    names = legend_names(["_x", *long, "same", "same\n", ""])
    assert len(set(names)) == 6
    assert not any(name.startswith("_") for name in names)
    assert names[3:] == ["same", "same (2)", "–"]


def test_a_font_that_is_gone_is_passed_over(chinese_font, tmp_path):
    (tmp_path / "hei.ttf").write_bytes(b"no font")
    assert drawable("中") == "\\u4e2d"


def test_the_fonts_are_read_only_if_they_are_needed():
    """Text in European letters starts no search through all fonts of a machine."""
    program = (
        "from workbench.report.figures import fonts\n"
        "print(fonts.drawable('VFNet Grüße Кошка'), fonts._others.cache_info().currsize)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.split()[-1] == "0"
