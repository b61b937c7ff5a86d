"""Quality branches: the localisation quality that an output of its own predicts, next to the class scores.

The logits of the branch are ``Predictions.quality``, and scores are multiplied by their sigmoid. A detector without
such a branch has None instead. Another branch is one more function here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from workbench.boxes import aligned_iou, encode_distances
from workbench.detectors.parts import full_precision
from workbench.losses.regression import centerness_target


@dataclass(frozen=True)
class QualityBranch:
    """Quality branch, stated by its target.

    Attributes:
        name: of the branch's term of the loss.
        target: function from N positives' points ``[N, 2]``, predicted boxes ``[N, 4]`` and objects ``[N, 4]`` to the
            target ``[N]`` in [0, 1], detached.
    """

    name: str
    target: Callable[[Tensor, Tensor, Tensor], Tensor]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sum of the binary cross entropy over N positives, of logits and targets ``[N]``."""
        return F.binary_cross_entropy_with_logits(full_precision(logits), target, reduction="sum")


def _centerness(points: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
    return centerness_target(encode_distances(points, objects))


def _iou(points: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
    return aligned_iou(boxes.detach(), objects)


CENTERNESS = QualityBranch("centerness", _centerness)
"""Centerness of the points in their objects (Tian et al., ICCV 2019, eq. 3)."""
IOU = QualityBranch("iou", _iou)
"""IoU of the predicted boxes with their objects (Jiang et al., ECCV 2018)."""
