"""Published weights in the pipeline at scale coco: imported, tested on real images, and shown in the table."""

import json
import os
import shutil
import subprocess

import pandas
import pytest
import torch

from tests.pipeline.conftest import BIN
from tests.pipeline.test_pipeline import planned, snakemake
from tests.weights.checkpoints import of_version_3, published
from workbench import cli
from workbench.detectors import build_detector
from workbench.settings.catalog import load_experiment


@pytest.mark.slow
def test_from_a_published_file_to_the_table(copy, shared_data, tmp_path, monkeypatch, capsys):
    data = shared_data / "coco-tiny"
    settings = ("scale=coco", f"data_root={data}", "weights=released", "limit_images=2")
    command = ("t3_full_vfl", "--config", *settings)
    folder = copy(tmp_path / "repository")
    torch.manual_seed(0)
    detector = build_detector(load_experiment("table3", "t3_full_vfl", "coco"))
    torch.nn.init.constant_(detector.head.cls_out.bias, -2)  # for scores above the threshold
    file = folder / "results" / "weights" / "vfnet_r50_1x.pth"
    file.parent.mkdir(parents=True)
    torch.save(of_version_3(published(detector)), file)
    jobs = planned(folder, *command)
    assert jobs == {"import_weights": 1, "detect": 1, "evaluate": 1, "t3_full_vfl": 1, "total": 4}

    snakemake(folder, *command)
    metrics_file, *others = folder.glob("results/coco-rehearsal/runs/*/released/*/metrics.json")
    assert not others
    metrics = json.loads(metrics_file.read_text())
    assert metrics["images"] == 2
    assert metrics["AP"] is not None
    assert metrics["provenance"]["seed"] == "released"
    assert metrics["provenance"]["training"]["file"] == "vfnet_r50_1x.pth"
    assert len(json.loads(metrics_file.with_name("detections.json").read_text())) == 2 * 100
    assert "Nothing to be done" in snakemake(folder, *command).stdout

    monkeypatch.chdir(folder)
    options = ["--scale", "coco", "--data-root", data, "--weights", "released", "--limit-images", 2]
    monkeypatch.setattr("sys.argv", ["workbench", "table", "table3", *map(str, options)])
    cli.main()
    assert "| released |" in capsys.readouterr().out
    table = pandas.read_csv("results/coco-rehearsal/tables/table3.csv", index_col="row", keep_default_na=False)
    assert table["seeds"]["t3_full_vfl"] == "released"
    assert (table["seeds"].drop("t3_full_vfl") != "released").all()

    # With the weights of another detector in the file, the import fails and leaves no file that counts as a result.
    shutil.rmtree(metrics_file.parents[1])
    torch.save(of_version_3(published(build_detector(load_experiment("table3", "t3_star_vfl", "coco")))), file)
    failed = snakemake(folder, *command, check=False)
    assert failed.returncode != 0
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("workbench: results/weights/vfnet_r50_1x.pth: not weights of vfnet-varifocal-resnet50-")
    assert [path.name for path in metrics_file.parents[1].iterdir()] == ["import.log"]
    assert planned(folder, *command) == jobs


@pytest.mark.slow
def test_the_authors_file_replaces_mmdetections_when_it_is_put_in_place(copy, shared_data, tmp_path):
    """The table names the publisher of each row."""
    settings = ("scale=coco", f"data_root={shared_data / 'coco-tiny'}", "weights=released", "limit_images=1")
    folder = copy(tmp_path / "repository")
    torch.manual_seed(0)
    detector = build_detector(load_experiment("table5", "t5_atss_fl", "coco"))
    names = {"vfnet_": "atss_", "head.centerness_out": "bbox_head.atss_centerness"}
    weights = published(detector)
    for ours, theirs in names.items():
        weights = {name.replace(ours, theirs): tensor for name, tensor in weights.items()}
    place = folder / "results" / "weights"
    place.mkdir(parents=True)
    torch.save(of_version_3(weights), place / "atss_r50_1x.pth")
    snakemake(folder, "t5_atss_fl", "--config", *settings)
    assert "Nothing to be done" in snakemake(folder, "t5_atss_fl", "--config", *settings).stdout

    shutil.copy(place / "atss_r50_1x.pth", place / "atss_fl_r50_1x.pth")
    again = {"import_weights": 1, "detect": 1, "evaluate": 1, "t5_atss_fl": 1, "total": 4}
    assert planned(folder, "t5_atss_fl", "--config", *settings) == again
    snakemake(folder, "t5_atss_fl", "--config", *settings)
    (facts,) = folder.glob("results/coco-rehearsal/runs/*/released/train.json")
    assert json.loads(facts.read_text())["publisher"] == "authors"
    (place / "atss_fl_r50_1x.pth").unlink()
    assert "Nothing to be done" in snakemake(folder, "t5_atss_fl", "--config", *settings).stdout
    arguments = ["--scale", "coco", "--weights", "released", "--limit-images", "1", "--data-root"]
    table = subprocess.run(
        [BIN / "workbench", "table", "table5", *arguments, str(shared_data / "coco-tiny")],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "weights of the authors" in next(line for line in table.stdout.splitlines() if "`t5_atss_fl`" in line)
