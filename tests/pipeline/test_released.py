"""Published weights in the pipeline at scale coco: imported, tested on real images, and shown in the table."""

import json
import shutil

import pandas
import pytest
import torch

from tests.pipeline.test_pipeline import planned, snakemake
from tests.weights.test_mmdet_import import of_version_3, published
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
