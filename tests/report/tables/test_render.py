"""Tables of results: small golden cases, notes, and no empty cells."""

import csv
import io
from dataclasses import replace

import pytest

from workbench.report.tables.cells import table_cells
from workbench.report.tables.render import TableRow, table_markdown, table_view, write_table
from workbench.support.errors import WorkbenchError


def metrics(ap, seed=0, code_digest="c0de", **more):
    """Return the content of a metrics.json: AP as a fraction, a higher AP50, an equal AP75, no small objects."""
    sizes = {"AP": ap, "AP50": ap + 0.2, "AP75": ap, "APS": None, "APM": ap, "APL": ap}
    return sizes | {"provenance": {"seed": seed, "code_digest": code_digest}} | more


RAW = TableRow(
    row="t3_raw_fl",
    labels={"vfl": False, "star_dconv": False, "name": "raw VFNet + FL"},
    published={"AP": 39.0, "AP50": 57.7, "AP75": 41.8},
    run="vfnet-raw-focal-00000000",
    measured=(metrics(0.3904),),
)
FULL = TableRow(
    row="t3_full_vfl",
    labels={"vfl": True, "star_dconv": True, "name": ""},
    published={"AP": 41.6, "AP50": 59.5, "AP75": 45.0},
    run="vfnet-star-refine-varifocal-1a2b3c4d",
    measured=(metrics(0.4152),),
)
NOT_RUN = TableRow(
    row="t3_star_vfl",
    labels={"vfl": True, "star_dconv": True, "name": ""},
    published={"AP": 40.7, "AP50": 59.0, "AP75": 44.0},
    run="vfnet-star-varifocal-99999999",
    note="recipe inferred",
)
LITERATURE = TableRow("t4_faster", {"vfl": False, "star_dconv": False, "name": "Faster R-CNN"}, {"AP": 40.3}, run="")


def read_csv(tmp_path, rows):
    write_table("T", rows, csv=tmp_path / "t.csv", markdown=tmp_path / "t.md")
    text = (tmp_path / "t.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


GOLDEN_CSV = """\
row,vfl,star_dconv,name,AP,AP50,AP75,APS,APM,APL,AP_low,AP_high,AP_published,AP50_published,AP75_published,\
AP_difference,run,seeds,code_digest,note
t3_raw_fl,False,False,raw VFNet + FL,39.04,59.04,39.04,n/a,39.04,39.04,-,-,39.0,57.7,41.8,0.04,\
vfnet-raw-focal-00000000,0,c0de,-
t3_star_vfl,True,True,-,not run,not run,not run,not run,not run,not run,not run,not run,40.7,59.0,44.0,not run,\
vfnet-star-varifocal-99999999,not run,not run,recipe inferred
t3_full_vfl,True,True,-,41.52,61.52,41.52,n/a,41.52,41.52,-,-,41.6,59.5,45.0,-0.08,\
vfnet-star-refine-varifocal-1a2b3c4d,0,c0de,-
"""


def test_golden_csv(tmp_path):
    write_table("Table 3", [RAW, NOT_RUN, FULL], csv=tmp_path / "a" / "t.csv", markdown=tmp_path / "a" / "t.md")
    assert (tmp_path / "a" / "t.csv").read_text(encoding="utf-8") == GOLDEN_CSV
    markdown = (tmp_path / "a" / "t.md").read_text(encoding="utf-8")
    assert markdown == table_markdown("Table 3", [RAW, NOT_RUN, FULL])


GOLDEN_MARKDOWN = """\
## Table

| row  |  q  |        AP |    AP50 |    AP75 |     APS |     APM |     APL | AP published |     ΔAP | run | seeds   |
| ---- | :-: | --------: | ------: | ------: | ------: | ------: | ------: | -----------: | ------: | --- | ------- |
| `r1` |  ✓  | **41.52** |   61.52 |   41.52 |     n/a |   41.52 |   41.52 |         41.6 |   −0.08 | `a` | 0       |
| `r2` |     |   not run | not run | not run | not run | not run | not run |     **42.0** | not run | `b` | not run |

Metrics are COCO's, ×100; the best AP is bold. Each measured row has a single seed.

Intervals are missing for `r1`; run Snakemake or workbench evaluate to add them.

1 of 2 rows was not run: `r2`.
"""


def test_golden_markdown():
    measured = TableRow("r1", {"q": True}, {"AP": 41.6}, "a", measured=(metrics(0.4152),))
    missing = TableRow("r2", {"q": False}, {"AP": 42.0}, "b")
    assert table_markdown("Table", [measured, missing]) == GOLDEN_MARKDOWN


def test_columns_of_markdown_are_aligned_in_the_source():
    table = [line for line in table_markdown("T", [RAW, NOT_RUN, FULL, LITERATURE]).splitlines() if line[:1] == "|"]
    assert len(table) == 6
    assert len({len(line) for line in table}) == 1
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in table}) == 1


def test_no_cell_of_the_csv_is_empty(tmp_path):
    rows = read_csv(tmp_path, [RAW, NOT_RUN, FULL, LITERATURE])
    assert len(rows) == 4
    assert all(value not in ("", None) for line in rows for value in line.values())


def test_a_row_from_the_literature_is_not_called_not_run(tmp_path):
    line = read_csv(tmp_path, [FULL, LITERATURE])[1]
    assert line["run"] == "literature"
    assert {line[c] for c in ("AP", "APL", "AP_difference", "seeds", "AP50_published")} == {"-"}
    assert "not run" not in table_markdown("T", [FULL, LITERATURE])


def test_two_splits_are_never_mixed(tmp_path):
    """The difference is computed on val2017; a row without a published AP on val2017 has no difference."""
    both = replace(FULL, published={"AP_test-dev": 44.8, "AP50_test-dev": 63.1, "AP": 44.5, "FPS": 19.3})
    test_dev = replace(FULL, row="other", published={"AP_test-dev": 44.3, "FPS": 19.3})
    first, second, third = read_csv(tmp_path, [both, test_dev, LITERATURE])
    assert list(first)[12:17] == [
        *("AP_published", "AP_test-dev_published", "AP50_test-dev_published", "FPS_published", "AP_difference")
    ]
    assert [line["AP_difference"] for line in (first, second, third)] == ["-2.98", "-", "-"]
    assert (second["AP_published"], second["AP_test-dev_published"]) == ("-", "44.3")
    text = table_markdown("T", [both, test_dev])
    assert "AP test-dev published" in text
    assert "only val2017 is subtracted" in text
    assert "**44.8**" in text
    assert "**44.5**" in text
    assert "test-dev" not in table_markdown("T", [FULL, LITERATURE])


def test_a_row_with_several_seeds_has_mean_and_deviation(tmp_path):
    seeds = replace(FULL, measured=(metrics(0.416, seed=1), metrics(0.412, seed=0), metrics(0.414, seed=10)))
    first, second, third = read_csv(tmp_path, [seeds, RAW, NOT_RUN])
    assert list(first)[9:14] == ["APL", "AP_std", "AP_low", "AP_high", "AP_published"]
    assert (first["AP"], first["AP_std"], first["AP_difference"], first["seeds"]) == (
        "41.40",
        "0.20",
        "-0.20",
        "0 1 10",
    )
    assert (second["AP_std"], third["AP_std"]) == ("one seed", "not run")
    text = table_markdown("T", [seeds, RAW])
    assert "**41.40 ± 0.20**" in text
    assert "means over the seeds; ± is the sample standard deviation" in text


def test_best_measured_and_best_published_ap_are_bold_in_a_tie_too():
    tie = replace(FULL, row="tie")
    text = table_markdown("T", [RAW, FULL, tie, NOT_RUN])
    assert text.count("**") == 8
    assert text.count("**41.52**") == 2
    assert text.count("**41.6**") == 2


def test_a_note_warns_of_mixed_versions_of_the_code(tmp_path):
    assert "Warning" not in table_markdown("T", [RAW, FULL])
    other = replace(FULL, measured=(metrics(0.4, code_digest="beef"), metrics(0.4, seed=1)))
    text = table_markdown("T", [RAW, other])
    assert "**Warning:** these rows were trained by 2 versions of the training code (shared: `beef`, `c0de`)" in text
    assert read_csv(tmp_path, [RAW, other])[1]["code_digest"] == "beef c0de"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("shared:1 varifocal:2 vfnet:3", "focal:4 shared:1 vfnet:3", None),
        ("shared:1 varifocal:2 vfnet:3", "shared:1 varifocal:5 vfnet:3", "2 versions of the training code (varifocal: `2`, `5`)"),
        ("shared:1 vfnet:3", "shared:2 vfnet:4", "2 versions of the training code (shared: `1`, `2`; vfnet: `3`, `4`)"),
        ("beef", "shared:1 vfnet:4", "2 versions of the training code (shared: `1`, `beef`)"),
        ("beef", "beef", None),
    ],
)  # fmt: skip
def test_only_parts_of_the_code_that_two_rows_share_are_compared(one, other, expected):
    rows = [replace(row, measured=(metrics(0.4, code_digest=d),)) for row, d in ((RAW, one), (FULL, other))]
    text = table_markdown("T", rows)
    assert ("Warning" in text) == (expected is not None)
    assert (expected or "") in text


def test_a_note_reports_that_no_row_was_run():
    text = table_markdown("T", [NOT_RUN])
    assert "None of these rows was run." in text
    assert "seed" not in text.splitlines()[-3]


def test_columns_that_no_row_needs_are_left_out(tmp_path):
    plain = replace(RAW, published={})
    assert list(read_csv(tmp_path, [plain])[0])[4:] == [
        *("AP", "AP50", "AP75", "APS", "APM", "APL", "AP_low", "AP_high"),
        *("run", "seeds", "code_digest"),
    ]


def test_the_seed_of_published_weights_is_released(tmp_path):
    released = replace(FULL, measured=(metrics(0.416, seed="released"),))
    assert read_csv(tmp_path, [released])[0]["seeds"] == "released"


def test_labels_are_escaped_and_may_differ_between_rows(tmp_path):
    a = TableRow("a", {"loss": "x | y", "gamma": 2.0}, {}, "r")
    b = TableRow("b", {"gamma": 1.0, "beta": None}, {}, "r")
    assert r"x \| y" in table_markdown("T", [a, b])
    first, second = read_csv(tmp_path, [a, b])
    assert (first["loss"], first["beta"], second["loss"], second["beta"]) == ("x | y", "-", "-", "-")


def test_numbers_are_right_and_check_marks_are_centred():
    view = table_view([RAW, NOT_RUN])
    alignment = dict(zip(view.headings, view.alignment, strict=True))
    assert [alignment[name] for name in ("row", "vfl", "name", "AP", "ΔAP", "run")] == [
        *("left", "centre", "left", "right", "right", "left")
    ]


def test_bad_tables_are_errors():
    with pytest.raises(WorkbenchError, match="no rows; name a table"):
        table_markdown("T", [])
    for name in ("run", "AP", "note", "difference", "AP_published"):
        with pytest.raises(
            WorkbenchError, match=f"^{RAW.row}: labels: {name} is the name of a column; rename the label"
        ):
            table_cells([NOT_RUN, replace(RAW, labels={name: 3})])
