"""Random changes of a training image in each epoch: a crop, its size, and black holes (cutout).

Constants and order (crop, resize, holes, flip) follow the released configuration of VFNet-X. Each function draws from
the generator in its arguments, so that the result depends only on the generator's state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from workbench.data import transforms
from workbench.data.coco import ImageRecord
from workbench.data.transforms import Sample
from workbench.settings.data import ImageRange
from workbench.settings.experiment import CutOut

SMALLEST_CROP = 0.75  # as a share of a side
HOLES = (5, 10)  # smallest and largest number of holes
HOLE_SIZES = np.array(  # width and height in units
    [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2), (2, 4), (4, 4), (4, 8), (8, 4), (8, 8), (8, 12), (12, 8), (12, 12)]
)


@dataclass(frozen=True)
class Augmentation:
    """Settings of the random changes of training images; the default is a flip only.

    Attributes:
        flip: probability of a horizontal flip.
        crop: probability of a random crop.
        image_range: range from which long and short side are drawn; None for the size of the data set.
        cutout: settings of the black holes; None for no holes.
    """

    flip: float = 0.5
    crop: float = 0.0
    image_range: ImageRange | None = None
    cutout: CutOut | None = None

    @property
    def fixed_size(self) -> bool:
        """Whether the resized image is the same in every epoch."""
        return not self.crop and self.image_range is None


def augment(
    image: Tensor, record: ImageRecord, size: tuple[int, int], augmentation: Augmentation, rng: Generator
) -> Sample | None:
    """Apply all changes but the flip to a decoded image; return None if its crop contains no object.

    Args:
        image: ``[3, h, w]`` uint8 as stored; already resized if ``augmentation.fixed_size``.
        record: entry of the annotation file for the image.
        size: long and short side in pixels into which the image must fit, unless ``augmentation`` has a range.
    """
    view = record
    if augmentation.crop and rng.random() < augmentation.crop:
        top, left, height, width = draw_crop(rng, record.height, record.width)
        view = crop_record(record, top, left, height, width)
        if not len(view.labels):
            return None
        image = image[:, top : top + height, left : left + width]
    if augmentation.image_range is not None:
        size = draw_size(rng, augmentation.image_range)
    height, width = transforms.resized_size(view.height, view.width, *size)
    boxes, labels = transforms.resize_boxes(view, height, width)
    if not augmentation.fixed_size:
        image = transforms.resize_image(image, height, width)
    if augmentation.cutout is not None and rng.random() < augmentation.cutout.probability:
        image = cut_out(image, draw_holes(rng, height, width, augmentation.cutout.unit))
    return Sample(image, boxes, labels, record)


def draw_size(rng: Generator, bounds: ImageRange) -> tuple[int, int]:
    """Draw long and short side in pixels: two whole numbers, each uniform in its bounds, the larger one first."""
    first, second = (int(rng.integers(low, high, endpoint=True)) for low, high in (bounds.long, bounds.short))
    return max(first, second), min(first, second)


def draw_crop(rng: Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop in pixels.

    Each side is uniform between three quarters of the image's side and the whole side. The position is uniform.
    """
    sides = [int(side * rng.uniform(SMALLEST_CROP, 1) + 0.5) for side in (height, width)]
    top, left = (
        int(rng.integers(0, side - part, endpoint=True)) for side, part in zip((height, width), sides, strict=True)
    )
    return top, left, *sides


def crop_record(record: ImageRecord, top: int, left: int, height: int, width: int) -> ImageRecord:
    """Record of a crop of an image: boxes are shifted and clipped; boxes that are then empty are left out."""
    shifted = record.boxes - np.array((left, top) * 2, dtype=np.float32)
    boxes = np.clip(shifted, 0, np.array((width, height) * 2, dtype=np.float32))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return replace(record, height=height, width=width, boxes=boxes[keep], labels=record.labels[keep])


def draw_holes(rng: Generator, height: int, width: int, unit: int) -> NDArray[np.int64]:
    """Draw 5 to 10 holes ``[n, 4]``, ``x1, y1, x2, y2`` in pixels.

    The top left corner of a hole is any pixel of the image, and its size is one of ``HOLE_SIZES``. Holes are clipped to
    the image.

    Args:
        unit: pixels per unit of ``HOLE_SIZES``.
    """
    count = int(rng.integers(*HOLES, endpoint=True))
    corners = rng.integers(0, (width, height), (count, 2))
    sizes = HOLE_SIZES[rng.integers(0, len(HOLE_SIZES), count)] * unit
    return np.concatenate([corners, np.minimum(corners + sizes, (width, height))], axis=1)


def cut_out(image: Tensor, rectangles: NDArray[np.int64]) -> Tensor:
    """Copy of an image ``[3, h, w]`` with black rectangles ``[n, 4]``."""
    image = image.clone()
    for x1, y1, x2, y2 in rectangles.tolist():
        image[:, y1:y2, x1:x2] = 0
    return image
