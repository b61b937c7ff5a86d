"""FCOS's assignment (Tian et al., ICCV 2019, section 3.2) with the center sampling of its journal version.

No published row uses it. It is here for comparison with the other rules, and to take ATSS's place in a detector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, Assignment, Locations, Objects
from workbench.boxes import area, encode_distances, per_location

RADIUS = 1.5
"""Half the side of the central square, in strides."""


@dataclass(frozen=True)
class FCOSAssigner:
    """FCOS's rule as an assigner; locations in the image's padding are BACKGROUND, as in the released code.

    Attributes:
        anchor_scale: the levels' ranges are proportional to it and are the published ones at 8.
    """

    anchor_scale: float = 8.0

    def __call__(self, predictions: Locations, batch: Objects) -> Assignment:
        return assign_fcos(predictions.points, predictions.strides, batch.boxes, batch.valid, self.anchor_scale)


def assign_fcos(
    points: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, valid: Tensor, anchor_scale: float = 8.0
) -> Assignment:
    """Assign objects to locations by center sampling and by the ranges of the levels.

    A location takes an object if three conditions hold. Its point is in the object. Its point is within 1.5 strides of
    the object's centre, in x and in y. The largest of its distances to the object's sides is in the range of its level,
    both ends included: a range ends at ``anchor_scale`` strides, where the next one begins. The first range begins at 0
    and the last one has no end. Of several objects a location takes the smallest.

    Args:
        points: points of each level's locations, ``[P_l, 2]`` in pixels, P in total, fine levels first.
        strides: stride of each level in pixels.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, whether the entry is an object.
        anchor_scale: 8 for the published ranges, which end at 64 to 512 pixels on P3 to P6.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND for the rest.
    """
    all_points = torch.cat(list(points))
    if boxes.shape[1] == 0:
        return Assignment(torch.full((len(boxes), len(all_points)), BACKGROUND, device=boxes.device))
    ends = [anchor_scale * stride for stride in strides[:-1]]
    low, high, radius = (
        per_location(values, points).squeeze(-1)
        for values in ([0, *ends], [*ends, math.inf], [RADIUS * stride for stride in strides])
    )
    boxes = boxes.unsqueeze(2)  # [B, G, 1, 4] against [P, 2]
    distances = encode_distances(all_points, boxes)
    from_centre = (all_points - (boxes[..., :2] + boxes[..., 2:]) / 2).abs().amax(-1)
    reach = distances.amax(-1)
    claims = (distances.amin(-1) > 0) & (from_centre < radius) & (low <= reach) & (reach <= high)
    size = area(boxes).masked_fill(~(claims & valid.unsqueeze(-1)), math.inf)
    smallest, owner = size.min(dim=1)
    return Assignment(torch.where(smallest.isinf(), BACKGROUND, owner))
