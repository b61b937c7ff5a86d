"""Figures that a notebook shows: in the common style, with the same bytes each time.

They are drawn without pyplot, so that neither the state nor the back end of the notebook changes them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import matplotlib as mpl
from matplotlib.figure import Figure

from workbench.report.figures.fonts import set_fonts
from workbench.report.figures.style import DOTS, STYLE

P = ParamSpec("P")

PAGE_DOTS = 96  # pixels of a web page per inch


@dataclass(frozen=True, repr=False)
class Drawing:
    """A figure and its picture. A notebook shows the picture if the drawing is the last value of a cell.

    Attributes:
        figure: matplotlib's figure, to inspect or to draw again.
        png: the picture as PNG, 200 dots per inch.
    """

    figure: Figure
    png: bytes

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(PAGE_DOTS * side) for side in self.figure.get_size_inches())
        return self.png, {"width": width, "height": height}

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"<Drawing {width:g} x {height:g} inches>"  # no memory address, which would change in each run


def drawing(make: Callable[P, Figure]) -> Callable[P, Drawing]:
    """Turn a function that makes a figure into a function that draws it in the common style."""

    @wraps(make)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        # Matplotlib makes ticks when it draws them, so the style must be active until the picture exists.
        with mpl.rc_context(STYLE):
            figure = make(*args, **kwargs)
            set_fonts(figure)
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=DOTS, metadata={"Software": None})
        return Drawing(figure, content.getvalue())

    return draw
