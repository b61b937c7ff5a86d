"""From predictions to detections: candidates of each level, class-wise NMS, hard or soft, the best of an image.

Order of operations as in the released code: scores → the best locations of each level → clip → all (box, class) pairs
whose class score is above the threshold → times quality → class-wise NMS → the best over all classes. NMS gives the
same result at any scale, so the scaling to original pixels comes last. Of equal scores the first location's comes
first, on any device: levels from fine to coarse, locations row by row (by their best class, if a level has too many).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor

from workbench.boxes import aligned_iou, clip_boxes
from workbench.data.batch import Batch
from workbench.detectors.predictions import Detections, Predictions
from workbench.settings.variant import Variant

SOFT_FLOOR = 0.001
"""Smallest score that soft NMS keeps."""


def postprocess(predictions: Predictions, sizes: Tensor, variant: Variant) -> list[Detections]:
    """Detections of every image of a batch.

    Args:
        predictions: of B images.
        sizes: ``[B, 2]`` height and width of the images before padding, in pixels.
        variant: thresholds and limits.
    """
    scores = predictions.scores(with_quality=variant.centerness)
    boxes = clip_boxes(predictions.boxes.float(), sizes, predictions.clip_margin)
    kept = _candidates(scores.best, [len(level) for level in predictions.points], variant.candidates)
    classes = scores.classes.gather(1, kept.unsqueeze(-1).expand(-1, -1, scores.classes.shape[-1]))
    boxes = boxes.gather(1, kept.unsqueeze(-1).expand(-1, -1, 4))
    quality = [None] * len(boxes) if scores.quality is None else scores.quality.gather(1, kept)
    return [_one_image(*parts, variant) for parts in zip(classes, boxes, quality, strict=True)]


def to_original_pixels(detections: Sequence[Detections], batch: Batch) -> list[Detections]:
    """Detections of a batch's images, on the CPU and in pixels of the images on disk."""
    scales = (batch.original_sizes.cpu() / batch.sizes.cpu()).flip(1).repeat(1, 2)
    return [
        Detections(one.boxes.cpu() * scale, one.scores.cpu(), one.labels.cpu())
        for one, scale in zip(detections, scales, strict=True)
    ]


def _candidates(rank: Tensor, counts: Sequence[int], limit: int) -> Tensor:
    """Indices ``[B, K]`` of the locations of highest rank ``[B, P]``, at most ``limit`` of each level."""
    kept, start = [], 0
    for count in counts:
        if count > limit:
            # A stable sort, because the choice of topk in a tie is undefined.
            order = rank[:, start : start + count].sort(descending=True, stable=True).indices
            kept.append(order[:, :limit] + start)
        else:
            kept.append(torch.arange(start, start + count, device=rank.device).expand(len(rank), -1))
        start += count
    return torch.cat(kept, dim=1)


def _one_image(scores: Tensor, boxes: Tensor, quality: Tensor | None, variant: Variant) -> Detections:
    """Detections of an image from class scores ``[K, C]``, boxes ``[K, 4]`` and qualities ``[K]`` of its candidates."""
    location, label = (scores > variant.score_threshold).nonzero(as_tuple=True)
    score = scores[location, label]
    if quality is not None:
        score = score * quality[location]
    box = boxes[location]
    if variant.nms == "soft":
        keep, score = soft_nms(box, score, label, variant.nms_iou, variant.max_detections)
        return Detections(box[keep], score, label[keep])
    # Boxes of different classes are moved apart, so that one NMS serves all; double precision loses no digits.
    shift = label * (boxes.max() + 1).double()
    keep = torchvision.ops.nms(box.double() + shift[:, None], score.double(), variant.nms_iou)
    keep = keep[: variant.max_detections]
    return Detections(box[keep], score[keep], label[keep])


def soft_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, limit: int) -> tuple[Tensor, Tensor]:
    """Select the best boxes of an image by linear soft-NMS, class by class (Bodla et al., ICCV 2017, eq. 3).

    The box of highest score is picked. Each box of its class that overlaps it by ``iou`` or more has its score
    multiplied by 1 - IoU. Then the next box is picked, and so on. All classes take part in each round, since one class
    does not change another's scores. Scores only decrease, so the first ``limit`` picks are the best of all.

    Args:
        boxes, scores, labels: ``[N, 4]``, ``[N]`` and ``[N]``.
        iou: threshold of the overlap.
        limit: largest number of picks.

    Returns:
        Indices and scores, ``[M]`` each, by descending score; no score is under 0.001.
    """
    boxes, left = boxes.double(), scores.double()
    picks, values = [], []
    for _ in range(min(limit, len(left))):  # on a GPU no round waits for its result
        value, pick = left.max(0, keepdim=True)
        overlap = aligned_iou(boxes[pick], boxes)
        decreases = (overlap >= iou) & (labels == labels[pick])
        left = torch.where(decreases, left * (1 - overlap), left).index_fill(0, pick, 0.0)
        picks.append(pick)
        values.append(value)
    if not picks:
        return labels[:0], scores[:0]
    index, value = torch.cat(picks), torch.cat(values)
    keep = value >= SOFT_FLOOR
    return index[keep], value[keep].to(scores.dtype)
