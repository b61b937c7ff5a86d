"""Each drawn layout is trained for one epoch and evaluated by one command, without a link and with one line written."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ONE_EPOCH = "{extends: own, title: one epoch, schedules: {1x: {epochs: 1}}}\n"
"""The only line that is written: a scale that learns for one epoch."""
WITHOUT_TEST = {"coco2017": {"val": 8}, "one_file": {"val": 7}, "default_subset": {"val": 7}}
"""Layout without a test split → number of evaluated images of each split; two layouts have no splits at all."""
WITH_TEST = ("split_folders", "hosted_export", "one_folder", "bare_fields")
CONVERTED = ("voc", "yolo", "createml", "labelme")
IMAGES = WITHOUT_TEST | {layout: {"val": 8, "test": 4} for layout in (*WITH_TEST, *CONVERTED)}
LEARNT = {"one_file": 29, "default_subset": 29}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory, copy):
    return copy(tmp_path_factory.mktemp("layouts") / "repository")


def tree(folder):
    """Digest of each file below a folder, and links."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.is_symlink()) for path in files}


@pytest.mark.slow  # eleven trainings
@pytest.mark.parametrize("layout", IMAGES)
def test_a_layout_is_trained_and_evaluated_by_one_command(layout, drawn_layouts, checkout, tmp_path):
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(checkout)}
    environment["OMP_NUM_THREADS"] = "1"

    def call(*words):
        done = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    root = drawn_layouts / layout
    if layout in CONVERTED:
        call(BIN / "workbench", "convert", layout, root, tmp_path / "converted")
        root = tmp_path / "converted"
    before = tree(root)
    scale = tmp_path / f"{layout}.yaml"
    scale.write_text(ONE_EPOCH)
    split = "test" if "test" in IMAGES[layout] else "val"
    config = (f"scale={scale}", f"data_root={root}", f"split={split}")
    call(BIN / "snakemake", "--cores", "1", "t3_full_vfl", "--config", *config)
    assert tree(root) == before
    (training,) = (checkout / "results" / layout / "runs").glob("*/seed0")
    with (training / "train.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert {step["epoch"] for step in steps} == {"0"}
    assert len(steps) == -(-LEARNT.get(layout, 24) // 8)  # eight images a step
    metrics = {path.parent.name: json.loads(path.read_text()) for path in training.glob("*/metrics.json")}
    assert {"test" if "-test-" in name else "val": m["images"] for name, m in metrics.items()} == IMAGES[layout]
