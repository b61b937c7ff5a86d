"""Cells of a table: their values, and the names of rows."""

from workbench.report.tables.cells import TableRow, row_names, table_cells


def test_cells_are_numbers_bools_or_words():
    metrics = {"AP": 0.3904, "AP50": 0.59, "AP75": 0.4, "APS": None, "APM": 0.4, "APL": 0.4}
    metrics["provenance"] = {"seed": 0, "code_digest": "c0de"}
    measured, missing = table_cells(
        [TableRow("a", {"vfl": False}, {}, "run-1", measured=(metrics,)), TableRow("b", {"vfl": True}, {}, "run-2")]
    )
    assert (measured["AP"], measured["APS"], measured["vfl"], measured["seeds"]) == (39.04, "n/a", False, "0")
    assert (missing["AP"], missing["vfl"], missing["seeds"]) == ("not run", True, "not run")


def test_rows_are_named_by_the_labels_that_differ():
    labels = [
        {"section": "ours", "method": "VFNet", "DCN": True, "alpha": 0.50, "range": "480-960", "of few": None},
        {"section": "ours", "method": "VFNet-X", "DCN": False, "alpha": 2, "range": "-"},
    ]
    assert row_names(labels) == ["VFNet, DCN, alpha 0.5, 480-960", "VFNet-X, alpha 2"]
    as_text = [{name: str(value) for name, value in line.items() if value is not None} for line in labels]
    assert row_names(as_text) == row_names(labels)
    assert row_names([{"DCN": False}, {"DCN": True}]) == ["", "DCN"]
    assert row_names(labels[1:]) == ["ours, VFNet-X, alpha 2"]
