"""Hand-over of batches from a worker process through anonymous shared memory (``memfd_create`` of Linux).

PyTorch would use files in /dev/shm, which has only 64 MB in a container of Docker. If /dev/shm is full, PyTorch fails
in a thread of the worker, and the training waits forever. Anonymous memory is limited only by the memory of the
machine. New memory is slow: the system clears it page by page. A worker therefore writes a batch into memory that the
receiver of an earlier batch has released. The queue of PyTorch's loader carries only short messages, because a worker
that is killed within a long message would block the queue.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.data.batch import Batch
from workbench.data.transforms import Sample, canvas_shape, collate
from workbench.support.errors import WorkbenchError

CANVAS = 64
"""First byte of the canvas in a block. Byte 0 is 1 while a batch in the block is in use."""


class Block:
    """Shared memory of one batch after another: a flag, the canvas, and the other values of the batch, pickled."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create("batch")
        weakref.finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, size)
        self.memory = mmap.mmap(self.descriptor, size)

    @property
    def in_use(self) -> bool:
        """Whether a process uses the batch in the block."""
        return self.memory[0] == 1


class Parcel:
    """Batch in a block. The process that receives a parcel, from a queue or a pipe, gets a ``Batch``.

    Args:
        block: block, which is in use until the receiver has released the images of the batch.
        canvas: shape ``(B, H, W, 3)`` of the canvas.
    """

    def __init__(self, block: Block, canvas: Sequence[int]) -> None:
        block.memory[0] = 1
        self._descriptor = reduction.DupFd(block.descriptor)  # a copy, which is closed when the parcel is received
        self._canvas = canvas

    def __reduce__(self) -> tuple[Callable, tuple]:
        return _received, (self._descriptor, self._canvas)


def collate_for_another_process(samples: list[Sample], blocks: list[Block]) -> Parcel | Batch:
    """Batch of the samples to be sent to another process; see ``transforms.collate``.

    Args:
        blocks: blocks of this process, which are used again. A block is added if all others are in use.

    Returns:
        A parcel on Linux. Other systems have no limit for shared memory, and PyTorch sends the batch.

    Raises:
        WorkbenchError: the system does not provide the memory.
    """
    if not hasattr(os, "memfd_create"):
        return collate(samples)
    canvas = canvas_shape(samples)
    end = CANVAS + math.prod(canvas)
    try:
        block = _free_block(blocks, end)
        batch = collate(samples, lambda shape: _canvas(block.memory, shape))
        os.pwrite(block.descriptor, _pickled(batch), end)  # makes the block longer if necessary
        return Parcel(block, canvas)
    except OSError as error:
        raise WorkbenchError(
            f"workers: no shared memory for a batch of {len(samples)} images ({error.strerror}); use fewer workers"
        ) from error


def _free_block(blocks: list[Block], size: int) -> Block:
    """First block that is not in use and has ``size`` bytes; blocks not in use that are too small are removed."""
    blocks[:] = [block for block in blocks if block.in_use or block.size >= size]
    block = next((block for block in blocks if not block.in_use), None)
    if block is None:
        block = Block(size)
        blocks.append(block)
    return block


def _canvas(memory: mmap.mmap, shape: Sequence[int]) -> Tensor:
    """Tensor of a canvas in a block. The tensor keeps the mapping of the memory."""
    return torch.frombuffer(memory, dtype=torch.uint8, offset=CANVAS, count=math.prod(shape)).view(*shape)


def _pickled(batch: Batch) -> bytes:
    """All values of a batch but the images. NumPy's arrays are pickled faster than tensors."""
    values = {name: value for name, value in vars(batch).items() if name != "images"}
    return pickle.dumps({name: value.numpy() if isinstance(value, Tensor) else value for name, value in values.items()})


def _received(descriptor: Any, canvas: Sequence[int]) -> Batch:
    """Batch of a parcel; ``descriptor`` is an object of ``multiprocessing`` that fetches the file descriptor."""
    number = descriptor.detach()
    try:
        memory, flag = mmap.mmap(number, 0), mmap.mmap(number, 1)
    finally:
        os.close(number)
    weakref.finalize(memory, _release, flag, os.getpid())
    values = pickle.loads(memoryview(memory)[CANVAS + math.prod(canvas) :])
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in values.items()
    }
    return Batch(images=_canvas(memory, canvas).permute(0, 3, 1, 2), **tensors)


def _release(flag: mmap.mmap, receiver: int) -> None:
    """Mark a block as free. A process that the receiver forks has a copy of the images, and must not mark the block."""
    if os.getpid() == receiver:
        flag[0] = 0
