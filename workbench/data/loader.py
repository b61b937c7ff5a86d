"""Batches for training and for test, in this process or in worker processes, the same to the byte.

Which images make up which batch of an epoch depends on the seed and the epoch alone, and the random numbers of an
image on the seed, the epoch and its id: a resumed training, another number of workers or another split over ranks
sees the same data. The sampler follows the grouped one of the released code.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from workbench.data import transforms
from workbench.data.augmentation import Augmentation, augmented
from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection
from workbench.data.transforms import Sample
from workbench.support.errors import WorkbenchError

CACHE_BYTES = 512 * 2**20  # a training set that fits into this, decoded and resized, is kept in memory
CROPS = 1000  # tries to find a crop with an object in it, a generous number

Plan = list[tuple[int, list[int]]]  # of each batch: the epoch, and the indices of its images


class TrainingBatches:
    """An endless supply of training batches, an epoch at a time; made by ``training_batches``.

    Attributes:
        batches_per_epoch: how many micro-batches this rank sees in an epoch.
    """

    def __init__(self, source: _Source, batch: int, workers: int, rank: int, world_size: int) -> None:
        self._source, self._batch, self._rank, self._world_size = source, batch, rank, world_size
        self.batches_per_epoch = len(self._plan(epoch=0))
        # The loader reads the list afresh each epoch, so its workers live as long as this object.
        self._queue: Plan = []
        self._loader = _worker_loader(source, self._queue, workers) if workers else None

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first ``skip`` (which are not decoded). Ends the epoch before it.

        Raises:
            WorkbenchError: an image cannot be read.
        """
        self._queue[:] = self._plan(epoch)[skip:]
        if self._loader is None:
            return _checked(map(self._source.__getitem__, list(self._queue)))
        return _checked(iter(self._loader))

    def _plan(self, epoch: int) -> Plan:
        batches = epoch_plan(self._source.landscape, self._batch, self._source.seed, epoch, self._world_size)
        return [(epoch, batch) for batch in batches[self._rank :: self._world_size].tolist()]


def training_batches(
    data: CocoDetection,
    *,
    size: tuple[int, int],
    batch: int,
    seed: int,
    augmentation: Augmentation = Augmentation(),
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> TrainingBatches:
    """Shuffled, augmented batches.

    Args:
        size: long and short side in pixels, into which images are fitted, unless the augmentation draws them.
        batch: images of a micro-batch.
        augmentation: what is drawn anew in each epoch.
        workers: processes that decode; 0 decodes in this one and, if the set is small, each image only once.
        rank, world_size: this process among those that share the epochs.
    """
    source = _Source(data, size, seed, augmentation, cache=not workers)
    return TrainingBatches(source, batch, workers, rank, world_size)


def evaluation_batches(
    data: CocoDetection,
    *,
    size: tuple[int, int],
    batch: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """All images once, in file order, unflipped; images of one batch share a canvas. Arguments as in training.

    Raises:
        WorkbenchError: an image cannot be read.
    """
    source = _Source(data, size, 0, Augmentation(flip=0.0), cache=False)
    indices = range(len(data.images))
    plan = [(0, list(indices[start : start + batch])) for start in indices[::batch]]
    return _checked(iter(_worker_loader(source, plan, workers)) if workers else map(source.__getitem__, plan))


def epoch_plan(landscape: NDArray[np.bool_], batch: int, seed: int, epoch: int, world_size: int) -> NDArray[np.int64]:
    """The batches of an epoch, as indices of images ``[n, batch]``; rank r takes rows r, r + world_size, …

    Wide and other images are never mixed. Both groups are shuffled, then filled up to whole batches with their own
    first images; the batches are shuffled and filled up to a multiple of ``world_size`` with the first of them.

    Args:
        landscape: for each image, whether it is wider than high.
    """
    rng = np.random.default_rng((seed, epoch))
    groups = [rng.permutation(np.flatnonzero(landscape == wide)) for wide in (False, True)]
    batches = np.concatenate([np.resize(group, (-(-len(group) // batch), batch)) for group in groups])
    batches = rng.permutation(batches)
    return np.resize(batches, (-(-len(batches) // world_size) * world_size, batch))


class _Source:
    """Makes any batch from its entry in a plan. It holds no state but the cache, so any process may make any batch."""

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

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, entry: tuple[int, list[int]]) -> Batch | WorkbenchError:
        """The batch; a user's mistake is returned, since one raised in a worker would come out in a traceback."""
        epoch, indices = entry
        try:
            return transforms.collate([self._sample(epoch, index) for index in indices])
        except WorkbenchError as error:
            return error

    def _sample(self, epoch: int, index: int) -> Sample:
        """The image's sample, or, where its crop holds no object, that of another one of its group."""
        # Image ids may be negative in other people's files, seeds may not.
        rng = np.random.default_rng((self.seed, epoch, self.data.images[index].id % 2**64))
        flipped = rng.random() < self._augmentation.flip
        for _ in range(CROPS):
            record = self.data.images[index]
            sample = augmented(self._image(index), record, self._size, self._augmentation, rng)
            if sample is not None:
                return transforms.flip(sample) if flipped else sample
            index = int(rng.choice(np.flatnonzero(self.landscape == self.landscape[index])))
        raise WorkbenchError(
            f"{record.path}: no crop of it or of images like it holds an object; leave training.crop out"
        )

    def _image(self, index: int) -> Tensor:
        """The image decoded, and resized if that is the same in every epoch, ``[3, h, w]`` uint8."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        record = self.data.images[index]
        image = transforms.decode_image(record.path, record.height, record.width)
        kept = image  # as decoded: what is resized later must lie in memory as without a cache
        if self._augmentation.fixed_size:
            image = transforms.resize_image(image, *self._sizes[index])
            kept = image.contiguous()  # the decoder leaves colours interleaved, which is slower to read
        if self._cache is not None:
            self._cache[index] = kept
        return image


def _worker_loader(source: _Source, plan: Plan, workers: int) -> DataLoader:
    return DataLoader(
        source,
        batch_size=None,  # an entry of the plan is a whole batch already
        sampler=plan,
        num_workers=workers,
        persistent_workers=True,
        worker_init_fn=_leave_interrupts_to_the_parent,
        generator=torch.Generator(),  # otherwise each epoch draws from the global one, and training would notice
    )


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _checked(batches: Iterator[Batch | WorkbenchError]) -> Iterator[Batch]:
    """The batches, with mistakes and the death of a worker raised as one line."""
    try:
        for batch in batches:
            if isinstance(batch, WorkbenchError):
                raise batch
            yield batch
    except (RuntimeError, EOFError, ConnectionError) as error:  # the latter two when it died while handing over
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        raise WorkbenchError(
            "a worker process that reads images died, probably for want of memory (or of /dev/shm): use fewer workers"
        ) from error
    finally:
        # A kept traceback keeps this frame; were the workers in it, they would be left to the garbage collector, which
        # takes the queues away first, and each would be waited for in vain for five seconds.
        del batches
