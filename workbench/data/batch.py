"""Batch of training or test images: the only input of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MEAN = (123.675, 116.28, 103.53)  # of R, G and B over ImageNet, in 0..255, as in the released configurations
STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Batch:
    """Images of one batch with their ground truth, padded to common shapes.

    B is the number of images, H×W the canvas in pixels, and G the largest number of objects per image (may be 0).
    The images of a new batch are uint8, which is a quarter of the bytes of float32. ``to`` normalises the images.

    Attributes:
        images: ``[B, 3, H, W]``, RGB, zero-padded on the right and bottom; H and W are multiples of 32. uint8 as
            decoded, or float32 and normalised, as a detector needs the images. The padding is 0 in both cases.
        boxes: ``[B, G, 4]`` float32, ``x1, y1, x2, y2`` in pixels of the resized image; zeros where not ``valid``.
        labels: ``[B, G]`` int64, contiguous class indices from 0; 0 where not ``valid``.
        valid: ``[B, G]`` bool, True for an object, False for padding.
        sizes: ``[B, 2]`` int64, height and width of each resized image before padding.
        original_sizes: ``[B, 2]`` int64, height and width of each image on disk.
        image_ids: B image ids of the annotation file.
        file_names: B file names, for messages.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    sizes: Tensor
    original_sizes: Tensor
    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``, ready for a detector: uint8 images are normalised there.

        The copy to a GPU does not wait for the GPU if the batch is in pinned memory.
        """
        device = torch.device(device)
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: value.to(device, non_blocking=device.type == "cuda") for name, value in tensors.items()}
        if self.images.dtype == torch.uint8:
            # The sizes are read before the copy, because reading a tensor on a GPU waits for the GPU.
            moved["images"] = normalise(moved["images"], self.sizes.tolist())
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory. PyTorch's loader calls this method if it pins its batches."""
        pinned = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **pinned)


def normalise(images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Normalise uint8 images on their device; the padding becomes 0, which is the mean colour.

    Args:
        images: ``[B, 3, H, W]`` uint8.
        sizes: height and width of each image without padding.

    Returns:
        ``[B, 3, H, W]`` float32.
    """
    on_gpu = images.device.type == "cuda"
    mean, std = (torch.tensor(colour).view(3, 1, 1).to(images.device, non_blocking=on_gpu) for colour in (MEAN, STD))
    normalised = images.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)
    for image, (height, width) in zip(normalised, sizes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return normalised
