"""Jobs on one machine reserve GPUs by file locks, so that no two jobs use the same GPU."""

import os
import subprocess
import sys

import pytest
import torch

from workbench.support import devices
from workbench.support.errors import WorkbenchError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "gpu_indices", lambda: [0, 1])
    # Set, then deleted, so that pytest also undoes the change that the code under test makes.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def reserve_elsewhere(folder, count):
    """Start another process that reserves GPUs until its standard input ends."""
    code = f"""
import sys
from pathlib import Path
from workbench.support import devices
devices.gpu_indices = lambda: [0, 1]
with devices.reserved_gpus({count}, Path({str(folder)!r})) as reserved:
    print(*reserved, flush=True)
    sys.stdin.read()
"""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_reserved_gpu_is_not_reserved_again_until_its_process_ends(two_gpus, tmp_path):
    other = reserve_elsewhere(tmp_path, 1)
    assert other.stdout.readline().strip() == "0"
    with devices.reserved_gpus(1, tmp_path) as reserved:
        assert reserved == [1]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    del os.environ["CUDA_VISIBLE_DEVICES"]
    other.kill()
    other.wait()
    with devices.reserved_gpus(2, tmp_path) as reserved:
        assert reserved == [0, 1]


def test_in_a_container_cuda_counts_its_gpus_from_zero(two_gpus, tmp_path, monkeypatch):
    """CUDA's numbers do not depend on the numbers of the device files."""
    monkeypatch.setattr(devices, "gpu_indices", lambda: [3, 5])
    with devices.reserved_gpus(2, tmp_path) as reserved:
        assert reserved == [3, 5]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_gpus_that_a_scheduler_assigned_are_kept(two_gpus, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with devices.reserved_gpus(1, tmp_path) as reserved:
        assert reserved == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_nothing_is_reserved_without_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "gpu_indices", list)
    with devices.reserved_gpus(1, tmp_path) as reserved:
        assert reserved == []
    assert not list(tmp_path.iterdir())


def test_a_job_that_requests_a_gpu_fails_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices.refuse_cpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WorkbenchError, match=r"^--gpu: PyTorch finds no GPU .* or leave gpus \(--gpu\) out"):
        devices.refuse_cpu()


@pytest.mark.parametrize(
    ("threads", "workers", "count", "processes"),
    [("16", None, 1, 8), ("16", None, 8, 2), ("4", None, 8, 1), ("3", None, 1, 3), ("16", 0, 1, 0), ("16", 12, 1, 12)],
)
def test_decoding_processes_share_the_threads_of_a_job(monkeypatch, threads, workers, count, processes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert devices.decoding_processes(workers, count) == processes


def test_a_job_on_a_cpu_starts_no_decoding_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.decoding_processes(None) == 0
