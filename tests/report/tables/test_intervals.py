"""Intervals and differences in tables of results: over images, seeds and worlds."""

from dataclasses import replace

import numpy as np
import pytest

from tests.report.tables.test_render import FULL, LITERATURE, NOT_RUN, RAW, metrics, read_csv
from workbench.evaluation.effects import effect_of_rows, mean_of_row
from workbench.evaluation.intervals import Bootstrap
from workbench.report.tables.render import table_markdown
from workbench.support.errors import WorkbenchError


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
