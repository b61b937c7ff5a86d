"""Adaptive training sample selection (Zhang et al., CVPR 2020, alg. 1), for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, PADDING, Assignment, Locations, Objects
from workbench.boxes import aligned_iou, encode_distances, per_location, square_anchors

TOPK = 9
INSIDE = 0.01
"""Smallest distance, in pixels, of a positive's point from the sides of its object."""


@dataclass(frozen=True)
class ATSSAssigner:
    """ATSS as an assigner, with one square anchor per location.

    Attributes:
        anchor_scale: side of the anchors in strides.
    """

    anchor_scale: float

    def __call__(self, predictions: Locations, batch: Objects) -> Assignment:
        sides = [self.anchor_scale * stride for stride in predictions.strides]
        return assign_atss(predictions.points, sides, batch.boxes, batch.valid, predictions.inside(batch.sizes))


def assign_atss(
    points: Sequence[Tensor], sides: Sequence[float], boxes: Tensor, valid: Tensor, inside: Tensor
) -> Assignment:
    """Assign objects to the locations of a pyramid, with one square anchor per location.

    For each object, the 9 anchors nearest to its centre are candidates on every level. A candidate is positive if its
    IoU with the object reaches the mean + standard deviation (unbiased) over all candidates of the object and its
    centre is in the object. If several objects claim a location, it gets the object of highest IoU.

    Args:
        points: points of each level's locations, ``[P_l, 2]`` in pixels, P in total.
        sides: side of the anchors of each level, in pixels.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, whether the entry is an object.
        inside: ``[B, P]`` bool, locations within the image's own padded size; only these take part.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND and PADDING for the rest.
    """
    index = torch.full_like(inside, BACKGROUND, dtype=torch.int64).masked_fill_(~inside, PADDING)
    if boxes.shape[1] == 0:
        return Assignment(index)
    total = inside.shape[1]
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    candidate = _nearest_locations(points, centres, inside)  # [B, G, K], P where a level has fewer than 9 locations
    real = candidate < total
    chosen = candidate.clamp(max=total - 1)

    all_points = torch.cat(list(points))
    anchors = square_anchors(all_points, per_location(sides, points))
    iou = aligned_iou(anchors[chosen], boxes.unsqueeze(2)) * real

    count = real.sum(-1, keepdim=True)
    mean = iou.sum(-1, keepdim=True) / count.clamp(min=1)
    deviation = (((iou - mean) * real).square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    in_object = encode_distances(all_points[chosen], boxes.unsqueeze(2)).amin(-1) > INSIDE
    positive = real & in_object & (iou >= mean + deviation) & valid.unsqueeze(-1)

    # One more column takes the candidates that are not positive, so that every candidate can be scattered.
    overlap = iou.new_full((*boxes.shape[:2], total + 1), -1)
    overlap.scatter_(2, torch.where(positive, candidate, total), iou)
    best, owner = overlap[..., :-1].max(dim=1)
    return Assignment(torch.where(best >= 0, owner, index))


def _nearest_locations(points: Sequence[Tensor], centres: Tensor, inside: Tensor) -> Tensor:
    """Indices ``[B, G, K]`` of each level's 9 locations nearest to centres ``[B, G, 2]``; P if a level has fewer."""
    nearest, start, total = [], 0, inside.shape[1]
    for level in points:
        dx, dy = (level[:, axis] - centres[..., axis, None] for axis in (0, 1))
        # The square root changes no order, but it decides which distances are equal, and so how the sort breaks ties.
        distance = dx.square_().add_(dy.square_()).sqrt_()
        distance = distance.masked_fill(~inside[:, None, start : start + len(level)], torch.inf)
        value, location = distance.topk(min(TOPK, len(level)), largest=False)
        nearest.append(torch.where(value.isinf(), total, location + start))
        start += len(level)
    return torch.cat(nearest, dim=-1)
