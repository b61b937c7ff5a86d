"""Claims and observations: published effects, sections of the papers, families, and mistakes in the files."""

import re

import pytest

from tests.settings.mistakes import error_of
from workbench.settings import files
from workbench.settings.claims import (
    claimed_tables,
    claims_digest,
    compared_rows,
    families,
    read_claims,
    read_observations,
)
from workbench.settings.files import catalogue, read_table, table_names
from workbench.support.errors import WorkbenchError

SECTIONS = {
    "table1": {"section 3"},
    "table2": {"section 5.1"},
    "table3": {"section 5.1", "abstract and section 5.1", "abstract and section 1"},
    "table4": {"section 5.3"},
    "table5": {"section 5.4", "section 5"},
    "controls": {None},
    **{table: {"section 4"} for table in ("gfl_table1c", "gfl_table2b", "gfl_table2c", "gfl_table3")},
}
CLAIMS = {claim.name: claim for claim in read_claims()}


def test_every_claim_is_stated_in_a_section_about_its_table():
    sources = {table: {c.content.source for c in CLAIMS.values() if c.table == table} for table in claimed_tables()}
    assert sources == SECTIONS
    assert claimed_tables() == table_names()


def test_published_effects_fulfil_the_claims():
    """The papers' own figures have the stated direction, and are within margins and bounds."""
    for claim in CLAIMS.values():
        content, published = claim.content, claim.published
        if content.is_control or content.ranks:
            assert published == ()  # no paper has a figure
        elif content.kind == "equivalent":
            assert max(map(abs, published)) < content.margin
        elif content.kind == "at most":
            assert published[0] < content.bound
        else:
            assert min(published) > 0


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("raw_vfl_over_fcos_atss", (0.9,)),
        ("component_over_fcos_atss", (2.4,)),
        ("oracle_true_centerness", (1.9,)),
        ("oracle_centerness_of_true_boxes", (0.2,)),
        ("oracle_iou_as_class_score", (36.2, 35.5, 33.6, 31.2, 18.6, 18.4, 31.6, 16.6, 7.3)),
        ("vfl_gains_consistently", (0.9, 0.9, 0.9)),
        ("vfl_is_robust", (0.4, 0.1, 0.1, 0.3)),
        ("fcos_atss_is_like_atss", (-0.1,)),
        ("gfl_both", (1.0,)),
        ("gfl_insensitive_to_n", (0.1, 0.0, 0.1)),
    ],
)
def test_published_effects_are_differences_of_published_ap(name, published):
    assert CLAIMS[name].published == published


def test_a_best_row_is_compared_with_every_other_row_of_its_table():
    for name in ("oracle_iou_as_class_score", "gfl_beta_2_is_best"):
        claim = CLAIMS[name]
        rivals = [row for row in read_table(claim.table).rows if row != claim.content.row]
        assert [other for _, other in claim.content.pairs] == rivals


def test_rows_are_compared_one_by_one():
    assert CLAIMS["vfl_gains_consistently"].content.pairs == [
        ("t5_retinanet_vfl", "t5_retinanet_fl"),
        ("t5_foveabox_vfl", "t5_foveabox_fl"),
        ("t5_atss_vfl", "t5_atss_fl"),
    ]


def test_no_comparison_is_a_claim_and_an_observation():
    pairs = [(pair, e.content.metric) for e in read_observations() for pair in e.content.pairs]
    single = [(c.content.pairs[0], c.content.metric) for c in CLAIMS.values() if len(c.content.pairs) == 1]
    assert len(pairs) == len(set(pairs)) == len(read_observations())
    assert not set(pairs) & set(single)
    of_ranges = [e for e in read_observations() if e.table == "table4"]
    assert len(of_ranges) == 19  # single backbones and ranges, of which the paper states nothing


def test_claims_of_a_table_are_a_family_and_its_rankings_another():
    names = [{claim.name for claim in family} for family in families(read_claims())]
    assert {name for family in names for name in family} == set(CLAIMS)
    assert [len(family) for family in names][:5] == [6, 3, 5, 4, 2]
    assert names[3] == {name for name in CLAIMS if name.startswith("ranking_")}
    assert names[-1] == {name for name in CLAIMS if name.startswith("control_")}


def test_rows_of_other_tables_are_compared_too():
    assert "t3_fcos_atss" in compared_rows("table5")
    assert compared_rows("table3", "Spearman") == ["t3_raw_vfl", "t3_raw_fl", "t3_fcos_atss"]
    assert compared_rows("table2", "Spearman") == []
    assert all(catalogue().rows[row] for table in claimed_tables() for row in compared_rows(table))


def write(path, text):
    path.write_text(text)
    files.forget()


def test_the_digest_covers_statements_and_published_effects(experiments):
    before = {table: claims_digest(table) for table in claimed_tables()}
    assert len(set(before.values())) == len(before)
    table = experiments / "vfnet" / "table3.yaml"
    write(table, table.read_text().replace("AP: 40.7", "AP: 40.8"))
    changed = {table for table in claimed_tables() if claims_digest(table) != before[table]}
    assert changed == {"table3"}


OWN = """
table1c:
  own:
    statement: a
    source: b
    kind: better
    row: gfl1c_beta2
    than: gfl1c_beta0
"""


def error_of_claims(experiments, text):
    write(experiments / "gfl" / "claims.yaml", text)
    return error_of(read_claims)


def test_a_claim_of_another_paper_is_added(experiments):
    write(experiments / "gfl" / "claims.yaml", OWN)
    (own,) = [claim for claim in read_claims() if claim.table.startswith("gfl_")]
    assert (own.name, own.table, own.published) == ("own", "gfl_table1c", (2.3,))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("table1c:", "table3c:", "experiments/gfl/claims.yaml: unknown table 'table3c'; did you mean 'table3'?"),
        ("table1c:", "gfl_table1c:", "experiments/gfl/claims.yaml: unknown table 'gfl_table1c'; did you mean 'table1c'?"),
        ("row: gfl1c_beta2", "row: gfl1c_beta3", "experiments/gfl/claims.yaml: table1c.own.row: unknown row 'gfl1c_beta3'; did you mean 'gfl1c_beta"),
        ("than: gfl1c_beta0", "than: t4_atss_r_101", "experiments/gfl/claims.yaml: table1c.own.than: unknown row 't4_atss_r_101'"),
        ("than: gfl1c_beta0", "then: gfl1c_beta0", "experiments/gfl/claims.yaml: table1c.own.then: unknown key; did you mean 'than'?"),
        ("kind: better", "kind: best", "experiments/gfl/claims.yaml: table1c.own.kind: input should be 'better', 'best of'"),
        ("kind: better", "kind: best of", "experiments/gfl/claims.yaml: table1c.own: best of: name one row, and two or more rows in than"),
        ("kind: better", "kind: equivalent", "experiments/gfl/claims.yaml: table1c.own: margin: missing; add it"),
        ("kind: better", "kind: at most", "experiments/gfl/claims.yaml: table1c.own: bound: missing; add it"),
        ("kind: better", "kind: better\n    margin: 1.0", "experiments/gfl/claims.yaml: table1c.own: margin: only for equivalent; remove it"),
        ("row: gfl1c_beta2", "row: [gfl1c_beta2, gfl1c_beta1]", "experiments/gfl/claims.yaml: table1c.own: 2 rows than 1 rows: name one row, or as many rows as others"),
        ("than: gfl1c_beta0", "than: gfl1c_beta2", "experiments/gfl/claims.yaml: table1c.own: a row is compared with itself: name another row in than"),
        ("kind: better", "kind: better\n    testable: {nimi: \"a\"}", "experiments/gfl/claims.yaml: table1c.own.testable: unknown scale 'nimi'; known: bccd, "),
        ("  own:", "  component_vfl:", "experiments/gfl/claims.yaml: table1c.component_vfl: duplicate name of a comparison, also in experiments/vfnet/claims.yaml; rename one"),
        ("table1c:", "table1c: 5\ntable2b:", "experiments/gfl/claims.yaml: table1c: not a group of comparisons; write their names below the table"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_reported_with_its_place(experiments, old, new, message):
    assert old in OWN
    assert error_of_claims(experiments, OWN.replace(old, new)).startswith(message)


def test_observations_and_claims_share_their_names(experiments):
    claims = experiments / "vfnet" / "claims.yaml"
    write(claims, re.sub("component_star:", "component_all:", claims.read_text()))
    with pytest.raises(
        WorkbenchError, match=r"^experiments/vfnet/observations\.yaml: table3\.component_all: duplicate"
    ):
        read_claims()
