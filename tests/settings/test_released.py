"""Published weights: their AP is the publishers', addresses agree with files, and a mistake names its place."""

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from workbench.settings import files
from workbench.settings.catalog import load_table
from workbench.settings.released import read_released
from workbench.support.errors import WorkbenchError


def test_released_weights_agree_with_their_publishers():
    listed = read_released()
    rows = {row.id for table in files.table_names() for row in load_table(table, "coco")[1]}
    shared = Path(os.environ.get("WORKBENCH_SHARED", Path(__file__).parents[3] / "shared")) / "reference"
    for name, entry in listed.items():
        assert entry.publisher == "authors" or entry.config, name
        assert set(entry.rows) <= rows, name
        if entry.url is not None:
            assert unquote(entry.url).endswith(f"/{entry.file}"), name
            assert entry.file.endswith(f"-{entry.sha256}.pth"), name
    if (shared / "paper_tables.json").is_file():
        paper = json.loads((shared / "paper_tables.json").read_text())
        stated = {
            row["id"]: row["val2017_AP_from_repo"] for row in paper["table4"]["rows"] if "val2017_AP_from_repo" in row
        }
        ours = {row: ap for entry in listed.values() for row, ap in entry.rows.items() if row.startswith("t4_")}
        assert ours == {
            f"{row}_480_960" if isinstance(ap, dict) else row: ap["480:960"] if isinstance(ap, dict) else ap
            for row, ap in stated.items()
        }


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
