"""Time of a detector for single images: loading, forward pass and post-processing, as wall-clock time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from workbench.data import transforms
from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection, ImageRecord
from workbench.data.loader import evaluation_batches
from workbench.detectors import DenseDetector, Detector
from workbench.detectors.postprocess import postprocess
from workbench.settings.variant import Variant

WARM_UP = 3
"""Number of images for warm-up, whose times are not used."""
NOISE = (480, 640)
"""Height and width of noise images in pixels, the most common size of COCO's images."""


@dataclass(frozen=True)
class Timing:
    """Median times of single images, in milliseconds.

    Attributes:
        images: number of images.
        load: time to load an image; None for noise images.
        forward: time of the forward pass.
        postprocess: time of post-processing.
        both: median of the sum of forward pass and post-processing.
    """

    images: int
    load: float | None
    forward: float
    postprocess: float
    both: float

    @property
    def images_per_second(self) -> float:
        """Images per second of forward pass and post-processing, without loading, which can run in parallel."""
        return 1000 / self.both


def time_detector(
    detector: Detector, variant: Variant, data: CocoDetection | None, images: int, device: torch.device
) -> Timing:
    """Time images one by one, after some images of warm-up.

    Args:
        detector: detector to time; it is moved to ``device`` and set to evaluation mode.
        variant: test size and post-processing.
        data: images to time; None for noise images.
        images: number of noise images.
        device: device on which the detector runs.
    """
    detector = detector.to(device).eval()
    if data is None:
        source, warm_up = _noise(variant, images), _noise(variant, WARM_UP)
    else:
        first = [data.images[i % len(data.images)] for i in range(WARM_UP)]
        size = (variant.image.long, variant.image.short)
        source, warm_up = (
            evaluation_batches(data, size=size),
            evaluation_batches(replace(data, images=first), size=size),
        )
    _seconds(detector, warm_up, variant, device)
    seconds = _seconds(detector, source, variant, device)
    load, forward, after = (1000 * statistics.median(part) for part in zip(*seconds, strict=True))
    both = 1000 * statistics.median(f + p for _, f, p in seconds)
    return Timing(len(seconds), None if data is None else load, forward, after, both)


@torch.no_grad()
def _seconds(
    detector: Detector, batches: Iterator[Batch], variant: Variant, device: torch.device
) -> list[tuple[float, float, float]]:
    """Return seconds of loading (with the copy to the device), forward pass and post-processing of each batch."""
    seconds = []
    while True:
        began = now(device)
        batch = next(batches, None)
        if batch is None:
            return seconds
        batch = batch.to(device)
        loaded = now(device)
        if isinstance(detector, DenseDetector):
            predictions = detector.predict(batch.images)
            predicted = now(device)
            postprocess(predictions, batch.sizes, variant)
        else:  # post-processing is part of such a detector's forward pass
            detector.detect(batch.images, batch.sizes, variant)
            predicted = now(device)
        seconds.append((loaded - began, predicted - loaded, now(device) - predicted))


def now(device: torch.device) -> float:
    """Return the clock in seconds, after the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _noise(variant: Variant, count: int) -> Iterator[Batch]:
    """Yield batches with one noise image each, resized like an image of that size on disk."""
    height, width = NOISE
    generator = torch.Generator().manual_seed(0)
    record = ImageRecord(0, "noise", Path("noise"), width, height, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    resized = transforms.resized_size(height, width, variant.image.long, variant.image.short)
    for _ in range(count):
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        image = transforms.resize_image(pixels, *resized)
        yield transforms.collate([transforms.Sample(image, record.boxes, record.labels, record)])
