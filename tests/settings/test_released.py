"""Published weights: their AP is the publishers', addresses agree with files, and a mistake names its place."""

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from workbench.settings import files
from workbench.settings.catalog import find_row, load_table
from workbench.settings.released import read_released, released_runs, reported_by
from workbench.support.errors import WorkbenchError


def test_released_weights_agree_with_their_publishers():
    listed = read_released()
    rows = {row.id for table in files.table_names() for row in load_table(table, "coco")[1]}
    literature = {name for name, entry in listed.items() if entry.geometry}
    assert literature == {"gfl_r101_dcn_2x", "gfl_x101_32x4d_dcn_2x"}
    shared = Path(os.environ.get("WORKBENCH_SHARED", Path(__file__).parents[3] / "shared")) / "reference"
    for name, entry in listed.items():
        assert entry.publisher == "authors" or entry.config, name
        assert name in literature or set(entry.rows) <= rows, name
        if entry.url is not None:
            assert unquote(entry.url).endswith(f"/{entry.file}"), name
            assert entry.file.endswith(f"-{entry.sha256}.pth"), name
    if (shared / "paper_tables.json").is_file():
        paper = json.loads((shared / "paper_tables.json").read_text())
        stated = {
            row["id"]: row["val2017_AP_from_repo"] for row in paper["table4"]["rows"] if "val2017_AP_from_repo" in row
        }
        ours = {row: ap for entry in listed.values() for row, ap in entry.rows.items() if row.startswith("t4_vf")}
        assert ours == {
            f"{row}_480_960" if isinstance(ap, dict) else row: ap["480:960"] if isinstance(ap, dict) else ap
            for row, ap in stated.items()
        }


def test_the_authors_weights_of_table_5_have_exactly_the_printed_ap():
    spec, rows = load_table("table5", "coco")
    authors = {row.id: reported_by(row.id)["authors"] for row in rows if "authors" in reported_by(row.id)}
    assert len(authors) == 9
    assert authors == {id_: spec.rows[id_].published["AP"] for id_ in authors}
    assert not any(id_.endswith("gfl") for id_ in authors)


def test_released_weights_cover_nine_rows_of_table_5_the_authors_first():
    rows = load_table("table5", "coco")[1]
    runs = {row.run: row.id for row in rows}
    names = {runs[run]: names for run, names in released_runs(rows).items()}
    assert len(names) == 9
    assert names["t5_atss_fl"] == ("atss_fl_r50_1x", "atss_r50_1x")
    assert names["t5_atss_vfl"] == ("atss_vfl_r50_1x",)
    assert names["t5_vfnet_vfl"] == ("vfnet_r50_1x",)
    assert reported_by("t5_atss_fl") == {"authors": 39.3, "mmdetection": 39.4}
    assert reported_by("t5_atss_gfl") == {}


def test_weights_of_an_older_geometry_are_in_no_run(experiments):
    file = experiments / "vfnet" / "released.yaml"
    text = file.read_text()
    file.write_text(text.replace("  atss_vfl_r50_1x:\n", "  atss_vfl_r50_1x:\n    geometry: mmdetection 1\n"))
    files.forget()
    row = find_row("t5_atss_vfl", "coco")
    assert released_runs([row]) == {}
    assert reported_by("t5_atss_vfl") == {"authors": 40.2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "publisher: authors",
            "publisher: author",
            "experiments/vfnet/released.yaml: checkpoints.vfnet_r50_1x.publisher",
        ),
        ("sha256: '38", "sha256: 'X8", "checkpoints.vfnet_r50_1x.sha256"),
        ("url: https", "url: http", "checkpoints.vfnet_r50_1x.url"),
        ("file: ", "fil: ", "unknown key; did you mean 'file'?"),
        ("t3_full_vfl: 41.6", "t3_full_vfl: good", "rows.t3_full_vfl"),
    ],
)
def test_a_mistake_in_a_list_is_reported_with_its_place(experiments, old, new, message):
    file = experiments / "vfnet" / "released.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    files.forget()
    with pytest.raises(WorkbenchError, match=re.escape(message)):
        read_released()
