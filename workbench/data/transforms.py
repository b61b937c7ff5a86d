"""What happens to one image between the disk and the batch: decode, resize, flip, normalise, pad.

Images are uint8 RGB tensors until they are normalised into the batch's canvas; boxes are NumPy arrays, since a few
dozen numbers are handled faster there. Numbers and order from the released configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import io
from torchvision.transforms.v2 import functional as F

from workbench.data.batch import Batch
from workbench.data.coco import ImageRecord
from workbench.support.errors import WorkbenchError

MEAN = (123.675, 116.28, 103.53)  # of R, G, B in 0..255, over ImageNet
STD = (58.395, 57.12, 57.375)
STRIDE = 32  # pixels; the canvas is a multiple of this


@dataclass(frozen=True, eq=False)
class Sample:
    """One image ready for a batch.

    Attributes:
        image: ``[3, h, w]`` uint8, RGB, resized.
        boxes: ``[n, 4]`` float32, ``x1, y1, x2, y2`` in pixels of ``image``.
        labels: ``[n]`` int64.
        record: what the annotation file says of the image.
    """

    image: Tensor
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    record: ImageRecord


def decode_image(path: Path, height: int, width: int) -> Tensor:
    """An image file as ``[3, height, width]`` uint8, RGB.

    COCO's boxes refer to the pixels as stored, so an orientation in the EXIF data is not applied. Grey and CMYK images
    are converted to RGB.

    Raises:
        WorkbenchError: the file is missing, damaged, of another format or bit depth, or not ``width`` × ``height``.
    """
    try:
        image = io.decode_image(io.read_file(str(path)), mode=io.ImageReadMode.RGB)
    except RuntimeError as error:
        if not path.is_file():
            raise WorkbenchError(f"{path}: no such image: copy it there or remove it from the annotations") from error
        reason = str(error).splitlines()[0]
        raise WorkbenchError(
            f"{path}: not a readable JPEG, PNG, WebP or GIF image ({reason}): copy or convert it again"
        ) from error
    if image.ndim != 3 or image.dtype != torch.uint8:
        raise WorkbenchError(f"{path}: not a single image of 8 bits a colour: convert it")
    if image.shape[1:] != (height, width):
        stored = f"{image.shape[2]}x{image.shape[1]}"
        raise WorkbenchError(
            f"{path}: the image has {stored} pixels, its annotation says {width}x{height}: correct one of them"
        )
    return image


def resized_size(height: int, width: int, long: int, short: int) -> tuple[int, int]:
    """Height and width, aspect kept, of the largest image that fits with its sides into ``long`` × ``short``."""
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: Tensor, height: int, width: int) -> Tensor:
    """``[3, h, w]`` → ``[3, height, width]``, bilinear without antialiasing: OpenCV's rule, within one grey level."""
    return F.resize(image, [height, width], interpolation=F.InterpolationMode.BILINEAR, antialias=False)


def resize_boxes(record: ImageRecord, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The boxes ``[n, 4]`` and labels ``[n]`` of an image resized to ``height`` × ``width``.

    Clipped to ``[0, width]`` × ``[0, height]``; boxes of which nothing is left are dropped.
    """
    ratios = (width / record.width, height / record.height)
    limits = np.array((width, height) * 2, dtype=np.float32)
    boxes = np.clip(record.boxes * np.array(ratios * 2, dtype=np.float32), 0, limits)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[keep], record.labels[keep]


def flip_boxes(boxes: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Boxes ``[n, 4]`` of the image mirrored left to right: ``x1' = width - x2``."""
    flipped = boxes.copy()
    flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return flipped


def flip(sample: Sample) -> Sample:
    """The sample mirrored left to right."""
    width = sample.image.shape[2]
    return Sample(sample.image.flip(2), flip_boxes(sample.boxes, width), sample.labels, sample.record)


def collate(samples: list[Sample]) -> Batch:
    """Normalises images onto a common canvas, zero (the mean colour) where an image has no pixels, and pads boxes.

    The canvas is as high and as wide as the highest and widest image, rounded up to a multiple of 32.
    """
    count, most = len(samples), max(len(sample.labels) for sample in samples)
    sizes = torch.tensor([sample.image.shape[1:] for sample in samples])
    height, width = (-(-side // STRIDE) * STRIDE for side in sizes.amax(dim=0).tolist())
    images = torch.zeros(count, 3, height, width)
    boxes, labels = torch.zeros(count, most, 4), torch.zeros(count, most, dtype=torch.int64)
    valid = torch.zeros(count, most, dtype=torch.bool)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    for i, sample in enumerate(samples):
        _, h, w = sample.image.shape
        images[i, :, :h, :w].copy_(sample.image).sub_(mean).div_(std)
        n = len(sample.labels)
        boxes[i, :n], labels[i, :n] = torch.from_numpy(sample.boxes), torch.from_numpy(sample.labels)
        valid[i, :n] = True
    return Batch(
        images=images,
        boxes=boxes,
        labels=labels,
        valid=valid,
        sizes=sizes,
        original_sizes=torch.tensor([(sample.record.height, sample.record.width) for sample in samples]),
        image_ids=tuple(sample.record.id for sample in samples),
        file_names=tuple(sample.record.file_name for sample in samples),
    )
