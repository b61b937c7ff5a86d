"""Provenance of a number: the digest of the code, commit, versions, device and peak memory."""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from workbench.support import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Copy of the package, which a test may edit."""
    shutil.copytree(provenance.PACKAGE, tmp_path / "workbench", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "workbench")
    provenance.code_digest.cache_clear()
    yield tmp_path / "workbench"
    provenance.code_digest.cache_clear()


def digest_after(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    provenance.code_digest.cache_clear()
    return provenance.code_digest()


def test_the_digest_changes_with_training_code_only(package):
    before = provenance.code_digest()
    head = package / "detectors" / "vfnet.py"
    assert digest_after(head, "OFFSET_GRADIENT = 0.1", "# why\n\nOFFSET_GRADIENT = 0.1  # a tenth") == before
    assert digest_after(head, '"""', '"""Another docstring. ') == before
    assert digest_after(package / "cli.py", "def main", "def other") == before
    assert digest_after(package / "report" / "tables" / "cells.py", "not run", "not yet run") == before
    assert digest_after(package / "evaluation" / "intervals.py", "0.", "1.") == before
    assert digest_after(head, "OFFSET_GRADIENT = 0.1", "OFFSET_GRADIENT = 0.2") != before


def test_the_digest_of_the_evaluation_covers_intervals(package):
    before = provenance.code_digest(provenance.EVALUATION)
    path = package / "evaluation" / "intervals.py"
    path.write_text(path.read_text() + "\nLEVEL = 0.5\n")
    provenance.code_digest.cache_clear()
    assert provenance.code_digest(provenance.EVALUATION) != before


def test_the_digest_ignores_the_place_of_code(package):
    """The digest is the same after a file is renamed, a function moves to another file and an import is added."""
    before = provenance.code_digest()
    (package / "assigners" / "atss.py").rename(package / "detectors" / "by_statistics.py")
    provenance.code_digest.cache_clear()
    assert provenance.code_digest() == before
    source, target = package / "boxes.py", package / "losses" / "regression.py"
    function = re.search(r"^def area\(.*?(?=^def )", source.read_text(), re.DOTALL | re.MULTILINE)[0]
    source.write_text(source.read_text().replace(function, ""))
    target.write_text(f"{target.read_text()}\n\n{function}")
    assert digest_after(target, "from torch import", "import sys\nfrom torch import") == before


def test_every_room_of_the_digest_exists(package):
    for room in provenance.EVALUATION:
        (package / room).rename(package / "hidden")
        provenance.code_digest.cache_clear()
        with pytest.raises(OSError, match=room):
            provenance.code_digest(provenance.EVALUATION)
        (package / "hidden").rename(package / room)


def test_provenance_states_versions_digest_commit_and_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = provenance.provenance()
    assert facts["versions"]["torch"] == version("torch")
    assert re.fullmatch(r"[0-9a-f]{8}", facts["code_digest"])
    assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", facts["git_commit"])
    assert re.fullmatch(rf".+, {torch.get_num_threads()} thread\(s\)", facts["device"])


def test_the_device_is_the_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert provenance.device_name() == "NVIDIA H100 80GB HBM3"


def test_outside_git_the_commit_is_unknown(package):
    assert provenance.git_commit() == "unknown"


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux reports the peak memory of a process in /proc"
)
def test_the_peak_memory_is_measured_on_the_process_or_on_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernel = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    peak = provenance.peak_memory_mb()
    assert peak == pytest.approx(int(kernel[1]) / 1024, rel=0.01)
    assert provenance.provenance()["peak_memory_mb"] >= peak
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    assert provenance.peak_memory_mb() == 3
