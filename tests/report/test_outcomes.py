"""Figures of measured rows: the runs that are drawn, and their names in the legend."""

import pytest

from workbench.report import outcomes
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
