"""GPUs are handed out by locks: no two jobs on one device."""

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
    # Set, then deleted: what the code under test sets is undone too.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def reserve_elsewhere(folder, count):
    """Another process that holds GPUs until its standard input ends."""
    code = f"""
import sys
from pathlib import Path
from workbench.support import devices
devices.gpu_indices = lambda: [0, 1]
with devices.reserved_gpus({count}, Path({str(folder)!r})) as mine:
    print(*mine, flush=True)
    sys.stdin.read()
"""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_taken_device_is_left_alone_and_freed_by_a_kill(two_gpus, tmp_path):
    other = reserve_elsewhere(tmp_path, 1)
    assert other.stdout.readline().strip() == "0"
    with devices.reserved_gpus(1, tmp_path) as mine:
        assert mine == [1]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    del os.environ["CUDA_VISIBLE_DEVICES"]
    other.kill()
    other.wait()
    with devices.reserved_gpus(2, tmp_path) as mine:
        assert mine == [0, 1]


def test_in_a_container_cuda_counts_its_gpus_from_zero(two_gpus, tmp_path, monkeypatch):
    """Whatever their device files' numbers on the machine."""
    monkeypatch.setattr(devices, "gpu_indices", lambda: [3, 5])
    with devices.reserved_gpus(2, tmp_path) as mine:
        assert mine == [3, 5]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_a_scheduler_s_choice_stands(two_gpus, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with devices.reserved_gpus(1, tmp_path) as mine:
        assert mine == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_without_gpus_nothing_is_reserved(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "gpu_indices", list)
    with devices.reserved_gpus(1, tmp_path) as mine:
        assert mine == []
    assert not list(tmp_path.iterdir())


def test_a_job_that_needs_a_gpu_refuses_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices.refuse_cpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WorkbenchError, match=r"PyTorch can use none here: .* or leave gpus \(--gpu\) out"):
        devices.refuse_cpu()


@pytest.mark.parametrize(
    ("threads", "asked", "count", "processes"),
    [("16", None, 1, 8), ("16", None, 8, 2), ("4", None, 8, 1), ("3", None, 1, 3), ("16", 0, 1, 0), ("16", 12, 1, 12)],
)
def test_decoding_processes_share_the_threads_of_a_job(monkeypatch, threads, asked, count, processes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert devices.decoding_processes(asked, count) == processes


def test_a_cpu_decodes_beside_its_other_work(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.decoding_processes(None) == 0
