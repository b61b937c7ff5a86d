"""Agreement of measured with published AP: own trainings on all images of val2017 only."""

import numpy as np
import pytest

from workbench.evaluation.intervals import Bootstrap
from workbench.report.tables.agreement import on_agreement
from workbench.report.tables.render import TableRow, table_markdown
from workbench.settings.data import COCO_VAL


def row(name, published, *aps, seeds=None, images=COCO_VAL):
    sizes = dict.fromkeys(("AP50", "AP75", "APS", "APM", "APL"), 0.5)
    seeds = range(len(aps)) if seeds is None else seeds
    facts = [
        {"AP": ap, **sizes, "provenance": {"seed": s, "code_digest": "c0de"}} for s, ap in zip(seeds, aps, strict=True)
    ]
    bootstraps = tuple(Bootstrap(ap, np.full(5, ap), images, "same") for ap in aps)
    return TableRow(name, {"name": name}, published, "run-1", measured=tuple(facts), bootstraps=bootstraps)


def test_one_seed_is_compared_with_the_assumed_spread():
    """The limit is 1.96 * 0.2 * sqrt(2) = 0.55 points."""
    (note,) = on_agreement([row("a", {"AP": 39.0}, 0.385), row("b", {"AP": 39.0}, 0.396)])
    assert "Agrees: `a` (−0.50, ±0.55). Differs: `b` (+0.60, ±0.55)." in note


def test_several_seeds_are_compared_with_their_own_spread():
    """Standard deviation 1 of three seeds, and Student's quantile: 4.303 * sqrt(4 / 3) = 4.97 points."""
    (note,) = on_agreement([row("a", {"AP": 39.0}, 0.40, 0.41, 0.42)])
    assert note.endswith("Agrees: `a` (+2.00, ±4.97).")


@pytest.mark.parametrize(
    "left_out",
    [
        row("published weights", {"AP": 39.0}, 0.39, seeds=["released"]),
        row("few images", {"AP": 39.0}, 0.39, images=100),
        row("test-dev", {"AP_test-dev": 39.0}, 0.39),
        row("not run", {"AP": 39.0}),
    ],
    ids=lambda row: row.row,
)
def test_other_measurements_are_left_out(left_out):
    assert on_agreement([left_out]) == []


def test_the_note_is_below_tables_of_coco_only():
    rows = [row("a", {"AP": 39.0}, 0.385)]
    assert "Agreement with the published AP" in table_markdown("T", rows)
    assert "Agreement with the published AP" not in table_markdown("T", rows, on_coco=False)
