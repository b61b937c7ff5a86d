"""Figures that a notebook shows: in the style of the package's other figures, the same bytes each time.

They are drawn without pyplot, so that no state and no back end of the notebook has a part in them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import matplotlib as mpl
from matplotlib.figure import Figure

from workbench.report.figures.curves import STYLE

P = ParamSpec("P")

DOTS = 200  # of the file, an inch
SHOWN = 96  # pixels of a page, an inch


@dataclass(frozen=True, repr=False)
class Drawing:
    """A figure and its picture; a notebook shows the picture where this is a cell's last value.

    Attributes:
        figure: matplotlib's, to look into or to draw again.
        png: the picture, 200 dots an inch.
    """

    figure: Figure
    png: bytes

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(SHOWN * side) for side in self.figure.get_size_inches())
        return self.png, {"width": width, "height": height}

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"<Drawing {width:g} x {height:g} inches>"  # without an address, which changes


def drawing(make: Callable[P, Figure]) -> Callable[P, Drawing]:
    """Turn a function that makes a figure into one that draws it in the common style."""

    @wraps(make)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        # Ticks are made when they are drawn: the style must hold until then.
        with mpl.rc_context(STYLE):
            figure = make(*args, **kwargs)
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=DOTS, metadata={"Software": None})
        return Drawing(figure, content.getvalue())

    return draw
