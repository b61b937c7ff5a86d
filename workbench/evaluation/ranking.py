"""Ranking of boxes: score and IoU of a detector's foreground locations, and the rank correlation of both."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.data.coco import CocoDetection
from workbench.detectors import DenseDetector
from workbench.detectors.oracle import foreground_iou
from workbench.evaluation.inference import predicted_images
from workbench.settings.data import ImageSize
from workbench.support.progress import Reporter


def foreground_locations(
    detector: DenseDetector,
    data: CocoDetection,
    size: ImageSize,
    device: torch.device | str,
    workers: int = 0,
    reporter: Reporter | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """IoU ``[N]`` and score ``[N]`` of all foreground locations of a data set, in file order.

    The score is the object's class score as used by NMS; the output of a quality branch is multiplied in. The IoU is
    the IoU of the predicted box, not clipped to the image, with the object.
    """
    ious, scores = [], []
    for batch, predictions in predicted_images(detector, data, size, device, workers, reporter):
        assignment = detector.assign(predictions, batch)
        image, location = assignment.places
        classes, quality = predictions.scores()
        score = classes[image, location, assignment.gather(batch.labels)]
        if quality is not None:
            score = score * quality[image, location]
        ious.append(foreground_iou(predictions, assignment, batch).cpu())
        scores.append(score.cpu())
    return torch.cat(ious).double().numpy(), torch.cat(scores).double().numpy()


def spearman(ious: NDArray[np.float64], scores: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation; None if all IoU, or all scores, are equal, or if there is no location."""
    from scipy.stats import spearmanr

    if any(len(np.unique(values)) < 2 for values in (ious, scores)):
        return None
    return float(spearmanr(ious, scores).statistic)
