"""Box codes: decode a head's numbers to boxes, encode objects to the numbers that a head should predict.

A code works with the reference points ``[..., 2]`` and strides ``[..., 1]`` of its locations, both in pixels. Sizes are
multiples of the stride, so that one code serves all levels. VFNet decodes in its head, since the star needs distances
as maps; RepPoints' moments have a learnt factor, so they are a part of its head, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from workbench.boxes import decode_deltas, decode_distances, encode_deltas, encode_distances, square_anchors
from workbench.losses.regression import distribution_loss

DELTA_STD = (0.1, 0.1, 0.2, 0.2)
"""Factors of ATSS's deltas."""
END_MARGIN = 0.1
"""Distance of a distribution's largest target from its last value, so that each target has a value on either side."""
BASE_LENGTH = 0.25
"""Distance of FoveaBox's code 0, in sides of ATSS's anchor: the published 16 to 256 px at anchor_scale 8."""
LARGEST_RATIO = 16
"""Bound of a target's distance over the base length, and of the base length over the distance."""
LARGEST_CODE = 16.0
"""Bound of decoded codes, at millions of pixels: far outside of any image, and the area of a box is still finite."""


class BoxCode(Protocol):
    """Box code with a fixed number of values per location."""

    @property
    def size(self) -> int:
        """Number of values per location."""

    def decode(self, codes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Boxes ``[..., 4]`` in pixels of codes ``[..., size]``."""

    def encode(self, boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Targets of the codes for boxes ``[..., 4]`` in pixels."""


@dataclass(frozen=True)
class SquareAnchorDeltas:
    """Shift and growth of one square anchor per location (ATSS).

    Attributes:
        anchor_scale: side of the anchor in strides.
    """

    anchor_scale: float
    size: ClassVar[int] = 4

    def decode(self, codes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        return decode_deltas(square_anchors(points, self.anchor_scale * strides), codes, DELTA_STD)

    def encode(self, boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        return encode_deltas(square_anchors(points, self.anchor_scale * strides), boxes, DELTA_STD)


@dataclass(frozen=True)
class DistanceDistributions:
    """A distribution for the distance of each side, over the values 0, 1, …, n intervals (GFL, eq. 3 and 4).

    Attributes:
        intervals: n; codes ``[..., 4 (n + 1)]`` are logits of the sides ``l, t, r, b``.
        interval: strides from one value to the next.
    """

    intervals: int = 16
    interval: float = 1.0

    @property
    def size(self) -> int:
        """Number of values per location."""
        return 4 * (self.intervals + 1)

    def decode(self, codes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        return decode_distances(points, self.expected_distances(codes) * strides)

    def expected_distances(self, codes: Tensor) -> Tensor:
        """Distances ``[..., 4]`` in strides: the expectation of each side's distribution (GFL, eq. 4)."""
        p = codes.unflatten(-1, (4, -1)).softmax(-1)
        # Autocast computes a matrix product in bfloat16, which rounds boxes to several pixels, but not this sum.
        return (p * torch.arange(p.shape[-1], device=p.device, dtype=p.dtype)).sum(-1) * self.interval

    def encode(self, boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Distances ``[..., 4]`` of the sides, in intervals, at most n - 0.1."""
        steps = encode_distances(points, boxes) / strides / self.interval
        return steps.clamp(min=0, max=self.intervals - END_MARGIN)

    def loss(self, codes: Tensor, targets: Tensor) -> Tensor:
        """Mean loss ``[N]`` of the sides' distributions (GFL, eq. 6); ``targets`` ``[N, 4]`` are encoded boxes."""
        return distribution_loss(codes.unflatten(-1, (4, -1)), targets).mean(-1)


@dataclass(frozen=True)
class LogDistances:
    """Logarithms of the sides' distances ``l, t, r, b`` over a level's base length (FoveaBox).

    Attributes:
        anchor_scale: four times the base length, in strides.
    """

    anchor_scale: float
    size: ClassVar[int] = 4

    def decode(self, codes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        lengths = BASE_LENGTH * self.anchor_scale * strides
        return decode_distances(points, lengths * codes.clamp(max=LARGEST_CODE).exp())

    def encode(self, boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        ratio = encode_distances(points, boxes) / (BASE_LENGTH * self.anchor_scale * strides)
        return ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO).log()
