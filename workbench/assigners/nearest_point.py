"""One cell an object, the nearest to its centre: RepPoints' initial stage (Yang et al., ICCV 2019, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, PADDING, Assignment

FINEST = 3
"""The first level is P3."""
LEAST_SIZE = 1e-6
"""Floor of widths and heights, which are divided by."""


@torch.no_grad()
def assign_nearest_point(
    points: Sequence[Tensor], boxes: Tensor, valid: Tensor, cells: Tensor, *, unit: float
) -> Assignment:
    """Assign each object to the one cell nearest to its centre, on the level that its size asks for.

    The level is ``log2(sqrt(w h) / unit)``, rounded down, or the nearest one there is. Distances are in widths and
    heights of the object. Of equally near cells the first is taken. A cell that is the nearest one to several objects
    goes to the one it is nearest to, of equals to the first; the others get none.

    Args:
        points: cell points of each level, ``[P_l, 2]`` in pixels, P in all, P3 first.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, where an object stands.
        cells: ``[B, P]`` bool, cells within the image's own padded size; only these take part. Each level has some.
        unit: pixels; an object ``unit`` strides large is among the smallest of the level of that stride.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND and PADDING for the rest.
    """
    index = torch.full_like(cells, BACKGROUND, dtype=torch.int64).masked_fill_(~cells, PADDING)
    count, total = boxes.shape[1], cells.shape[1]
    if count == 0:
        return Assignment(index)
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=LEAST_SIZE)
    level = ((size / unit).log2().sum(-1) / 2).long().clamp(FINEST, FINEST + len(points) - 1) - FINEST
    of_levels = _nearest_cells(points, (boxes[..., :2] + boxes[..., 2:]) / 2, size, cells)
    distance, cell = (x.gather(-1, level.unsqueeze(-1)).squeeze(-1) for x in of_levels)

    # One more column takes what stands for no object.
    claim = torch.where(valid, cell, total)
    least = distance.new_full((len(boxes), total + 1), torch.inf).scatter_reduce(1, claim, distance, "amin")
    winner = torch.where(distance == least.gather(1, claim), claim, total)
    number = torch.arange(count, device=boxes.device).expand_as(winner)
    first = torch.full_like(least, count, dtype=torch.int64).scatter_reduce(1, winner, number, "amin")[:, :-1]
    return Assignment(torch.where(first < count, first, index))


def _nearest_cells(points: Sequence[Tensor], centres: Tensor, size: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and index, ``[B, G, L]``, of each level's cell nearest to each object."""
    distances, found, start = [], [], 0
    for level in points:
        inside = cells[:, None, start : start + len(level)]
        distance = ((level - centres.unsqueeze(2)) / size.unsqueeze(2)).norm(dim=-1)
        distance, cell = distance.masked_fill(~inside, torch.inf).min(dim=-1)
        distances.append(distance)
        found.append(cell + start)
        start += len(level)
    return torch.stack(distances, dim=-1), torch.stack(found, dim=-1)
