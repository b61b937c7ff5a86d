"""Box arithmetic: areas, IoU, GIoU, distances and deltas, and the locations of a feature pyramid.

Boxes are ``x1, y1, x2, y2`` in pixels, and a width is ``x2 - x1`` (without +1). All functions work on whole batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 1e-6
"""Floor of unions and enclosing areas before a division, as in the released code."""

LARGEST_GROWTH = math.log(1000 / 16)
"""Bound of the logarithm of a decoded size over the anchor's size (as in Detectron)."""


def device_constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Tensor ``[N]`` of N numbers with the device and type of ``like``.

    The numbers are filled in on the device. ``torch.tensor`` copies them from the host, and the host waits for a GPU.
    """
    return torch.cat([like.new_full((1,), value) for value in values])


def area(boxes: Tensor) -> Tensor:
    """Areas ``[...]`` of boxes ``[..., 4]``."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union ``[...]`` of boxes of broadcastable shapes ``[..., 4]``."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, area(a) + area(b) - intersection


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU ``[...]`` of each box of ``a`` with its counterpart in ``b``, both ``[..., 4]`` or broadcastable."""
    intersection, union = _overlap(a, b)
    return intersection / union.clamp(min=FLOOR)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU ``[..., M, N]`` of every box of ``a`` ``[..., M, 4]`` with every box of ``b`` ``[..., N, 4]``."""
    return aligned_iou(a.unsqueeze(-2), b.unsqueeze(-3))


def aligned_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU ``[...]``, in [-1, 1], of counterparts ``[..., 4]`` (Rezatofighi et al., CVPR 2019, alg. 1)."""
    intersection, union = _overlap(a, b)
    union = union.clamp(min=FLOOR)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)
    enclosing = (hull[..., 0] * hull[..., 1]).clamp(min=FLOOR)
    return intersection / union - (enclosing - union) / enclosing


def decode_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes ``[..., 4]`` with sides at distances ``l, t, r, b`` ``[..., 4]`` from points ``[..., 2]``."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def encode_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances ``l, t, r, b`` ``[..., 4]`` in pixels from points ``[..., 2]`` to the sides of boxes ``[..., 4]``."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def decode_deltas(anchors: Tensor, deltas: Tensor, std: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Boxes ``[..., 4]`` from anchors and ``dx, dy, dw, dh`` ``[..., 4]`` (Ren et al., NeurIPS 2015, eq. 2).

    ``dx, dy`` shift the centre, in anchor sizes; ``dw, dh`` are logarithms of the growth, which is at most 62.5-fold.

    Args:
        anchors: ``[..., 4]`` in pixels.
        deltas: ``[..., 4]``.
        std: factors by which the deltas are multiplied first.
    """
    deltas = deltas * device_constants(std, deltas)
    size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * size
    half = size * deltas[..., 2:].clamp(-LARGEST_GROWTH, LARGEST_GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode_deltas(anchors: Tensor, boxes: Tensor, std: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Deltas ``dx, dy, dw, dh`` ``[..., 4]`` from anchors to boxes of positive size; see ``decode_deltas``."""
    size, box_size = anchors[..., 2:] - anchors[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2 / size
    return torch.cat([shift, (box_size / size).log()], dim=-1) / device_constants(std, anchors)


def clip_boxes(boxes: Tensor, sizes: Tensor, margin: int = 0) -> Tensor:
    """Boxes ``[B, N, 4]`` clipped to ``[0, W - margin] x [0, H - margin]`` of images of ``sizes`` ``[B, 2]`` (H, W)."""
    limit = (sizes.flip(-1).repeat(1, 2).unsqueeze(1) - margin).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def pyramid_points(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str, offset: float = 0.0
) -> list[Tensor]:
    """Reference points of each level: location (i, j) of stride s has ``((j + offset) s, (i + offset) s)``.

    Args:
        shapes: (rows, columns) of each level.
        strides: pixels from one location to the next, for each level.
        offset: 0.5 for the centre of a location's square (FoveaBox), 0 for its upper left corner.

    Returns:
        One float tensor ``[rows * columns, 2]`` per level, row-major, ``x, y`` in pixels.
    """
    points = []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        ys, xs = ((torch.arange(count, device=device) + offset) * stride for count in (rows, columns))
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        points.append(torch.stack([x, y], dim=-1).reshape(-1, 2).float())
    return points


def per_location(values: Sequence[float], points: Sequence[Tensor]) -> Tensor:
    """One value per level, repeated for each location of the level: ``[P, 1]``.

    Args:
        values: one number per level.
        points: points of each level's locations, ``[P_l, 2]``.
    """
    return torch.cat([level.new_full((len(level), 1), value) for value, level in zip(values, points, strict=True)])


def square_anchors(points: Tensor, sides: Tensor) -> Tensor:
    """Squares ``[P, 4]`` of sides ``[P, 1]`` pixels, centred on points ``[P, 2]``."""
    half = sides / 2
    return torch.cat([points - half, points + half], dim=-1)


def locations_in_images(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], sizes: Tensor, divisor: int = 32
) -> Tensor:
    """Mask ``[B, P]`` of the locations that are inside the image's own padded size.

    An image's padded size is its size rounded up to a multiple of ``divisor``. The canvas of the batch may be larger.

    Args:
        shapes, strides: the pyramid, L levels with P locations in total.
        sizes: ``[B, 2]`` height and width of the images before padding.
    """
    padded = -(-sizes // divisor) * divisor
    levels = []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        limits = -(-padded // stride)
        in_rows = torch.arange(rows, device=sizes.device) < limits[:, :1]
        in_columns = torch.arange(columns, device=sizes.device) < limits[:, 1:]
        levels.append((in_rows[:, :, None] & in_columns[:, None, :]).flatten(1))
    return torch.cat(levels, dim=1)
