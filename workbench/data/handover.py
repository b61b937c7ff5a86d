"""Hand-over of a batch from a worker process through anonymous shared memory (``memfd_create`` of Linux).

PyTorch would use files in /dev/shm, which has only 64 MB in a container of Docker. If /dev/shm is full, PyTorch fails
in a thread of the worker, and the training waits for ever. Anonymous memory is limited only by the memory of the
machine. The worker writes the images directly into the shared memory, so that no copy is needed. The queue of PyTorch's
loader carries only short messages, because a worker that is killed within a long message would block the queue.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
from collections.abc import Callable, Sequence
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.data.batch import Batch
from workbench.data.transforms import Sample, canvas_shape, collate
from workbench.support.errors import WorkbenchError


class Parcel:
    """Batch in shared memory. The process that receives a parcel, from a queue or a pipe, gets a ``Batch``.

    Args:
        descriptor: file descriptor of the memory: the canvas, and after it the other values, pickled.
        canvas: shape ``(B, H, W, 3)`` of the canvas.
    """

    def __init__(self, descriptor: int, canvas: Sequence[int]) -> None:
        self._descriptor = reduction.DupFd(descriptor)  # a copy, which is closed when the parcel is received
        self._canvas = canvas

    def __reduce__(self) -> tuple[Callable, tuple]:
        return _received, (self._descriptor, self._canvas)


def collate_for_another_process(samples: list[Sample]) -> Parcel | Batch:
    """Batch of the samples to be sent to another process; see ``transforms.collate``.

    Returns:
        A parcel on Linux. Other systems have no limit for shared memory, and PyTorch sends the batch.

    Raises:
        WorkbenchError: the system does not provide the memory.
    """
    if not hasattr(os, "memfd_create"):
        return collate(samples)
    canvas = canvas_shape(samples)
    try:
        descriptor = os.memfd_create("batch")
        try:
            os.ftruncate(descriptor, math.prod(canvas))
            batch = collate(samples, lambda shape: _canvas(mmap.mmap(descriptor, math.prod(shape)), shape))
            os.pwrite(descriptor, _pickled(batch), math.prod(canvas))
            return Parcel(descriptor, canvas)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise WorkbenchError(
            f"workers: no shared memory for a batch of {len(samples)} images ({error.strerror}); use fewer workers"
        ) from error


def _canvas(memory: mmap.mmap, shape: Sequence[int]) -> Tensor:
    """Tensor in shared memory, which is freed with the tensor."""
    return torch.frombuffer(memory, dtype=torch.uint8, count=math.prod(shape)).view(*shape)


def _pickled(batch: Batch) -> bytes:
    """All values of a batch but the images. NumPy's arrays are pickled faster than tensors."""
    values: dict[str, Any] = {name: value for name, value in vars(batch).items() if name != "images"}
    return pickle.dumps({name: value.numpy() if isinstance(value, Tensor) else value for name, value in values.items()})


def _received(descriptor: Any, canvas: Sequence[int]) -> Batch:
    """Batch of a parcel; ``descriptor`` is an object of ``multiprocessing`` that fetches the file descriptor."""
    number = descriptor.detach()
    try:
        memory = mmap.mmap(number, 0)
    finally:
        os.close(number)
    values = pickle.loads(memoryview(memory)[math.prod(canvas) :])
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in values.items()
    }
    return Batch(images=_canvas(memory, canvas).permute(0, 3, 1, 2), **tensors)
