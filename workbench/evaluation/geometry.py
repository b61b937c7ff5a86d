"""Geometry of a data set as a detector meets it: sizes of the objects in strides, and the locations that they get.

The treatments of the papers act on these numbers. The star-shaped convolution, for example, samples at the distances
from a location to the sides of its box. At a reach of one stride, a star is nearly an ordinary 3×3 kernel.

Locations, levels and the assignment are those of ATSS with one square anchor per location (Zhang et al., CVPR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.assigners.atss import assign_atss
from workbench.boxes import encode_distances, pairwise_iou, per_location, pyramid_points

STRIDES = (8, 16, 32, 64, 128)
"""Strides of the levels P3 to P7, in pixels."""
SHARES = (0.1, 0.5, 0.9)
"""Quantiles of a distribution that are reported."""
OVERLAP = 0.1
"""IoU from which on two boxes of a class count as overlapping."""


@dataclass(frozen=True)
class ResizedImage:
    """Objects of one image.

    Attributes:
        size: height and width of the resized image, in pixels.
        boxes: ``[G, 4]``, ``x1, y1, x2, y2`` in pixels of the resized image.
        labels: ``[G]``, class indices.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Geometry:
    """Geometry of a data set at an image size. Triples are the quantiles 10, 50 and 90 %."""

    reach: tuple[float, float, float]
    """Distance from a positive location to a side of its box, in strides of its level."""
    near: float
    """Share of these distances below one stride."""
    beyond_8: float
    """Share of these distances above 8 strides."""
    beyond_12: float
    """Share of these distances above 12 strides."""
    inside: tuple[float, float, float]
    """Number of locations in an object, on the level with most of its positives."""
    positives: tuple[float, float, float]
    """Number of positives of an object."""
    locations: float
    """Mean number of locations of an image."""
    objects: float
    """Mean number of objects of an image."""
    levels: tuple[float, ...]
    """Shares of the levels P3 to P7 in the positives."""
    aspect: tuple[float, float]
    """Longer side of a box divided by its shorter side: median and 90 % quantile."""
    overlapping: float
    """Share of the objects that overlap an object of their class with an IoU above `OVERLAP`."""


COCO = Geometry(
    reach=(1.39, 3.67, 6.72),
    near=0.058,
    beyond_8=0.046,
    beyond_12=0.003,
    inside=(12, 50, 108),
    positives=(6, 9, 13),
    locations=19_096,
    objects=9.4,
    levels=(0.42, 0.27, 0.20, 0.09, 0.02),
    aspect=(1.64, 3.28),
    overlapping=0.222,
)
"""Geometry of COCO 2017 at 1333x800 with anchors of 8 strides, measured on 160 images (80 of train, 80 of val)."""


def geometry(images: Iterable[ResizedImage], anchor_scale: float) -> Geometry:
    """Measure the geometry of some images.

    Args:
        anchor_scale: side of the anchors in strides.

    Raises:
        ValueError: no image has an object.
    """
    parts = [_measure(image, anchor_scale) for image in images]
    joined = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Measured)}
    measured = _Measured(**joined)
    if not len(measured.positives):
        raise ValueError("no objects")
    distances = measured.distances
    return Geometry(
        reach=_quantiles(distances),
        near=float((distances < 1).mean()),
        beyond_8=float((distances > 8).mean()),
        beyond_12=float((distances > 12).mean()),
        inside=_quantiles(measured.inside),
        positives=_quantiles(measured.positives),
        locations=float(measured.locations.mean()),
        objects=len(measured.positives) / len(parts),
        levels=tuple((np.bincount(measured.levels, minlength=len(STRIDES)) / len(measured.levels)).tolist()),
        aspect=_quantiles(measured.aspect)[1:],
        overlapping=float(measured.overlapping.mean()),
    )


@dataclass(frozen=True)
class _Measured:
    """Values of some images: of each image, of each object, or of each positive."""

    distances: NDArray
    levels: NDArray
    inside: NDArray
    positives: NDArray
    locations: NDArray
    aspect: NDArray
    overlapping: NDArray


def _quantiles(values: NDArray) -> tuple[float, ...]:
    return tuple(np.quantile(values.astype(float), SHARES).tolist())


def _measure(image: ResizedImage, anchor_scale: float) -> _Measured:
    boxes, labels = torch.as_tensor(image.boxes).reshape(-1, 4).float(), torch.as_tensor(image.labels)
    padded = [math.ceil(side / 32) * 32 for side in image.size]
    points = pyramid_points([tuple(math.ceil(side / s) for side in padded) for s in STRIDES], STRIDES, "cpu")
    everywhere = torch.cat(points)
    levels = per_location(range(len(STRIDES)), points).long().squeeze(1)
    strides = per_location(STRIDES, points)
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    inside = torch.ones(1, len(everywhere), dtype=torch.bool)
    sides = [anchor_scale * stride for stride in STRIDES]
    owner = assign_atss(points, sides, boxes[None], valid, inside).index[0]
    positive = owner >= 0
    distances = encode_distances(everywhere[positive], boxes[owner[positive]]) / strides[positive]
    extent = boxes[:, 2:] - boxes[:, :2]
    return _Measured(
        distances=distances.flatten().numpy(),
        levels=levels[positive].numpy(),
        inside=_inside(points, boxes, owner, levels),
        positives=torch.bincount(owner[positive], minlength=len(boxes)).numpy(),
        locations=np.array([len(everywhere)]),
        aspect=(extent.amax(1) / extent.amin(1)).numpy(),
        overlapping=_overlapping(boxes, labels).numpy(),
    )


def _inside(points: Sequence[Tensor], boxes: Tensor, owner: Tensor, levels: Tensor) -> NDArray:
    """Number of locations in each object that has positives, on the level with most of them (the finer one of two)."""
    counts = torch.zeros(len(boxes), len(points), dtype=torch.long)
    positive = owner >= 0
    counts.index_put_((owner[positive], levels[positive]), torch.tensor(1), accumulate=True)
    numbers = torch.stack(
        [(encode_distances(level, boxes.unsqueeze(1)).amin(-1) > 0).sum(1) for level in points], dim=1
    )
    return numbers.gather(1, counts.argmax(1, keepdim=True))[counts.any(1)].flatten().numpy()


def _overlapping(boxes: Tensor, labels: Tensor) -> Tensor:
    """Mask ``[G]`` of the objects that overlap an object of their class."""
    iou = pairwise_iou(boxes, boxes) * (labels[:, None] == labels)
    return (iou.fill_diagonal_(0) > OVERLAP).any(1)
