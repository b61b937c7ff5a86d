"""Adaptive training sample selection (Zhang et al., CVPR 2020, alg. 1), for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, PADDING, Assignment
from workbench.boxes import aligned_iou, encode_distances, square_anchors

TOPK = 9
INSIDE = 0.01
"""A positive's centre lies at least this many pixels inside its object."""


def assign_atss(
    points: Sequence[Tensor], sides: Sequence[float], boxes: Tensor, valid: Tensor, cells: Tensor
) -> Assignment:
    """Assign objects to the cells of a pyramid, one square anchor a cell.

    For each object, on every level the 9 anchors nearest to its centre are candidates; positive are those whose IoU
    with the object reaches mean + standard deviation (unbiased) over its candidates and whose centre lies in the
    object. A cell claimed by several objects goes to the one of highest IoU.

    Args:
        points: cell points of each level, ``[P_l, 2]`` in pixels, P in all.
        sides: side of a level's anchor, in pixels.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, where an object stands.
        cells: ``[B, P]`` bool, cells within the image's own padded size; only these take part.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND and PADDING for the rest.
    """
    index = torch.full_like(cells, BACKGROUND, dtype=torch.int64).masked_fill_(~cells, PADDING)
    if boxes.shape[1] == 0:
        return Assignment(index)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    candidate = _nearest_cells(points, centres, cells)  # [B, G, K], P where a level has fewer than 9 cells
    real = candidate < cells.shape[1]
    chosen = candidate.clamp(max=cells.shape[1] - 1)

    all_points = torch.cat(list(points))
    iou = aligned_iou(square_anchors(points, sides)[chosen], boxes.unsqueeze(2)) * real

    count = real.sum(-1, keepdim=True)
    mean = iou.sum(-1, keepdim=True) / count.clamp(min=1)
    deviation = (((iou - mean) * real).square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    inside = encode_distances(all_points[chosen], boxes.unsqueeze(2)).amin(-1) > INSIDE
    positive = real & inside & (iou >= mean + deviation) & valid.unsqueeze(-1)

    # One more column takes what is no positive, so that every candidate can be scattered.
    overlap = iou.new_full((*boxes.shape[:2], cells.shape[1] + 1), -1)
    overlap.scatter_(2, torch.where(positive, candidate, cells.shape[1]), iou)
    best, owner = overlap[..., :-1].max(dim=1)
    return Assignment(torch.where(best >= 0, owner, index))


def _nearest_cells(points: Sequence[Tensor], centres: Tensor, cells: Tensor) -> Tensor:
    """Indices ``[B, G, K]`` of each level's 9 cells nearest to centres ``[B, G, 2]``; P where a level has fewer."""
    found, start, total = [], 0, cells.shape[1]
    for level in points:
        inside = cells[:, start : start + len(level)]
        # The square root changes no order, but it decides which distances are equal, and with it the sort's choice.
        distance = (level - centres.unsqueeze(2)).square().sum(-1).sqrt()
        distance = distance.masked_fill(~inside.unsqueeze(1), torch.inf)
        value, cell = distance.topk(min(TOPK, len(level)), largest=False)
        found.append(torch.where(value.isinf(), total, cell + start))
        start += len(level)
    return torch.cat(found, dim=-1)
