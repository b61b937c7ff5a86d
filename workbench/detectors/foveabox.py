"""FoveaBox (Kong et al., TIP 2020) without feature alignment: no anchors, boxes as logarithms of side distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from workbench.assigners.assignment import Assignment
from workbench.assigners.foveabox import FoveaBoxAssigner
from workbench.boxes import aligned_iou, clip_boxes, per_location
from workbench.data.batch import Batch
from workbench.detectors.codes import BoxCode, LogDistances
from workbench.detectors.detector import DenseDetector
from workbench.detectors.family import TOWERS, Family, MMDetectionNames
from workbench.detectors.parts import flatten_levels, full_precision, initialise_head, tower
from workbench.detectors.predictions import Predictions, Pyramid
from workbench.detectors.targets import LEAST_QUALITY, classification_losses, image_weights
from workbench.detectors.terms import Term
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.convolution import Conv2d
from workbench.layers.necks import FPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import smooth_l1_loss
from workbench.settings.detectors import FoveaBox
from workbench.settings.experiment import Experiment, Head
from workbench.settings.variant import published_variant

BETA = 0.11
"""Difference at which the box loss turns from quadratic to linear."""
CLIP_MARGIN = 1
"""Boxes are clipped to ``[0, W - 1] x [0, H - 1]``, by this detector alone."""


def build_foveabox(experiment: Experiment, backbone: ResidualBackbone) -> DenseDetector:
    """FoveaBox with random weights."""
    settings = experiment.head
    neck = FPN(backbone.channels, settings.channels, p6_from_input=True, relu_before_p7=False)
    code = LogDistances(settings.anchor_scale)
    head = FoveaBoxHead(settings, experiment.data.classes, code)
    assigner = FoveaBoxAssigner(settings.anchor_scale)
    objective = FoveaBoxObjective(experiment.loss, code, experiment.detector.normaliser_images)
    return DenseDetector(backbone, neck, head, assigner, objective, published_variant(experiment))


class FoveaBoxHead(nn.Module):
    """Network over a pyramid, shared by all levels; it has neither norms nor factors of the levels.

    Args:
        settings: widths, depth and start values.
        classes: number of classes C.
        code: box code of the regression branch.

    Shapes: maps ``[B, channels, H_l, W_l]`` → ``Predictions`` with ``codes``.
    """

    def __init__(self, settings: Head, classes: int, code: BoxCode):
        super().__init__()
        self.code = code
        depth, channels = settings.stacked_convs + 1, settings.channels
        self.cls_tower = tower(depth, channels, channels, None)
        self.reg_tower = tower(depth, channels, channels, None)
        self.cls_out = Conv2d(channels, classes, 3, padding=1)
        self.box_out = Conv2d(channels, code.size, 3, padding=1)
        initialise_head(self, self.cls_out, settings.init_std)

    def forward(self, pyramid: Pyramid) -> Predictions:
        # exp overflows half precision, so boxes are computed in single precision.
        codes = flatten_levels([full_precision(self.box_out(self.reg_tower(x))) for x in pyramid.maps])
        points = pyramid.points(offset=0.5)
        return Predictions(
            logits=flatten_levels([self.cls_out(self.cls_tower(x)) for x in pyramid.maps]),
            boxes=self.code.decode(codes, torch.cat(points), per_location(pyramid.strides, points)),
            points=points,
            shapes=pyramid.shapes,
            strides=pyramid.strides,
            codes=codes,
            clip_margin=CLIP_MARGIN,
        )


@dataclass(frozen=True)
class FoveaBoxObjective:
    """Terms ``cls`` and ``box``, normalised by the positives of each group of images.

    The quality of a positive is the IoU of its clipped box with the object. Boxes are clipped to their own image; the
    released code clips all of them to the size of the batch's first image.

    Attributes:
        classification: loss of the logits.
        code: the head's box code.
        group: number of images that share a normaliser.
    """

    classification: ClassificationLoss
    code: BoxCode
    group: int

    def __call__(self, predictions: Predictions, assignment: Assignment, batch: Batch) -> dict[str, Term]:
        image, location = assignment.places
        objects, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
        boxes = clip_boxes(predictions.boxes.detach(), batch.sizes, predictions.clip_margin)[image, location]
        iou = aligned_iou(boxes, objects).clamp(min=LEAST_QUALITY)
        losses = classification_losses(self.classification, predictions.logits, assignment, labels, iou)
        targets = self.code.encode(objects, predictions.all_points[location], predictions.all_strides[location])

        count = assignment.positive.sum(1)
        # Each image adds one to the classification's normaliser.
        cls = losses.sum((1, 2)) * image_weights(count + 1, self.group, losses.dtype)
        box = smooth_l1_loss(predictions.codes[image, location], targets, BETA)
        box = box * image_weights(count, self.group, box.dtype)[image]
        return {"cls": Term(cls.sum()), "box": Term(box.sum())}


def mmdetection_names(experiment: Experiment) -> MMDetectionNames:
    """Names of MMDetection's ``FoveaHead``."""
    outputs = {"bbox_head.conv_cls.": "head.cls_out.", "bbox_head.conv_reg.": "head.box_out."}
    return MMDetectionNames(TOWERS | outputs)


FOVEABOX_FAMILY = Family(FoveaBox, build_foveabox, mmdetection_names)
