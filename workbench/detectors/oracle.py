"""Oracles: ground truth put in the place of what foreground cells predict (Table 1; section 3).

What would a detector reach if one of its outputs were perfect? Foreground cells are those that the detector's own
assigner gives an object (anchors, where a cell has several); nothing changes anywhere else, nor do a foreground cell's
scores of other classes. It happens before post-processing, so that the choice of candidates, the score threshold and
NMS all see the truth.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from workbench.assigners.assignment import Assignment
from workbench.boxes import aligned_iou, encode_distances
from workbench.data.batch import Batch
from workbench.detectors.predictions import Predictions
from workbench.losses.regression import centerness_target
from workbench.settings.variant import Oracle
from workbench.support.errors import WorkbenchError


def put_truth(predictions: Predictions, assignment: Assignment, batch: Batch, oracle: Oracle) -> Predictions:
    """Predictions of a batch with the oracle's part of the truth at foreground cells.

    Replaced are the object's class in ``logits``, ``boxes`` and ``centerness``; ``codes`` and ``initial_boxes`` stay.
    An IoU is that of the cell's box as it leaves the oracle, not clipped to the image: of true boxes it is 1.

    Args:
        predictions: of B images and P cells.
        assignment: ``[B, P]``, of the same cells.
        batch: with the objects that the assignment speaks of.

    Raises:
        WorkbenchError: a centerness is to be replaced and there is none.
    """
    image, cell = assignment.where
    truth, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
    if oracle.boxes:
        boxes = predictions.boxes.float().index_put((image, cell), truth)
        predictions = replace(predictions, boxes=boxes)
    if oracle.score:
        iou = foreground_iou(predictions, assignment, batch)
        score = iou if oracle.score == "iou" else iou.new_ones(len(iou))
        logits = predictions.logits.float().index_put((image, cell, labels), _logit(score))
        predictions = replace(predictions, logits=logits)
    if oracle.centerness:
        if predictions.centerness is None:
            raise WorkbenchError("oracle: this detector has no centerness to replace; choose another oracle")
        if oracle.centerness == "iou":
            quality = foreground_iou(predictions, assignment, batch)
        else:
            points = torch.cat(list(predictions.points))[cell].double()
            quality = centerness_target(encode_distances(points, truth.double()))
        centerness = predictions.centerness.float().index_put((image, cell), _logit(quality))
        predictions = replace(predictions, centerness=centerness)
    return predictions


def foreground_iou(predictions: Predictions, assignment: Assignment, batch: Batch) -> Tensor:
    """IoU ``[N]``, float64, of each foreground cell's box, not clipped to the image, with its object."""
    boxes = predictions.boxes[assignment.where].double()
    return aligned_iou(boxes, assignment.gather(batch.boxes).double()).clamp(max=1)


def _logit(probability: Tensor) -> Tensor:
    """Logits of probabilities in [0, 1]: post-processing takes their sigmoid.

    Those of 0 and 1 are infinite and come back exactly; others, made in double precision, come back within 1e-7.
    """
    return probability.logit().float()
