"""The command line: each step by hand, one's own pictures, and mistakes told in one line."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from workbench.settings.variant import Variant
from workbench.support.files import write_json_atomically

WORKBENCH = Path(sys.executable).parent / "workbench"


def workbench(*arguments, cwd=None):
    return subprocess.run([WORKBENCH, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data):
    """A run's folder, trained by hand for two steps."""
    from workbench.settings.catalog import Rehearsal, load_table

    results = tmp_path_factory.mktemp("results")
    row = load_table("table3", "mini", rehearsal=Rehearsal(steps=2, images=4))[1][3]
    run = results / "runs" / row.run
    write_json_atomically(run / "experiment.json", row.experiment.model_dump(mode="json"))
    write_json_atomically(results / "variants" / "quick.json", row.variant.model_dump(mode="json"))
    said = workbench("train", run, "--data", tiny_data, "--seed", 1)
    assert said.returncode == 0, said.stderr
    assert "2/2  epoch 1/" in said.stderr
    return run


def test_the_steps_by_hand(trained, tiny_data):
    variant = trained.parent.parent / "variants" / "quick.json"
    for command in ("detect", "evaluate"):
        said = workbench(command, trained, "--variant", variant, "--data", tiny_data, "--seed", 1)
        assert said.returncode == 0, said.stderr
    folder = trained / "seed1" / "quick"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == 4
    assert metrics["provenance"]["seed"] == 1
    assert metrics["provenance"]["code_digest"] == metrics["provenance"]["training"]["code_digest"]
    resampled = json.loads((folder / "bootstrap.json").read_text())
    assert resampled["AP"] == pytest.approx(metrics["AP"], abs=1e-12)
    assert (resampled["images"], len(resampled["resamples"])) == (4, 1000)
    ids = {
        image["id"] for image in json.loads((tiny_data / "annotations/instances_val2017.json").read_text())["images"]
    }
    assert {entry["image_id"] for entry in json.loads((folder / "detections.json").read_text())} <= ids


def test_the_file_for_the_evaluation_server(trained, tiny_data, tmp_path):
    """test-dev comes without annotations, its images in a folder of another name."""
    document = json.loads((tiny_data / "annotations/instances_val2017.json").read_text())
    del document["annotations"]
    write_json_atomically(tmp_path / "data/annotations/image_info_test-dev2017.json", document)
    (tmp_path / "data/test2017").symlink_to(tiny_data / "val2017")
    settings = json.loads((trained.parent.parent / "variants" / "quick.json").read_text())
    variant = tmp_path / "all.json"  # so that there is something to find after two steps
    write_json_atomically(variant, settings | {"score_threshold": 0.0, "max_detections": 5})
    said = workbench(
        "submission", trained, "--variant", variant, "--data", tmp_path / "data", "--seed", 1, "--out", tmp_path
    )
    assert said.returncode == 0, said.stderr
    name = f"detections_test-dev2017_{trained.name}_results"
    assert said.stdout.strip() == str(tmp_path / f"{name}.zip")
    with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
        assert archive.namelist() == [f"{name}.json"]
        found = json.loads(archive.read(f"{name}.json"))
    assert len(found) == 4 * 5
    assert {entry["image_id"] for entry in found} == {image["id"] for image in document["images"][:4]}
    assert all(entry.keys() == {"image_id", "category_id", "bbox", "score"} for entry in found)
    said = workbench("submission", trained, "--variant", variant, "--data", tiny_data, "--seed", 1, "--out", tmp_path)
    assert said.returncode == 1
    assert said.stderr.startswith("workbench: ")
    assert "image_info_test-dev2017.json: no such annotation file" in said.stderr


def test_predict_draws_pictures_and_lists_boxes(trained, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("L", (300, 100), 90).save(pictures / "grey_wide.png")
    turned = Image.new("RGB", (64, 200), (200, 30, 40))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter for display
    turned.save(pictures / "turned.jpg", exif=exif)
    said = workbench("predict", pictures, "--run", trained, "--seed", 1, "--out", tmp_path / "out", "--min-score", 0)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("objects, drawn in") == 2
    listed = json.loads((tmp_path / "out" / "detections.json").read_text())
    for entry in listed:
        width, height = (300, 100) if entry["file"].endswith("wide.png") else (200, 64)
        x1, y1, x2, y2 = entry["box"]
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height
    assert Image.open(tmp_path / "out" / "turned.png").width > Image.open(tmp_path / "out" / "turned.png").height


def test_mistakes_are_one_line(trained, tmp_path, tiny_data):
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.jpg").write_bytes(b"no picture")
    cases = [
        (("predict", "nowhere.jpg", "--run", trained, "--seed", 1), "nowhere.jpg: no such file or folder"),
        (("predict", tmp_path / "empty", "--run", trained, "--seed", 1), "no picture there"),
        (("predict", tmp_path / "noise.jpg", "--run", trained, "--seed", 1), "not a readable picture"),
        (("predict", tmp_path / "noise.jpg", "--run", trained), "train this run with seed 0 first"),
        (("train", tmp_path, "--data", tiny_data), "experiment.json"),
        (("train", trained, "--data", tmp_path / "empty"), "instances_train2017.json"),
        (("plan", "table33"), "unknown table 'table33'; did you mean 'table3'?"),
        (("dataset", tmp_path / "x", "--scale", "coco"), "scale coco has no embedded data set"),
    ]
    for arguments, expected in cases:
        said = workbench(*arguments, cwd=tmp_path)
        assert said.returncode == 1, arguments
        assert expected in said.stderr, said.stderr
        assert said.stderr.startswith("workbench: ")
        assert said.stderr.count("\n") == 1
    assert workbench("tarin").returncode == 2


def test_plan_says_what_is_shared():
    said = workbench("plan", "table3", "--scale", "coco").stdout
    assert "5 trainings at scale coco for 5 rows" in said
    assert "t3_full_vfl; shared with table2 (t2_g2p0_a0p75_q)" in said


def test_the_front_door():
    import workbench as package

    experiment = package.load_experiment("table3", "t3_full_vfl", "mini")
    detector = package.build_detector(experiment)
    images, sizes = torch.zeros(2, 3, 96, 128), torch.tensor([[96, 128], [90, 100]])
    assert detector.predict(images).boxes.shape == (2, 257, 4)
    assert len(detector.detect(images, sizes, Variant(image=experiment.image, score_threshold=0))) == 2


def test_training_needs_neither_snakemake_nor_jupyter():
    """The package is of use on its own: nothing that trains or evaluates imports the pipeline's tools."""
    code = """
import sys
for name in ("snakemake", "jupyterlab", "jupyter", "IPython", "matplotlib"):
    sys.modules[name] = None
import workbench.cli, workbench.training.loop, workbench.commands.detect, workbench.commands.evaluate
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_the_settings_are_read_without_torch():
    code = "import sys, workbench.settings.catalog, workbench.pipeline.targets, workbench.settings.config, workbench.support.devices\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
