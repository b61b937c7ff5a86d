"""Assignment by the largest IoU (Ren et al., NeurIPS 2015, section 3.1.2; Lin et al., ICCV 2017, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, IGNORE, Assignment
from workbench.boxes import pairwise_iou

PAIRS = 2**24
"""IoUs computed at a time: bounds the memory, about 60 bytes each."""


@torch.no_grad()
def assign_max_iou(
    anchors: Tensor, boxes: Tensor, valid: Tensor, cells: Tensor, *, negative: float = 0.4, positive: float = 0.5
) -> Assignment:
    """Assign objects to anchors by their IoU.

    An anchor whose largest IoU is under ``negative`` is background, one that reaches ``positive`` gets the object it
    overlaps most (the first of equals), one in between is left out. After that each object claims every anchor tied at
    the largest IoU that any anchor has with it, however small, be it 0; the last object to claim an anchor keeps it.

    Args:
        anchors: ``[P, 4]``, or ``[B, P, 4]`` where each image has its own, in pixels.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, where an object stands.
        cells: ``[B, P]`` bool, anchors within the image's own padded size; only these take part.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND and IGNORE for the rest.
    """
    best = torch.full(cells.shape, -1.0, dtype=boxes.dtype, device=cells.device)
    owner = torch.full_like(cells, BACKGROUND, dtype=torch.int64)
    claimant = owner
    step = max(PAIRS // max(cells.numel(), 1), 1)
    for start in range(0, boxes.shape[1], step):
        some = slice(start, start + step)
        iou = pairwise_iou(boxes[:, some], anchors)
        iou.masked_fill_(~(valid[:, some, None] & cells.unsqueeze(1)), -1)
        value, first = iou.max(dim=1)
        owner = torch.where(value > best, first + start, owner)
        best = torch.maximum(value, best)

        largest = iou.amax(-1, keepdim=True)
        number = torch.arange(start, start + iou.shape[1], device=cells.device)[:, None]
        claims = torch.where((iou == largest) & (largest >= 0), number, BACKGROUND)
        claimant = torch.maximum(claims.amax(1), claimant)

    index = torch.where(best >= positive, owner, IGNORE).masked_fill_(best < negative, BACKGROUND)
    index = torch.where(claimant >= 0, claimant, index)
    return Assignment(index.masked_fill_(~cells, IGNORE))
