"""One location per object, the nearest to its centre: RepPoints' initial stage (Yang et al., ICCV 2019, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, PADDING, Assignment, Locations, Objects

LEAST_SIZE = 1e-6
"""Floor of widths and heights, since distances are divided by them."""


@dataclass(frozen=True)
class NearestPointAssigner:
    """The rule as an assigner.

    Attributes:
        unit: size in strides of the smallest objects of a level.
    """

    unit: float

    def __call__(self, predictions: Locations, batch: Objects) -> Assignment:
        points, strides, inside = predictions.points, predictions.strides, predictions.inside(batch.sizes)
        return assign_nearest_point(points, strides, batch.boxes, batch.valid, inside, unit=self.unit)


@torch.no_grad()
def assign_nearest_point(
    points: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, valid: Tensor, inside: Tensor, *, unit: float
) -> Assignment:
    """Assign each object to the one location nearest to its centre, on the level that fits the object's size.

    The level's stride is ``sqrt(w h) / unit``, rounded down to a power of 2, or the nearest stride of the pyramid.
    Distances are in widths and heights of the object. Of equally near locations the first is taken. If a location is
    the nearest one to several objects, it gets the object at the smallest distance (the first of equals); the other
    objects get none.

    Args:
        points: points of each level's locations, ``[P_l, 2]`` in pixels, P in total, fine levels first.
        strides: stride of each level in pixels, each twice the one before.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, whether the entry is an object.
        inside: ``[B, P]`` bool, locations within the image's own padded size; only these take part, and each level has
            some.
        unit: size in strides of the smallest objects of a level.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND and PADDING for the rest.
    """
    index = torch.full_like(inside, BACKGROUND, dtype=torch.int64).masked_fill_(~inside, PADDING)
    count, total = boxes.shape[1], inside.shape[1]
    if count == 0:
        return Assignment(index)
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=LEAST_SIZE)
    finest = round(math.log2(strides[0]))
    level = ((size / unit).log2().sum(-1) / 2).long().clamp(finest, finest + len(points) - 1) - finest
    of_levels = _nearest_locations(points, (boxes[..., :2] + boxes[..., 2:]) / 2, size, inside)
    distance, location = (x.gather(-1, level.unsqueeze(-1)).squeeze(-1) for x in of_levels)

    # One more column takes the entries that are no object.
    claim = torch.where(valid, location, total)
    least = distance.new_full((len(boxes), total + 1), torch.inf).scatter_reduce(1, claim, distance, "amin")
    winner = torch.where(distance == least.gather(1, claim), claim, total)
    number = torch.arange(count, device=boxes.device).expand_as(winner)
    first = torch.full_like(least, count, dtype=torch.int64).scatter_reduce(1, winner, number, "amin")[:, :-1]
    return Assignment(torch.where(first < count, first, index))


def _nearest_locations(
    points: Sequence[Tensor], centres: Tensor, size: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor]:
    """Distance and index, ``[B, G, L]``, of each level's location nearest to each object."""
    distances, locations, start = [], [], 0
    for level in points:
        distance = ((level - centres.unsqueeze(2)) / size.unsqueeze(2)).norm(dim=-1)
        distance, location = distance.masked_fill(~inside[:, None, start : start + len(level)], torch.inf).min(dim=-1)
        distances.append(distance)
        locations.append(location + start)
        start += len(level)
    return torch.stack(distances, dim=-1), torch.stack(locations, dim=-1)
