"""Tables of results read back from their CSV files."""

from pathlib import Path

import pandas as pd

from workbench.report.tables.cells import row_names


def read_table_file(file: Path) -> pd.DataFrame:
    """Read a table's CSV as text, indexed by the labels of each row in words, or by the row's id if it has no labels.

    The labels are the columns between `row` and `AP`.
    """
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    labels = table.columns[1 : list(table.columns).index("AP")]
    names = table["row"].copy()
    for _, group in table.groupby(table["run"] == "literature"):
        words = row_names(group[labels].to_dict("records"))
        names[group.index] = [word or row for word, row in zip(words, group["row"], strict=True)]
    return table.set_index(pd.Index(names, name="row"))
