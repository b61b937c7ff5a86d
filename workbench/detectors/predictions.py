"""Data on their way through a detector: feature pyramid → predictions → detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.boxes import locations_in_images, per_location, pyramid_points
from workbench.detectors.parts import full_precision


class Pyramid(NamedTuple):
    """Feature maps with their strides, from fine to coarse.

    Attributes:
        maps: ``[B, channels, H_l, W_l]`` of each level.
        strides: pixels of the input image from one location to the next, for each level.
    """

    maps: Sequence[Tensor]
    strides: Sequence[int]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of each level."""
        return [tuple(level.shape[-2:]) for level in self.maps]

    def points(self, offset: float = 0.0) -> list[Tensor]:
        """Reference points of each level's locations; see ``workbench.boxes.pyramid_points``."""
        return pyramid_points(self.shapes, self.strides, self.maps[0].device, offset)


class Scores(NamedTuple):
    """Scores of all locations of a batch; the final score of a class is the product of both parts.

    Post-processing applies its threshold to the class score alone, before the product, as the released code does.

    Attributes:
        classes: ``[B, P, C]`` in [0, 1].
        quality: ``[B, P]`` in [0, 1]; None without a quality branch.
    """

    classes: Tensor
    quality: Tensor | None

    @property
    def best(self) -> Tensor:
        """Final score ``[B, P]`` of each location's best class."""
        best = self.classes.amax(-1)
        return best if self.quality is None else best * self.quality


@dataclass(frozen=True)
class Predictions:
    """Predictions for every location of a batch, levels flattened row-major and concatenated from fine to coarse.

    B images, P locations, C classes. With several anchors per place on the map, each anchor is a location, and the
    anchors of one place follow each other.

    Attributes:
        logits: ``[B, P, C]``.
        boxes: ``[B, P, 4]`` in pixels of the input image, not clipped.
        points: reference points of each level's locations, ``[P_l, 2]`` in pixels.
        shapes: (rows, columns) of each level.
        strides: pixels from one place on the map to the next, for each level.
        initial_boxes: ``[B, P, 4]`` boxes before refinement; None if the detector does not refine.
        quality: ``[B, P]`` logits of the quality branch; None without that branch.
        codes: ``[B, P, K]`` numbers that the boxes were decoded from; None if no loss is computed from the codes.
        anchors: ``[P, 4]`` in pixels; None if a location has no anchor.
        clip_margin: distance in pixels that final boxes keep from an image's right and bottom side.
    """

    logits: Tensor
    boxes: Tensor
    points: Sequence[Tensor]
    shapes: Sequence[tuple[int, int]]
    strides: Sequence[int]
    initial_boxes: Tensor | None = None
    quality: Tensor | None = None
    codes: Tensor | None = None
    anchors: Tensor | None = None
    clip_margin: int = 0

    @cached_property
    def all_points(self) -> Tensor:
        """Reference points ``[P, 2]`` of all levels."""
        return torch.cat(list(self.points))

    @cached_property
    def all_strides(self) -> Tensor:
        """Strides ``[P, 1]`` of all locations."""
        return per_location(self.strides, self.points)

    @property
    def anchors_per_place(self) -> int:
        """Number of locations that share one place on the map."""
        rows, columns = self.shapes[0]
        return len(self.points[0]) // (rows * columns)

    def inside(self, sizes: Tensor) -> Tensor:
        """Mask ``[B, P]`` of the locations inside each image's own padded size; ``sizes`` ``[B, 2]`` (H, W)."""
        mask = locations_in_images(self.shapes, self.strides, sizes)
        return mask.repeat_interleave(self.anchors_per_place, dim=1)

    def scores(self, with_quality: bool = True) -> Scores:
        """Scores in single precision. No other code turns logits into scores.

        Args:
            with_quality: whether the quality branch, if the detector has one, takes part in the score.
        """
        quality = self.quality if with_quality else None
        return Scores(
            full_precision(self.logits).sigmoid(), None if quality is None else full_precision(quality).sigmoid()
        )


@dataclass(frozen=True)
class Detections:
    """Detections of one image, by descending score.

    Attributes:
        boxes: ``[N, 4]``, ``x1, y1, x2, y2`` in pixels.
        scores: ``[N]`` in (0, 1].
        labels: ``[N]`` int64 class indices.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
