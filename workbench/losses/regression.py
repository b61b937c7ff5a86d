"""Losses of boxes, and the target of the centerness."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from workbench.boxes import aligned_giou


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - GIoU`` ``[N]`` of boxes and their targets ``[N, 4]`` (Rezatofighi et al., CVPR 2019)."""
    return 1 - aligned_giou(boxes, targets)


def centerness_target(distances: Tensor) -> Tensor:
    """Centerness ``[N]`` of points in their objects (Tian et al., ICCV 2019, eq. 3).

    Args:
        distances: ``[N, 4]`` positive distances ``l, t, r, b`` of the points from the objects' sides.
    """
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = (horizontal.amin(1) / horizontal.amax(1)) * (vertical.amin(1) / vertical.amax(1))
    return ratio.sqrt()


def smooth_l1_loss(codes: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Smooth L1 ``[N]`` summed over codes ``[N, 4]``; quadratic under ``beta``, plain L1 if ``beta`` is 0."""
    return F.smooth_l1_loss(codes, targets, reduction="none", beta=beta).sum(-1)


def distribution_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Distribution focal loss ``[...]`` (Li et al., NeurIPS 2020, eq. 6).

    Cross entropy of the two values next to the target, each weighted by its nearness to the target.

    Args:
        logits: ``[..., n + 1]`` for the values 0, 1, …, n.
        targets: ``[...]`` in [0, n).
    """
    left = targets.floor().long()
    log_p = logits.log_softmax(-1)
    log_p_left, log_p_right = (log_p.gather(-1, (left + k).unsqueeze(-1)).squeeze(-1) for k in (0, 1))
    nearness = targets - left
    return -((1 - nearness) * log_p_left + nearness * log_p_right)
