"""GPUs are handed out by locks: no two jobs on one device."""

import os
import subprocess
import sys

import pytest

from workbench import devices


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
from workbench import devices
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
