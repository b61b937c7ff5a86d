"""ATSS (Zhang et al., CVPR 2020) and GFL (Li et al., NeurIPS 2020): one network with two exchangeable parts.

Quality branch: ATSS has one for the centerness. GFL has none; its classification score includes the quality.
Box code: deltas of a square anchor in ATSS; in GFL a distribution of each side's distance, with a loss of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from workbench.assigners.assignment import Assignment
from workbench.assigners.atss import ATSSAssigner
from workbench.boxes import aligned_iou, per_location
from workbench.data.batch import Batch
from workbench.detectors.codes import BoxCode, DistanceDistributions, SquareAnchorDeltas
from workbench.detectors.detector import DenseDetector
from workbench.detectors.family import SCALES, TOWERS, Family, MMDetectionNames
from workbench.detectors.parts import Scales, flatten_levels, full_precision, initialise_head, tower
from workbench.detectors.predictions import Predictions, Pyramid
from workbench.detectors.quality import CENTERNESS, QualityBranch
from workbench.detectors.targets import LEAST_QUALITY, classification_losses
from workbench.detectors.terms import Term, normalised
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.convolution import Conv2d
from workbench.layers.necks import FPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import giou_loss
from workbench.settings.detectors import ATSS
from workbench.settings.experiment import Experiment, Head
from workbench.settings.variant import published_variant

BOX_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.25
LEAST_SUM = 1e-12
"""Floor of the sum of weights that normalises the box loss: it prevents 0 / 0 if no location is positive."""


def build_atss(experiment: Experiment, backbone: ResidualBackbone) -> DenseDetector:
    """ATSS or GFL with random weights."""
    settings, detector = experiment.head, experiment.detector
    distribution = None
    if detector.distribution is not None:
        distribution = DistanceDistributions(detector.distribution.intervals, detector.distribution.interval)
    quality = CENTERNESS if detector.centerness else None

    neck = FPN(backbone.channels, settings.channels, relu_before_p7=False)
    head = ATSSHead(
        settings,
        experiment.data.classes,
        levels=len(neck.output_strides(backbone.strides)),
        code=distribution or SquareAnchorDeltas(settings.anchor_scale),
        quality_branch=quality is not None,
    )
    objective = ATSSObjective(experiment.loss, quality, distribution)
    assigner = ATSSAssigner(settings.anchor_scale)
    return DenseDetector(backbone, neck, head, assigner, objective, published_variant(experiment))


class ATSSHead(nn.Module):
    """Network over a pyramid, shared by all levels except the scales.

    Args:
        settings: widths, depth and start values.
        classes: number of classes C.
        levels: number of pyramid levels.
        code: box code of the regression branch.
        quality_branch: whether the head has a quality branch.

    Shapes: maps ``[B, channels, H_l, W_l]`` → ``Predictions`` with ``codes``.
    """

    def __init__(self, settings: Head, classes: int, levels: int, code: BoxCode, *, quality_branch: bool):
        super().__init__()
        self.code = code
        depth, channels, norm_groups = settings.stacked_convs + 1, settings.channels, settings.norm_groups
        self.cls_tower = tower(depth, channels, channels, norm_groups)
        self.reg_tower = tower(depth, channels, channels, norm_groups)
        self.cls_out = Conv2d(channels, classes, 3, padding=1)
        self.box_out = Conv2d(channels, code.size, 3, padding=1)
        self.scales = Scales(levels)
        # Output of the quality branch, whatever its target; files with weights have this name.
        self.centerness_out = nn.Conv2d(channels, 1, 3, padding=1) if quality_branch else None
        initialise_head(self, self.cls_out, settings.init_std)

    def forward(self, pyramid: Pyramid) -> Predictions:
        box_features = [self.reg_tower(x) for x in pyramid.maps]
        sides = [full_precision(self.box_out(x)) for x in box_features]
        codes = flatten_levels([self.scales(x, level) for level, x in enumerate(sides)])
        points = pyramid.points()
        return Predictions(
            logits=flatten_levels([self.cls_out(self.cls_tower(x)) for x in pyramid.maps]),
            boxes=self.code.decode(codes, torch.cat(points), per_location(pyramid.strides, points)),
            points=points,
            shapes=pyramid.shapes,
            strides=pyramid.strides,
            quality=flatten_levels([self.centerness_out(x) for x in box_features]).squeeze(-1)
            if self.centerness_out
            else None,
            codes=codes,
        )


@dataclass(frozen=True)
class ATSSObjective:
    """Terms ``cls`` and ``box``; the quality branch and the distributions add a term each.

    Attributes:
        classification: loss of the logits.
        quality: the quality branch, whose target weights the box losses; if None, the score weights them.
        distribution: the head's box code, if the code has a loss of its own.
    """

    classification: ClassificationLoss
    quality: QualityBranch | None = None
    distribution: DistanceDistributions | None = None

    def __call__(self, predictions: Predictions, assignment: Assignment, batch: Batch) -> dict[str, Term]:
        image, location = assignment.places
        objects, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
        boxes, points = predictions.boxes[image, location], predictions.all_points[location]
        # The floor makes a difference only to a loss that takes a target of 0 for a negative.
        iou = aligned_iou(boxes.detach(), objects).clamp(min=LEAST_QUALITY)
        if self.quality is None:
            target, weight = None, full_precision(predictions.logits[image, location].detach()).amax(-1).sigmoid()
        else:
            target = weight = self.quality.target(points, boxes, objects)

        count = assignment.positive.sum(1).clamp(min=1).sum()  # an image without positives counts as one
        weight_sum = weight.sum()
        losses = classification_losses(self.classification, predictions.logits, assignment, labels, iou)
        box = BOX_WEIGHT * (giou_loss(boxes, objects) * weight).sum()
        terms = {"cls": normalised(losses.sum(), count), "box": normalised(box, weight_sum, LEAST_SUM)}
        if target is not None:
            loss = self.quality.loss(predictions.quality[image, location], target)
            terms[self.quality.name] = normalised(loss, count)
        if self.distribution is not None:
            steps = self.distribution.encode(objects, points, predictions.all_strides[location])
            loss = self.distribution.loss(predictions.codes[image, location], steps)
            terms["distribution"] = normalised(DISTRIBUTION_WEIGHT * (loss * weight).sum(), weight_sum, LEAST_SUM)
        return terms


def mmdetection_names(experiment: Experiment) -> MMDetectionNames:
    """Names of MMDetection's ``ATSSHead`` or ``GFLHead``; no head there has both a centerness and distributions."""
    kind = "atss" if experiment.detector.distribution is None else "gfl"
    outputs = {
        f"bbox_head.{kind}_cls.": "head.cls_out.",
        f"bbox_head.{kind}_reg.": "head.box_out.",
        "bbox_head.atss_centerness.": "head.centerness_out.",
    }
    return MMDetectionNames(TOWERS | SCALES | outputs)


ATSS_FAMILY = Family(ATSS, build_atss, mmdetection_names)
