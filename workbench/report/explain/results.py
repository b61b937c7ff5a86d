"""A user's own results, read from the pipeline's files: tables, AP as dots, and loss curves, for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from workbench.report.figures.curves import loss_figure
from workbench.report.figures.dots import PUBLISHED, ap_figure
from workbench.report.figures.drawing import drawing
from workbench.report.tables.cells import AP_LIMITS, MEASURED
from workbench.report.tables.read import read_log, read_table_file
from workbench.runs.results import ScaleFolder

Table = pd.DataFrame


def read_tables(results: Path | str) -> dict[str, Table]:
    """Read all tables in ``results/<scale>/tables``, by name: those named ``table…`` first; see `read_table_file`."""
    files = sorted(ScaleFolder(Path(results)).tables(), key=lambda file: (not file.stem.startswith("table"), file.stem))
    return {file.stem: read_table_file(file) for file in files}


def compare(table: Table) -> Table:
    """Return the metrics of a table as text, in two groups of columns: ``measured`` and ``published``."""
    measured = [column for column in (*MEASURED[:3], "AP_std", *AP_LIMITS) if column in table]
    published = [column for column in table if column.endswith(PUBLISHED)]
    names = [("measured", c) for c in measured] + [("published", c.removesuffix(PUBLISHED)) for c in published]
    return table[measured + published].set_axis(pd.MultiIndex.from_tuples(names), axis=1)


def read_curves(results: Path | str, table: Table) -> dict[str, Sequence[Table]]:
    """Read the training logs of a table's runs: name of the run's first row → one frame per seed.

    A run without logs is left out.
    """
    curves = {}
    for name, run in table["run"].drop_duplicates().items():
        files = [training.curves for training in ScaleFolder(Path(results)).run(run).trainings()]
        if frames := [read_log(file) for file in files if file.is_file()]:
            curves[name] = frames
    return curves


draw_ap = drawing(ap_figure)
draw_curves = drawing(loss_figure)
