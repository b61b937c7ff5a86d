"""Fixtures of many tests: a tiny data set, drawn once, and an experiment that trains on it in a second."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.few_images import MINI
from tests.scene import make_scene
from workbench.data.embedded import draw_data_set
from workbench.runs.results import scale_folder
from workbench.settings import files
from workbench.settings.catalog import load_row
from workbench.settings.data import ImageSize
from workbench.settings.ids import run_id
from workbench.settings.registration import FILE
from workbench.support.files import write_json_atomically


def pytest_configure(config):
    """Hide GPUs from all tests except the GPU tests. Other tests compare bits, and sums on a GPU vary in rounding."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ``coco-tiny`` and ``bccd``; tests that need a missing folder are skipped."""
    beside = Path(__file__).resolve().parents[1] / ".." / "shared"
    folder = Path(os.environ.get("WORKBENCH_SHARED", beside)).resolve() / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}: set WORKBENCH_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def drawn_layouts(tmp_path_factory, shared_data):
    """Folder with one data set in eleven layouts, and ``expected.json`` with its true boxes."""
    script = shared_data.parent / "cases/layouts/draw.py"
    if not script.is_file():
        pytest.skip(f"the script that draws the layouts is not at {script}: set WORKBENCH_SHARED")
    folder = tmp_path_factory.mktemp("layouts")
    subprocess.run([sys.executable, script, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """24 + 6 drawn images."""
    root = tmp_path_factory.mktemp("tiny") / "data"
    few = {"train_images": 24, "val_images": 6}
    draw_data_set(MINI.model_copy(update=few), root, processes=1)
    return root


@pytest.fixture
def tiny_experiment():
    """Experiment of the full VFNet at scale mini, with fewer channels, small images and random weights: two epochs."""
    experiment = load_row("table3", "t3_full_vfl").experiment
    return experiment.model_copy(
        update={
            "image": ImageSize(long=128, short=96),
            "backbone": experiment.backbone.model_copy(
                update={"pretrained": False, "norm": "trained", "frozen_stages": 0}
            ),
            "head": experiment.head.model_copy(update={"channels": 16, "norm_groups": 8, "stacked_convs": 1}),
            "training": experiment.training.model_copy(
                update={"epochs": 2, "batch": 8, "validate_every": 1, "warmup_steps": 2}
            ),
        }
    )


@pytest.fixture
def new_run(tmp_path):
    """Function that writes the experiment of a run to a results folder, and returns the run."""

    def make(experiment, results=tmp_path):
        run = scale_folder(results, "mini").run(run_id(experiment))
        run.write_experiment(experiment)
        return run

    return make


@pytest.fixture
def untrained_run(new_run):
    """Function that makes a run on drawn data, with random weights as the training of seed 0."""

    def make(experiment):
        import torch
        from safetensors.torch import save_file

        from workbench.detectors import build_detector

        torch.manual_seed(0)
        training = new_run(experiment).training(0)
        ids, names = zip(*((category.id, category.name) for category in MINI.categories), strict=True)
        facts = {"category_ids": ids, "class_names": names, "code_digest": "12345678"}
        write_json_atomically(training.facts, facts)
        save_file(build_detector(experiment).state_dict(), training.weights)
        return training

    return make


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """Copy of ``experiments/``. A test that changes the copy calls ``files.forget()``."""
    folder = tmp_path / "experiments"
    shutil.copytree(Path(__file__).resolve().parents[1] / "experiments", folder)
    monkeypatch.setattr(files, "find_checkout", lambda: tmp_path)
    files.forget()
    yield folder
    files.forget()


@pytest.fixture
def unregistered(experiments):
    """Copy of ``experiments/`` without a registration."""
    (experiments / "vfnet" / FILE).unlink(missing_ok=True)
    files.forget()
    return experiments


@pytest.fixture
def scene(tiny_data, tiny_experiment, tmp_path, monkeypatch):
    """Copy of the tiny data set and a run to train on it, which a test may damage."""
    return make_scene(tiny_data, tiny_experiment, tmp_path, monkeypatch)
