"""VFNet (Zhang et al., CVPR 2021) and its ancestors, one head with three switches.

``star`` and ``refine``: the full VFNet (section 4). Neither: raw VFNet, which is FCOS + ATSS without centerness.
``star`` alone: the classification branch reads star-shaped features, the box stays the initial one (row 3 of Table 3;
no code was released). ``centerness`` instead of both: FCOS + ATSS (last row of Table 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.assigners.assignment import Assignment
from workbench.assigners.atss import assign_atss
from workbench.boxes import aligned_iou, cells_in_images, decode_distances, encode_distances, pyramid_points
from workbench.data.batch import Batch
from workbench.detectors.parts import STRIDES, Scales, conv_block, flatten_levels, gentle, initialise_head, tower
from workbench.detectors.predictions import Predictions
from workbench.detectors.targets import LEAST_QUALITY, classification_losses, mean_over_ranks
from workbench.layers.deform import DeformConv, regular_grid
from workbench.layers.necks import FPN, PAFPN
from workbench.losses.classification import ClassificationLoss
from workbench.losses.regression import centerness_target, giou_loss
from workbench.settings.experiment import Experiment

OFFSET_GRADIENT = 0.1
"""Share of the star offsets' gradient that reaches the initial box."""
LEAST_CENTERNESS = 1e-6
"""Floor of the sum of centerness targets that normalises FCOS + ATSS's box loss; sums of IoUs count at least 1."""
INITIAL_WEIGHT, BOX_WEIGHT = 1.5, 2.0
"""Weights of the GIoU losses of the initial and of the final box."""


def star_offsets(distances: Tensor, stride: int) -> Tensor:
    """Offsets that make a 3×3 deformable convolution sample the nine points of a star (section 4.2).

    The points are the cell's own, the box's corners and the feet of the perpendiculars on its sides.

    Args:
        distances: ``[B, 4, H, W]``, ``l, t, r, b`` of each cell's box in pixels.
        stride: pixels a cell.

    Returns:
        ``[B, 18, H, W]``: ``dy, dx`` of each tap, in cells, relative to the regular grid.
    """
    left, top, right, bottom = (distances / stride).unbind(1)
    zero = torch.zeros_like(left)
    rows, columns = (-top, zero, bottom), (-left, zero, right)
    taps = [coordinate for dy in rows for dx in columns for coordinate in (dy, dx)]
    return torch.stack(taps, dim=1) - regular_grid(distances.device)[None, :, None, None]


def build_vfnet(experiment: Experiment, in_channels: Sequence[int]) -> tuple[nn.Module, VFNetHead]:
    """Neck and head for a backbone with these channels."""
    settings, detector = experiment.head, experiment.detector
    if detector.neck == "pafpn":
        neck = PAFPN(in_channels, settings.channels, settings.norm_groups)
    else:
        neck = FPN(in_channels, settings.channels)
    return neck, VFNetHead(
        experiment.data.classes,
        settings.channels,
        settings.channels,
        experiment.loss,
        star=detector.star,
        refine=detector.refine,
        centerness=detector.centerness,
        stacked_convs=settings.stacked_convs,
        norm_groups=settings.norm_groups,
        anchor_scale=settings.anchor_scale,
        init_std=settings.init_std,
        dcn=experiment.backbone.dcn,
    )


class VFNetHead(nn.Module):
    """Head over a pyramid of five levels, strides 8 to 128, shared by all levels but for the scales.

    Args:
        classes: number of classes C.
        in_channels: channels of the pyramid.
        channels: channels within the head.
        classification_loss: of the logits.
        star, refine, centerness: the switches described above.
        stacked_convs: convolution blocks of a tower before the star (or one more block) follows.
        norm_groups: groups of every GroupNorm.
        anchor_scale: side of ATSS's anchors, and of an untrained initial box's half, in strides.
        init_std: of the head's convolutions.
        dcn: DCNv2 in the last stacked block of both towers, as the released heads of backbones with DCN have it.

    Shapes: five maps ``[B, in_channels, H_l, W_l]`` → ``Predictions``.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int,
        channels: int,
        classification_loss: ClassificationLoss,
        *,
        star: bool = True,
        refine: bool = True,
        centerness: bool = False,
        stacked_convs: int = 3,
        norm_groups: int = 32,
        anchor_scale: float = 8.0,
        init_std: float = 0.01,
        dcn: bool = False,
    ):
        super().__init__()
        self.classification_loss = classification_loss
        self.sides = [anchor_scale * stride for stride in STRIDES]
        self.cls_tower = tower(stacked_convs, in_channels, channels, norm_groups, last_deformable=dcn)
        self.reg_tower = tower(stacked_convs, in_channels, channels, norm_groups, last_deformable=dcn)
        self.box_conv = conv_block(channels, channels, norm_groups)
        self.box_out = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales = Scales(len(STRIDES))
        self.star, self.refine = star, refine
        if star:
            self.cls_star = DeformConv(channels, channels)
        else:
            self.cls_conv = conv_block(channels, channels, norm_groups)
        if refine:
            self.box_star = DeformConv(channels, channels)
            self.refine_out = nn.Conv2d(channels, 4, 3, padding=1)
            self.refine_scales = Scales(len(STRIDES))
        self.cls_out = nn.Conv2d(channels, classes, 3, padding=1)
        self.centerness_out = nn.Conv2d(channels, 1, 3, padding=1) if centerness else None
        initialise_head(self, self.cls_out, init_std)

    def forward(self, pyramid: Sequence[Tensor]) -> Predictions:
        levels = [self._level(x, level) for level, x in enumerate(pyramid)]
        logits, initial, final, centerness = zip(*levels, strict=True)
        shapes = [tuple(x.shape[-2:]) for x in pyramid]
        points = pyramid_points(shapes, STRIDES, pyramid[0].device)
        at = torch.cat(points)
        return Predictions(
            logits=flatten_levels(logits),
            boxes=decode_distances(at, flatten_levels(final)),
            points=points,
            shapes=shapes,
            initial_boxes=decode_distances(at, flatten_levels(initial)) if self.refine else None,
            centerness=flatten_levels(centerness).squeeze(-1) if self.centerness_out else None,
        )

    def _level(self, x: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Logits, initial and final distances in pixels, centerness logits of one level."""
        cls_features, reg_features = self.cls_tower(x), self.reg_tower(x)
        box_features = self.box_conv(reg_features)
        # exp overflows half precision, so distances are made in single precision.
        initial = self.scales(self.box_out(box_features).float(), level).exp() * self.sides[level]
        final = initial
        if self.star:
            offset = star_offsets(gentle(initial, OFFSET_GRADIENT), STRIDES[level])
            cls_features = self.cls_star(cls_features, offset).relu()
        else:
            cls_features = self.cls_conv(cls_features)
        if self.refine:
            # The star reads the stacked tower's features, not those of the block that made the initial box.
            refined = self.refine_out(self.box_star(reg_features, offset).relu())
            final = self.refine_scales(refined.float(), level).exp() * initial.detach()
        centerness = self.centerness_out(box_features) if self.centerness_out else None
        return self.cls_out(cls_features), initial, final, centerness

    def assign(self, predictions: Predictions, batch: Batch) -> Assignment:
        """ATSS over the batch."""
        cells = cells_in_images(predictions.shapes, STRIDES, batch.sizes)
        return assign_atss(predictions.points, self.sides, batch.boxes, batch.valid, cells)

    def loss(self, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
        """Terms ``cls``, ``box``, and ``box_initial`` or ``centerness`` where the head has them."""
        assignment = self.assign(predictions, batch)
        positive = assignment.positive
        targets, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
        boxes = predictions.boxes[positive]
        quality = aligned_iou(boxes.detach(), targets)
        initial = None if predictions.initial_boxes is None else predictions.initial_boxes[positive]
        initial_quality = quality if initial is None else aligned_iou(initial.detach(), targets)
        box_weight, centerness = quality, None
        if predictions.centerness is not None:
            points = torch.cat(list(predictions.points)).expand(len(positive), -1, -1)[positive]
            box_weight = centerness = centerness_target(encode_distances(points, targets))

        count, weight_sum, initial_sum = mean_over_ranks(positive.sum(), box_weight.sum(), initial_quality.sum())
        count = count.clamp(min=1)
        wanted = quality.clamp(min=LEAST_QUALITY)
        losses = classification_losses(self.classification_loss, predictions.logits, assignment, labels, wanted)
        terms = {"cls": losses.sum() / count}
        if initial is not None:
            loss = giou_loss(initial, targets) * initial_quality
            terms["box_initial"] = INITIAL_WEIGHT * loss.sum() / initial_sum.clamp(min=1)
        least = 1 if centerness is None else LEAST_CENTERNESS
        terms["box"] = BOX_WEIGHT * (giou_loss(boxes, targets) * box_weight).sum() / weight_sum.clamp(min=least)
        if centerness is not None:
            logits = predictions.centerness[positive].float()
            terms["centerness"] = F.binary_cross_entropy_with_logits(logits, centerness, reduction="sum") / count
        return terms
