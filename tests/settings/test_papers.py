"""Tables of the papers: their runs, published metrics, and the rows that are compared."""

import json
import os
from pathlib import Path

import pytest

from workbench.settings.catalog import load_table

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "controls": 3,
    "table1": 1,
    "table2": 6,
    "table3": 5,
    "table4": 21,
    "table5": 15,
    "gfl_table1c": 5,
    "gfl_table2b": 4,
    "gfl_table2c": 4,
    "gfl_table3": 4,
}
"""Numbers of runs per table."""


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("scale", ["mini", "coco", "bccd"])
def test_every_row_is_another_evaluation_and_tables_have_their_numbers_of_runs(table, scale):
    _, rows = load_table(table, scale)
    assert len({(row.run, row.variant_id) for row in rows}) == len(rows)
    assert len({row.run for row in rows}) == TABLES[table]


def test_tables_share_the_runs_that_the_papers_share():
    rows: dict[str, list[str]] = {}
    for table in TABLES:
        for row in load_table(table, "coco")[1]:
            rows.setdefault(row.run, []).append(row.id)
    assert sorted(ids for ids in rows.values() if len(ids) > 1) == [
        ["gfl1c_beta2", "gfl3_qfl"],
        ["gfl2b_n16", "gfl2c_delta1", "gfl3_qfl_dfl"],
        [*(row.id for row in load_table("table1", "coco")[1]), "t3_fcos_atss"],
        ["t2_g2p0_a0p75_q", "t3_full_vfl", "t5_vfnet_vfl"],
        ["t4_vfnetx_800", "t4_vfnetx_1200"],
    ]


@pytest.fixture
def paper():
    shared = Path(os.environ.get("WORKBENCH_SHARED", ROOT.parent / "shared")) / "reference" / "paper_tables.json"
    if not shared.is_file():
        pytest.skip(f"{shared}: no such file; set WORKBENCH_SHARED to the folder that contains reference/")
    return json.loads(shared.read_text())


def test_published_metrics_are_those_of_the_paper(paper):
    for table in set(TABLES) - {"table4", "controls"}:
        ours = {row.id: row.published for row in load_table(table, "mini")[1]}
        assert ours == {row["id"]: row["metrics"] for row in paper[table]["rows"]}


def test_published_metrics_of_table_4_are_those_of_the_paper(paper):
    """A row of the paper with two trainings is two rows here; all 43 are present, in the paper's order."""
    wanted = {}
    for row in paper["table4"]["rows"]:
        ranges = row["metrics"] if "metrics_keyed_by" in row else {"": row["metrics"]}
        for short, metrics in ranges.items():
            name = "_".join([row["id"], *short.split(":")]) if short else row["id"]
            wanted[name] = (metrics, row["fps"], row["labels"]["method"], row["labels"]["backbone"])
    assert len(paper["table4"]["rows"]) == 43
    spec, rows = load_table("table4", "mini")
    stated = {
        name: (row.published, row.fps, row.labels["method"], row.labels["backbone"]) for name, row in spec.rows.items()
    }
    assert list(stated.items()) == list(wanted.items())
    assert spec.split == "test-dev"
    kinds = {row["id"]: row["kind"] for row in paper["table4"]["rows"]}
    assert {row.id for row in rows} == {
        n for n in wanted if not any(n == i and k == "literature" for i, k in kinds.items())
    }


BASES = {"table2": 1, "table3": 1, "table4": 2, "table5": 5} | dict.fromkeys((t for t in TABLES if t[:3] == "gfl"), 1)


@pytest.mark.parametrize("name", BASES)
def test_every_row_is_compared_with_a_base_row(name):
    """Exceptions are the rows of VFNet-X in Table 4: each is compared with the row that it extends."""
    spec, rows = load_table(name)
    named = {row.id: spec.reference(row.id) for row in rows}
    bases = {id_ for id_, other in named.items() if other is None}
    assert len(bases) == BASES[name]
    chained = {"t4_vfnetx_800": "t4_vfnet_r2_101_dcn_480_960", "t4_vfnetx_1200": "t4_vfnetx_800"}
    assert all(other in bases or chained[id_] == other for id_, other in named.items() if other)
    assert all(spec.reference(id_) is None for id_, row in spec.rows.items() if not row.base)


def test_rows_are_compared_with_their_own_detector_or_range():
    spec, _ = load_table("table5")
    assert spec.reference("t5_atss_vfl") == spec.reference("t5_atss_gfl") == "t5_atss_fl"
    spec, _ = load_table("table4")
    assert spec.reference("t4_vfnet_x101_64x4d_dcn_480_960") == "t4_vfnet_r50_480_960"
    assert spec.reference("t4_faster_r_cnn_x_101") is None
