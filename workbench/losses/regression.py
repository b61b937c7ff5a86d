"""Losses of boxes and of what is said about boxes."""

from __future__ import annotations

from torch import Tensor

from workbench.boxes import aligned_giou


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - GIoU`` ``[N]`` of boxes and their targets ``[N, 4]`` (Rezatofighi et al., CVPR 2019)."""
    return 1 - aligned_giou(boxes, targets)


def centerness_target(distances: Tensor) -> Tensor:
    """Centerness ``[N]`` of points ``l, t, r, b`` ``[N, 4]`` > 0 from their object's sides (FCOS, ICCV 2019, eq. 3)."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = (horizontal.amin(1) / horizontal.amax(1)) * (vertical.amin(1) / vertical.amax(1))
    return ratio.sqrt()
