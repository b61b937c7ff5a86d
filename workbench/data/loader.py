"""Batches for training and test, decoded in this process or in worker processes, with equal bytes in both cases.

The images of each canvas depend only on the seed, the epoch, and the sizes of canvas and step. The random numbers of an
image depend only on the seed, the epoch and the image's id. A resumed training, another number of workers or another
number of ranks therefore uses the same data. The sampler is the grouped sampler of the released code.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from workbench.data import transforms
from workbench.data.augmentation import Augmentation, augment
from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection
from workbench.data.handover import Block, Parcel, collate_for_another_process
from workbench.data.transforms import Sample
from workbench.support.errors import WorkbenchError

CACHE_BYTES = 512 * 2**20  # a training set that is smaller than this, decoded and resized, is kept in memory
CROPS = 1000  # attempts to draw a crop with an object

Plan = list[tuple[int, list[int]]]
"""For each batch, the epoch and the indices of its images."""


class TrainingBatches:
    """Training batches of any epoch; made by ``training_batches``.

    Attributes:
        canvases_per_epoch: number of canvases of this rank per epoch, a multiple of its canvases per step.
    """

    def __init__(
        self, source: _Source, canvas: int, canvases: int, workers: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._source, self._canvas, self._canvases = source, canvas, canvases
        self._rank, self._world_size = rank, world_size
        self.canvases_per_epoch = len(self._plan(epoch=0))
        # The loader reads this list at the start of each epoch, so that its workers can be kept over all epochs.
        self._queue: Plan = []
        self._loader = _worker_loader(source, self._queue, workers) if workers else None

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Canvases of an epoch without the first ``skip`` canvases, which are not decoded.

        Starting an epoch ends the iteration over the previous one.

        Raises:
            WorkbenchError: an image cannot be read.
        """
        self._queue[:] = self._plan(epoch)[skip:]
        if self._loader is None:
            return _raise_errors(map(self._source.__getitem__, list(self._queue)))
        return _raise_errors(_started(self._loader))

    def _plan(self, epoch: int) -> Plan:
        canvases = self._canvases * self._world_size
        plan = epoch_plan(self._source.landscape, self._canvas, self._source.seed, epoch, canvases)
        steps = plan.reshape(-1, self._world_size, self._canvases, self._canvas)
        return [(epoch, canvas) for canvas in steps[:, self._rank].reshape(-1, self._canvas).tolist()]


def training_batches(
    data: CocoDetection,
    *,
    size: tuple[int, int],
    canvas: int,
    canvases: int = 1,
    seed: int,
    augmentation: Augmentation = Augmentation(),
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> TrainingBatches:
    """Shuffled and augmented batches for training, one for each canvas.

    Args:
        size: long and short side in pixels into which images must fit, unless the augmentation draws the sides.
        canvas: number of images of a canvas.
        canvases: number of canvases of a step on each rank.
        augmentation: random changes of the images.
        workers: number of processes that decode. With 0, this process decodes, and it decodes each image of a small
            data set only once.
        rank, world_size: index of this process, and number of processes that share an epoch.
    """
    source = _Source(data, size, seed, augmentation, cache=not workers)
    return TrainingBatches(source, canvas, canvases, workers, rank, world_size)


def evaluation_batches(
    data: CocoDetection,
    *,
    size: tuple[int, int],
    batch: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """All images once, in file order, without augmentation; the images of a batch share a canvas.

    Args: see ``training_batches``.

    Raises:
        WorkbenchError: an image cannot be read.
    """
    source = _Source(data, size, 0, Augmentation(flip=0.0), cache=False)
    indices = range(len(data.images))
    plan = [(0, list(indices[start : start + batch])) for start in indices[::batch]]
    return _raise_errors(_started(_worker_loader(source, plan, workers)) if workers else map(source.__getitem__, plan))


def epoch_plan(landscape: NDArray[np.bool_], canvas: int, seed: int, epoch: int, canvases: int) -> NDArray[np.int64]:
    """Canvases of an epoch as indices of images ``[n, canvas]``, step by step.

    A canvas contains either landscape images or other images. Each of the two groups is shuffled. Its last canvas is
    filled with the first images of the group. Then all canvases are shuffled. Their number is made a multiple of
    ``canvases`` by repeating the first ones.

    Args:
        landscape: whether each image is wider than high.
        canvases: number of canvases of a step.
    """
    rng = np.random.default_rng((seed, epoch))
    groups = [rng.permutation(np.flatnonzero(landscape == wide)) for wide in (False, True)]
    plan = np.concatenate([np.resize(group, (-(-len(group) // canvas), canvas)) for group in groups])
    plan = rng.permutation(plan)
    return np.resize(plan, (-(-len(plan) // canvases) * canvases, canvas))


class _Source:
    """Source of the batches of a plan. Any process can make any batch: the state is a cache and shared memory."""

    def __init__(
        self, data: CocoDetection, size: tuple[int, int], seed: int, augmentation: Augmentation, cache: bool
    ) -> None:
        self.data, self.seed = data, seed
        self.landscape = np.array([record.width > record.height for record in data.images])
        self._size, self._augmentation = size, augmentation
        self._sizes = [(record.height, record.width) for record in data.images]
        if augmentation.fixed_size:
            self._sizes = [transforms.resized_size(*stored, *size) for stored in self._sizes]
        fits = sum(3 * height * width for height, width in self._sizes) <= CACHE_BYTES
        self._cache: dict[int, Tensor] | None = {} if cache and fits else None
        self._blocks: list[Block] = []

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, entry: tuple[int, list[int]]) -> Batch | Parcel | WorkbenchError:
        """Return a batch, or a user's mistake: raised in a worker, the mistake would be reported with a traceback."""
        epoch, indices = entry
        try:
            samples = [self._sample(epoch, index) for index in indices]
            if get_worker_info() is None:
                return transforms.collate(samples)
            return collate_for_another_process(samples, self._blocks)
        except WorkbenchError as error:
            return error

    def _sample(self, epoch: int, index: int) -> Sample:
        """Sample of the image; if its crop contains no object, sample of another image of its group."""
        # Image ids can be negative, seeds cannot.
        rng = np.random.default_rng((self.seed, epoch, self.data.images[index].id % 2**64))
        flipped = rng.random() < self._augmentation.flip
        for _ in range(CROPS):
            record = self.data.images[index]
            sample = augment(self._image(index), record, self._size, self._augmentation, rng)
            if sample is not None:
                return transforms.flip(sample) if flipped else sample
            index = int(rng.choice(np.flatnonzero(self.landscape == self.landscape[index])))
        raise WorkbenchError(
            f"{record.path}: no crop of this image or of similar images contains an object; leave training.crop out"
        )

    def _image(self, index: int) -> Tensor:
        """Decoded image ``[3, h, w]`` uint8. It is also resized here if the new size does not change between epochs."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        record = self.data.images[index]
        image = transforms.decode_image(record.path, record.height, record.width)
        if self._augmentation.fixed_size:
            image = transforms.resize_image(image, *self._sizes[index])
        if self._cache is not None:
            self._cache[index] = image  # in its layout, so that a later resize gives the same bits without a cache
        return image


def _worker_loader(source: _Source, plan: Plan, workers: int) -> DataLoader:
    return DataLoader(
        source,
        batch_size=None,  # an entry of the plan is already a batch
        sampler=plan,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # the default, the global generator, would change the training
    )


def _started(loader: DataLoader) -> Iterator[Batch | WorkbenchError]:
    """Start the workers, or begin the next epoch in persistent workers."""
    try:
        return iter(loader)
    except OSError as error:  # no process, or no semaphore, which is a file in /dev/shm
        raise WorkbenchError(
            f"workers: cannot start the processes that decode images ({error.strerror}); use fewer workers, or free "
            "some space in /dev/shm"
        ) from error


def _ignore_interrupts(_worker: int) -> None:
    """Leave interrupts from the keyboard to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class LostWorker(WorkbenchError):
    """Error about a worker that ended unexpectedly."""


_LOST = ("DataLoader worker (pid", "Pin memory thread exited unexpectedly")
"""Beginnings of PyTorch's messages about a worker that ended; the thread that pins memory ends with the worker."""


def _raise_errors(batches: Iterator[Batch | WorkbenchError]) -> Iterator[Batch]:
    """Yield the batches; raise a WorkbenchError for a user's mistake and for a worker that ended unexpectedly."""
    try:
        for batch in batches:
            if isinstance(batch, WorkbenchError):
                raise batch
            yield batch
    except (
        RuntimeError,
        EOFError,
        ConnectionError,
    ) as error:  # EOFError, ConnectionError: the worker ended while it sent a batch
        if isinstance(error, RuntimeError) and not str(error).startswith(_LOST):
            raise
        raise LostWorker(
            "workers: a process that decodes images ended unexpectedly, probably out of memory; use fewer workers"
        ) from error
    finally:
        # A stored traceback keeps this frame alive, and with it the workers. The garbage collector would then delete
        # the queues before the workers and wait five seconds for each worker.
        del batches
