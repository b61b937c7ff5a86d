"""One's own results out of the files that the pipeline wrote: tables, AP beside the published order, loss curves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.report.figures import COLOURS, WIDTH, loss_figure
from workbench.report.shown import drawing
from workbench.report.tables import MEASURED, TEST_DEV

Table = pd.DataFrame
PUBLISHED = "_published"
LETTERS = 30  # of a row's name in a line


def read_tables(results: Path | str) -> dict[str, Table]:
    """The tables in ``results/<scale>/tables``, the paper's first: the CSV's columns by a row's labels in words."""
    files = sorted(Path(results).glob("tables/*.csv"), key=lambda file: (not file.stem.startswith("table"), file.stem))
    return {file.stem: _named(pd.read_csv(file, dtype=str, keep_default_na=False)) for file in files}


def _named(table: Table) -> Table:
    """The table with its labels (the columns between the id and the metrics) in words as index, the id without any."""
    labels = table.columns[1 : list(table.columns).index("AP")]
    lines = table[labels].to_dict("records")
    names = [_name(line) or row for line, row in zip(lines, table["row"], strict=True)]
    return table.set_index(pd.Index(names, name="row"))


def _name(labels: Mapping[str, str]) -> str:
    said = []
    for key, value in labels.items():
        number = pd.to_numeric(value, errors="coerce")
        if value == "True":
            said.append(key)
        elif not pd.isna(number):
            said.append(f"{key} {number:g}")
        elif value not in ("False", "-", ""):
            said.append(value)
    return ", ".join(said)


def compare(table: Table) -> Table:
    """Measured beside published, as they stand in the table: ``AP`` … below ``measured`` and ``published``."""
    measured = [column for column in (*MEASURED[:3], "AP_std") if column in table]
    published = [column for column in table if column.endswith(PUBLISHED)]
    names = [("measured", c) for c in measured] + [("published", c.removesuffix(PUBLISHED)) for c in published]
    return table[measured + published].set_axis(pd.MultiIndex.from_tuples(names), axis=1)


@drawing
def draw_ap(name: str, table: Table) -> Figure:
    """Measured AP of every row that is run, and published AP in a panel of its own, each with its rank in its panel."""
    table = table[table["run"] != "literature"]
    columns = {"measured": "AP", "published": _published_column(table)}
    figure = Figure(figsize=(WIDTH, 0.75 + 0.32 * len(table)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (title, column) in zip(axes, columns.items(), strict=True):
        spread = table["AP_std"] if title == "measured" and "AP_std" in table else None
        text = table[column] if column else pd.Series("-", table.index)
        _draw_bars(axis, text, spread, *((COLOURS[5], "") if title == "measured" else ("#D9D9D9", "////")))
        axis.set_title(f"{name}, {title}" + (f" ({TEST_DEV})" if column and TEST_DEV in column else ""))
    axes[0].set_yticks(range(len(table)), [textwrap.fill(row, LETTERS) for row in table.index])
    axes[0].set_ylim(len(table) - 0.4, -0.6)
    return figure


def _published_column(table: Table) -> str | None:
    """Published AP, of the measured split where some row has it."""
    wanted = [f"AP{PUBLISHED}", f"AP_{TEST_DEV}{PUBLISHED}"]
    return next((c for c in wanted if c in table and pd.to_numeric(table[c], errors="coerce").notna().any()), None)


def _draw_bars(axis: Axes, text: pd.Series, spread: pd.Series | None, colour: str, hatch: str) -> None:
    """A bar for each number, with it and its rank behind; the word that stands in its place otherwise."""
    values = pd.to_numeric(text, errors="coerce")
    ranks = values.rank(ascending=False, method="min")
    start = max(0, int(values.min() - 3)) if values.notna().any() else 0
    width = max(values.max() - start, 1) if values.notna().any() else 1
    errors = None if spread is None else pd.to_numeric(spread, errors="coerce").fillna(0)
    bars = {"height": 0.6, "left": start, "color": colour, "edgecolor": "black", "linewidth": 0.6, "hatch": hatch}
    axis.barh(range(len(values)), (values - start).fillna(0), xerr=errors, capsize=2, **bars)
    for line, (value, word) in enumerate(zip(values, text, strict=True)):
        place = start if pd.isna(value) else value + (0 if errors is None else errors.iloc[line])
        said = word if pd.isna(value) else f"{value:.1f}  ({ranks.iloc[line]:g})"
        axis.annotate(said, (place, line), (4, 0), textcoords="offset points", va="center")
    axis.set_xlim(start, start + 1.5 * width)  # with room for the words
    axis.set_xlabel(f"AP ×100 (rank); the axis begins at {start}")


def read_curves(results: Path | str, table: Table) -> dict[str, Sequence[Table]]:
    """The training logs of a table's runs that have some, by their first row's name, a frame for each seed."""
    curves = {}
    for name, run in table["run"].drop_duplicates().items():
        files = sorted(Path(results).glob(f"runs/{run}/seed*/train.csv"))
        if files:
            curves[name] = [pd.read_csv(file) for file in files]
    return curves


draw_curves = drawing(loss_figure)
