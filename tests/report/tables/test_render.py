"""Tables of results: small golden cases, notes, intervals, and no empty cells."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from workbench.evaluation.effects import effect_of_rows, mean_of_row
from workbench.evaluation.intervals import Bootstrap
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


def resampled(ap, seed=0, digest="d"):
    """Return made-up resamples; one part of the noise is the same for all rows and seeds."""
    shared, own = (np.random.default_rng(s).normal(0, 0.01, 50) for s in (99, seed))
    return Bootstrap(ap, ap + shared + own / 2, 100, digest)


BASE = replace(RAW, bootstraps=(resampled(0.3904, 1),))
BETTER = replace(FULL, bootstraps=(resampled(0.4152, 2),), compared_with="t3_raw_fl")


def ends(effect):
    """Return the ends of the 95 % interval of an effect, ×100."""
    return 100 * effect.low, 100 * effect.high


def test_intervals_and_differences_in_the_csv(tmp_path):
    """Intervals are those of `evaluation.effects`; the difference is computed from the printed figures."""
    unevaluated = replace(NOT_RUN, compared_with="t3_raw_fl")
    base, better, missing = read_csv(tmp_path, [BASE, BETTER, unevaluated])
    assert list(base)[9:16] == [
        *("APL", "AP_low", "AP_high", "difference", "difference_low", "difference_high", "compared_with")
    ]
    low, high = (f"{end:.2f}" for end in ends(mean_of_row(BETTER.bootstraps)))
    assert (better["AP_low"], better["AP_high"]) == (low, high)
    low, high = (f"{end:.2f}" for end in ends(effect_of_rows(BETTER.bootstraps, BASE.bootstraps)))
    assert (better["difference_low"], better["difference_high"]) == (low, high)
    assert float(better["AP_low"]) < 41.52 < float(better["AP_high"])
    assert 0 < float(better["difference_low"]) < 2.48 < float(better["difference_high"])
    assert (better["difference"], better["compared_with"]) == ("2.48", "t3_raw_fl")
    assert {base[c] for c in ("difference", "difference_low", "difference_high", "compared_with")} == {"-"}
    assert {missing[c] for c in ("AP_low", "difference", "difference_high")} == {"not run"}


def test_intervals_in_markdown():
    text = table_markdown("T", [BASE, BETTER])
    line = next(line for line in text.splitlines() if "t3_full" in line)
    low, high = ends(mean_of_row(BETTER.bootstraps))
    assert f"| **41.52** [{low:.1f}, {high:.1f}] |" in line
    low, high = ends(effect_of_rows(BETTER.bootstraps, BASE.bootstraps))
    assert f"| +2.48 [{low:+.2f}, {high:+.2f}] |" in line
    assert "AP low" not in text
    assert "compared with |" not in text
    assert "95 % confidence intervals over images, of" in text
    assert "difference is the measured AP minus the measured AP of `t3_raw_fl`, on the same images." in text
    worse = replace(BASE, compared_with="t3_full_vfl")
    text = table_markdown("T", [worse, BETTER])
    assert "| −2.48 [−" in text
    assert "| compared with |" in text
    assert 'minus the measured AP of the row in "compared with", on' in text


def test_the_interval_of_several_seeds_covers_images_and_seeds():
    aps = [0.390, 0.410, 0.430]
    seeds = tuple(metrics(ap, seed) for seed, ap in enumerate(aps))
    row = replace(FULL, measured=seeds, bootstraps=tuple(resampled(ap, seed) for seed, ap in enumerate(aps)))
    text = table_markdown("T", [row])
    low, high = ends(mean_of_row(row.bootstraps))
    assert f"**41.00 ± 2.00** [{low:.1f}, {high:.1f}]" in text
    assert "95 % confidence intervals over images and seeds, of" in text


def of_worlds(row, aps, worlds):
    """Return a row whose trainings have the given AP, each in a world of its own."""
    seeds = tuple(metrics(ap, world) for ap, world in zip(aps, worlds, strict=True))
    drawn = tuple(resampled(ap, 1, f"world {world}") for ap, world in zip(aps, worlds, strict=True))
    return replace(row, measured=seeds, bootstraps=drawn, worlds=True)


def test_rows_of_drawn_worlds_are_compared_within_each_world(tmp_path):
    """Student's t with two degrees of freedom: 4.303 times the deviation, divided by √3."""
    base = of_worlds(BASE, (0.30, 0.40, 0.50), (1000, 1001, 1002))
    better = of_worlds(BETTER, (0.31, 0.42, 0.53), (1000, 1001, 1002))
    first, line = read_csv(tmp_path, [base, better])
    assert (first["AP_low"], first["AP_high"]) == ("15.16", "64.84")
    assert (line["difference"], line["difference_low"], line["difference_high"]) == ("2.00", "-0.48", "4.48")
    text = table_markdown("T", [base, better])
    assert "95 % confidence intervals over worlds" in text
    assert "minus the measured AP of `t3_raw_fl`, in the same worlds." in text


def test_a_difference_over_worlds_uses_the_worlds_of_both_rows(tmp_path):
    base = of_worlds(BASE, (0.30, 0.40, 0.50), (1000, 1001, 1002))
    better = of_worlds(BETTER, (0.42, 0.53, 0.99), (1001, 1002, 1003))
    line = read_csv(tmp_path, [base, better])[1]
    assert (line["difference"], line["difference_low"], line["difference_high"]) == ("2.50", "-3.85", "8.85")


def test_the_interval_of_an_ap_is_clipped(tmp_path):
    low, high = (replace(RAW, bootstraps=(Bootstrap(ap, np.array([0.0, 1.0, ap]), 100, "d"),)) for ap in (0.1, 0.9))
    lines = read_csv(tmp_path, [low, replace(high, row="r2")])
    assert (lines[0]["AP_low"], lines[1]["AP_high"]) == ("0.00", "100.00")


def test_results_without_resamples_have_no_interval(tmp_path):
    """A row has no interval if one of its seeds has no resamples; neither has the difference to this row."""
    half = replace(BASE, measured=(*BASE.measured, metrics(0.4, seed=1)))
    base, better = read_csv(tmp_path, [half, BETTER])
    assert (base["AP_low"], base["AP_high"], better["difference_low"]) == ("-", "-", "-")
    assert better["difference"] == "2.00"
    text = table_markdown("T", [half, BETTER])
    assert "Intervals are missing for `t3_raw_fl`; run" in text
    assert "missing" not in table_markdown("T", [BASE, BETTER])


def test_rows_on_different_images_are_not_compared():
    other = replace(BETTER, bootstraps=(resampled(0.4152, 2, "other"),))
    with pytest.raises(WorkbenchError, match="different images"):
        table_markdown("T", [BASE, other])


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


def test_the_order_of_three_rows_is_compared_with_the_published_order():
    third = replace(RAW, row="third", published={"AP": 40.0}, measured=(metrics(0.2),))
    assert "Kendall" not in table_markdown("T", [RAW, NOT_RUN, FULL, LITERATURE])  # two measured rows are too few
    # One of three pairs of rows is in the opposite order.
    note = "Kendall's tau-b between measured and published AP of 3 rows: 0.33 (1: the same order)."
    assert f"\n\n{note}\n" in table_markdown("T", [RAW, NOT_RUN, FULL, third, LITERATURE])
    equal = [replace(row, published={"AP": 40.0}) for row in (RAW, FULL, third)]
    assert "Kendall" not in table_markdown("T", equal)


def test_markdown_has_no_difference_to_figures_of_other_images():
    text = table_markdown("T", [RAW, FULL], on_coco=False)
    assert "ΔAP" in table_markdown("T", [RAW, FULL])
    assert "ΔAP" not in text
    assert "\n\nThese are not COCO's images: compare the order of the rows" in text
    unpublished = replace(RAW, published={})
    assert "COCO's images" not in table_markdown("T", [unpublished], on_coco=False)
