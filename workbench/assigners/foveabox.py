"""FoveaBox's assignment (Kong et al., TIP 2020), for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.assigners.assignment import BACKGROUND, Assignment, Locations, Objects

SIGMA = 0.4
"""Side of the fovea, the part of an object that is positive, over the object's side."""


@dataclass(frozen=True)
class FoveaBoxAssigner:
    """FoveaBox's rule as an assigner.

    Attributes:
        anchor_scale: the levels' ranges are proportional to it and are the published ones at 8.
    """

    anchor_scale: float

    def __call__(self, predictions: Locations, batch: Objects) -> Assignment:
        ranges = scale_ranges(predictions.strides, self.anchor_scale)
        return assign_foveabox(predictions.shapes, predictions.strides, ranges, batch.boxes, batch.valid)


def scale_ranges(strides: Sequence[int], anchor_scale: float) -> list[tuple[float, float]]:
    """Smallest and largest scale, in pixels, of the objects that each level accepts.

    A level's own scale is ``anchor_scale / 2`` strides; it accepts half of it to twice as much. The first level accepts
    smaller objects, too, and the last one those of four times its scale. The published ranges, at ``anchor_scale`` 8
    and strides of 8 to 128, are 1 to 64, 32 to 128, 64 to 256, 128 to 512 and 256 to 2048 pixels.
    """
    own = [anchor_scale * stride / 2 for stride in strides]
    ranges = [(scale / 2, 2 * scale) for scale in own]
    ranges[0] = anchor_scale / 8, ranges[0][1]
    ranges[-1] = ranges[-1][0], 4 * own[-1]
    return ranges


def assign_foveabox(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    ranges: Sequence[tuple[float, float]],
    boxes: Tensor,
    valid: Tensor,
) -> Assignment:
    """Assign objects to the locations of a pyramid, by their size and their central part.

    A level accepts the objects whose scale, the root of their area, is in its range; ranges may overlap, so several
    levels may accept an object. On each of these levels the object's fovea is positive: the locations whose centres are
    in a box of 0.4 times its size and the same centre. A fovea outside the map is moved onto the locations at its
    border. A location in several foveas gets the smallest object; of equally large ones, the last.

    All locations of the canvas take part, those in an image's padding too: the released code trains on them.

    Args:
        shapes: (rows, columns) of each level, P locations in total.
        strides: stride of each level in pixels.
        ranges: smallest and largest scale of each level, in pixels, both included.
        boxes: ``[B, G, 4]`` ground truth in pixels.
        valid: ``[B, G]`` bool, whether the entry is an object.

    Returns:
        Assignment of ``[B, P]`` with BACKGROUND for the rest.
    """
    images, objects = valid.shape
    if objects == 0:
        locations = sum(rows * columns for rows, columns in shapes)
        return Assignment(torch.full((images, locations), BACKGROUND, dtype=torch.int64, device=boxes.device))
    size = boxes[..., 2:] - boxes[..., :2]
    scale = (size[..., 0] * size[..., 1]).sqrt()
    # The first object in this order owns a location. It is the one that stays on top when objects are painted from
    # large to small, in a stable order.
    order = scale.argsort(dim=1, descending=True, stable=True).flip(1)
    scale, valid = scale.gather(1, order), valid.gather(1, order)
    boxes = boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
    levels = []
    for (rows, columns), stride, (low, high) in zip(shapes, strides, ranges, strict=True):
        accepted = valid & (scale >= low) & (scale <= high)
        in_columns = _in_fovea(boxes[..., 0], boxes[..., 2], stride, columns) & accepted.unsqueeze(-1)
        in_rows = _in_fovea(boxes[..., 1], boxes[..., 3], stride, rows)
        claims = (in_rows.unsqueeze(-1) & in_columns.unsqueeze(-2)).flatten(2)
        claimed, first = claims.to(torch.uint8).max(dim=1)  # index of the first of equal values
        levels.append(torch.where(claimed > 0, order.gather(1, first), BACKGROUND))
    return Assignment(torch.cat(levels, dim=1))


def _in_fovea(low: Tensor, high: Tensor, stride: int, count: int) -> Tensor:
    """Mask ``[B, G, count]`` of an axis's locations in the foveas of objects from ``low`` to ``high`` pixels."""
    low, half = low / stride, (high - low) / stride / 2
    # Location j has its centre at j + 0.5. Clamped on both sides, so a fovea outside the map keeps the border location.
    first = (low + (1 - SIGMA) * half - 0.5).ceil().clamp(0, count - 1)
    last = (low + (1 + SIGMA) * half - 0.5).floor().clamp(0, count - 1)
    number = torch.arange(count, device=low.device)
    return (number >= first.unsqueeze(-1)) & (number <= last.unsqueeze(-1))
