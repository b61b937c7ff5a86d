"""ATSS (Zhang et al., CVPR 2020) and GFL (Li et al., NeurIPS 2020), one head with two switches.

``centerness``: a branch of its own for the localisation quality, as ATSS has it; without it the classification score
stands for both, as in GFL. ``distribution``: each side's distance is the expectation of a distribution, trained with
a loss of its own too, as in GFL; without it boxes are deltas of a square anchor, as in ATSS.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.assigners.assignment import Assignment
from workbench.assigners.atss import assign_atss
from workbench.boxes import (
    aligned_iou,
    cells_in_images,
    decode_deltas,
    decode_distances,
    encode_distances,
    per_cell,
    pyramid_points,
    square_anchors,
)
from workbench.data.batch import Batch
from workbench.detectors.parts import STRIDES, Scales, flatten_levels, initialise_head, tower
from workbench.detectors.predictions import Predictions
from workbench.detectors.targets import LEAST_QUALITY, classification_losses, mean_over_ranks
from workbench.layers.necks import FPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import centerness_target, distribution_loss, giou_loss
from workbench.settings.detectors import Distribution
from workbench.settings.experiment import Experiment

DELTA_STD = (0.1, 0.1, 0.2, 0.2)
BOX_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.25
SHORT_OF_LAST = 0.1
"""Targets of a distribution end this far before its last value, so that each has a value on either side."""
LEAST_SUM = 1e-12
"""Floor of the sum of weights that the box loss is divided by: keeps 0 / 0 out, where no cell is positive."""


def build_atss(experiment: Experiment, in_channels: Sequence[int]) -> tuple[FPN, ATSSHead]:
    """Neck and head for a backbone with these channels."""
    settings, detector = experiment.head, experiment.detector
    neck = FPN(in_channels, settings.channels, relu_before_p7=False)
    return neck, ATSSHead(
        experiment.data.classes,
        settings.channels,
        experiment.loss,
        centerness=detector.centerness,
        distribution=detector.distribution,
        depth=settings.stacked_convs + 1,
        norm_groups=settings.norm_groups,
        anchor_scale=settings.anchor_scale,
        init_std=settings.init_std,
    )


def expected_distances(logits: Tensor, interval: float) -> Tensor:
    """Distances ``[..., 4]`` in strides: the expectation of each side's distribution (GFL, eq. 4).

    Args:
        logits: ``[..., 4 (n + 1)]``, of ``l, t, r, b``, each of the values 0, 1, …, n intervals.
        interval: strides between two values.
    """
    p = logits.unflatten(-1, (4, -1)).softmax(-1)
    return p @ torch.arange(p.shape[-1], device=p.device, dtype=p.dtype) * interval


class ATSSHead(nn.Module):
    """Head over a pyramid of five levels, shared by all levels but for the scales.

    Args:
        classes: number of classes C.
        channels: channels of the pyramid and within the head.
        classification_loss: of the logits.
        centerness, distribution: the switches described above.
        depth: convolution blocks of a tower.
        norm_groups: groups of every GroupNorm.
        anchor_scale: side of the anchors in strides.
        init_std: of the head's convolutions.

    Shapes: five maps ``[B, channels, H_l, W_l]`` → ``Predictions`` with ``codes``.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        classification_loss: ClassificationLoss,
        *,
        centerness: bool = True,
        distribution: Distribution | None = None,
        depth: int = 4,
        norm_groups: int = 32,
        anchor_scale: float = 8.0,
        init_std: float = 0.01,
    ):
        super().__init__()
        self.classification_loss, self.distribution = classification_loss, distribution
        self.sides = [anchor_scale * stride for stride in STRIDES]
        self.cls_tower = tower(depth, channels, channels, norm_groups)
        self.reg_tower = tower(depth, channels, channels, norm_groups)
        self.cls_out = nn.Conv2d(channels, classes, 3, padding=1)
        numbers = 1 if distribution is None else distribution.intervals + 1
        self.box_out = nn.Conv2d(channels, 4 * numbers, 3, padding=1)
        self.scales = Scales(len(STRIDES))
        self.centerness_out = nn.Conv2d(channels, 1, 3, padding=1) if centerness else None
        initialise_head(self, self.cls_out, init_std)

    def forward(self, pyramid: Sequence[Tensor]) -> Predictions:
        box_features = [self.reg_tower(x) for x in pyramid]
        codes = flatten_levels([self.scales(self.box_out(x).float(), level) for level, x in enumerate(box_features)])
        shapes = [tuple(x.shape[-2:]) for x in pyramid]
        points = pyramid_points(shapes, STRIDES, pyramid[0].device)
        return Predictions(
            logits=flatten_levels([self.cls_out(self.cls_tower(x)) for x in pyramid]),
            boxes=self._decode(points, codes),
            points=points,
            shapes=shapes,
            centerness=flatten_levels([self.centerness_out(x) for x in box_features]).squeeze(-1)
            if self.centerness_out
            else None,
            codes=codes,
        )

    def _decode(self, points: Sequence[Tensor], codes: Tensor) -> Tensor:
        if self.distribution is None:
            return decode_deltas(square_anchors(points, self.sides), codes, DELTA_STD)
        distances = expected_distances(codes, self.distribution.interval) * per_cell(STRIDES, points)
        return decode_distances(torch.cat(list(points)), distances)

    def assign(self, predictions: Predictions, batch: Batch) -> Assignment:
        """ATSS over the batch."""
        cells = cells_in_images(predictions.shapes, STRIDES, batch.sizes)
        return assign_atss(predictions.points, self.sides, batch.boxes, batch.valid, cells)

    def loss(self, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
        """Terms ``cls``, ``box``, and ``centerness`` and ``distribution`` where the head has them."""
        assignment = self.assign(predictions, batch)
        positive = assignment.positive
        targets, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
        boxes = predictions.boxes[positive]
        # Nobody but a loss that takes a target of 0 for a negative can tell the floor.
        quality = aligned_iou(boxes.detach(), targets).clamp(min=LEAST_QUALITY)
        points = torch.cat(list(predictions.points)).expand(len(positive), -1, -1)[positive]
        distances = encode_distances(points, targets)
        centerness = None if predictions.centerness is None else centerness_target(distances)
        weight = predictions.logits[positive].detach().float().amax(-1).sigmoid() if centerness is None else centerness

        count = positive.sum(1).clamp(min=1).sum()  # an image without positives counts as one
        count, weight_sum = mean_over_ranks(count, weight.sum())
        weight = weight / weight_sum.clamp(min=LEAST_SUM)
        losses = classification_losses(self.classification_loss, predictions.logits, assignment, labels, quality)
        terms = {"cls": losses.sum() / count, "box": BOX_WEIGHT * (giou_loss(boxes, targets) * weight).sum()}
        if centerness is not None:
            logits = predictions.centerness[positive].float()
            terms["centerness"] = F.binary_cross_entropy_with_logits(logits, centerness, reduction="sum") / count
        if self.distribution is not None:
            strides = per_cell(STRIDES, predictions.points).expand(len(positive), -1, -1)[positive]
            loss = self._distribution_loss(predictions.codes[positive], distances / strides)
            terms["distribution"] = DISTRIBUTION_WEIGHT * (loss * weight).sum()
        return terms

    def _distribution_loss(self, codes: Tensor, distances: Tensor) -> Tensor:
        """Mean over the four sides, ``[N]``; distances ``[N, 4]`` in strides."""
        steps = distances / self.distribution.interval
        steps = steps.clamp(min=0, max=self.distribution.intervals - SHORT_OF_LAST)
        return distribution_loss(codes.unflatten(-1, (4, -1)), steps).mean(-1)
