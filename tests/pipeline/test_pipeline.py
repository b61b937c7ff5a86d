"""The pipeline as a user runs it: snakemake on a copy of the repository, end to end and in dry runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch

from tests.few_images import draw_few

BIN = Path(sys.executable).parent
REPORTED = ("tables/table3.html", "figures/table3_loss.png", "figures/table3_ap.png")
REHEARSAL = ("--config", "limit_steps=2", "limit_images=4")


def snakemake(folder, *arguments, check=True):
    """Run `snakemake`; its jobs import the package in ``folder``."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    result = subprocess.run(
        [BIN / "snakemake", "--cores", "2", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if check else subprocess.PIPE,
        text=True,
    )
    if check:
        assert result.returncode == 0, result.stdout
    return result


def planned(folder, *arguments):
    """Number of jobs of each rule in a dry run."""
    output = snakemake(folder, "-n", *arguments).stdout
    table = output.rsplit("Job stats:", 1)[-1] if "Job stats:" in output else ""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory, copy):
    return copy(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory, copy):
    """Copy of the repository with a rehearsal of Table 3 on fewer drawn images."""
    folder = copy(tmp_path_factory.mktemp("rehearsed"))
    draw_few(folder / "experiments", 24, 8)
    snakemake(folder, "table3", *REHEARSAL)
    return folder


def test_a_rehearsal_ends_in_a_table_and_a_figure(rehearsed):
    results = rehearsed / "results" / "mini-rehearsal"
    table = pandas.read_csv(results / "tables" / "table3.csv", keep_default_na=False)
    assert list(table["row"]) == ["t3_raw_fl", "t3_raw_vfl", "t3_star_vfl", "t3_full_vfl", "t3_fcos_atss"]
    assert (table != "").all().all()
    assert list(table["AP_published"]) == [39.0, 40.1, 40.7, 41.6, 39.2]
    assert set(table["compared_with"]) == {"-", "t3_raw_fl"}
    assert (table["AP_low"].astype(float) <= table["AP_high"].astype(float)).all()
    text = (results / "tables" / "table3.md").read_text()
    assert text.count("\n| `t3_") == 5
    assert "These are not COCO's images" in text
    for kind in ("loss", "ap"):
        assert (results / "figures" / f"table3_{kind}.png").stat().st_size > 20_000
    assert len(list(results.glob("runs/*/experiment.json"))) == 5  # no folders of runs of other tables
    metrics = json.loads(next(results.glob("runs/vfnet-*/seed0/*/metrics.json")).read_text())
    assert metrics["images"] == 4
    assert metrics["provenance"]["training"]["versions"]["torch"]


@pytest.mark.slow
def test_table_1_and_rankings_need_no_other_training(rehearsed):
    before = {path: path.stat().st_mtime_ns for path in rehearsed.rglob("model.safetensors")}
    snakemake(rehearsed, "table1", "table3_ranking", *REHEARSAL)
    results = rehearsed / "results" / "mini-rehearsal"
    table = pandas.read_csv(results / "tables" / "table1.csv", keep_default_na=False)
    assert len(table) == 10
    assert (table["seeds"] == 0).all()
    assert (results / "figures" / "table3_ranking.png").stat().st_size > 20_000
    assert len(list(results.glob("runs/*/seed0/*/ranking.csv"))) == 5
    assert {path: path.stat().st_mtime_ns for path in rehearsed.rglob("model.safetensors")} == before


def test_notebooks_show_existing_results(rehearsed):
    """The target makes no table. Even with a seed that is not trained, the target is one job."""
    assert planned(rehearsed, "notebooks", *REHEARSAL, "seeds=2") == {"notebooks": 1, "total": 1}
    path = "results/mini-rehearsal/notebooks/results.ipynb"
    subprocess.run(
        [BIN / "workbench", "notebook", "results", "--limit-steps", "2", "--limit-images", "4"],
        cwd=rehearsed,
        env=os.environ | {"PYTHONPATH": str(rehearsed)},
        check=True,
    )
    cells = json.loads((rehearsed / path).read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert outputs[0]["text"] == ["Tables at scale mini: table3\n"]
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 2
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_claims_are_judged_by_existing_evaluations(rehearsed):
    assert planned(rehearsed, "claims", *REHEARSAL, "seeds=2") == {"claims": 1, "total": 1}
    snakemake(rehearsed, "claims", *REHEARSAL)
    claims = pandas.read_csv(rehearsed / "results/mini-rehearsal/claims.csv")
    judged = set(claims["claim"][claims["seeds"] > 0])
    assert "component_vfl" in judged
    verdicts = pandas.read_csv(rehearsed / "results/mini-rehearsal/claims/table3.csv")
    assert set(verdicts["claim"][verdicts["seeds"] > 0]) == judged
    assert set(verdicts["verdict"]) == {"one seed", "not run", "-"}  # "-": observations
    for folder in ("", "/claims"):
        forms = {file.suffix for file in (rehearsed / f"results/mini-rehearsal{folder}").glob("*.*")}
        assert {".csv", ".md", ".html", ".png", ".pdf"} <= forms
    assert not (rehearsed / "results/mini-rehearsal/claims/table2.csv").exists()


def test_everything_waits_for_its_tables(rehearsed):
    """In a call for everything, notebooks and verdicts come after the tables that they show or judge."""
    shutil.rmtree(rehearsed / "results/mini-rehearsal/claims", ignore_errors=True)  # the test before may have made some
    jobs = planned(rehearsed, "all", *REHEARSAL)
    assert (jobs["notebook"], jobs["verdicts"], jobs["table"]) == (4, 10, 9)
    jobs = planned(rehearsed, "results/mini-rehearsal/claims/table3.csv", *REHEARSAL)
    assert jobs == {"rank": 3, "verdicts": 1, "total": 4}  # three rows are in claims about the ranking of boxes
    jobs = planned(rehearsed, "results/mini-rehearsal/claims/table1.csv", *REHEARSAL)
    assert (jobs["detect"], jobs["evaluate"], jobs["verdicts"], jobs["total"]) == (9, 9, 1, 19)


def test_a_report_shows_existing_results(rehearsed):
    assert snakemake(rehearsed, "--report", "report.html", *REHEARSAL).stdout.endswith("Report created.\n")
    page = (rehearsed / "report.html").read_text()
    named = set(re.findall(r"results/mini-rehearsal/[\w/]+\.\w+", page))
    assert {f"results/mini-rehearsal/{file}" for file in REPORTED} <= named
    assert not [file for file in named if "table2" in file]
    errors = snakemake(rehearsed, "--report", "none.html", check=False).stderr
    assert errors.endswith(
        "workbench: results/mini: nothing to report yet; run snakemake --cores all table3, or another table, first\n"
    )
    assert not (rehearsed / "none.html").exists()
    plan = snakemake(rehearsed, "-n", "--report", "none.html", "--report-after-run", check=False)
    assert re.search(r"^train +[1-9]", plan.stdout + plan.stderr, re.MULTILINE)  # results are made before the report


def test_nothing_is_left_to_do(rehearsed):
    assert "Nothing to be done" in snakemake(rehearsed, "table3", *REHEARSAL).stdout
    assert planned(rehearsed, "table2", *REHEARSAL)["train"] == 5
    assert planned(rehearsed, "table5", *REHEARSAL)["train"] == 14


def test_results_without_resamples_are_evaluated_again_and_nothing_more(rehearsed, tmp_path):
    shutil.copytree(rehearsed, tmp_path / "copy")
    for name in ("bootstrap.json", "table3.csv"):  # the table of an earlier version differs in content
        for file in (tmp_path / "copy").rglob(name):
            file.unlink()
    jobs = planned(tmp_path / "copy", "table3", *REHEARSAL)
    assert jobs == {"evaluate": 5, "table": 1, "ap": 1, "table3": 1, "total": 8}


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        ("tables/table3.md", {"table", "ap"}),
        ("tables/table3.html", {"table", "ap"}),
        ("figures/table3_ap.pdf", {"ap"}),
        ("figures/table3_loss.png", {"loss"}),
    ],
)
def test_a_deleted_form_of_a_table_or_figure_is_made_again(rehearsed, tmp_path, file, rules):
    path = rehearsed / "results/mini-rehearsal" / file
    path.rename(tmp_path / "aside")
    try:
        assert planned(rehearsed, "table3", *REHEARSAL).keys() == {*rules, "table3", "total"}
    finally:
        (tmp_path / "aside").rename(path)


def test_comments_and_new_dates_retrain_nothing(rehearsed):
    for name in ("workbench/training/loop.py", "workbench/detectors/vfnet.py", "experiments/vfnet/table3.yaml"):
        path = rehearsed / name
        path.write_text(f"# a comment\n\n{path.read_text()}")
    for path in (rehearsed / "experiments").rglob("*.yaml"):
        os.utime(path)
    assert planned(rehearsed, "table3", *REHEARSAL) == {}


def test_a_changed_loss_plans_one_training_and_another_nms_none(rehearsed, tmp_path, edit):
    shutil.copytree(rehearsed, tmp_path / "copy")
    table, recipes = (tmp_path / "copy" / "experiments" / name for name in ("vfnet/table3.yaml", "recipes.yaml"))
    edit(table, "{name: focal}", "{name: focal, alpha: 0.3}")
    assert planned(tmp_path / "copy", "table3", *REHEARSAL)["train"] == 1
    edit(table, "{name: focal, alpha: 0.3}", "{name: focal}")
    edit(recipes, "  schedule: 1x\n", "  schedule: 1x\n  evaluation: {nms_iou: 0.5}\n")
    jobs = planned(tmp_path / "copy", "table3", *REHEARSAL)
    assert "train" not in jobs
    assert (jobs["detect"], jobs["evaluate"], jobs["table"]) == (5, 5, 1)


def test_a_changed_published_number_remakes_only_the_table(rehearsed, tmp_path, edit):
    shutil.copytree(rehearsed, tmp_path / "copy")
    edit(tmp_path / "copy" / "experiments" / "vfnet" / "table3.yaml", "AP: 39.0", "AP: 39.1")
    assert planned(tmp_path / "copy", "table3", *REHEARSAL).keys() == {"table", "ap", "table3", "total"}


def test_plans(repository):
    assert planned(repository, "table3")["train"] == 5
    assert planned(repository, "table2")["train"] == 6
    assert planned(repository, "table5")["train"] == 15
    assert planned(repository, "table2", "table3", "table5")["train"] == 10 + 14
    assert planned(repository, "gfl_table1c", "gfl_table2b", "gfl_table2c", "gfl_table3")["train"] == 5 + 4 + 3 + 2
    assert planned(repository, "controls")["train"] == 3
    assert planned(repository, "all")["train"] == 10 + 14 + 14 + 21 + 3
    assert planned(repository, "t3_full_vfl")["train"] == 1
    jobs = planned(repository, "table1", "table3")
    assert (jobs["train"], jobs["detect"]) == (5, 5 + 9)
    jobs = planned(repository, "table3_ranking")
    assert (jobs["train"], jobs["rank"], jobs["ranking"]) == (5, 5, 1)
    jobs = planned(repository, "table3", "--config", "seeds=3")
    assert (jobs["train"], jobs["dataset"]) == (15, 3)
    jobs = planned(repository, "table3", "--config", "seeds=2", "first_seed=1000")
    assert (jobs["train"], jobs["dataset"]) == (10, 2)


def test_published_weights_take_the_place_of_trainings(repository, tiny_data):
    """11 of 21 runs have published weights; the runs of VFNet-X are tested at two sizes."""
    jobs = planned(repository, "table4", "--config", "weights=released", "scale=coco", f"data_root={tiny_data}")
    assert jobs.pop("total") == 16 + 11 + 10 + 22 + 22 + 4
    assert jobs == {
        "weights": 11 + 5,  # 11 published detectors, and 5 backbones, each for two trainings
        "import_weights": 11,
        "train": 10,
        "detect": 22,
        "evaluate": 22,
        "table": 1,
        "loss": 1,
        "ap": 1,
        "table4": 1,
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is needed")
def test_gpus_are_requested_on_a_machine_without_any(rehearsed):
    """GPUs can be requested on a machine that sees none, as on a cluster. A job that gets no GPU reports this."""
    # The whole batch is on one canvas, for which one GPU suffices.
    plan = snakemake(rehearsed, "-n", "--quiet", "host", "--cores", "64", "t3_raw_vfl", "--config", "gpus=4").stdout
    assert re.search(r"threads: 4\n.*\bgpu=1\b", plan)
    config = ("--config", "limit_steps=3", "limit_images=4", "gpus=1")
    errors = snakemake(rehearsed, "t3_raw_vfl", *config, check=False).stderr
    assert errors.splitlines()[-1].startswith("workbench: --gpu: PyTorch finds no GPU on this machine; ")


def test_a_failed_job_has_the_last_word(rehearsed, tmp_path):
    """The line with the remedy is below Snakemake's own lines, and no file is left that counts as a result."""
    shutil.copytree(rehearsed, tmp_path / "copy")
    for image in (tmp_path / "copy" / "results").glob("dataset-*/world0/train2017/*.jpg"):
        image.write_bytes(image.read_bytes()[:500])
    config = ("--config", "first_seed=100000", *REHEARSAL[1:])  # another training in world 0
    result = snakemake(tmp_path / "copy", "t3_full_vfl", *config, check=False)
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1]
    assert last.startswith("workbench: ")
    assert "not a readable JPEG" in last
    assert not list((tmp_path / "copy").glob("results/*/runs/*/seed100000/model.safetensors"))


def test_the_linter_asks_only_for_containers(repository):
    """One environment serves all rules and `make` sets it up, so no rule names a container of its own."""
    advice = snakemake(repository, "--lint", check=False).stderr
    assert set(re.findall(r"^ +\* (.+)$", advice, re.MULTILINE)) == {
        "Specify a conda environment or container for each rule.:"
    }
