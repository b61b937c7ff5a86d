"""Data sets of a user, and the door through which every call takes them."""

import pytest

from tests.runs.own_sets import CAT, DOG, export
from workbench.runs.own_data import with_own_data
from workbench.settings.config import read_config


@pytest.fixture
def hosted(tmp_path):
    """Export with a folder for each split and a root category."""
    root = tmp_path / "pets"
    for split, names in (("train", ("a.png", "b.png", "c.png")), ("valid", ("d.png",))):
        export(root / split, "_annotations.coco.json", names)
    return root


@pytest.fixture
def whole(tmp_path):
    """Data set in one file, whose names begin with the folder of the images."""
    return export(tmp_path / "whole", "result.json", [f"images/{i}.png" for i in range(10)], (CAT, DOG))


@pytest.fixture
def door(tmp_path, monkeypatch):
    """Function that resolves ``--config`` as the pipeline does: the settings, and the lines that were said."""
    monkeypatch.chdir(tmp_path)

    def resolve(**config):
        lines = []
        return with_own_data(
            read_config({k: str(v) for k, v in config.items()}), tmp_path / "results", lines.append
        ), lines

    return resolve
