"""Figures of measured rows: the runs that are drawn, and their names in the legend."""

import re
import shutil

import pytest

from tests.report.made_up import evaluate
from workbench.report import outcomes
from workbench.report.tables.read import read_table_file
from workbench.runs.results import scale_folder
from workbench.settings import files
from workbench.settings.catalog import load_table
from workbench.settings.config import read_config
from workbench.support.errors import WorkbenchError

SETTINGS = read_config({"seeds": 2})


@pytest.fixture
def drawn(monkeypatch):
    calls = []
    monkeypatch.setattr("workbench.report.figures.curves.draw_loss_curves", lambda curves, *_: calls.append(curves))
    return calls


def log_training(results, run, seed):
    folder = results / "mini" / "runs" / run / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("step,epoch,loss\n1,1,2.0\n")


def test_a_run_is_drawn_once_with_all_its_seeds_and_named_by_its_labels(tmp_path, drawn):
    """Labels that are equal in all rows, e.g. the section of the table, are not in the name."""
    rows = {row.id: row for row in load_table("table4", "mini")[1]}
    for seed in (0, 1):
        log_training(tmp_path, rows["t4_vfnetx_800"].run, seed)
    log_training(tmp_path, rows["t4_vfnet_r50_480_960"].run, 1)
    outcomes.draw_figure("table4", "loss", SETTINGS, tmp_path)
    assert {name: len(frames) for name, frames in drawn[0].items()} == {
        "VFNet, R-50, 480-960": 1,
        "VFNet-X-800, R2-101-DCN, 500-1400": 2,
    }


SAME = ("t3_raw_fl", "t3_raw_vfl", "t3_star_vfl", "t3_full_vfl")


def same_labels(experiments, labels):
    """Give four rows of table 3, which are different runs, the same labels."""
    file = experiments / "vfnet/table3.yaml"
    text = file.read_text()
    for row in SAME:
        text = re.sub(rf"(  {row}:\n(?:    .*\n)*?    labels: )\{{.*\}}", rf"\g<1>{labels}", text)
    assert text.count(f"labels: {labels}") == 4
    file.write_text(text)
    files.forget()


@pytest.mark.parametrize("labels", ["{model: same}", "{model: same, VFL: true}", "{}"])
def test_rows_with_equal_labels_are_all_drawn_and_told_apart(tmp_path, drawn, experiments, labels):
    same_labels(experiments, labels)
    for row in load_table("table3", "mini")[1]:
        log_training(tmp_path, row.run, 0)
    outcomes.draw_figure("table3", "loss", SETTINGS, tmp_path)
    assert len(drawn[0]) == 5
    told_apart = {name.partition(" (")[2].rstrip(")") for name in drawn[0]} - {""}
    # Without labels, a row has the name of its detector, and two rows have the same one.
    assert told_apart == set(SAME if "same" in labels else SAME[:2])


@pytest.mark.parametrize("kind", ["loss", "ranking", "ap"])
def test_a_csv_of_letters_is_one_line_that_names_the_file(tmp_path, kind):
    row = load_table("table3", "mini")[1][0]
    training = scale_folder(tmp_path, "mini").training(row, 0)
    ranking = training.evaluation(row.ranking_folder(0)).ranking
    table = scale_folder(tmp_path, "mini").table("table3")
    file = {"loss": training.curves, "ranking": ranking, "ap": table}[kind]
    file.parent.mkdir(parents=True)
    file.write_text("letters\n")
    with pytest.raises(WorkbenchError) as error:
        outcomes.draw_figure("table3", kind, SETTINGS, tmp_path)
    assert str(error.value).startswith(f"{file}: not a ")
    assert "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_run_without_distinctive_labels_is_named_by_its_detector(tmp_path, drawn):
    log_training(tmp_path, load_table("table1", "mini")[1][0].run, 0)
    outcomes.draw_figure("table1", "loss", SETTINGS, tmp_path)
    assert list(drawn[0]) == ["fcos_atss"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("loss", "table3: nothing to draw at scale mini yet; run snakemake table3$"),
        ("ranking", "table3: nothing to draw at scale mini yet; run snakemake table3_ranking$"),
        ("ap", "mini/tables/table3.csv: no such table; run snakemake table3$"),
    ],
)
def test_a_figure_without_data_is_an_error(tmp_path, kind, message):
    with pytest.raises(WorkbenchError, match=message):
        outcomes.draw_figure("table3", kind, SETTINGS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_of_a_figure_are_named_in_words(tmp_path, monkeypatch):
    """Two rows of Table 1 differ in check marks alone, whose headings are not words."""
    names = []
    monkeypatch.setattr("workbench.report.figures.dots.ap_figure", lambda name, table: names.extend(table.index))
    monkeypatch.setattr("workbench.report.figures.style.write_figure", lambda *_: None)
    outcomes.make_table("table1", SETTINGS, tmp_path)
    outcomes.draw_figure("table1", "ap", SETTINGS, tmp_path)
    assert names[:3] == ["the detector without centerness", "the detector", "true centerness"]
    assert len(set(names)) == 10


@pytest.fixture
def with_test(tiny_data, tmp_path):
    """Data set whose test split has the files of val."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    shutil.copytree(root / "val2017", root / "test2017")
    shutil.copy(root / "annotations/instances_val2017.json", root / "annotations/instances_test2017.json")
    return root


def test_a_table_shows_the_test_split_as_a_second_block(tmp_path, with_test):
    results = tmp_path / "results"
    evaluate(results, "bccd", with_test, t3_raw_fl=[0.30, 0.32], t3_full_vfl=[0.40])
    evaluate(results, "bccd", with_test, split="test", t3_raw_fl=[0.20], t3_full_vfl=[0.25])
    both = read_config({"scale": "bccd", "data_root": str(with_test), "split": "test"})
    text = outcomes.make_table("table3", both, results)
    folder = scale_folder(results, "bccd")
    assert folder.table("table3").with_suffix(".md").read_text() == text
    of_val, of_test = text.split("### val")[1].split("### test")
    assert all(text in of_val for text in ("31.00 ± 1.41", "AP published"))
    assert "20.00" in of_test
    assert not any(text in of_test for text in ("31.00", "published"))
    tables = [
        read_table_file(file).set_index("row")["AP"] for file in (folder.table("table3"), folder.test_table("table3"))
    ]
    assert [table[["t3_raw_fl", "t3_full_vfl", "t3_star_vfl"]].tolist() for table in tables] == [
        ["31.00", "40.00", "not run"],
        ["20.00", "25.00", "not run"],
    ]
    page = folder.table("table3").with_suffix(".html").read_text()
    assert page.index("31.00") < page.index("20.00")
    assert folder.tables() == [folder.table("table3")]


def test_without_the_test_split_a_table_has_one_block(tmp_path, with_test):
    results = tmp_path / "results"
    evaluate(results, "bccd", with_test, t3_raw_fl=[0.30])
    evaluate(results, "bccd", with_test, split="test", t3_raw_fl=[0.20])
    text = outcomes.make_table("table3", read_config({"scale": "bccd", "data_root": str(with_test)}), results)
    assert not any(part in text for part in ("###", "20.00"))
    assert not scale_folder(results, "bccd").test_table("table3").exists()
