"""Fixtures that copy the repository, so that a test can run the pipeline in the copy, or damage the copy."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.few_images import CLASSES
from workbench.pipeline import resources
from workbench.pipeline.read import read_pipeline

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
OWN = f"extends: bccd\ntitle: own images\ndata: {{kind: coco, classes: {CLASSES}}}\n"
OWN_ROW = "t3_raw_fl"
"""Row that is rehearsed on own data."""


@pytest.fixture(scope="session")
def copy():
    """Function that copies the files that the pipeline needs into a folder."""

    def copy_to(folder):
        folder.mkdir(exist_ok=True)
        for name in ("Snakefile", "workbench", "experiments", "notebooks", "profiles"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
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


@pytest.fixture(scope="module")
def forked():
    """Process that runs `snakemake` for each line of its stdin."""
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("fork_snakemake.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    with server:
        yield server


@pytest.fixture
def snakemake(forked, tmp_path):
    """Function that runs `snakemake` in a folder; returns the exit code and the output on the screen."""

    def run(folder, *arguments):
        screen = tmp_path / "screen"
        print(json.dumps([str(folder), str(screen), "--cores", "1", *arguments]), file=forked.stdin, flush=True)
        return int(forked.stdout.readline()), screen.read_text()

    return run


@pytest.fixture
def pipeline(tiny_data, tmp_path, monkeypatch):
    """Function that reads the pipeline of a scale with settings, as in an empty folder on a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "gpu_indices", list)
    return lambda scale, **settings: read_pipeline({"scale": scale, "data_root": str(tiny_data), **settings})


@pytest.fixture
def run(snakemake):
    """Function that runs `snakemake` with a rehearsal on own data, and returns its output."""

    def rehearse(folder, *arguments, data="data", seeds=1, split="val", code=0):
        config = ("scale=farm", f"data_root={data}", "limit_steps=2", "limit_images=4", f"seeds={seeds}")
        config += (f"split={split}",) if split != "val" else ()
        returned, output = snakemake(folder, *arguments, "--config", *config)
        assert returned == code, output
        return output

    return rehearse


@pytest.fixture
def planned(run):
    """Function that returns the number of jobs of each rule in a dry run."""

    def plan(folder, *arguments, **settings):
        output = run(folder, "-n", *arguments, **settings)
        table = output.rsplit("Job stats:", 1)[-1] if "Job stats:" in output else ""
        return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}

    return plan


@pytest.fixture(scope="session")
def finished(tmp_path_factory, copy, tiny_data):
    """Copy of the repository with own data and the finished rehearsal of a row."""
    folder = copy(tmp_path_factory.mktemp("own") / "repository")
    (folder / "experiments/scales/farm.yaml").write_text(OWN)
    shutil.copytree(tiny_data, folder / "data")
    command = [BIN / "snakemake", "--cores", "1", OWN_ROW, "--config", "scale=farm", "data_root=data", "limit_steps=2"]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    subprocess.run([*command, "limit_images=4"], cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def repository(finished, tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(finished, folder, symlinks=True)  # with the dates of the files
    return folder
