"""AP of a table's rows as dots on one axis: measured with its interval, and published.

Dots show a position and need no origin, unlike bars, whose lengths mislead if an axis does not begin at zero. Measured
and published dots differ in form and filling, so that a black-and-white print is readable.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workbench.report.figures.fonts import drawable, legend_names
from workbench.report.figures.style import COLOURS, TITLE_LETTERS, WIDTH
from workbench.report.tables.cells import AP_LIMITS, NOTHING, TEST_DEV
from workbench.report.text import wrapped
from workbench.support.errors import WorkbenchError

PUBLISHED = "_published"  # end of the name of a column with published figures
LETTERS = 30  # letters of a row's name per line
LINE = 0.32  # inches: height of a row
ABOVE, BELOW = 0.75, 0.5  # inches: title with legend, axis with its label
LEFT, RIGHT = 0.3, 0.22  # shares of the width for names and numbers
SHIFT = 0.14  # rows: measured dots are so far above the middle, published ones below
MEASURED_STYLE = {"color": COLOURS[0], "marker": "o", "markersize": 4.5, "linewidth": 1.3}
PUBLISHED_STYLE = {"color": COLOURS[1], "marker": "D", "markersize": 4.5, "markerfacecolor": "white", "linewidth": 0}


def ap_figure(name: str, table: pd.DataFrame) -> Figure:
    """Return the dots of all rows that are run.

    Args:
        name: name of the table, for the title.
        table: see `read_table_file`.

    Raises:
        WorkbenchError: all rows of the table are from the literature.
    """
    table = table[table["run"] != "literature"]
    if table.empty:
        raise WorkbenchError(f"{name}: all rows are from the literature; name a table with rows that are run")
    column = _published_column(table)
    published = table[column] if column else pd.Series(NOTHING, table.index)
    height = ABOVE + LINE * len(table) + BELOW
    figure = Figure(figsize=(WIDTH, height))
    axis = figure.add_axes((LEFT, BELOW / height, 1 - LEFT - RIGHT, LINE * len(table) / height))
    lines = np.arange(len(table))
    intervals = _intervals(table)
    for line in lines[1::2]:
        axis.axhspan(line - 0.5, line + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    has_interval = np.isfinite(intervals).all(axis=0)
    axis.hlines(lines[has_interval] - SHIFT, *intervals[:, has_interval], color=COLOURS[0], linewidth=1.3)
    axis.plot(_numbers(table["AP"]), lines - SHIFT, **MEASURED_STYLE | {"linewidth": 0})
    axis.plot(_numbers(published), lines + SHIFT, **PUBLISHED_STYLE)
    _write_numbers(axis, table["AP"], published)
    axis.set_yticks(lines, [wrapped(row, LETTERS) for row in legend_names(table.index, 2 * LETTERS)])
    axis.set(xlabel="AP ×100", ylim=(len(table) - 0.5, -0.5), xlim=_limits(_numbers(table["AP"]), intervals, published))
    axis.grid(True, axis="x")
    axis.tick_params(axis="y", length=0)
    _write_title(figure, height, f"AP of {drawable(name)}", bool(column and TEST_DEV in column))
    return figure


def _write_title(figure: Figure, height: float, title: str, on_test_dev: bool) -> None:
    """Write title and legend. The legend states the split if it is another one than the measured one."""
    figure.text(0.012, 1 - 0.08 / height, drawable(title, TITLE_LETTERS), size=10, weight="bold", va="top")
    handles = {
        "measured, 95 % interval": Line2D([], [], **MEASURED_STYLE),
        f"published{f' ({TEST_DEV})' if on_test_dev else ''}": Line2D([], [], **PUBLISHED_STYLE),
    }
    place = {"loc": "upper left", "bbox_to_anchor": (0.005, 1 - 0.26 / height)}
    figure.legend(handles.values(), handles, **place, ncols=2, frameon=False, columnspacing=1.6, borderaxespad=0)


def _write_numbers(axis: Axes, measured: pd.Series, published: pd.Series) -> None:
    """Write numbers with their ranks, and words, in two columns to the right of the dots."""
    for place, heading, texts in ((1.22, "measured", measured), (1.43, "published", published)):
        values = _numbers(texts)
        ranks = values.rank(ascending=False, method="min")
        right = {"transform": axis.get_yaxis_transform(), "ha": "right", "size": 7.5}
        axis.text(place, -0.6, f"{heading}\n(rank)", **right, va="bottom", color="#555555")
        for line, (value, word) in enumerate(zip(values, texts, strict=True)):
            text = drawable(word, 12) if np.isnan(value) else f"{value:.1f} ({ranks.iloc[line]:g})"
            axis.text(place, line, text, **right, va="center")


def _limits(measured: pd.Series, intervals: np.ndarray, published: pd.Series) -> tuple[float, float]:
    """Return the ends of the axis, at least one point apart."""
    values = np.concatenate([measured, *intervals, _numbers(published)])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0, 100
    margin = max(0.06 * float(np.ptp(values)), 0.5)
    return values.min() - margin, values.max() + margin


def _published_column(table: pd.DataFrame) -> str | None:
    """Return the column of published AP: val2017 if some row has it, else test-dev; None if no row has either."""
    candidates = [f"AP{PUBLISHED}", f"AP_{TEST_DEV}{PUBLISHED}"]
    return next((c for c in candidates if c in table and _numbers(table[c]).notna().any()), None)


def _intervals(table: pd.DataFrame) -> np.ndarray:
    """Return the ends `[2, rows]` of the intervals; NaN for a row without an interval.

    They are the 95 % interval, which need not contain AP, or the deviation over seeds in a table without intervals.
    """
    if set(AP_LIMITS) <= set(table):
        return np.stack([_numbers(table[column]) for column in AP_LIMITS])
    value = _numbers(table["AP"])
    deviation = _numbers(table["AP_std"]) if "AP_std" in table else np.nan
    return np.stack([value - deviation, value + deviation])


def _numbers(column: pd.Series) -> pd.Series:
    """Return the numbers of a column of text, NaN for words."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))
