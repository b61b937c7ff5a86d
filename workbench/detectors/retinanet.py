"""RetinaNet (Lin et al., ICCV 2017): nine anchors per place, assigned by IoU, two towers without norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.assigners.assignment import Assignment
from workbench.assigners.max_iou import MaxIoUAssigner
from workbench.boxes import aligned_iou, decode_deltas, device_constants, encode_deltas
from workbench.data.batch import Batch
from workbench.detectors.detector import DenseDetector
from workbench.detectors.family import TOWERS, Family, MMDetectionNames
from workbench.detectors.parts import flatten_levels, full_precision, initialise_head, tower
from workbench.detectors.predictions import Predictions, Pyramid
from workbench.detectors.targets import classification_losses, image_weights
from workbench.detectors.terms import Term
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.convolution import Conv2d
from workbench.layers.necks import FPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import smooth_l1_loss
from workbench.settings.detectors import RetinaNet
from workbench.settings.experiment import Experiment, Head
from workbench.settings.variant import published_variant


def build_retinanet(experiment: Experiment, backbone: ResidualBackbone) -> DenseDetector:
    """RetinaNet with random weights."""
    settings = experiment.head
    neck = FPN(backbone.channels, settings.channels, p6_from_input=True, relu_before_p7=False)
    head = RetinaNetHead(settings, experiment.data.classes, AnchorGrid(settings.anchor_scale / 2))
    objective = RetinaNetObjective(experiment.loss, experiment.detector.normaliser_images)
    return DenseDetector(backbone, neck, head, MaxIoUAssigner("anchors"), objective, published_variant(experiment))


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of every place of a pyramid: all octaves of the first ratio, then those of the next one.

    Attributes:
        side: of the smallest square anchor, in strides.
        ratios: height over width.
        octaves: sizes in units of the smallest one.
    """

    side: float
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    octaves: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))

    def __len__(self) -> int:
        """Number of anchors per place."""
        return len(self.ratios) * len(self.octaves)

    def __call__(self, points: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
        """Anchors ``[P, 4]`` in pixels around the points ``[P_l, 2]`` of each level's places."""
        heights = device_constants(self.ratios, points[0]).sqrt()[:, None]
        octaves = device_constants(self.octaves, points[0]) * self.side
        anchors = []
        for level, stride in zip(points, strides, strict=True):
            half = torch.stack([stride / heights * octaves, stride * heights * octaves], dim=-1).view(-1, 2) / 2
            centre = level.unsqueeze(1)
            anchors.append(torch.cat([centre - half, centre + half], dim=-1).view(-1, 4))
        return torch.cat(anchors)


class RetinaNetHead(nn.Module):
    """Network over a pyramid, shared by all levels.

    Args:
        settings: widths, depth and start values.
        classes: number of classes C.
        anchors: of every place.

    Shapes: maps ``[B, channels, H_l, W_l]`` → ``Predictions`` of anchors, with deltas as ``codes``.
    """

    def __init__(self, settings: Head, classes: int, anchors: AnchorGrid):
        super().__init__()
        self.anchors = anchors
        depth, channels = settings.stacked_convs + 1, settings.channels
        self.cls_tower = tower(depth, channels, channels, norm_groups=None)
        self.reg_tower = tower(depth, channels, channels, norm_groups=None)
        self.cls_out = Conv2d(channels, len(anchors) * classes, 3, padding=1)
        self.box_out = Conv2d(channels, len(anchors) * 4, 3, padding=1)
        initialise_head(self, self.cls_out, settings.init_std)

    def forward(self, pyramid: Pyramid) -> Predictions:
        count = len(self.anchors)
        logits = flatten_levels([self.cls_out(self.cls_tower(x)) for x in pyramid.maps])
        deltas = flatten_levels([full_precision(self.box_out(self.reg_tower(x))) for x in pyramid.maps])
        deltas = deltas.unflatten(-1, (count, 4)).flatten(1, 2)
        points = pyramid.points()
        anchors = self.anchors(points, pyramid.strides)
        return Predictions(
            logits=logits.unflatten(-1, (count, -1)).flatten(1, 2),
            boxes=decode_deltas(anchors, deltas),
            points=[level.repeat_interleave(count, dim=0) for level in points],
            shapes=pyramid.shapes,
            strides=pyramid.strides,
            codes=deltas,
            anchors=anchors,
        )


@dataclass(frozen=True)
class RetinaNetObjective:
    """Terms ``cls`` and ``box``, divided by the positives of each group of images.

    Attributes:
        classification: loss of the logits.
        group: number of images that share a normaliser.
    """

    classification: ClassificationLoss
    group: int

    def __call__(self, predictions: Predictions, assignment: Assignment, batch: Batch) -> dict[str, Term]:
        image, anchor = assignment.places
        objects, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
        iou = aligned_iou(predictions.boxes[image, anchor].detach(), objects)  # an IoU of 0 makes a plain negative

        # An image without positives counts as one.
        weights = image_weights(assignment.positive.sum(1).clamp(min=1), self.group, predictions.codes.dtype)
        losses = classification_losses(self.classification, predictions.logits, assignment, labels, iou)
        targets = encode_deltas(predictions.anchors[anchor], objects)
        distance = smooth_l1_loss(predictions.codes[image, anchor], targets, beta=0)
        return {"cls": Term((losses.sum((1, 2)) * weights).sum()), "box": Term((distance * weights[image]).sum())}


def mmdetection_names(experiment: Experiment) -> MMDetectionNames:
    """Names of MMDetection's ``RetinaHead``."""
    outputs = {"bbox_head.retina_cls.": "head.cls_out.", "bbox_head.retina_reg.": "head.box_out."}
    return MMDetectionNames(TOWERS | outputs)


RETINANET_FAMILY = Family(RetinaNet, build_retinanet, mmdetection_names)
