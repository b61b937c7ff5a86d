"""RetinaNet (Lin et al., ICCV 2017): nine anchors a cell, assigned by IoU, two towers without norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workbench.assigners.assignment import Assignment
from workbench.assigners.max_iou import assign_max_iou
from workbench.boxes import aligned_iou, cells_in_images, decode_deltas, encode_deltas, pyramid_points
from workbench.data.batch import Batch
from workbench.detectors.parts import STRIDES, flatten_levels, initialise_head, tower
from workbench.detectors.predictions import Predictions
from workbench.detectors.targets import classification_losses, image_weights
from workbench.layers.necks import FPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import smooth_l1_loss
from workbench.settings.experiment import Experiment

RATIOS = (0.5, 1.0, 2.0)
"""Height over width of a cell's anchors."""
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Their sizes in units of the level's own."""
ANCHORS = len(RATIOS) * len(OCTAVES)
"""Anchors a cell, the octaves of the first ratio first."""


def build_retinanet(experiment: Experiment, in_channels: Sequence[int]) -> tuple[FPN, RetinaNetHead]:
    """Neck and head for a backbone with these channels."""
    settings = experiment.head
    neck = FPN(in_channels, settings.channels, p6_from_input=True, relu_before_p7=False)
    return neck, RetinaNetHead(
        experiment.data.classes,
        settings.channels,
        experiment.loss,
        depth=settings.stacked_convs + 1,
        side=settings.anchor_scale / 2,
        init_std=settings.init_std,
    )


def pyramid_anchors(points: Sequence[Tensor], side: float) -> Tensor:
    """Anchors ``[P, 4]`` in pixels of a pyramid of strides 8 to 128.

    Args:
        points: of each level's anchors, ``[P_l, 2]`` in pixels: a cell's point nine times, one cell after the other.
        side: of the square in whose units OCTAVES are, in strides.
    """
    heights = torch.tensor(RATIOS, device=points[0].device).sqrt()[:, None]
    octaves = torch.tensor(OCTAVES, device=points[0].device) * side
    anchors = []
    for at, stride in zip(points, STRIDES, strict=True):
        half = torch.stack([stride / heights * octaves, stride * heights * octaves], dim=-1).view(-1, 2) / 2
        cell = at.view(-1, ANCHORS, 2)
        anchors.append(torch.cat([cell - half, cell + half], dim=-1).view(-1, 4))
    return torch.cat(anchors)


class RetinaNetHead(nn.Module):
    """Head over a pyramid of five levels, shared by all levels.

    Args:
        classes: number of classes C.
        channels: channels of the pyramid and within the head.
        classification_loss: of the logits.
        depth: convolution blocks of a tower.
        side: of the smallest square anchor, in strides.
        init_std: of the head's convolutions.

    Shapes: five maps ``[B, channels, H_l, W_l]`` → ``Predictions`` of anchors, with deltas as ``codes``.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        classification_loss: ClassificationLoss,
        *,
        depth: int = 4,
        side: float = 4.0,
        init_std: float = 0.01,
    ):
        super().__init__()
        self.classification_loss, self.side = classification_loss, side
        self.cls_tower = tower(depth, channels, channels, norm_groups=None)
        self.reg_tower = tower(depth, channels, channels, norm_groups=None)
        self.cls_out = nn.Conv2d(channels, ANCHORS * classes, 3, padding=1)
        self.box_out = nn.Conv2d(channels, ANCHORS * 4, 3, padding=1)
        initialise_head(self, self.cls_out, init_std)

    def forward(self, pyramid: Sequence[Tensor]) -> Predictions:
        shapes = [tuple(x.shape[-2:]) for x in pyramid]
        points = pyramid_points(shapes, STRIDES, pyramid[0].device)
        points = [level.repeat_interleave(ANCHORS, dim=0) for level in points]
        logits = flatten_levels([self.cls_out(self.cls_tower(x)) for x in pyramid])
        deltas = flatten_levels([self.box_out(self.reg_tower(x)).float() for x in pyramid])
        deltas = deltas.unflatten(-1, (ANCHORS, 4)).flatten(1, 2)
        return Predictions(
            logits=logits.unflatten(-1, (ANCHORS, -1)).flatten(1, 2),
            boxes=decode_deltas(pyramid_anchors(points, self.side), deltas),
            points=points,
            shapes=shapes,
            codes=deltas,
        )

    def assign(self, predictions: Predictions, batch: Batch) -> Assignment:
        """By the largest IoU, over the batch."""
        cells = cells_in_images(predictions.shapes, STRIDES, batch.sizes).repeat_interleave(ANCHORS, dim=1)
        return assign_max_iou(pyramid_anchors(predictions.points, self.side), batch.boxes, batch.valid, cells)

    def loss(self, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
        """Terms ``cls`` and ``box``, divided by the positives of a device's four images."""
        assignment = self.assign(predictions, batch)
        positive = assignment.positive
        targets, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
        image, anchor = assignment.where
        quality = aligned_iou(predictions.boxes[image, anchor].detach(), targets)  # one of 0 makes a plain negative

        weights = image_weights(positive.sum(1).clamp(min=1))  # an image without positives counts as one
        losses = classification_losses(self.classification_loss, predictions.logits, assignment, labels, quality)
        wanted = encode_deltas(pyramid_anchors(predictions.points, self.side)[anchor], targets)
        distance = smooth_l1_loss(predictions.codes[image, anchor], wanted, beta=0)
        return {"cls": (losses.sum((1, 2)) * weights).sum(), "box": (distance * weights[image]).sum()}
