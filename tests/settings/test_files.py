"""The catalogue reads each file of experiments/ once; names of tables and rows are unique, and clashes name places."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.settings.mistakes import error_of
from workbench.report.outcomes import settings_digest
from workbench.runs.find import data_folder
from workbench.settings import files
from workbench.settings.catalog import load_row, load_table
from workbench.settings.claims import claimed_tables
from workbench.settings.config import read_config
from workbench.settings.files import catalogue, read_table, table_names
from workbench.settings.registration import judged_digest
from workbench.settings.released import read_released, released_runs, trainings_of

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
title: one row
split: val2017
rows:
  {row}:
    labels: {{loss: focal}}
    base: atss
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    files.forget()


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    write(path, text.replace(old, new, 1))


def test_a_start_of_the_pipeline_reads_each_yaml_file_once(experiments, monkeypatch):
    reads = Counter()
    read_bytes = Path.read_bytes

    def counted(self):
        reads[self.relative_to(experiments)] += self.suffix == ".yaml"
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    settings = read_config({})
    tables = {name: load_table(name, settings.scale)[1] for name in table_names()}
    rows = [row for table in tables.values() for row in table]
    assert trainings_of(rows, settings)
    assert released_runs(rows)
    assert all(judged_digest(table, settings.scale) for table in claimed_tables())
    assert all(settings_digest(*table) for table in tables.items())
    assert data_folder(settings.scale, Path("results"))
    yaml_files = {file.relative_to(experiments) for file in experiments.rglob("*.yaml")}
    assert reads.keys() == {file for file in yaml_files if file.parts[0] != "scales" or file.stem == settings.scale}
    assert set(reads.values()) == {1}


def test_a_changed_file_is_read_after_forget(experiments):
    before = load_row("table3", "t3_raw_fl")
    file = experiments / "vfnet" / "table3.yaml"
    text = file.read_text().replace("AP: 39.0", "AP: 39.1")
    file.write_text(text)
    assert load_row("table3", "t3_raw_fl").published == before.published
    files.forget()
    assert load_row("table3", "t3_raw_fl").published == before.published | {"AP": 39.1}


def test_tables_of_the_main_paper_come_first_and_have_short_names(experiments):
    papers = {
        "vfnet": ["controls", "table1", "table2", "table3", "table4", "table5"],
        "gfl": ["table1c", "table2b", "table2c", "table3"],
    }
    assert table_names() == papers["vfnet"] + [f"gfl_{name}" for name in papers["gfl"]]
    replace(experiments / "config.yaml", "paper: vfnet", "paper: gfl")
    assert table_names() == papers["gfl"] + [f"vfnet_{name}" for name in papers["vfnet"]]
    assert load_row("vfnet_table3", "t3_full_vfl").table == "vfnet_table3"


def test_papers_state_their_title_and_link():
    assert list(catalogue().papers) == ["vfnet", "gfl"]
    assert [paper.year for paper in catalogue().papers.values()] == [2021, 2020]
    assert catalogue().papers["vfnet"].title == "VarifocalNet: An IoU-aware Dense Object Detector"
    assert catalogue().papers["gfl"].link == "https://arxiv.org/abs/2006.04388"


def test_any_other_file_name_is_a_table(experiments):
    write(experiments / "gfl" / "ablation.yaml", TABLE.format(row="own"))
    assert "gfl_ablation" in table_names()
    for name in ("paper", "claims", "observations", "released", "preregistration"):
        assert name not in table_names()
    write(experiments / "gfl" / "preregistration.yaml", "anything: 1\n")
    assert "gfl_preregistration" not in table_names()


def test_published_metrics_are_optional(experiments):
    write(experiments / "gfl" / "ablation.yaml", TABLE.format(row="own"))
    assert load_row("gfl_ablation", "own").published == {}


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("gfl/own.yaml", "t3_full_vfl", "experiments/gfl/own.yaml: rows.t3_full_vfl: duplicate row id, also in experiments/vfnet/table3.yaml; rename one"),
        ("gfl/own.yaml", "t4_r_fcn_r_101", "experiments/gfl/own.yaml: rows.t4_r_fcn_r_101: duplicate row id, also in experiments/vfnet/table4.yaml; rename one"),
        ("vfnet/own.yaml", "table3", "experiments/vfnet/own.yaml: rows.table3: 'table3' is a target of experiments/vfnet/table3.yaml; rename the row"),
        ("vfnet/own.yaml", "gfl_table3_ranking", "experiments/vfnet/own.yaml: rows.gfl_table3_ranking: 'gfl_table3_ranking' is a target of experiments/gfl/table3.yaml; rename the row"),
        ("vfnet/own.yaml", "own", "experiments/vfnet/own.yaml: rows.own: 'own' is a target of experiments/vfnet/own.yaml; rename the row"),
        ("vfnet/own.yaml", "claims", "experiments/vfnet/own.yaml: rows.claims: 'claims' is a target of the pipeline; rename the row"),
        ("vfnet/own.yaml", "train", "experiments/vfnet/own.yaml: rows.train: 'train' is a target of the pipeline; rename the row"),
        ("vfnet/own.yaml", "my row", "experiments/vfnet/own.yaml: rows.my row: 'my row' cannot be a target of the pipeline; use letters, digits, _ and - only"),
        ("vfnet/notebooks.yaml", "x", "experiments/vfnet/notebooks.yaml: 'notebooks' is a target of the pipeline; rename the file"),
        ("vfnet/gfl_table3.yaml", "x", "experiments/gfl/table3.yaml: duplicate table name 'gfl_table3', also of experiments/vfnet/gfl_table3.yaml; rename one"),
        ("table6.yaml", "x", "experiments/table6.yaml: a table outside a paper; move it to a paper's folder"),
        ("own/table1.yaml", "x", "experiments/own/paper.yaml: missing; add it (title, authors, year, link)"),
    ],
)  # fmt: skip
def test_a_name_that_clashes_is_refused_with_its_place(experiments, file, row, message):
    write(experiments / file, TABLE.format(row=row))
    assert error_of(load_table, "table3") == message


def test_every_rule_of_the_snakefile_is_a_refused_name():
    lines = (ROOT / "Snakefile").read_text().splitlines()
    rules = {line.split()[1].rstrip(":") for line in lines if line.lstrip().startswith("rule ")}
    assert len(rules) > 10
    assert rules <= {*files.TARGETS, *files.STEPS}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("config.yaml", "paper: vfnet", "paper: vfnt", "experiments/config.yaml: paper: unknown paper 'vfnt'; did you mean 'vfnet'? (known: gfl, vfnet)"),
        ("config.yaml", "paper: vfnet", "# paper", "experiments/config.yaml: paper: missing; add the paper whose tables have short names"),
        ("gfl/paper.yaml", "authors:", "author:", "experiments/gfl/paper.yaml: author: unknown key; did you mean 'authors'? (known: title, authors, year, link)"),
        ("gfl/paper.yaml", "year: 2020", "", "experiments/gfl/paper.yaml: year: missing; add it"),
        ("gfl/table3.yaml", "split: val2017", "split: val2018", "experiments/gfl/table3.yaml: split: input should be 'val2017' or 'test-dev' (found 'val2018')"),
        ("vfnet/table3.yaml", "base: vfnet_raw", "base: vfnet_raw\n    extends: vfnet", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.extends: unknown key; known: "),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_of_a_paper_names_its_place(experiments, file, old, new, message):
    replace(experiments / file, old, new)
    assert error_of(load_table, "table3").startswith(message)


def test_the_main_paper_is_not_set_on_the_command_line():
    message = error_of(read_config, {"paper": "gfl"})
    assert message == "--config: paper: the names of tables depend on this key; set it in experiments/config.yaml"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  gfl_r50_1x:", "  atss_r50_1x:", "experiments/gfl/released.yaml: checkpoints.atss_r50_1x: duplicate name of weights, also in experiments/vfnet/released.yaml; rename one"),
        ("gfl2b_n16: 40.2", "t5_atss_fl: 40.2", "experiments/gfl/released.yaml: checkpoints.gfl_r50_1x.rows.t5_atss_fl: this row has the weights atss_r50_1x; keep one"),
        ("gfl2b_n16: 40.2", "gfl2b_n61: 40.2", "experiments/gfl/released.yaml: checkpoints.gfl_r50_1x.rows: unknown row 'gfl2b_n61'; did you mean 'gfl2b_n18'? (known: control_star_grid, "),
    ],
)  # fmt: skip
def test_published_weights_have_one_name_and_one_owner_per_row(experiments, old, new, message):
    replace(experiments / "gfl" / "released.yaml", old, new)
    assert error_of(read_released).startswith(message)


def test_unknown_names_are_refused_with_the_nearest_name():
    assert "experiments: unknown table 'table33'; did you mean 'table3'?" in error_of(read_table, "table33")
    assert error_of(load_row, "table4", "t4_r_fcn_r_101") == (
        "experiments/vfnet/table4.yaml: rows.t4_r_fcn_r_101: from the literature and not run; name a row with a base"
    )
    message = "experiments/vfnet/table3.yaml: unknown row 't3_ful_vfl'; did you mean 't3_full_vfl'?"
    assert error_of(load_row, "table3", "t3_ful_vfl").startswith(message)
    message = "experiments/scales: unknown scale 'coko'; did you mean 'coco'? (known: bccd, coco, "
    assert error_of(load_table, "table3", "coko").startswith(message)


def test_the_package_exports_the_functions_of_the_settings_without_torch():
    code = """
import sys, workbench
settings = [name for name in workbench.__all__ if name not in ("build_detector", "load_run")]
assert {"load_table", "load_row", "table_names"} <= set(settings)
assert all(callable(getattr(workbench, name)) for name in settings)
assert "torch" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("folder", [".", "vfnet", "notes"])
def test_hidden_files_of_editors_and_desktops_are_no_tables(experiments, folder):
    tables = table_names()
    (experiments / folder).mkdir(exist_ok=True)
    (experiments / folder / ".#table3.yaml").symlink_to("somebody@machine.1234")  # lock of an editor
    (experiments / folder / "._table3.yaml").write_bytes(b"\0\5\x16\7")  # of macOS, on a foreign disk
    files.forget()
    assert table_names() == tables
