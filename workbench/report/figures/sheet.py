"""Contact sheet: many pictures on one image, each with a caption."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

from workbench.report.figures.fonts import Pen, drawable
from workbench.report.text import shortened

COLUMNS = 4
SIDE, GAP, LETTER = 480, 12, 15
"""Longest side of a picture, gap between pictures, and size of the letters, in pixels."""


def contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Return an RGB image with at least one picture, in rows of four, each with a longer side of 480 pixels.

    Args:
        captions: line below each picture, plain text; a long line loses its middle.
    """
    cells = [
        (ImageOps.contain(picture.convert("RGB"), (SIDE, SIDE)), text)
        for picture, text in zip(pictures, captions, strict=True)
    ]
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    below = Pen(ImageDraw.Draw(cells[0][0]), LETTER).height + GAP
    heights = [max(cell.height for cell, _ in row) + below for row in rows]
    columns = min(COLUMNS, len(cells))
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    pen, top = Pen(draw, LETTER), GAP
    for row, height in zip(rows, heights, strict=True):
        for column, (cell, caption) in enumerate(row):
            left = GAP + column * (SIDE + GAP)
            sheet.paste(cell, (left, top))
            pen.write(left, top + cell.height + 2, _fitted(pen, caption), "black")
        top += height
    return sheet


def _fitted(pen: Pen, caption: str) -> str:
    """Return a caption that is at most as wide as a picture."""
    text, letters = drawable(caption), 60
    while letters > 2 and pen.length(text) > SIDE:
        letters -= 1
        text = shortened(text, letters)
    return text
