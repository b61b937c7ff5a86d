"""From predictions to detections: candidates of each level, class-wise NMS, hard or soft, the best of an image.

Order of operations as in the released code: sigmoid → the best cells of each level → clip → every (box, class) pair
above the score threshold → times centerness → class-wise NMS → the best over all classes. NMS is invariant under the
scaling to original pixels, which is left to the caller. Of equal scores the first cell's comes first, on any device:
levels from fine to coarse, cells row by row (where a level has too many, by their best class).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torchvision
from torch import Tensor

from workbench.boxes import aligned_iou, clip_boxes
from workbench.detectors.predictions import Detections
from workbench.settings.variant import Variant

if TYPE_CHECKING:
    from workbench.detectors.predictions import Predictions


SOFT_FLOOR = 0.001
"""Soft NMS drops what falls under this score."""


def postprocess(predictions: Predictions, sizes: Tensor, variant: Variant) -> list[Detections]:
    """Detections of every image of a batch.

    Args:
        predictions: of B images.
        sizes: ``[B, 2]`` height and width of the images before padding, in pixels.
        variant: thresholds and limits.
    """
    scores = predictions.logits.float().sigmoid()
    quality = None
    if predictions.centerness is not None and variant.centerness:
        quality = predictions.centerness.float().sigmoid()
    boxes = clip_boxes(predictions.boxes.float(), sizes, predictions.clip_margin)
    kept = _candidate_cells(scores, quality, [len(level) for level in predictions.points], variant.candidates)
    scores = scores.gather(1, kept.unsqueeze(-1).expand(-1, -1, scores.shape[-1]))
    boxes = boxes.gather(1, kept.unsqueeze(-1).expand(-1, -1, 4))
    if quality is not None:
        quality = quality.gather(1, kept)
    return [
        _of_one_image(scores[i], boxes[i], None if quality is None else quality[i], variant) for i in range(len(scores))
    ]


def _candidate_cells(scores: Tensor, quality: Tensor | None, cells: list[int], limit: int) -> Tensor:
    """Indices ``[B, K]`` of the cells of highest score, at most ``limit`` of each level."""
    rank = scores.amax(-1)
    if quality is not None:
        rank = rank * quality
    kept, start = [], 0
    for count in cells:
        if count > limit:
            # Not topk, whose choice among equals is anybody's.
            order = rank[:, start : start + count].sort(descending=True, stable=True).indices
            kept.append(order[:, :limit] + start)
        else:
            kept.append(torch.arange(start, start + count, device=rank.device).expand(len(rank), -1))
        start += count
    return torch.cat(kept, dim=1)


def _of_one_image(scores: Tensor, boxes: Tensor, quality: Tensor | None, variant: Variant) -> Detections:
    cell, label = (scores > variant.score_threshold).nonzero(as_tuple=True)
    score = scores[cell, label]
    if quality is not None:
        score = score * quality[cell]
    box = boxes[cell]
    if variant.nms == "soft":
        keep, score = soft_nms(box, score, label, variant.nms_iou, variant.max_detections)
        return Detections(box[keep], score, label[keep])
    # Boxes of different classes are moved apart so that one NMS serves all; in double precision nothing is lost.
    shift = label * (boxes.max() + 1).double()
    keep = torchvision.ops.nms(box.double() + shift[:, None], score.double(), variant.nms_iou)
    keep = keep[: variant.max_detections]
    return Detections(box[keep], score[keep], label[keep])


def soft_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, limit: int) -> tuple[Tensor, Tensor]:
    """The best boxes of an image after linear soft-NMS, class by class (Bodla et al., ICCV 2017, eq. 3).

    The box of the highest score is picked, and those of its class that overlap it by ``iou`` or more have their scores
    multiplied by 1 - IoU; and so on. All classes take part in each round: one does not touch another's scores, and
    since scores only fall, the first ``limit`` picks are the best of all.

    Args:
        boxes, scores, labels: ``[N, 4]``, ``[N]`` and ``[N]``.

    Returns:
        Indices and scores, ``[M]`` each, by descending score; none is under 0.001.
    """
    boxes, left = boxes.double(), scores.double()
    picks, values = [], []
    for _ in range(min(limit, len(left))):  # on a GPU no round waits for its outcome
        value, pick = left.max(0, keepdim=True)
        overlap = aligned_iou(boxes[pick], boxes)
        falls = (overlap >= iou) & (labels == labels[pick])
        left = torch.where(falls, left * (1 - overlap), left).index_fill(0, pick, 0.0)
        picks.append(pick)
        values.append(value)
    if not picks:
        return labels[:0], scores[:0]
    index, value = torch.cat(picks), torch.cat(values)
    stays = value >= SOFT_FLOOR
    return index[stays], value[stays].to(scores.dtype)
