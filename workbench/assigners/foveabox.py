"""FoveaBox's assignment (Kong et al., TIP 2020), for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, Assignment

SIGMA = 0.4
"""Side of the fovea, the part of an object that is positive, over the object's side."""


def assign_foveabox(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    ranges: Sequence[tuple[float, float]],
    boxes: Tensor,
    valid: Tensor,
) -> Assignment:
    """Assign objects to the cells of a pyramid, by their size and their central part.

    A level accepts the objects whose scale, the root of their area, lies in its range; ranges may overlap, so an object
    may live on several levels. There its fovea is positive: the cells whose centres lie in a box of 0.4 times its size
    and the same centre. A fovea beside the map is moved onto its border cells. A cell in several foveas goes to the
    smallest object, of equally large ones to the last.

    All cells of the canvas take part, those in an image's padding too: the released code trains on them.

    Args:
        shapes: (rows, columns) of each level, P cells in all.
        strides: pixels a cell of each level.
        ranges: smallest and largest scale of each level, in pixels, both included.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, where an object stands.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND for the rest.
    """
    images, objects = valid.shape
    if objects == 0:
        cells = sum(rows * columns for rows, columns in shapes)
        return Assignment(torch.full((images, cells), BACKGROUND, dtype=torch.int64, device=boxes.device))
    size = boxes[..., 2:] - boxes[..., :2]
    scale = (size[..., 0] * size[..., 1]).sqrt()
    # The first in this order owns a cell; painting from large to small, stably sorted, leaves the same one on top.
    order = scale.argsort(dim=1, descending=True, stable=True).flip(1)
    scale, valid = scale.gather(1, order), valid.gather(1, order)
    boxes = boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
    levels = []
    for (rows, columns), stride, (low, high) in zip(shapes, strides, ranges, strict=True):
        accepted = valid & (scale >= low) & (scale <= high)
        in_columns = _in_fovea(boxes[..., 0], boxes[..., 2], stride, columns) & accepted.unsqueeze(-1)
        in_rows = _in_fovea(boxes[..., 1], boxes[..., 3], stride, rows)
        claims = (in_rows.unsqueeze(-1) & in_columns.unsqueeze(-2)).flatten(2)
        claimed, first = claims.to(torch.uint8).max(dim=1)  # of equal ones the index of the first
        levels.append(torch.where(claimed > 0, order.gather(1, first), BACKGROUND))
    return Assignment(torch.cat(levels, dim=1))


def _in_fovea(low: Tensor, high: Tensor, stride: int, cells: int) -> Tensor:
    """Which cells of an axis lie in the foveas of objects from ``low`` to ``high`` pixels, ``[B, G, cells]``."""
    low, half = low / stride, (high - low) / stride / 2
    # Cell j has its centre at j + 0.5; clamped on both sides, so a fovea outside the map keeps its border cell.
    first = (low + (1 - SIGMA) * half - 0.5).ceil().clamp(0, cells - 1)
    last = (low + (1 + SIGMA) * half - 0.5).floor().clamp(0, cells - 1)
    at = torch.arange(cells, device=low.device)
    return (at >= first.unsqueeze(-1)) & (at <= last.unsqueeze(-1))
