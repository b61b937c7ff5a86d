"""Predictions of a dense detector, and detections after post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """What a detector says of every cell of a batch, levels flattened row-major and concatenated from fine to coarse.

    B images, P cells (anchors where a cell has several, a cell's one after the other), C classes.

    Attributes:
        logits: ``[B, P, C]``.
        boxes: ``[B, P, 4]`` in pixels of the input image, not clipped.
        points: reference points of each level's cells, ``[P_l, 2]`` in pixels.
        shapes: (rows, columns) of each level.
        initial_boxes: ``[B, P, 4]``, boxes before refinement, where the detector refines.
        centerness: ``[B, P]`` logits, where the detector has that branch.
        codes: ``[B, P, K]``, what the boxes were decoded from, where the loss is of that.
        clip_margin: pixels by which final boxes stay short of an image's right and bottom side.
    """

    logits: Tensor
    boxes: Tensor
    points: Sequence[Tensor]
    shapes: Sequence[tuple[int, int]]
    initial_boxes: Tensor | None = None
    centerness: Tensor | None = None
    codes: Tensor | None = None
    clip_margin: int = 0


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
