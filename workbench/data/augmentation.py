"""What is drawn anew for a training image in each epoch: its size, a crop and black holes.

Numbers and order are those of the released configuration of VFNet-X: crop, resize, holes, flip. Each function draws
from the generator that it is given, so an image's fate depends on nothing else.
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

SMALLEST_CROP = 0.75  # of a side
HOLES = (5, 10)  # fewest and most
HOLE_SIZES = np.array(  # width and height in units
    [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2), (2, 4), (4, 4), (4, 8), (8, 4), (8, 8), (8, 12), (12, 8), (12, 12)]
)


@dataclass(frozen=True)
class Augmentation:
    """What befalls training images; the default is a flip alone.

    Attributes:
        flip: probability of a mirror image, left to right.
        crop: probability of a random crop.
        image_range: bounds of the sides are drawn from it; None keeps the data set's size.
        cutout: black holes, or none.
    """

    flip: float = 0.5
    crop: float = 0.0
    image_range: ImageRange | None = None
    cutout: CutOut | None = None

    @property
    def fixed_size(self) -> bool:
        """Whether an image is resized to the same pixels in every epoch."""
        return not self.crop and self.image_range is None


def augmented(
    image: Tensor, record: ImageRecord, size: tuple[int, int], chosen: Augmentation, rng: Generator
) -> Sample | None:
    """The sample of a decoded image, all but the flip; None where the crop left it no object.

    Args:
        image: ``[3, h, w]`` uint8 as stored, or, of ``chosen.fixed_size``, resized already.
        record: of the image.
        size: long and short side in pixels, into which the image is fitted where no range is given.
    """
    part = record
    if chosen.crop and rng.random() < chosen.crop:
        top, left, height, width = crop_window(rng, record.height, record.width)
        part = cropped_record(record, top, left, height, width)
        if not len(part.labels):
            return None
        image = image[:, top : top + height, left : left + width]
    if chosen.image_range is not None:
        size = drawn_size(rng, chosen.image_range)
    height, width = transforms.resized_size(part.height, part.width, *size)
    boxes, labels = transforms.resize_boxes(part, height, width)
    if not chosen.fixed_size:
        image = transforms.resize_image(image, height, width)
    if chosen.cutout is not None and rng.random() < chosen.cutout.probability:
        image = cut_out(image, holes(rng, height, width, chosen.cutout.unit))
    return Sample(image, boxes, labels, record)


def drawn_size(rng: Generator, bounds: ImageRange) -> tuple[int, int]:
    """Long and short side in pixels: two whole numbers, each uniform in its bounds, the larger one first."""
    first, second = (int(rng.integers(low, high, endpoint=True)) for low, high in (bounds.long, bounds.short))
    return max(first, second), min(first, second)


def crop_window(rng: Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width in pixels: sides uniform from three quarters to the whole, any place the same."""
    sides = [int(side * rng.uniform(SMALLEST_CROP, 1) + 0.5) for side in (height, width)]
    top, left = (
        int(rng.integers(0, side - part, endpoint=True)) for side, part in zip((height, width), sides, strict=True)
    )
    return top, left, *sides


def cropped_record(record: ImageRecord, top: int, left: int, height: int, width: int) -> ImageRecord:
    """The record of a window of an image: boxes shifted and clipped, those of which nothing is left dropped."""
    shifted = record.boxes - np.array((left, top) * 2, dtype=np.float32)
    boxes = np.clip(shifted, 0, np.array((width, height) * 2, dtype=np.float32))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return replace(record, height=height, width=width, boxes=boxes[keep], labels=record.labels[keep])


def holes(rng: Generator, height: int, width: int, unit: int) -> NDArray[np.int64]:
    """5 to 10 holes ``[n, 4]``, ``x1, y1, x2, y2`` in pixels, of sizes from the list; the corner is any pixel.

    They extend to the right and down, and are clipped to the image.
    """
    count = int(rng.integers(*HOLES, endpoint=True))
    corners = rng.integers(0, (width, height), (count, 2))
    sizes = HOLE_SIZES[rng.integers(0, len(HOLE_SIZES), count)] * unit
    return np.concatenate([corners, np.minimum(corners + sizes, (width, height))], axis=1)


def cut_out(image: Tensor, rectangles: NDArray[np.int64]) -> Tensor:
    """A copy of the image ``[3, h, w]`` with rectangles ``[n, 4]`` in black."""
    image = image.clone()
    for x1, y1, x2, y2 in rectangles.tolist():
        image[:, y1:y2, x1:x2] = 0
    return image
