"""Assignment by the largest IoU (Ren et al., NeurIPS 2015, section 3.1.2; Lin et al., ICCV 2017, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, IGNORE, Assignment, Locations, Objects
from workbench.boxes import pairwise_iou

PAIRS = 2**24
"""Number of IoUs computed at a time: it bounds the memory, about 60 bytes per IoU."""


@dataclass(frozen=True)
class MaxIoUAssigner:
    """The rule as an assigner.

    Attributes:
        candidates: boxes whose IoU counts: the anchors (RetinaNet) or the initial boxes (RepPoints).
    """

    candidates: Literal["anchors", "initial_boxes"] = "anchors"

    def __call__(self, predictions: Locations, batch: Objects) -> Assignment:
        candidates = getattr(predictions, self.candidates).detach()
        return assign_max_iou(candidates, batch.boxes, batch.valid, predictions.inside(batch.sizes))


@torch.no_grad()
def assign_max_iou(
    anchors: Tensor, boxes: Tensor, valid: Tensor, inside: Tensor, *, negative: float = 0.4, positive: float = 0.5
) -> Assignment:
    """Assign objects to anchors by their IoU.

    An anchor whose largest IoU is under ``negative`` is background. An anchor that reaches ``positive`` gets the object
    of largest IoU (the first of equals). An anchor in between is left out. After that each object claims every anchor
    tied at the largest IoU that any anchor has with the object, however small, even 0. If several objects claim an
    anchor, it gets the last of them.

    Args:
        anchors: ``[P, 4]``, or ``[B, P, 4]`` if each image has its own, in pixels.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, whether the entry is an object.
        inside: ``[B, P]`` bool, anchors within the image's own padded size; only these take part.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND and IGNORE for the rest.
    """
    best = torch.full(inside.shape, -1.0, dtype=boxes.dtype, device=inside.device)
    owner = torch.full_like(inside, BACKGROUND, dtype=torch.int64)
    claimant = owner
    step = max(PAIRS // max(inside.numel(), 1), 1)
    for start in range(0, boxes.shape[1], step):
        part = slice(start, start + step)
        iou = pairwise_iou(boxes[:, part], anchors)
        iou.masked_fill_(~(valid[:, part, None] & inside.unsqueeze(1)), -1)
        value, first = iou.max(dim=1)
        owner = torch.where(value > best, first + start, owner)
        best = torch.maximum(value, best)

        largest = iou.amax(-1, keepdim=True)
        number = torch.arange(start, start + iou.shape[1], device=inside.device)[:, None]
        claims = torch.where((iou == largest) & (largest >= 0), number, BACKGROUND)
        claimant = torch.maximum(claims.amax(1), claimant)

    index = torch.where(best >= positive, owner, IGNORE).masked_fill_(best < negative, BACKGROUND)
    index = torch.where(claimant >= 0, claimant, index)
    return Assignment(index.masked_fill_(~inside, IGNORE))
