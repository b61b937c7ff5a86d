"""Steps from an image file to a batch: decode, resize, flip and pad.

Images are uint8 RGB tensors; ``Batch.to`` normalises them. Boxes are NumPy arrays, because NumPy is faster for a few
dozen numbers. The order of the steps follows the released configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from workbench.data.headers import FORMATS, Header, file_fault, orientation_of
from workbench.data.images import size_fault
from workbench.support.errors import WorkbenchError

STRIDE = 32  # pixels; height and width of the canvas are multiples of the stride


@dataclass(frozen=True, eq=False)
class Sample:
    """Image that is ready for a batch, with its ground truth.

    Attributes:
        image: ``[3, h, w]`` uint8, RGB, resized.
        boxes: ``[n, 4]`` float32, ``x1, y1, x2, y2`` in pixels of ``image``.
        labels: ``[n]`` int64.
        record: entry of the annotation file for the image.
    """

    image: Tensor
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    record: ImageRecord


def decode_image(path: Path, height: int, width: int) -> Tensor:
    """Decode an image file to ``[3, height, width]`` uint8, RGB.

    The EXIF orientation is applied if the image then has the given size; see ``Header.is_turned``. Grey and CMYK images
    are converted to RGB.

    Raises:
        WorkbenchError: the file is missing, damaged, in another format, not 8-bit, or not ``width`` × ``height``.
    """
    if fault := file_fault(path):
        raise WorkbenchError(f"{path}: {fault}")
    try:
        content = io.read_file(str(path))
        image = io.decode_image(content, mode=io.ImageReadMode.RGB)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise WorkbenchError(f"{path}: not a readable {FORMATS} ({reason}); copy or convert it again") from error
    if image.ndim != 3 or image.dtype != torch.uint8:
        raise WorkbenchError(f"{path}: not a single image with 8 bits per colour; convert it")
    header = Header(image.shape[2], image.shape[1], orientation_of(content.numpy().data))
    if header.is_turned(width, height):
        return oriented(image, header.orientation)
    if image.shape[1:] != (height, width):
        raise WorkbenchError(f"{path}: {size_fault(header, width, height)}")
    return image


def oriented(image: Tensor, orientation: int) -> Tensor:
    """Image ``[C, h, w]`` as viewers show it, from the stored image and its EXIF orientation, 1 to 8."""
    if orientation >= 5:
        image = image.transpose(1, 2)
    sides = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return image.flip(sides) if sides else image


def resized_size(height: int, width: int, long: int, short: int) -> tuple[int, int]:
    """Height and width of the largest image of the same aspect ratio whose sides fit into ``long`` × ``short``."""
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: Tensor, height: int, width: int) -> Tensor:
    """Resize ``[3, h, w]`` to ``[3, height, width]``.

    The interpolation is bilinear without antialiasing. It differs from OpenCV's by at most one grey level.
    """
    return F.resize(image, [height, width], interpolation=F.InterpolationMode.BILINEAR, antialias=False)


def resize_boxes(record: ImageRecord, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes ``[n, 4]`` and labels ``[n]`` of an image that is resized to ``height`` × ``width``.

    Boxes are clipped to ``[0, width]`` × ``[0, height]``; boxes that are then empty are left out.
    """
    ratios = (width / record.width, height / record.height)
    limits = np.array((width, height) * 2, dtype=np.float32)
    boxes = np.clip(record.boxes * np.array(ratios * 2, dtype=np.float32), 0, limits)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[keep], record.labels[keep]


def flip_boxes(boxes: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Boxes ``[n, 4]`` of the horizontally flipped image: ``x1' = width - x2``."""
    flipped = boxes.copy()
    flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return flipped


def flip(sample: Sample) -> Sample:
    """Flip a sample horizontally."""
    width = sample.image.shape[2]
    return Sample(sample.image.flip(2), flip_boxes(sample.boxes, width), sample.labels, sample.record)


def canvas_shape(samples: list[Sample]) -> tuple[int, int, int, int]:
    """Shape ``(B, H, W, 3)`` of the canvas: the largest sides of the images, rounded up to multiples of 32."""
    height, width = (-(-max(sample.image.shape[axis] for sample in samples) // STRIDE) * STRIDE for axis in (1, 2))
    return len(samples), height, width, 3


def collate(samples: list[Sample], new_canvas: Callable[[Sequence[int]], Tensor] | None = None) -> Batch:
    """Copy images onto a common canvas and pad boxes. The images stay uint8, and the padding is zero.

    Args:
        new_canvas: function that returns uint8 memory of the shape ``canvas_shape``, with any content; None for new
            memory. The colours of a pixel are neighbours in memory, as in decoded images.
    """
    count, most = len(samples), max(len(sample.labels) for sample in samples)
    sizes = torch.tensor([sample.image.shape[1:] for sample in samples])
    shape = canvas_shape(samples)
    images = (torch.empty(shape, dtype=torch.uint8) if new_canvas is None else new_canvas(shape)).permute(0, 3, 1, 2)
    boxes, labels = torch.zeros(count, most, 4), torch.zeros(count, most, dtype=torch.int64)
    valid = torch.zeros(count, most, dtype=torch.bool)
    for i, sample in enumerate(samples):
        _, h, w = sample.image.shape
        images[i, :, :h, :w] = sample.image
        images[i, :, h:] = 0
        images[i, :, :, w:] = 0
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
