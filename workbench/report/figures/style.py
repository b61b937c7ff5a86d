"""Common style of all figures, and their files: PNG for the screen, vector PDF for print.

Lines differ in colour, and also in dashes and markers, so that a black-and-white print is readable. The same figure
gives the same bytes: the files contain no date.
"""

import io
from pathlib import Path

from matplotlib.figure import Figure

from workbench.report.figures.fonts import set_fonts
from workbench.support.files import write_bytes_atomically

WIDTH = 7.0  # inches: the text width of a page
DOTS = 200  # dots per inch of a PNG
TITLE_LETTERS = 66  # most letters of a title above all panels

# Okabe & Ito, "Color Universal Design" (2008), without the yellow, which is hard to see on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))

STYLE = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,
    # Dollars and backslashes in a label are plain text, not formulas.
    "text.parse_math": False,
    "text.usetex": False,
}


def write_figure(figure: Figure, out_png: Path, out_pdf: Path) -> None:
    """Write a figure as PNG with 200 dots per inch and as vector PDF. Each file is written completely or not at all."""
    set_fonts(figure)
    for path, options in (
        (out_png, {"format": "png", "dpi": DOTS, "metadata": {"Software": None}}),
        (out_pdf, {"format": "pdf", "dpi": DOTS, "metadata": {"CreationDate": None}}),
    ):
        content = io.BytesIO()
        figure.savefig(content, **options)
        write_bytes_atomically(path, content.getvalue())
