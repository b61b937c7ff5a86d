"""AP of a table's rows as bars: measured on the left, published on the right, each with its rank."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.report.figures.style import COLOURS, WIDTH
from workbench.report.tables.cells import AP_LIMITS, NOTHING, TEST_DEV
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
    columns = {"measured": "AP", "published": _published_column(table)}
    figure = Figure(figsize=(WIDTH, 0.75 + 0.32 * len(table)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (title, column) in zip(axes, columns.items(), strict=True):
        text = table[column] if column else pd.Series(NOTHING, table.index)
        if title == "measured":
            _draw_bars(axis, text, _errors(table), COLOURS[5], "")
        else:
            _draw_bars(axis, text, np.zeros((2, len(table))), "#D9D9D9", "////")
        axis.set_title(f"{name}, {title}" + (f" ({TEST_DEV})" if column and TEST_DEV in column else ""))
    axes[0].set_yticks(range(len(table)), [textwrap.fill(row, LETTERS) for row in table.index])
    axes[0].set_ylim(len(table) - 0.4, -0.6)
    return figure


def _published_column(table: pd.DataFrame) -> str | None:
    """Return the column of published AP: val2017 if some row has it, else test-dev; None if no row has either."""
    candidates = [f"AP{PUBLISHED}", f"AP_{TEST_DEV}{PUBLISHED}"]
    return next((c for c in candidates if c in table and _numbers(table[c]).notna().any()), None)


def _errors(table: pd.DataFrame) -> np.ndarray:
    """Return the lengths `[2, rows]` of the error bars below and above AP; 0 where a row has none.

    Error bars show the 95 % interval; the deviation over seeds in a table without intervals.
    """
    if set(AP_LIMITS) <= set(table):
        value, low, high = (_numbers(table[column]) for column in ("AP", *AP_LIMITS))
        return np.nan_to_num([value - low, high - value])
    deviation = _numbers(table["AP_std"]) if "AP_std" in table else np.zeros(len(table))
    return np.nan_to_num([deviation, deviation])


def _numbers(column: pd.Series) -> pd.Series:
    """Return the numbers of a column of text, NaN for words."""
    return pd.to_numeric(column, errors="coerce")


def _draw_bars(axis: Axes, text: pd.Series, errors: np.ndarray, colour: str, hatch: str) -> None:
    """Draw a bar for each number, labelled with number and rank. A word is written where its bar would begin."""
    values = _numbers(text)
    ranks = values.rank(ascending=False, method="min")
    low, high = (values - errors[0]).min(), (values + errors[1]).max()
    start = 0 if np.isnan(low) else max(0, int(low - 2))
    bars = {"height": 0.6, "left": start, "color": colour, "edgecolor": "black", "linewidth": 0.6, "hatch": hatch}
    axis.barh(range(len(values)), (values - start).fillna(0), xerr=errors if errors.any() else None, capsize=2, **bars)
    for line, (value, word) in enumerate(zip(values, text, strict=True)):
        end = start if np.isnan(value) else value + errors[1, line]
        label = word if np.isnan(value) else f"{value:.1f}  ({ranks.iloc[line]:g})"
        axis.annotate(label, (end, line), (4, 0), textcoords="offset points", va="center")
    width = 1.0 if np.isnan(high) else max(high - start, 1.0)
    axis.set_xlim(start, start + 1.45 * width)  # with space for the labels
    axis.set_xlabel(f"AP ×100 (rank); the axis begins at {start}")
