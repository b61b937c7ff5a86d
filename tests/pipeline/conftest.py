"""Fixtures that copy the repository, so that a test can run the pipeline in the copy, or damage the copy."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def copy():
    """Function that copies the files that the pipeline needs into a folder."""

    def copy_to(folder):
        folder.mkdir(exist_ok=True)
        for name in ("Snakefile", "workbench", "experiments", "notebooks", "profiles"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copy(source, folder / name)
        return folder

    return copy_to


@pytest.fixture(scope="session")
def edit():
    """Function that replaces the first occurrence of a text in a file."""

    def replace(path, old, new):
        text = path.read_text()
        assert old in text, f"{path} has no {old}"
        path.write_text(text.replace(old, new, 1))

    return replace
