"""Agreement of the processes of one training, without a wait for a GPU.

Every process must call each function at the same point; otherwise the other processes wait. A process that has ended is
noticed at once, which NCCL does not do.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def any_process(flag: bool) -> bool:
    """Return whether ``flag`` is true in any process of this training."""
    return least_of_all_processes(int(not flag))[0] == 0


def least_of_all_processes(number: int) -> tuple[int, bool]:
    """Return the least of the processes' numbers, and whether this process is the first one with this number."""
    if not _has_others():
        return number, True
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    least = torch.tensor(number * ranks + rank)
    torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN, group=host_group())
    return least.item() // ranks, least.item() % ranks == rank


def mean_of_processes(values: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor in the memory of the host."""
    if not _has_others():
        return values
    mean = values / torch.distributed.get_world_size()
    torch.distributed.all_reduce(mean, group=host_group())
    return mean


def _has_others() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@cache
def host_group() -> torch.distributed.ProcessGroup | None:
    """Group of all processes whose messages do not pass through GPUs; None if the default group is one."""
    return torch.distributed.new_group(backend="gloo") if torch.distributed.get_backend() == "nccl" else None
