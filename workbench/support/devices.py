"""Share of the machine that a job takes: GPUs, threads and decoding processes.

Snakemake counts GPUs but does not assign them, so jobs on one machine assign GPUs to themselves with file locks.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from workbench.support.errors import WorkbenchError


def gpu_indices() -> list[int]:
    """Numbers of the NVIDIA GPUs' device files, read without loading torch.

    A container with some of a machine's GPUs sees only the device files of these GPUs. CUDA counts these GPUs from 0.
    """
    return sorted(int(p.name[6:]) for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit())


@contextmanager
def reserved_gpus(count: int, folder: Path = Path(tempfile.gettempdir())) -> Iterator[list[int]]:
    """Reserve ``count`` GPUs for this process, or all GPUs if there are fewer; wait until they are free.

    Nothing is reserved if there is no GPU, or if a scheduler has already assigned GPUs (it sets
    ``CUDA_VISIBLE_DEVICES``). Enter this context before the first use of CUDA.

    Args:
        folder: folder of the lock files.

    Yields:
        Numbers of the reserved GPUs, as in ``gpu_indices``; empty if nothing was reserved.
    """
    indices = gpu_indices()
    if "CUDA_VISIBLE_DEVICES" in os.environ or not indices:
        yield []
        return
    with ExitStack() as locks:
        reserved: list[int] = []
        while len(reserved) < min(count, len(indices)):
            for index in indices:
                lock = folder / f"vfnet-workbench-gpu{index}.lock"
                if index not in reserved and len(reserved) < count and _lock(lock, locks):
                    reserved.append(index)
            if len(reserved) < min(count, len(indices)):
                # A job that kept only some of its GPUs could wait for ever for a job that does the same.
                locks.close()
                reserved = []
                time.sleep(1)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(indices.index(index)) for index in reserved)
        yield reserved


def _lock(path: Path, locks: ExitStack) -> bool:
    """Lock a file and return whether that succeeded; the system also frees the lock when a process is killed."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    locks.callback(file.close)
    return True


def prepare_threads() -> None:
    """Set torch's number of threads to ``OMP_NUM_THREADS``, which the pipeline or the user sets; default: all cores."""
    import torch

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))


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
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    return max(1, min(8, threads // devices))
