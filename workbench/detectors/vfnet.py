"""VFNet (Zhang et al., CVPR 2021) and its ancestors, one head with two switches and a quality branch.

``star`` and ``refine``: the full VFNet (section 4). Neither: raw VFNet, which is FCOS + ATSS without centerness.
``star`` alone: the classification branch reads star-shaped features, the box stays the initial one (row 3 of Table 3;
no code was released). A centerness branch instead of both: FCOS + ATSS (last row of Table 3). As a control, the star
may sample the regular grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.assigners.assignment import Assignment
from workbench.assigners.atss import ATSSAssigner
from workbench.boxes import aligned_iou, decode_distances
from workbench.data.batch import Batch
from workbench.detectors.detector import DenseDetector
from workbench.detectors.family import SCALES, TOWERS, Family, MMDetectionNames
from workbench.detectors.parts import (
    Scales,
    conv_block,
    flatten_levels,
    full_precision,
    initialise_head,
    scale_gradient,
    tower,
)
from workbench.detectors.predictions import Predictions, Pyramid
from workbench.detectors.quality import CENTERNESS, QualityBranch
from workbench.detectors.targets import LEAST_QUALITY, classification_losses
from workbench.detectors.terms import Term, normalised
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.convolution import Conv2d
from workbench.layers.deform import DeformConv, regular_grid
from workbench.layers.necks import FPN, PAFPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import giou_loss
from workbench.settings.detectors import VFNet
from workbench.settings.experiment import Experiment, Head
from workbench.settings.variant import published_variant

OFFSET_GRADIENT = 0.1
"""Factor of the star offsets' gradient on its way to the initial box."""
LEAST_SUM = 1e-6
"""Floor of the sum of quality targets that normalises the box loss; sums of IoUs count at least 1."""
INITIAL_WEIGHT, BOX_WEIGHT = 1.5, 2.0
"""Weights of the GIoU losses of the initial and of the final box."""


def build_vfnet(experiment: Experiment, backbone: ResidualBackbone) -> DenseDetector:
    """VFNet, or one of its ancestors, with random weights."""
    settings, detector = experiment.head, experiment.detector
    quality = CENTERNESS if detector.centerness else None
    if detector.neck == "pafpn":
        neck = PAFPN(backbone.channels, settings.channels, settings.norm_groups)
    else:
        neck = FPN(backbone.channels, settings.channels)
    head = VFNetHead(
        settings,
        experiment.data.classes,
        levels=len(neck.output_strides(backbone.strides)),
        star=detector.star,
        on_grid=detector.star_points == "grid",
        refine=detector.refine,
        quality_branch=quality is not None,
        dcn=experiment.backbone.dcn,
    )
    objective = VFNetObjective(experiment.loss, quality)
    assigner = ATSSAssigner(settings.anchor_scale)
    return DenseDetector(backbone, neck, head, assigner, objective, published_variant(experiment))


def star_offsets(distances: Tensor, stride: int) -> Tensor:
    """Offsets with which a 3×3 deformable convolution samples the nine points of a star (section 4.2).

    The points are the location's own, the box's corners and the feet of the perpendiculars on its sides.

    Args:
        distances: ``[B, 4, H, W]``, ``l, t, r, b`` of each location's box in pixels.
        stride: of the level, in pixels.

    Returns:
        ``[B, 18, H, W]``: ``dy, dx`` of each tap, in strides, relative to the regular grid.
    """
    left, top, right, bottom = (distances / stride).unbind(1)
    zero = torch.zeros_like(left)
    rows, columns = (-top, zero, bottom), (-left, zero, right)
    taps = [coordinate for dy in rows for dx in columns for coordinate in (dy, dx)]
    return torch.stack(taps, dim=1) - regular_grid(distances.device)[None, :, None, None]


class VFNetHead(nn.Module):
    """Network over a pyramid, shared by all levels except the scales.

    Boxes are coded as logarithms of the distances from a location to the sides, over ``anchor_scale`` strides.

    Args:
        settings: widths, depth, sizes and start values.
        classes: number of classes C.
        levels: number of pyramid levels.
        star, refine: the switches described above; ``refine`` needs ``star``.
        on_grid: whether the star samples the regular grid, whatever the box, so that it is an ordinary convolution.
        quality_branch: whether the head has a quality branch.
        dcn: DCNv2 in the last stacked block of both towers, as in the released heads of backbones with DCN.

    Shapes: maps ``[B, channels, H_l, W_l]`` → ``Predictions``.
    """

    def __init__(
        self,
        settings: Head,
        classes: int,
        levels: int,
        *,
        star: bool = True,
        on_grid: bool = False,
        refine: bool = True,
        quality_branch: bool = False,
        dcn: bool = False,
    ):
        super().__init__()
        self.star, self.on_grid, self.refine, self.anchor_scale = star, on_grid, refine, settings.anchor_scale
        depth, channels, norm_groups = settings.stacked_convs, settings.channels, settings.norm_groups
        self.cls_tower = tower(depth, channels, channels, norm_groups, last_deformable=dcn)
        self.reg_tower = tower(depth, channels, channels, norm_groups, last_deformable=dcn)
        self.box_conv = conv_block(channels, channels, norm_groups)
        self.box_out = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales = Scales(levels)
        if star:
            self.cls_star = DeformConv(channels, channels)
        else:
            self.cls_conv = conv_block(channels, channels, norm_groups)
        if refine:
            self.box_star = DeformConv(channels, channels)
            self.refine_out = nn.Conv2d(channels, 4, 3, padding=1)
            self.refine_scales = Scales(levels)
        self.cls_out = Conv2d(channels, classes, 3, padding=1)
        # Output of the quality branch, whatever its target; files with weights have this name.
        self.centerness_out = nn.Conv2d(channels, 1, 3, padding=1) if quality_branch else None
        initialise_head(self, self.cls_out, settings.init_std)

    def forward(self, pyramid: Pyramid) -> Predictions:
        levels = [self._level(x, level, pyramid.strides[level]) for level, x in enumerate(pyramid.maps)]
        logits, initial, final, quality = zip(*levels, strict=True)
        points = pyramid.points()
        all_points = torch.cat(points)
        return Predictions(
            logits=flatten_levels(logits),
            boxes=decode_distances(all_points, flatten_levels(final)),
            points=points,
            shapes=pyramid.shapes,
            strides=pyramid.strides,
            initial_boxes=decode_distances(all_points, flatten_levels(initial)) if self.refine else None,
            quality=flatten_levels(quality).squeeze(-1) if self.centerness_out else None,
        )

    def _level(self, x: Tensor, level: int, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Logits, initial and final distances in pixels, and quality logits of one level."""
        cls_features, reg_features = self.cls_tower(x), self.reg_tower(x)
        box_features = self.box_conv(reg_features)
        # exp overflows half precision, so distances are computed in single precision.
        initial = self.scales(full_precision(self.box_out(box_features)), level).exp() * (self.anchor_scale * stride)
        final = initial
        if self.star:
            # A box of one stride to each side makes all offsets zero.
            box = torch.full_like(initial, stride) if self.on_grid else scale_gradient(initial, OFFSET_GRADIENT)
            offset = star_offsets(box, stride)
            cls_features = self.cls_star(cls_features, offset).relu()
        else:
            cls_features = self.cls_conv(cls_features)
        if self.refine:
            # The star reads the features of the tower, not of the block that predicts the initial box.
            refined = self.refine_out(self.box_star(reg_features, offset).relu())
            final = self.refine_scales(full_precision(refined), level).exp() * initial.detach()
        quality = self.centerness_out(box_features) if self.centerness_out else None
        return self.cls_out(cls_features), initial, final, quality


@dataclass(frozen=True)
class VFNetObjective:
    """Terms ``cls`` and ``box``; refinement adds ``box_initial``, and the quality branch adds a term of its name.

    Attributes:
        classification: loss of the logits.
        quality: the quality branch, whose target weights the box loss; if None, the IoU weights it.
    """

    classification: ClassificationLoss
    quality: QualityBranch | None = None

    def __call__(self, predictions: Predictions, assignment: Assignment, batch: Batch) -> dict[str, Term]:
        image, location = assignment.places
        objects, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
        boxes = predictions.boxes[image, location]
        iou = aligned_iou(boxes.detach(), objects)
        initial = None if predictions.initial_boxes is None else predictions.initial_boxes[image, location]
        initial_iou = iou if initial is None else aligned_iou(initial.detach(), objects)
        weight, least_sum = iou, 1.0
        if self.quality is not None:
            weight, least_sum = self.quality.target(predictions.all_points[location], boxes, objects), LEAST_SUM

        count = assignment.positive.sum()
        target = iou.clamp(min=LEAST_QUALITY)
        losses = classification_losses(self.classification, predictions.logits, assignment, labels, target)
        terms = {"cls": normalised(losses.sum(), count)}
        if initial is not None:
            loss = INITIAL_WEIGHT * (giou_loss(initial, objects) * initial_iou).sum()
            terms["box_initial"] = normalised(loss, initial_iou.sum())
        loss = BOX_WEIGHT * (giou_loss(boxes, objects) * weight).sum()
        terms["box"] = normalised(loss, weight.sum(), least_sum)
        if self.quality is not None:
            loss = self.quality.loss(predictions.quality[image, location], weight)
            terms[self.quality.name] = normalised(loss, count)
        return terms


def mmdetection_names(experiment: Experiment) -> MMDetectionNames:
    """Names of tensors in MMDetection's ``VFNetHead``; without star convolution, names in its ``FCOSHead``."""
    detector, stacked = experiment.detector, experiment.head.stacked_convs
    if detector.star:
        head = {
            "bbox_head.scales_refine.": "head.refine_scales.",
            "bbox_head.vfnet_reg_conv.": "head.box_conv.",
            "bbox_head.vfnet_reg.": "head.box_out.",
            "bbox_head.vfnet_reg_refine_dconv.": "head.box_star.",
            "bbox_head.vfnet_reg_refine.": "head.refine_out.",
            "bbox_head.vfnet_cls_dconv.": "head.cls_star.",
            "bbox_head.vfnet_cls.": "head.cls_out.",
        }
    else:
        head = {
            "bbox_head.conv_cls.": "head.cls_out.",
            "bbox_head.conv_reg.": "head.box_out.",
            "bbox_head.conv_centerness.": "head.centerness_out.",
            # FCOS's towers are one block longer: the block is a module of its own here.
            f"bbox_head.cls_convs.{stacked}.": "head.cls_conv.",
            f"bbox_head.reg_convs.{stacked}.": "head.box_conv.",
        }
    return MMDetectionNames(TOWERS | SCALES | head, neck=detector.neck)


VFNET_FAMILY = Family(VFNet, build_vfnet, mmdetection_names)
