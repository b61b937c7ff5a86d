"""Share of the machine that a job takes: GPUs, threads and decoding processes.

Snakemake counts GPUs but does not assign them, so jobs on one machine assign GPUs to themselves with file locks.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.support.errors import WorkbenchError
from workbench.support.locks import lock, open_lock, unlock

LOCK = "vfnet-workbench-gpu{}.lock"
"""Name of the lock file of a GPU."""
MOST_THREADS = 1024
"""Largest number of threads; PyTorch hangs while it starts many more."""
LINE_SECONDS = 60.0
"""Seconds between two lines that report a wait."""


def gpu_indices() -> list[int]:
    """Numbers of the NVIDIA GPUs' device files, read without loading torch.

    A container with some of a machine's GPUs sees only the device files of these GPUs. CUDA counts these GPUs from 0.
    """
    return sorted(int(p.name[6:]) for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit())


def usable_cores() -> int:
    """Number of cores that this process may use; a scheduler may allow it only some of the machine's cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available(most: int) -> int:
    """Number of GPUs that a job may use, at most ``most``; without GPUs ``most``, as the number of processes."""
    assigned = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = len(gpu_indices()) if assigned is None else len([index for index in assigned.split(",") if index.strip()])
    return min(most, gpus) if gpus else most


@contextmanager
def reserved_gpus(count: int, folder: Path = Path("/tmp")) -> Iterator[list[int]]:
    """Reserve ``count`` GPUs for this process, or all GPUs if there are fewer; wait until they are free.

    Nothing is reserved if there is no GPU, or if a scheduler has already assigned GPUs (it sets
    ``CUDA_VISIBLE_DEVICES``). Enter this context before the first use of CUDA. A wait is reported once a minute.

    Args:
        folder: folder of the lock files, one for all users of the machine.

    Yields:
        Numbers of the reserved GPUs, as in ``gpu_indices``; empty if nothing was reserved.
    """
    indices = gpu_indices()
    if "CUDA_VISIBLE_DEVICES" in os.environ or not indices:
        yield []
        return
    count = min(count, len(indices))
    last_line = -math.inf
    while len(reserved := _lock_gpus(count, indices, folder)) < count:
        if time.monotonic() - last_line >= LINE_SECONDS:
            last_line = time.monotonic()
            print(
                f"GPUs: waiting until {count} of {len(indices)} are free; other jobs of this workbench have locked "
                f"{folder / LOCK.format('*')}; wait, or set CUDA_VISIBLE_DEVICES to choose GPUs yourself",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(1)
    try:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(indices.index(index)) for index in reserved)
        yield list(reserved)
    finally:
        for descriptor in reserved.values():
            unlock(descriptor)


def _lock_gpus(count: int, indices: list[int], folder: Path) -> dict[int, int]:
    """Lock ``count`` GPUs, or none: two jobs that each keep some of their GPUs could wait for each other for ever.

    Returns:
        number of a GPU → descriptor of its lock.
    """
    reserved: dict[int, int] = {}
    for index in indices:
        if len(reserved) < count:
            descriptor = _open_gpu(folder, index)
            if lock(descriptor):
                reserved[index] = descriptor
            else:
                unlock(descriptor)
    if len(reserved) < count:
        for descriptor in reserved.values():
            unlock(descriptor)
        return {}
    return reserved


def _open_gpu(folder: Path, index: int) -> int:
    """Open the lock file of a GPU: the common file of all users, or this user's file if the common file is unusable.

    Raises:
        WorkbenchError: no file can be opened, e.g. because the disk is full.
    """
    common = folder / LOCK.format(index)
    try:
        descriptor = open_lock(common)
        status = os.fstat(descriptor)
        if status.st_uid == os.getuid() and status.st_nlink == 1:
            os.fchmod(descriptor, 0o644)  # so that other users can lock the file, whatever the umask
        return descriptor
    except OSError:
        own = folder / LOCK.format(f"{index}-{os.getuid()}")
    try:
        return open_lock(own)
    except OSError as error:
        raise WorkbenchError(
            f"{own}: cannot reserve GPU {index} ({error.strerror}); free some space, or set CUDA_VISIBLE_DEVICES to "
            "choose GPUs yourself"
        ) from None


def prepare_threads() -> None:
    """Set torch's number of threads to ``OMP_NUM_THREADS``, which the pipeline or the user sets; default: all cores."""
    import torch

    if threads := _stated_threads():
        torch.set_num_threads(threads)


def _stated_threads() -> int | None:
    """Number of threads in ``OMP_NUM_THREADS``; None if it is not set. The first number of a list counts.

    Raises:
        WorkbenchError: the variable is not a number of threads.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return None
    first = text.split(",")[0].strip()
    if not (first.isascii() and first.isdecimal() and len(first) <= 4 and 0 < int(first) <= MOST_THREADS):
        raise WorkbenchError(f"OMP_NUM_THREADS: '{text}' is not a number of threads; set it to e.g. 4, or unset it")
    return int(first)


def refuse_cpu() -> None:
    """Fail if PyTorch finds no GPU; a job that requests GPUs would take years on a CPU (COCO)."""
    import torch

    if not torch.cuda.is_available():
        raise WorkbenchError(
            "--gpu: PyTorch finds no GPU on this machine; choose a machine or a partition with GPUs, or leave gpus "
            "(--gpu) out to train on the CPU"
        )


def decoding_processes(workers: int | None, devices: int = 1) -> int:
    """Number of worker processes per device that decode images.

    Args:
        workers: number that the user requests. None means up to eight processes per GPU, within the job's threads.
            On a CPU, None means 0, because decoding in parallel would slow down the detector.
        devices: number of GPUs that the job uses.
    """
    import torch

    if workers is not None:
        return workers
    if not torch.cuda.is_available():
        return 0
    threads = _stated_threads() or usable_cores()
    return max(1, min(8, threads // devices))
