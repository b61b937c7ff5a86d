"""FoveaBox (Kong et al., TIP 2020) without feature alignment: no anchors, a box by the logs of its sides' distances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workbench.assigners.assignment import Assignment
from workbench.assigners.foveabox import assign_foveabox
from workbench.boxes import aligned_iou, clip_boxes, decode_distances, encode_distances, per_cell, pyramid_points
from workbench.data.batch import Batch
from workbench.detectors.parts import STRIDES, flatten_levels, initialise_head, tower
from workbench.detectors.predictions import Predictions
from workbench.detectors.targets import LEAST_QUALITY, classification_losses, image_weights
from workbench.layers.necks import FPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import smooth_l1_loss
from workbench.settings.experiment import Experiment

RANGES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
"""Scales of the objects that each level accepts, in pixels, where anchor_scale is 8."""
LENGTH = 0.25
"""Distance that a code of 0 stands for, in sides of ATSS's anchor: the published 16 to 256 px at anchor_scale 8."""
LARGEST_RATIO = 16
"""A target's distance is at most so many base lengths, and at least one by so many."""
LARGEST_CODE = 16.0
"""Decoded codes end here, at millions of pixels: far outside of any image, and the area of a box is still finite."""
BETA = 0.11
"""Where the box loss turns from quadratic to linear."""
CLIP_MARGIN = 1
"""Boxes are clipped to ``[0, W - 1] x [0, H - 1]``, by this detector alone."""


def build_foveabox(experiment: Experiment, in_channels: Sequence[int]) -> tuple[FPN, FoveaBoxHead]:
    """Neck and head for a backbone with these channels."""
    settings = experiment.head
    neck = FPN(in_channels, settings.channels, p6_from_input=True, relu_before_p7=False)
    return neck, FoveaBoxHead(
        experiment.data.classes,
        settings.channels,
        experiment.loss,
        depth=settings.stacked_convs + 1,
        anchor_scale=settings.anchor_scale,
        init_std=settings.init_std,
    )


class FoveaBoxHead(nn.Module):
    """Head over a pyramid of five levels, shared by all levels; its towers have no norm, its levels no scales.

    Args:
        classes: number of classes C.
        channels: channels of the pyramid and within the head.
        classification_loss: of the logits.
        depth: convolution blocks of a tower.
        anchor_scale: 8 for the published sizes; they are proportional to it.
        init_std: of the head's convolutions.

    Shapes: five maps ``[B, channels, H_l, W_l]`` → ``Predictions`` with ``codes``, the logs of the distances over a
    level's base length.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        classification_loss: ClassificationLoss,
        *,
        depth: int = 4,
        anchor_scale: float = 8.0,
        init_std: float = 0.01,
    ):
        super().__init__()
        self.classification_loss = classification_loss
        self.lengths = [LENGTH * anchor_scale * stride for stride in STRIDES]
        self.ranges = [(low * anchor_scale / 8, high * anchor_scale / 8) for low, high in RANGES]
        self.cls_tower = tower(depth, channels, channels, None)
        self.reg_tower = tower(depth, channels, channels, None)
        self.cls_out = nn.Conv2d(channels, classes, 3, padding=1)
        self.box_out = nn.Conv2d(channels, 4, 3, padding=1)
        initialise_head(self, self.cls_out, init_std)

    def forward(self, pyramid: Sequence[Tensor]) -> Predictions:
        # exp overflows half precision, so boxes are made in single precision.
        codes = flatten_levels([self.box_out(self.reg_tower(x)).float() for x in pyramid])
        shapes = [tuple(x.shape[-2:]) for x in pyramid]
        points = pyramid_points(shapes, STRIDES, codes.device, offset=0.5)
        distances = per_cell(self.lengths, points) * codes.clamp(max=LARGEST_CODE).exp()
        return Predictions(
            logits=flatten_levels([self.cls_out(self.cls_tower(x)) for x in pyramid]),
            boxes=decode_distances(torch.cat(points), distances),
            points=points,
            shapes=shapes,
            codes=codes,
            clip_margin=CLIP_MARGIN,
        )

    def assign(self, predictions: Predictions, batch: Batch) -> Assignment:
        """FoveaBox's assignment over the batch."""
        return assign_foveabox(predictions.shapes, STRIDES, self.ranges, batch.boxes, batch.valid)

    def loss(self, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
        """Terms ``cls`` and ``box``.

        The quality of a positive is the IoU of its clipped box with the object. Boxes are clipped to their own image;
        the released code takes the size of the batch's first image for all.
        """
        assignment = self.assign(predictions, batch)
        image, cell = assignment.where
        targets, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
        boxes = clip_boxes(predictions.boxes.detach(), batch.sizes, predictions.clip_margin)[image, cell]
        quality = aligned_iou(boxes, targets).clamp(min=LEAST_QUALITY)
        losses = classification_losses(self.classification_loss, predictions.logits, assignment, labels, quality)
        points, lengths = torch.cat(list(predictions.points)), per_cell(self.lengths, predictions.points)
        wanted = _encode(points[cell], lengths[cell], targets)

        count = assignment.positive.sum(1)
        # Each image adds one to the classification's normaliser.
        cls = losses.sum((1, 2)) * image_weights(count + 1)
        box = smooth_l1_loss(predictions.codes[image, cell], wanted, BETA) * image_weights(count)[image]
        return {"cls": cls.sum(), "box": box.sum()}


def _encode(points: Tensor, lengths: Tensor, boxes: Tensor) -> Tensor:
    """Codes ``[N, 4]`` of boxes ``[N, 4]`` seen from points ``[N, 2]`` of levels of base lengths ``[N, 1]``."""
    ratio = encode_distances(points, boxes) / lengths
    return ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO).log()
