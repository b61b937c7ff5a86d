"""RepPoints (Yang et al., ICCV 2019), boxes by the moments of nine points.

Each location predicts nine points (section 3.2). Deformable convolutions read a second prediction and the class at
these points; the second prediction shifts the points. The box of a set of points follows from their mean and standard
deviation (section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.assigners.assignment import Assignment
from workbench.assigners.max_iou import MaxIoUAssigner
from workbench.assigners.nearest_point import NearestPointAssigner
from workbench.boxes import aligned_iou, per_location
from workbench.data.batch import Batch
from workbench.detectors.detector import Assigner, DenseDetector
from workbench.detectors.family import TOWERS, Family, MMDetectionNames
from workbench.detectors.parts import flatten_levels, full_precision, initialise_head, scale_gradient, tower
from workbench.detectors.predictions import Predictions, Pyramid
from workbench.detectors.targets import classification_losses, image_weights
from workbench.detectors.terms import Term
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.convolution import Conv2d
from workbench.layers.deform import DeformConv, regular_grid
from workbench.layers.necks import FPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import smooth_l1_loss
from workbench.settings.detectors import RepPoints
from workbench.settings.experiment import Experiment, Head
from workbench.settings.variant import published_variant

POINTS = 9
"""Number of points: one for each tap of a 3×3 kernel."""
OFFSET_GRADIENT = 0.1
"""Factor of the sampling offsets' gradient on its way to the initial points."""
MOMENT_GRADIENT = 0.01
"""Factor of the gradient by which the factors of the standard deviation learn."""
INITIAL_WEIGHT, BOX_WEIGHT = 0.5, 1.0
"""Weights of the smooth L1 losses of the initial and of the final box."""
SMOOTH = 0.11
"""Difference at which smooth L1 becomes linear, in units of ``anchor_scale / 2`` strides."""


def build_reppoints(experiment: Experiment, backbone: ResidualBackbone) -> DenseDetector:
    """RepPoints with random weights."""
    settings, unit = experiment.head, experiment.head.anchor_scale / 2
    neck = FPN(
        backbone.channels, settings.channels, p6_from_input=True, relu_before_p7=False, norm_groups=settings.norm_groups
    )
    head = RepPointsHead(settings, experiment.data.classes)
    objective = RepPointsObjective(
        experiment.loss, NearestPointAssigner(unit), unit, experiment.detector.normaliser_images
    )
    assigner = MaxIoUAssigner("initial_boxes")
    return DenseDetector(backbone, neck, head, assigner, objective, published_variant(experiment))


def moment_boxes(points: Tensor, transfer: Tensor) -> Tensor:
    """Boxes ``[..., 4]`` around the points' mean, with half sides of their standard deviation times a learnt factor.

    Args:
        points: ``[..., 18]``, ``y, x`` of the nine points.
        transfer: ``[2]``, logarithm of the factor of the width and of the height.

    Returns:
        ``x1, y1, x2, y2`` in the points' unit. The deviation is unbiased; it has no gradient at 0.
    """
    points = points.unflatten(-1, (POINTS, 2)).flip(-1)
    half = points.std(-2) * transfer.exp()
    return torch.cat([points.mean(-2) - half, points.mean(-2) + half], dim=-1)


def point_offsets(points: Tensor) -> Tensor:
    """Offsets ``[B, 18, H, W]`` with which a 3×3 deformable convolution samples the points of each location.

    Args:
        points: ``[B, 18, H, W]``, ``y, x`` of the nine points in strides, relative to the location.

    Returns:
        The points relative to the kernel's regular grid, with a tenth of the gradient.
    """
    return scale_gradient(points, OFFSET_GRADIENT) - regular_grid(points.device)[None, :, None, None]


class RepPointsHead(nn.Module):
    """Network over a pyramid, shared by all levels.

    Args:
        settings: widths, depth and start values; a deformable convolution follows each tower.
        classes: number of classes C.

    Shapes: maps ``[B, channels, H_l, W_l]`` → ``Predictions`` with ``initial_boxes``.
    """

    def __init__(self, settings: Head, classes: int):
        super().__init__()
        depth, channels, norm_groups = settings.stacked_convs, settings.channels, settings.norm_groups
        self.cls_tower = tower(depth, channels, channels, norm_groups)
        self.reg_tower = tower(depth, channels, channels, norm_groups)
        self.points_conv = Conv2d(channels, channels, 3, padding=1)
        self.points_out = nn.Conv2d(channels, 2 * POINTS, 1)
        self.refine_conv = DeformConv(channels, channels)
        self.refine_out = nn.Conv2d(channels, 2 * POINTS, 1)
        self.cls_conv = DeformConv(channels, channels)
        self.cls_out = nn.Conv2d(channels, classes, 1)
        self.moment_transfer = nn.Parameter(torch.zeros(2))
        initialise_head(self, self.cls_out, settings.init_std)

    def forward(self, pyramid: Pyramid) -> Predictions:
        logits, initial, final = zip(*(self._level(x) for x in pyramid.maps), strict=True)
        points = pyramid.points()
        return Predictions(
            logits=flatten_levels(logits),
            boxes=self._boxes(flatten_levels(final), points, pyramid.strides),
            points=points,
            shapes=pyramid.shapes,
            strides=pyramid.strides,
            initial_boxes=self._boxes(flatten_levels(initial), points, pyramid.strides),
        )

    def _level(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, initial and final points of one level; points in strides, ``y, x``, relative to the location."""
        cls_features, reg_features = self.cls_tower(x), self.reg_tower(x)
        # Half precision has too few digits for coordinates.
        initial = full_precision(self.points_out(self.points_conv(reg_features).relu()))
        offset = point_offsets(initial)
        shift = self.refine_out(self.refine_conv(reg_features, offset).relu())
        return self.cls_out(self.cls_conv(cls_features, offset).relu()), initial, initial.detach() + shift

    def _boxes(self, points: Tensor, origins: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
        """Boxes ``[B, P, 4]`` in pixels of points ``[B, P, 18]`` relative to the origins ``[P_l, 2]`` of each level."""
        boxes = moment_boxes(points, scale_gradient(self.moment_transfer, MOMENT_GRADIENT))
        return boxes * per_location(strides, origins) + torch.cat(list(origins)).repeat(1, 2)


@dataclass(frozen=True)
class RepPointsObjective:
    """Terms ``cls``, ``box_initial`` and ``box``, normalised by the positives of each group of images.

    Attributes:
        classification: loss of the logits.
        initial_assigner: choice of the locations whose initial box is trained; class and final box have the
            detector's assignment.
        unit: size in strides by which box losses are divided.
        group: number of images that share a normaliser.
    """

    classification: ClassificationLoss
    initial_assigner: Assigner
    unit: float
    group: int

    def __call__(self, predictions: Predictions, assignment: Assignment, batch: Batch) -> dict[str, Term]:
        initial = self.initial_assigner(predictions, batch)
        iou = aligned_iou(predictions.boxes.detach()[assignment.places], assignment.gather(batch.boxes))
        labels = assignment.gather(batch.labels)
        losses = classification_losses(self.classification, predictions.logits, assignment, labels, iou)
        values = {
            "cls": (losses.sum((1, 2)) * self._image_weights(assignment, losses.dtype)).sum(),
            "box_initial": INITIAL_WEIGHT * self._box_loss(predictions, predictions.initial_boxes, initial, batch),
            "box": BOX_WEIGHT * self._box_loss(predictions, predictions.boxes, assignment, batch),
        }
        return {name: Term(value) for name, value in values.items()}

    def _box_loss(self, predictions: Predictions, boxes: Tensor, assignment: Assignment, batch: Batch) -> Tensor:
        """Smooth L1 of the positives among boxes ``[B, P, 4]`` in pixels, each relative to its level's object size."""
        image, location = assignment.places
        size = self.unit * predictions.all_strides[location]
        loss = smooth_l1_loss(boxes[image, location] / size, assignment.gather(batch.boxes) / size, SMOOTH)
        return (loss * self._image_weights(assignment, loss.dtype)[image]).sum()

    def _image_weights(self, assignment: Assignment, dtype: torch.dtype) -> Tensor:
        """Factors ``[B]`` of the images' losses; an image without positives counts as one with one."""
        return image_weights(assignment.positive.sum(1).clamp(min=1), self.group, dtype)


def mmdetection_names(experiment: Experiment) -> MMDetectionNames:
    """Names of MMDetection's ``RepPointsHead``."""
    head = {
        "bbox_head.reppoints_pts_init_": "head.points_",
        "bbox_head.reppoints_pts_refine_": "head.refine_",
        "bbox_head.reppoints_cls_": "head.cls_",
        "bbox_head.moment_transfer": "head.moment_transfer",
    }
    return MMDetectionNames(TOWERS | head, neck_norm=True)


REPPOINTS_FAMILY = Family(RepPoints, build_reppoints, mmdetection_names)
