"""A user's own results: tables, AP as dots and loss curves, read from the files of the pipeline."""

import warnings

import numpy as np
import pandas as pd
import pytest

from workbench.report.explain.results import compare, draw_ap, draw_curves, read_curves, read_tables
from workbench.report.tables.render import TableRow, write_table
from workbench.support.errors import WorkbenchError


def measured(ap, seed=0):
    metrics = {"AP": ap, "AP50": 0.5, "AP75": None, "APS": 0.1, "APM": 0.1, "APL": 0.1}
    return metrics | {"provenance": {"seed": seed, "code_digest": "1"}}


ROWS = [
    TableRow("a", {"model": "raw", "VFL": False}, {"AP": 39.0}, "raw-1", "", (measured(0.30), measured(0.32, seed=1))),
    TableRow("b", {"model": "full", "VFL": True}, {"AP": 41.0}, "full-2", "", (measured(0.2),)),
    TableRow("c", {"model": "other", "VFL": True}, {}, "other-3"),
    TableRow("d", {"model": "book", "VFL": None}, {"AP": 50.0}, ""),
    TableRow("e", {"model": None, "VFL": False}, {}, "raw-1"),
]


@pytest.fixture
def results(tmp_path):
    """Folder with the table of `ROWS` under two names."""
    for name in ("table3", "gfl_table3"):
        write_table("Table", ROWS, tmp_path / "tables" / f"{name}.csv", tmp_path / "tables" / f"{name}.md")
    return tmp_path


@pytest.fixture
def table(results):
    return read_tables(results)["table3"]


def test_tables_are_indexed_by_the_labels_of_their_rows(results):
    tables = read_tables(results)
    assert list(tables) == ["table3", "gfl_table3"]
    assert list(tables["table3"].index) == ["raw", "full, VFL", "other, VFL", "book", "e"]


def test_measured_and_published_metrics_are_compared_as_text(table):
    comparison = compare(table)
    assert list(comparison["measured", "AP"]) == ["31.00", "20.00", "not run", "-", "not run"]
    assert list(comparison["published", "AP"]) == ["39.0", "41.0", "-", "50.0", "-"]
    assert list(comparison["measured"]) == ["AP", "AP50", "AP75", "AP_std", "AP_low", "AP_high"]


def test_dots_are_labelled_with_ap_and_rank_or_a_word(table):
    (axis,) = draw_ap("table3", table).figure.axes
    labels = [text.get_text() for text in axis.texts]
    assert labels[1:5] == ["31.0 (1)", "20.0 (2)", "not run", "not run"]
    assert labels[6:] == ["39.0 (2)", "41.0 (1)", "-", "-"]
    np.testing.assert_allclose(axis.lines[0].get_xdata()[:2], [31, 20])


def test_lines_show_the_interval_or_else_the_deviation(table):
    def ends(table):
        segments = draw_ap("table3", table).figure.axes[0].collections[0].get_segments()
        return [list(segment[:, 0]) for segment in segments]

    with_interval = table.assign(AP_low=["29.00", "18.50", "not run", "-", "x"], AP_high="32.00")
    assert ends(with_interval) == [[29, 32], [18.5, 32]]
    np.testing.assert_allclose(ends(table.drop(columns=["AP_low", "AP_high"])), [[29.59, 32.41]])


def test_a_single_dot_at_zero_is_drawn_without_warnings(table):
    with warnings.catch_warnings(action="error"):
        draw_ap("rehearsal", table.iloc[:1].assign(AP="0.00"))


def test_a_table_from_the_literature_has_no_dots(table):
    with pytest.raises(WorkbenchError, match="table9: all rows are from the literature; name a table"):
        draw_ap("table9", table[table["run"] == "literature"])


def test_curves_are_the_logs_of_all_seeds_of_a_run(results, table):
    log = pd.DataFrame({"step": [10, 20], "epoch": [1, 2], "loss": [2.0, 1.0]})
    for seed in (0, 1):
        (results / "runs" / "raw-1" / f"seed{seed}").mkdir(parents=True)
        log.to_csv(results / "runs" / "raw-1" / f"seed{seed}" / "train.csv", index=False)
    curves = read_curves(results, table)
    assert {name: len(frames) for name, frames in curves.items()} == {"raw": 2}
    assert draw_curves(curves, "Training").png.startswith(b"\x89PNG")


def test_rows_with_equal_labels_have_curves_of_their_own(tmp_path):
    labels = {"a": "same", "b": "same", "c": "other"}
    rows = [TableRow(row, {"model": label}, {}, f"run-{row}") for row, label in labels.items()]
    write_table("Table", rows, tmp_path / "tables/table3.csv", tmp_path / "tables/table3.md")
    for row in "ab":
        log = tmp_path / "runs" / f"run-{row}" / "seed0/train.csv"
        log.parent.mkdir(parents=True)
        log.write_text("step,epoch,loss\n1,1,2.0\n")
    curves = read_curves(tmp_path, read_tables(tmp_path)["table3"])
    assert list(curves) == ["same (a)", "same (b)"]
    log.write_text("letters")
    with pytest.raises(WorkbenchError, match=r"run-b/seed0/train.csv: not a log of a training"):
        read_curves(tmp_path, read_tables(tmp_path)["table3"])
