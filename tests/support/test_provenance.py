"""Provenance of a number: the digest of the code, commit, versions, device and peak memory."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from workbench.settings.catalog import load_row
from workbench.support import provenance
from workbench.support.code_digest import code_digest


def test_provenance_states_versions_digest_commit_and_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    experiment = load_row("table3", "t3_full_vfl").experiment
    facts = provenance.provenance(experiment)
    assert facts["versions"]["torch"] == version("torch")
    assert facts["code_digest"] == code_digest(experiment)
    assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", facts["git_commit"])
    assert re.fullmatch(rf".+, {torch.get_num_threads()} thread\(s\)", facts["device"])


def test_the_version_of_mmcv_is_stated_if_it_is_installed(monkeypatch):
    def installed(name):
        if name == "mmcv" and not present:
            raise PackageNotFoundError
        return "1.2"

    monkeypatch.setattr(provenance, "version", installed)
    present = False
    assert "mmcv" not in provenance.versions()
    present = True
    assert provenance.versions()["mmcv"] == "1.2"


def test_the_device_is_the_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert provenance.device_name() == "NVIDIA H100 80GB HBM3"


def test_outside_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "workbench")
    assert provenance.git_commit() == "unknown"


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux reports the peak memory of a process in /proc"
)
def test_the_peak_memory_is_measured_on_the_process_or_on_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernel = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    peak = provenance.peak_memory_mb()
    assert peak == pytest.approx(int(kernel[1]) / 1024, rel=0.01)
    assert provenance.provenance(load_row("table3", "t3_full_vfl").experiment)["peak_memory_mb"] >= peak
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    assert provenance.peak_memory_mb() == 3
