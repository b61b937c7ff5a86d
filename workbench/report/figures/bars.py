"""AP of a table's rows as bars: measured on the left, published on the right, each with its rank."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.report.figures.fonts import drawable, legend_names
from workbench.report.figures.style import COLOURS, WIDTH
from workbench.report.tables.cells import AP_LIMITS, NOTHING, TEST_DEV
from workbench.report.text import wrapped
from workbench.support.errors import WorkbenchError

PUBLISHED = "_published"  # end of the name of a column with published figures
LETTERS = 30  # letters of a row's name per line


def ap_figure(name: str, table: pd.DataFrame) -> Figure:
    """Return the bars of all rows that are run.

    Args:
        name: name of the table, for the titles.
        table: see `read_table_file`.

    Raises:
        WorkbenchError: all rows of the table are from the literature.
    """
    table = table[table["run"] != "literature"]
    if table.empty:
        raise WorkbenchError(f"{name}: all rows are from the literature; name a table with rows that are run")
    name = drawable(name)
    columns = {"measured": "AP", "published": _published_column(table)}
    figure = Figure(figsize=(WIDTH, 0.75 + 0.32 * len(table)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (title, column) in zip(axes, columns.items(), strict=True):
        text = table[column] if column else pd.Series(NOTHING, table.index)
        if title == "measured":
            _draw_bars(axis, text, _intervals(table), COLOURS[5], "")
        else:
            _draw_bars(axis, text, np.full((2, len(table)), np.nan), "#D9D9D9", "////")
        axis.set_title(f"{name}, {title}" + (f" ({TEST_DEV})" if column and TEST_DEV in column else ""))
    axes[0].set_yticks(range(len(table)), [wrapped(row, LETTERS) for row in legend_names(table.index, 2 * LETTERS)])
    axes[0].set_ylim(len(table) - 0.4, -0.6)
    return figure


def _published_column(table: pd.DataFrame) -> str | None:
    """Return the column of published AP: val2017 if some row has it, else test-dev; None if no row has either."""
    candidates = [f"AP{PUBLISHED}", f"AP_{TEST_DEV}{PUBLISHED}"]
    return next((c for c in candidates if c in table and _numbers(table[c]).notna().any()), None)


def _intervals(table: pd.DataFrame) -> np.ndarray:
    """Return the ends `[2, rows]` of the error bars; NaN for a row without an error bar.

    Error bars show the 95 % interval, which need not contain AP, or the deviation over seeds without intervals.
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


def _draw_bars(axis: Axes, text: pd.Series, intervals: np.ndarray, colour: str, hatch: str) -> None:
    """Draw a bar for each number, labelled with number and rank. A word is written where its bar would begin.

    Args:
        intervals: `[2, rows]`, the ends of the error bars; NaN for none.
    """
    values = _numbers(text)
    ranks = values.rank(ascending=False, method="min")
    ends = np.stack([values, *intervals])
    drawn = ends[np.isfinite(ends)]
    start = max(0, int(drawn.min() - 2)) if drawn.size else 0
    bars = {"height": 0.6, "left": start, "color": colour, "edgecolor": "black", "linewidth": 0.6, "hatch": hatch}
    lines = range(len(values))
    axis.barh(lines, (values - start).fillna(0), **bars)
    axis.errorbar(
        intervals.mean(0), lines, xerr=abs(np.diff(intervals, axis=0)[0]) / 2, fmt="none", ecolor="black", capsize=2
    )
    for line, (value, word) in enumerate(zip(values, text, strict=True)):
        end = start if np.isnan(value) else np.nanmax(ends[:, line])
        label = drawable(word) if np.isnan(value) else f"{value:.1f}  ({ranks.iloc[line]:g})"
        axis.annotate(label, (end, line), (4, 0), textcoords="offset points", va="center")
    width = max(drawn.max() - start, 1.0) if drawn.size else 1.0
    axis.set_xlim(start, start + 1.45 * width)  # with space for the labels
    axis.set_xlabel(f"AP ×100 (rank); the axis begins at {start}")
