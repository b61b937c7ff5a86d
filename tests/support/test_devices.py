"""Jobs on one machine reserve GPUs by file locks, so that no two jobs use the same GPU."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from tests.support.test_locks import as_user
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


def test_a_wait_is_reported_at_once_and_then_once_a_minute(two_gpus, tmp_path, monkeypatch, capsys):
    other = reserve_elsewhere(tmp_path, 1)
    other.stdout.readline()
    times = iter(range(0, 1000, 25))
    monkeypatch.setattr(devices.time, "monotonic", lambda: next(times))
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 6:
            other.kill()
            other.wait()

    monkeypatch.setattr(devices.time, "sleep", nap)
    with devices.reserved_gpus(2, tmp_path) as reserved:
        assert reserved == [0, 1]
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4 < len(naps)
    assert lines[0].startswith("GPUs: waiting until 2 of 2 are free; other jobs of this workbench have locked ")


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_a_spoilt_lock_file_is_left_alone(two_gpus, tmp_path, kind):
    """In a shared /tmp, anybody can put anything in the place of the lock."""
    victim, path = tmp_path / "victim", tmp_path / devices.LOCK.format(0)
    victim.write_text("precious")
    mode = victim.stat().st_mode
    {
        "link": lambda: path.symlink_to(victim),
        "link to nothing": lambda: path.symlink_to(tmp_path / "new"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    with devices.reserved_gpus(2, tmp_path) as reserved:
        assert reserved == [0, 1]
    assert (victim.read_text(), victim.stat().st_mode) == ("precious", mode)
    assert not (tmp_path / "new").exists()


def test_a_gpu_that_cannot_be_locked_is_reported(two_gpus, tmp_path):
    for part in (0, f"0-{os.getuid()}"):
        (tmp_path / devices.LOCK.format(part)).mkdir()
    message = r"gpu0-\d+\.lock: cannot reserve GPU 0 \(Is a directory\); .* or set CUDA_VISIBLE_DEVICES to choose"
    with pytest.raises(WorkbenchError, match=message), devices.reserved_gpus(1, tmp_path):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_two_users_take_two_gpus(two_gpus, umask):
    """Also if the first user's files are private by default."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    before = os.umask(umask)

    def other_user():
        del os.environ["CUDA_VISIBLE_DEVICES"]
        with devices.reserved_gpus(1, folder) as reserved:
            return reserved

    try:
        with devices.reserved_gpus(1, folder) as reserved:
            assert reserved == [0]
            assert as_user(65534, other_user) == "[1]"
    finally:
        os.umask(before)
        shutil.rmtree(folder)


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


def test_only_the_cores_that_a_scheduler_allows_are_used(monkeypatch):
    """A machine has 64 cores, and this job may use two of them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5, 9})
    assert devices.usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS has none
    assert devices.usable_cores() == 64


@pytest.mark.parametrize(("text", "threads"), [("4", 4), ("4,2", 4), (" 3 , 1", 3), ("", None), (" ", None)])
def test_the_first_number_of_threads_counts(monkeypatch, text, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    before = torch.get_num_threads()
    try:
        devices.prepare_threads()
        assert torch.get_num_threads() == (threads or before)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.decoding_processes(None) == min(8, threads or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("text", ["many", "0", "-1", "4.5", ",2", "²", "9999", "9" * 30])
def test_another_number_of_threads_is_refused(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(
        WorkbenchError, match=rf"^OMP_NUM_THREADS: '{text}' is not a number of threads; set it to e.g. 4"
    ):
        devices.prepare_threads()


def test_a_job_on_a_cpu_starts_no_decoding_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.decoding_processes(None) == 0


@pytest.mark.parametrize(
    ("gpus", "assigned", "most", "expected"),
    [(4, None, 8, 4), (4, None, 2, 2), (0, None, 8, 8), (4, "0,2", 8, 2), (4, "", 3, 3), (0, "1", 2, 1)],
)
def test_a_job_uses_the_gpus_that_there_are(monkeypatch, gpus, assigned, most, expected):
    monkeypatch.setattr(devices, "gpu_indices", lambda: list(range(gpus)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if assigned is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", assigned)
    assert devices.available(most) == expected
