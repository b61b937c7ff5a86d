"""How much of the machine a job takes: its GPUs, threads and decoding processes.

Snakemake counts GPUs but assigns none, so jobs on one machine agree by locks.
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

    A container that is given some of a machine's GPUs sees those files alone; CUDA then counts them from 0.
    """
    return sorted(int(p.name[6:]) for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit())


@contextmanager
def reserved_gpus(count: int, folder: Path = Path(tempfile.gettempdir())) -> Iterator[list[int]]:
    """Hold ``count`` GPUs for this process, waiting until they are free; others see them taken.

    Nothing is done where a scheduler has assigned devices already (``CUDA_VISIBLE_DEVICES`` is set) or there is no GPU.
    To be entered before CUDA is first used.

    Args:
        folder: where the lock files lie.

    Yields:
        Numbers of the GPUs held, as ``gpu_indices`` gives them; empty where nothing was done.
    """
    present = gpu_indices()
    if "CUDA_VISIBLE_DEVICES" in os.environ or not present:
        yield []
        return
    with ExitStack() as held:
        mine: list[int] = []
        while len(mine) < min(count, len(present)):
            for index in present:
                if index not in mine and len(mine) < count and _lock(folder / f"vfnet-workbench-gpu{index}.lock", held):
                    mine.append(index)
            if len(mine) < min(count, len(present)):
                # Half of what is needed is given back, or two jobs could wait for each other for ever.
                held.close()
                mine = []
                time.sleep(1)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(present.index(index)) for index in mine)
        yield mine


def _lock(path: Path, held: ExitStack) -> bool:
    """Take a lock that the system frees when the process ends, however it ends."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    held.callback(file.close)
    return True


def prepare_threads() -> None:
    """Give torch the threads that the pipeline (or the user) set in ``OMP_NUM_THREADS``; all cores otherwise."""
    import torch

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))


def refuse_cpu() -> None:
    """Raise where PyTorch can use no GPU, though GPUs were asked for: COCO on a CPU would take years."""
    import torch

    if not torch.cuda.is_available():
        raise WorkbenchError(
            "GPUs were asked for, and PyTorch can use none here: name a machine or partition that has some, or leave "
            "gpus (--gpu) out to train on the CPU"
        )


def decoding_processes(asked: int | None, devices: int = 1) -> int:
    """Worker processes for decoding, of each of so many devices: as asked, else up to eight beside a GPU, as far as the
    job's threads go, and none beside a CPU, which has no time to spare for them."""
    import torch

    if asked is not None:
        return asked
    if not torch.cuda.is_available():
        return 0
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    return max(1, min(8, threads // devices))
