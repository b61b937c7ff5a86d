"""CSV files of the pipeline read back for figures: tables of results, logs of trainings and rankings.

A file of the wrong form is reported in one line that names the file.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.report.tables.cells import row_names, told_apart
from workbench.report.text import original_text, plain, visible
from workbench.support.errors import WorkbenchError

TABLE = "table of results"


def read_table_file(file: Path) -> pd.DataFrame:
    """Read a table's CSV as text, indexed by the labels of each row in words, or by the row's id if it has no labels.

    The labels are the columns between `row` and `AP`. Two rows never have the same name.

    Raises:
        WorkbenchError: the file is missing or not a table.
    """
    remedy = f"make it again with snakemake {plain(file.stem)}"
    table = _read(file, TABLE, remedy, dtype=str, keep_default_na=False)
    table.columns = [original_text(column) for column in table.columns]
    columns = list(table.columns)
    if missing := [column for column in ("row", "AP", "run") if column not in columns]:
        raise _wrong(file, TABLE, f"no column {missing[0]}", remedy)
    if (table == "").to_numpy().any():  # `table_cells` writes no empty cell
        raise _wrong(file, TABLE, "an empty cell", remedy)
    table = table.apply(lambda column: column.map(original_text))
    labels = columns[1 : columns.index("AP")]
    names = table["row"].copy()
    for _, group in table.groupby(table["run"] == "literature"):
        names[group.index] = row_names(group[labels].to_dict("records"))
    return table.set_index(pd.Index(told_apart(list(names), list(table["row"])), name="row"))


def read_log(file: Path) -> pd.DataFrame:
    """Read the log of a training, ``train.csv``.

    Raises:
        WorkbenchError: the file is missing or not a log.
    """
    content, remedy = "log of a training", "restore the file, or train the row again"
    log = _numbers(file, content, remedy, ("step", "epoch", "loss"), ("loss_", "val_ap"))
    if not np.isfinite(log[["step", "epoch"]].to_numpy(float)).all():
        raise _wrong(file, content, "a step or an epoch is not a number", remedy)
    return log


def read_ranking_file(file: Path) -> pd.DataFrame:
    """Read the score and the IoU of a training's foreground locations, ``ranking.csv``; ``#`` begins a comment.

    Raises:
        WorkbenchError: the file is missing or not a ranking.
    """
    content, remedy = "ranking of boxes", "delete the file and make it again with workbench ranking"
    ranking = _numbers(file, content, remedy, ("iou", "score"), comment="#")
    values = ranking[["iou", "score"]].to_numpy(float)
    if not ((values >= 0) & (values <= 1)).all():
        raise _wrong(file, content, "an IoU or a score is not between 0 and 1", remedy)
    return ranking


def _numbers(
    file: Path,
    content: str,
    remedy: str,
    columns: Sequence[str],
    prefixes: tuple[str, ...] = (),
    comment: str | None = None,
) -> pd.DataFrame:
    """Read a CSV; check that columns exist, and that they and the columns with the prefixes contain numbers."""
    frame = _read(file, content, remedy, comment=comment)
    if missing := [column for column in columns if column not in frame]:
        raise _wrong(file, content, f"no column {missing[0]}", remedy)
    for column in frame:
        if (column in columns or column.startswith(prefixes)) and frame[column].dtype.kind not in "iuf" and len(frame):
            raise _wrong(file, content, f"column {plain(column, 40)} has text in the place of numbers", remedy)
    return frame


def _read(file: Path, content: str, remedy: str, **options) -> pd.DataFrame:
    if not file.is_file():  # reading a pipe would wait for ever
        problem = "not a file" if file.exists() else f"no such {content}"
        raise WorkbenchError(f"{visible(file)}: {problem}; {remedy}")
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            return pd.read_csv(file, index_col=False, encoding="utf-8", **options)
    except OSError as error:
        raise WorkbenchError(f"{visible(file)}: cannot be read ({error.strerror}); check its permissions") from None
    except pd.errors.ParserWarning:
        raise _wrong(file, content, "a line has more cells than the header", remedy) from None
    except (ValueError, OverflowError) as error:  # also text that is not UTF-8
        raise _wrong(file, content, plain(error, 80), remedy) from None


def _wrong(file: Path, content: str, problem: str, remedy: str) -> WorkbenchError:
    return WorkbenchError(f"{visible(file)}: not a {content} ({problem}); {remedy}")
