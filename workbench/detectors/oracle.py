"""Oracles: ground truth in place of the predictions of foreground locations (Table 1; section 3).

How good would a detector be if one of its outputs were perfect? Foreground locations are those to which the detector's
own assigner gives an object. Nothing changes at other locations, and a foreground location keeps its scores of other
classes. The replacement comes before post-processing, so that the choice of candidates, the score threshold and NMS
use the truth.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from workbench.assigners.assignment import Assignment
from workbench.boxes import aligned_iou, encode_distances
from workbench.data.batch import Batch
from workbench.detectors.predictions import Predictions
from workbench.losses.regression import centerness_target
from workbench.settings.variant import Oracle
from workbench.support.errors import WorkbenchError


def put_truth(predictions: Predictions, assignment: Assignment, batch: Batch, oracle: Oracle) -> Predictions:
    """Predictions of a batch in which the oracle's outputs are ground truth at foreground locations.

    The oracle can replace ``boxes``, ``quality``, and in ``logits`` the score of the object's class. It never replaces
    ``codes`` and ``initial_boxes``. The IoU is computed with the location's box after the box is replaced, and not
    clipped to the image. The IoU of a true box is therefore 1.

    Args:
        predictions: predictions for P locations of B images.
        assignment: assignment ``[B, P]`` of the same locations.
        batch: images with the objects of the assignment.
        oracle: parts to replace; its centerness replaces the output of the quality branch, whatever the target.

    Raises:
        WorkbenchError: the oracle replaces a centerness and the detector has no quality branch.
    """
    image, location = assignment.places
    objects, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
    if oracle.boxes:
        boxes = predictions.boxes.float().index_put((image, location), objects)
        predictions = replace(predictions, boxes=boxes)
    if oracle.score:
        iou = foreground_iou(predictions, assignment, batch)
        score = iou if oracle.score == "iou" else iou.new_ones(len(iou))
        logits = predictions.logits.float().index_put((image, location, labels), _logit(score))
        predictions = replace(predictions, logits=logits)
    if oracle.centerness:
        if predictions.quality is None:
            raise WorkbenchError("oracle: this detector has no centerness to replace; choose another oracle")
        if oracle.centerness == "iou":
            truth = foreground_iou(predictions, assignment, batch)
        else:
            points = predictions.all_points[location].double()
            truth = centerness_target(encode_distances(points, objects.double()))
        quality = predictions.quality.float().index_put((image, location), _logit(truth))
        predictions = replace(predictions, quality=quality)
    return predictions


def foreground_iou(predictions: Predictions, assignment: Assignment, batch: Batch) -> Tensor:
    """IoU ``[N]``, float64, of each foreground location's box, not clipped to the image, with its object."""
    boxes = predictions.boxes[assignment.places].double()
    return aligned_iou(boxes, assignment.gather(batch.boxes).double()).clamp(max=1)


def _logit(probability: Tensor) -> Tensor:
    """Logits of probabilities in [0, 1]; ``Predictions.scores`` takes their sigmoid.

    Logits of 0 and 1 are infinite, and their sigmoids are exact. Other sigmoids are within 1e-7 of the probability,
    since the logits are computed in double precision.
    """
    return probability.logit().float()
