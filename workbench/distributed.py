"""The one thing that losses need to know of other processes: averages over ranks."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_ranks(*values: Tensor) -> list[Tensor]:
    """Each scalar averaged over all processes, detached; what it was in a single process.

    Every rank must call it at the same point, with positives or without, or the others wait for ever.
    """
    stacked = torch.stack([value.detach().float() for value in values])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(stacked)
        stacked /= torch.distributed.get_world_size()
    return list(stacked.unbind())
