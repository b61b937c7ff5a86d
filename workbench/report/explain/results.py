"""One's own results out of the files that the pipeline wrote: tables, AP beside the published order, loss curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.report.figures.curves import COLOURS, WIDTH, loss_figure
from workbench.report.figures.drawing import drawing
from workbench.report.tables.cells import row_names
from workbench.report.tables.table import MEASURED, TEST_DEV
from workbench.runs.folders import ScaleFolder
from workbench.support.errors import WorkbenchError

Table = pd.DataFrame
PUBLISHED = "_published"
LIMITS = ("AP_low", "AP_high")  # of the interval, where a table has one
LETTERS = 30  # of a row's name in a line


def read_tables(results: Path | str) -> dict[str, Table]:
    """The tables in ``results/<scale>/tables``, the paper's first: the CSV's columns by a row's labels in words."""
    files = sorted(ScaleFolder(Path(results)).tables(), key=lambda file: (not file.stem.startswith("table"), file.stem))
    return {file.stem: read_table_file(file) for file in files}


def read_table_file(file: Path) -> Table:
    """A table as text, its labels (the columns between the id and the metrics) in words as index, or the id."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    labels = table.columns[1 : list(table.columns).index("AP")]
    names = table["row"].copy()
    for _, group in table.groupby(table["run"] == "literature"):
        words = row_names(group[labels].to_dict("records"))
        names[group.index] = [word or row for word, row in zip(words, group["row"], strict=True)]
    return table.set_index(pd.Index(names, name="row"))


def compare(table: Table) -> Table:
    """Measured beside published, as they stand in the table: ``AP`` … below ``measured`` and ``published``."""
    measured = [column for column in (*MEASURED[:3], "AP_std", *LIMITS) if column in table]
    published = [column for column in table if column.endswith(PUBLISHED)]
    names = [("measured", c) for c in measured] + [("published", c.removesuffix(PUBLISHED)) for c in published]
    return table[measured + published].set_axis(pd.MultiIndex.from_tuples(names), axis=1)


def ap_figure(name: str, table: Table) -> Figure:
    """Measured AP of every row that is run, and published AP in a panel of its own, each with its rank in its panel.

    Raises WorkbenchError where the table has no row that is run.
    """
    table = table[table["run"] != "literature"]
    if table.empty:
        raise WorkbenchError(f"{name}: all rows are from the literature, there is none to draw")
    columns = {"measured": "AP", "published": _published_column(table)}
    figure = Figure(figsize=(WIDTH, 0.75 + 0.32 * len(table)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (title, column) in zip(axes, columns.items(), strict=True):
        text = table[column] if column else pd.Series("-", table.index)
        if title == "measured":
            _draw_bars(axis, text, _spread(table), COLOURS[5], "")
        else:
            _draw_bars(axis, text, None, "#D9D9D9", "////")
        axis.set_title(f"{name}, {title}" + (f" ({TEST_DEV})" if column and TEST_DEV in column else ""))
    axes[0].set_yticks(range(len(table)), [textwrap.fill(row, LETTERS) for row in table.index])
    axes[0].set_ylim(len(table) - 0.4, -0.6)
    return figure


def _published_column(table: Table) -> str | None:
    """Published AP, of the measured split where some row has it."""
    wanted = [f"AP{PUBLISHED}", f"AP_{TEST_DEV}{PUBLISHED}"]
    return next((c for c in wanted if c in table and _numbers(table[c]).notna().any()), None)


def _spread(table: Table) -> pd.DataFrame:
    """How far AP's interval, or its deviation over seeds, reaches below and above it; 0 where there is none."""
    if set(LIMITS) <= set(table):
        value, low, high = (_numbers(table[column]) for column in ("AP", *LIMITS))
        return pd.DataFrame({"below": value - low, "above": high - value}).fillna(0)
    deviation = _numbers(table["AP_std"]) if "AP_std" in table else 0.0
    return pd.DataFrame({"below": deviation, "above": deviation}, index=table.index).fillna(0)


def _numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce")


def _draw_bars(axis: Axes, text: pd.Series, spread: pd.DataFrame | None, colour: str, hatch: str) -> None:
    """A bar for each number, with it and its rank behind; the word that stands in its place otherwise."""
    values = _numbers(text)
    ranks = values.rank(ascending=False, method="min")
    errors = np.zeros((2, len(values))) if spread is None else spread.to_numpy().T
    low, high = (values - errors[0]).min(), (values + errors[1]).max()
    start = 0 if np.isnan(low) else max(0, int(low - 2))
    bars = {"height": 0.6, "left": start, "color": colour, "edgecolor": "black", "linewidth": 0.6, "hatch": hatch}
    axis.barh(range(len(values)), (values - start).fillna(0), xerr=errors if errors.any() else None, capsize=2, **bars)
    for line, (value, word) in enumerate(zip(values, text, strict=True)):
        place = start if np.isnan(value) else value + errors[1, line]
        said = word if np.isnan(value) else f"{value:.1f}  ({ranks.iloc[line]:g})"
        axis.annotate(said, (place, line), (4, 0), textcoords="offset points", va="center")
    width = 1.0 if np.isnan(high) else max(high - start, 1.0)
    axis.set_xlim(start, start + 1.45 * width)  # with room for the words
    axis.set_xlabel(f"AP ×100 (rank); the axis begins at {start}")


def read_curves(results: Path | str, table: Table) -> dict[str, Sequence[Table]]:
    """The training logs of a table's runs that have some, by their first row's name, a frame for each seed."""
    curves = {}
    for name, run in table["run"].drop_duplicates().items():
        files = [training.curves for training in ScaleFolder(Path(results)).run(run).trainings()]
        if frames := [pd.read_csv(file) for file in files if file.is_file()]:
            curves[name] = frames
    return curves


draw_ap = drawing(ap_figure)
draw_curves = drawing(loss_figure)
