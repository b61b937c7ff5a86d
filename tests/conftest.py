"""What many tests share: a tiny data set, drawn once, and an experiment that learns it in a second."""

import os
import shutil
from pathlib import Path

import pytest

from workbench.data.embedded import draw_data_set
from workbench.settings import files
from workbench.settings.catalog import load_row
from workbench.settings.data import CATEGORIES, EmbeddedData
from workbench.support.files import write_json_atomically


def pytest_configure(config):
    """Only the tests of a GPU see one: the others compare bits, and a GPU's sums round as they come."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with ``coco-tiny`` and ``bccd``; a checkout that lies elsewhere skips what needs it."""
    beside = Path(__file__).resolve().parents[1] / ".." / "shared"
    folder = Path(os.environ.get("WORKBENCH_SHARED", beside)).resolve() / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}: set WORKBENCH_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """24 + 6 drawn images."""
    root = tmp_path_factory.mktemp("tiny") / "data"
    draw_data_set(EmbeddedData(train_images=24, val_images=6), root, processes=1)
    return root


@pytest.fixture
def tiny_experiment():
    """The full VFNet, narrower still, for two epochs."""
    experiment = load_row("table3", "t3_full_vfl").experiment
    return experiment.model_copy(
        update={
            "head": experiment.head.model_copy(update={"channels": 16, "stacked_convs": 1}),
            "training": experiment.training.model_copy(
                update={"epochs": 2, "batch": 8, "validate_every": 1, "warmup_steps": 2}
            ),
        }
    )


@pytest.fixture
def untrained_run(tmp_path):
    """A function that makes the folder of a run: an experiment on the drawn data, with random weights for seed 0."""

    def make(experiment):
        import torch
        from safetensors.torch import save_file

        from workbench.detectors import build_detector

        torch.manual_seed(0)
        folder = tmp_path / "runs" / experiment.detector.title
        write_json_atomically(folder / "experiment.json", experiment.model_dump(mode="json"))
        ids, names = zip(*CATEGORIES, strict=True)
        facts = {"category_ids": ids, "class_names": names, "code_digest": "12345678"}
        write_json_atomically(folder / "seed0" / "train.json", facts)
        save_file(build_detector(experiment).state_dict(), folder / "seed0" / "model.safetensors")
        return folder

    return make


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """A copy of ``experiments/`` that a test may change: then it calls ``files.forget()``."""
    folder = tmp_path / "experiments"
    shutil.copytree(Path(__file__).resolve().parents[1] / "experiments", folder)
    monkeypatch.setattr(files, "find_checkout", lambda: tmp_path)
    files.forget()
    yield folder
    files.forget()
