"""Starts from trained detectors in the pipeline: no weights of a backbone are fetched, and a user's file is no input."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from tests.few_images import CLASSES
from workbench.detectors import build_detector
from workbench.settings.catalog import load_row
from workbench.settings.data import CocoData
from workbench.support.errors import WorkbenchError

ROW = "t3_full_vfl"
REST = {"train": 1, "detect": 1, "evaluate": 1, ROW: 1}


@pytest.fixture
def planned(snakemake, copy, tiny_data, tmp_path):
    """Function that plans the row at scale coco, and returns exit code, output, and the number of jobs of each rule."""
    folder = copy(tmp_path / "repository")
    (folder / "own.pth").write_bytes(b"weights")

    def plan(*settings):
        options = ("-n", "--quiet", "host", "--config", "scale=coco", f"data_root={tiny_data}")
        code, output = snakemake(folder, ROW, *options, *settings)
        table = output.rsplit("Job stats:", 1)[-1] if "Job stats:" in output else ""
        return code, output, {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}

    return plan


def test_only_the_file_of_the_start_is_fetched(planned):
    code, output, jobs = planned("init=released")
    assert (code, jobs) == (0, REST | {"weights": 1, "total": 5})
    assert "results/weights/vfnet_r50_1x.pth" in output
    assert "resnet50.pth" not in output
    code, _, jobs = planned("init=own.pth")
    assert (code, jobs) == (0, REST | {"total": 4})


def test_a_start_that_is_not_known_is_one_line(planned):
    code, output, _ = planned("init=gone.pth")
    assert code == 1
    message = "workbench: init: gone.pth: cannot be read (No such file or directory); correct the path"
    assert output.strip().splitlines()[-1] == message


def test_rows_without_published_weights_fail_alone(pipeline):
    plan = pipeline("coco", init="released")
    runs = {row.id: row.run for row in plan.rows}
    assert plan.start(runs["t3_full_vfl"]) == ["results/weights/vfnet_r50_1x.pth"]
    assert plan.pretrained(runs["t3_full_vfl"]) == plan.pretrained(runs["t3_raw_vfl"]) == []
    with pytest.raises(WorkbenchError, match=r"^init: published weights: none for this row; name a file or other"):
        plan.start(runs["t3_raw_vfl"])


def test_a_user_s_file_is_no_input(pipeline, tmp_path):
    (tmp_path / "own.pth").write_bytes(b"weights")
    plan = pipeline("coco", init="own.pth")
    assert {file for row in plan.rows for file in (*plan.start(row.run), *plan.pretrained(row.run))} == set()
    assert plan.settings.world_options.split()[-1] == "--init=own.pth"


def save_detector(seed, file):
    experiment = load_row("table3", ROW, "bccd").experiment
    torch.manual_seed(seed)
    save_file(build_detector(experiment.model_copy(update={"data": CocoData(classes=CLASSES)})).state_dict(), file)


def test_from_a_file_to_an_evaluation_once_for_each_file(snakemake, copy, tiny_data, tmp_path):
    folder = copy(tmp_path / "repository")
    settings = ("scale=bccd", f"data_root={tiny_data}", "limit_steps=1", "limit_images=2", "init=own.safetensors")
    command = (ROW, "--quiet", "host", "--config", *settings)
    save_detector(1, folder / "own.safetensors")
    code, output = snakemake(folder, *command)
    assert code == 0, output
    assert "start: classifier: initial values for all" in output
    (metrics,) = folder.glob("results/bccd-rehearsal/runs/*/seed0/*/metrics.json")
    facts = json.loads((metrics.parents[1] / "start.json").read_text())
    assert json.loads(metrics.read_text())["provenance"]["training"]["pretrained"]["sha256"] == facts["sha256"]
    (folder / "own.safetensors").touch()
    assert "Nothing to be done" in snakemake(folder, "-n", *command)[1]
    save_detector(2, folder / "own.safetensors")
    assert re.search(r"^train +1$", snakemake(folder, "-n", *command)[1], re.MULTILINE)
