"""RepPoints (Yang et al., ICCV 2019), boxes by the moments of nine points.

Each cell predicts nine points (section 3.2). They are where a second prediction and the class are read from, by
deformable convolutions; the second prediction shifts the points. A set of points becomes a box by its mean and
standard deviation (section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workbench.assigners.assignment import Assignment
from workbench.assigners.max_iou import assign_max_iou
from workbench.assigners.nearest_point import assign_nearest_point
from workbench.boxes import aligned_iou, cells_in_images, per_cell, pyramid_points
from workbench.data.batch import Batch
from workbench.detectors.parts import STRIDES, flatten_levels, gentle, initialise_head, tower
from workbench.detectors.predictions import Predictions
from workbench.detectors.targets import classification_losses, image_weights
from workbench.layers.deform import DeformConv, regular_grid
from workbench.layers.necks import FPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import smooth_l1_loss
from workbench.settings.experiment import Experiment

POINTS = 9
"""One for each tap of a 3×3 kernel."""
OFFSET_GRADIENT = 0.1
"""Share of the sampling offsets' gradient that reaches the initial points."""
MOMENT_GRADIENT = 0.01
"""Share of their gradient by which the factors of the standard deviation learn."""
INITIAL_WEIGHT, BOX_WEIGHT = 0.5, 1.0
"""Weights of the smooth L1 losses of the initial and of the final box."""
SMOOTH = 0.11
"""Where smooth L1 becomes linear, in units of ``anchor_scale / 2`` strides."""


def build_reppoints(experiment: Experiment, in_channels: Sequence[int]) -> tuple[FPN, RepPointsHead]:
    """Neck and head for a backbone with these channels."""
    settings = experiment.head
    neck = FPN(
        in_channels, settings.channels, p6_from_input=True, relu_before_p7=False, norm_groups=settings.norm_groups
    )
    return neck, RepPointsHead(
        experiment.data.classes,
        settings.channels,
        experiment.loss,
        stacked_convs=settings.stacked_convs,
        norm_groups=settings.norm_groups,
        anchor_scale=settings.anchor_scale,
        init_std=settings.init_std,
    )


def moment_boxes(points: Tensor, transfer: Tensor) -> Tensor:
    """Boxes ``[..., 4]`` that reach from the points' mean as far as their standard deviation times a learnt factor.

    Args:
        points: ``[..., 18]``, ``y, x`` of the nine points.
        transfer: ``[2]``, logarithm of the factor of the width and of the height.

    Returns:
        ``x1, y1, x2, y2`` in the points' unit. The deviation is unbiased; where it is 0 it has no gradient.
    """
    points = points.unflatten(-1, (POINTS, 2)).flip(-1)
    half = points.std(-2) * transfer.exp()
    return torch.cat([points.mean(-2) - half, points.mean(-2) + half], dim=-1)


def point_offsets(points: Tensor) -> Tensor:
    """Offsets ``[B, 18, H, W]`` that make a 3×3 deformable convolution sample the points of each cell.

    Args:
        points: ``[B, 18, H, W]``, ``y, x`` of the nine points in cells, relative to the cell.

    Returns:
        The same relative to the kernel's regular grid, with a tenth of the gradient.
    """
    return gentle(points, OFFSET_GRADIENT) - regular_grid(points.device)[None, :, None, None]


class RepPointsHead(nn.Module):
    """Head over a pyramid of five levels, strides 8 to 128, shared by all levels.

    Args:
        classes: number of classes C.
        channels: channels of the pyramid and within the head.
        classification_loss: of the logits.
        stacked_convs: convolution blocks of a tower; a deformable convolution follows.
        norm_groups: groups of every GroupNorm.
        anchor_scale: objects of half as many strides are among the smallest of a level.
        init_std: of the head's convolutions.

    Shapes: five maps ``[B, channels, H_l, W_l]`` → ``Predictions`` with ``initial_boxes``.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        classification_loss: ClassificationLoss,
        *,
        stacked_convs: int = 3,
        norm_groups: int = 32,
        anchor_scale: float = 8.0,
        init_std: float = 0.01,
    ):
        super().__init__()
        self.classification_loss = classification_loss
        self.unit = anchor_scale / 2
        self.cls_tower = tower(stacked_convs, channels, channels, norm_groups)
        self.reg_tower = tower(stacked_convs, channels, channels, norm_groups)
        self.points_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.points_out = nn.Conv2d(channels, 2 * POINTS, 1)
        self.refine_conv = DeformConv(channels, channels)
        self.refine_out = nn.Conv2d(channels, 2 * POINTS, 1)
        self.cls_conv = DeformConv(channels, channels)
        self.cls_out = nn.Conv2d(channels, classes, 1)
        self.moment_transfer = nn.Parameter(torch.zeros(2))
        initialise_head(self, self.cls_out, init_std)

    def forward(self, pyramid: Sequence[Tensor]) -> Predictions:
        logits, initial, final = zip(*(self._level(x) for x in pyramid), strict=True)
        shapes = [tuple(x.shape[-2:]) for x in pyramid]
        points = pyramid_points(shapes, STRIDES, pyramid[0].device)
        return Predictions(
            logits=flatten_levels(logits),
            boxes=self._boxes(points, flatten_levels(final)),
            points=points,
            shapes=shapes,
            initial_boxes=self._boxes(points, flatten_levels(initial)),
        )

    def _level(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, initial and final points of one level; points in cells, ``y, x``, relative to the cell."""
        cls_features, reg_features = self.cls_tower(x), self.reg_tower(x)
        # Half precision has too few digits for coordinates.
        initial = self.points_out(self.points_conv(reg_features).relu()).float()
        offset = point_offsets(initial)
        shift = self.refine_out(self.refine_conv(reg_features, offset).relu())
        return self.cls_out(self.cls_conv(cls_features, offset).relu()), initial, initial.detach() + shift

    def _boxes(self, at: Sequence[Tensor], points: Tensor) -> Tensor:
        found = moment_boxes(points, gentle(self.moment_transfer, MOMENT_GRADIENT))
        return found * per_cell(STRIDES, at) + torch.cat(list(at)).repeat(1, 2)

    def assign_initial(self, predictions: Predictions, batch: Batch) -> Assignment:
        """The cell of each object whose initial box is to become it."""
        cells = cells_in_images(predictions.shapes, STRIDES, batch.sizes)
        return assign_nearest_point(predictions.points, batch.boxes, batch.valid, cells, unit=self.unit)

    def assign(self, predictions: Predictions, batch: Batch) -> Assignment:
        """For class and final box: by the IoU of the initial boxes."""
        cells = cells_in_images(predictions.shapes, STRIDES, batch.sizes)
        return assign_max_iou(predictions.initial_boxes.detach(), batch.boxes, batch.valid, cells)

    def loss(self, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
        """Terms ``cls``, ``box_initial`` and ``box``."""
        initial, assignment = self.assign_initial(predictions, batch), self.assign(predictions, batch)
        quality = aligned_iou(predictions.boxes.detach()[assignment.where], assignment.gather(batch.boxes))
        labels = assignment.gather(batch.labels)
        losses = classification_losses(self.classification_loss, predictions.logits, assignment, labels, quality)
        return {
            "cls": (losses.sum((1, 2)) * _shares(assignment)).sum(),
            "box_initial": INITIAL_WEIGHT * self._box_loss(predictions, predictions.initial_boxes, initial, batch),
            "box": BOX_WEIGHT * self._box_loss(predictions, predictions.boxes, assignment, batch),
        }

    def _box_loss(self, predictions: Predictions, boxes: Tensor, assignment: Assignment, batch: Batch) -> Tensor:
        """Smooth L1 of the positives among boxes ``[B, P, 4]`` in pixels, each relative to its level's object size."""
        image, cell = assignment.where
        size = per_cell([self.unit * stride for stride in STRIDES], predictions.points)[cell]
        loss = smooth_l1_loss(boxes[image, cell] / size, assignment.gather(batch.boxes) / size, SMOOTH)
        return (loss * _shares(assignment)[image]).sum()


def _shares(assignment: Assignment) -> Tensor:
    """What each image's losses are multiplied by, ``[B]``: an image without positives counts as one with one."""
    return image_weights(assignment.positive.sum(1).clamp(min=1))
