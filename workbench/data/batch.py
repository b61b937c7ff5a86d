"""Batch of training or test images: the only input of a detector."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images of one batch with their ground truth, padded to common shapes.

    B is the number of images, H×W the canvas in pixels, and G the largest number of objects per image (may be 0).

    Attributes:
        images: ``[B, 3, H, W]`` float32, RGB, normalised, zero-padded on the right and bottom; H and W are multiples
            of 32.
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
        """Return the batch with its tensors on ``device``."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)
