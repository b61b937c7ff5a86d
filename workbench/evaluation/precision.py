"""Precision and recall of matched boxes, for each class and range of areas, as pycocotools accumulates them.

The protocol is COCO's for boxes (https://cocodataset.org/#detection-eval). A test compares all tables with those of
pycocotools bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.evaluation.matching import MOST_DETECTIONS, Objects, Ranked, match, overlapping_pairs

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recall points, bit for bit as in pycocotools: 35 of 100 objects do not reach the 36th, 0.35000000000000003."""
AREAS = {"": (0.0, 1e10), "S": (0.0, 32.0**2), "M": (32.0**2, 96.0**2), "L": (96.0**2, 1e10)}
"""Ranges of areas in square pixels, both ends included, by the last letter of a metric. All sizes come first."""
LIMITS = {"AR1": 1, "AR10": 10, "AR100": MOST_DETECTIONS}
"""Number of detections per image and class for each recall of objects of all sizes."""


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Matches of detections and objects, and the precision and recall that follow from the matches.

    I images, K classes, D detections, T IoU thresholds, R recall points. The detections are sorted by class, then in
    descending order of score.

    Attributes:
        image_ids: I ids in ascending order.
        category_ids, class_names: ids of the K classes in ascending order, and their names.
        detections: number of detections before the limit of `MOST_DETECTIONS`.
        starts: ``[K + 1]``, index of the first detection of each class, and D.
        image_of: ``[D]``, index of each detection's image.
        hits: ``[T, D]``, whether a detection matches an object; objects of all sizes, without crowds.
        ignored: ``[T, D]``, whether a detection counts neither as a hit nor as a miss.
        objects: ``[K, I]``, number of objects of all sizes, without crowds.
        precision: ``[T, R, K]`` by range of areas; -1 for a class without objects in this range.
        recall: ``[T, K]`` by name of a metric; -1 as in ``precision``.
    """

    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    detections: int
    starts: NDArray[np.int64]
    image_of: NDArray[np.int64]
    hits: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]
    precision: dict[str, NDArray[np.float64]]
    recall: dict[str, NDArray[np.float64]]


def evaluate_boxes(
    objects: Objects,
    ranked: Ranked,
    image_ids: tuple[int, ...],
    category_ids: tuple[int, ...],
    class_names: tuple[str, ...],
    detections: int,
) -> Evaluated:
    """Match objects and detections, and compute precision and recall. See `Evaluated` for the arguments."""
    images, classes = len(image_ids), len(category_ids)
    order = np.lexsort((-ranked.scores, ranked.group // images))
    starts = np.searchsorted(ranked.group, np.arange(classes + 1) * images)
    pairs, rank = overlapping_pairs(objects, ranked), ranked.rank[order]
    all_sizes, precision, recall = None, {}, {}
    for area, limits in AREAS.items():
        hits, ignored = (table[:, order] for table in match(objects, ranked, pairs, limits))
        counted = np.bincount(objects.group[~objects.outside(limits)], minlength=classes * images)
        counted = counted.reshape(classes, images)
        all_sizes = all_sizes or (hits, ignored, counted)
        precision[area] = _precision(hits, ignored, starts, counted.sum(axis=1))
        for name, most in LIMITS.items() if not area else [(f"AR{area}", MOST_DETECTIONS)]:
            recall[name] = _recall(hits & (rank < most), starts, counted.sum(axis=1))
    image_of = ranked.group[order] % images
    return Evaluated(image_ids, category_ids, class_names, detections, starts, image_of, *all_sizes, precision, recall)


def _precision(
    hits: NDArray[np.bool_], ignored: NDArray[np.bool_], starts: NDArray[np.int64], objects: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Precision ``[T, R, K]`` at the recall points, not falling towards lower recall; see `Evaluated`.

    Precision never rises between two hits, and recall rises at a hit only. The hits are therefore sufficient.

    Args:
        objects: ``[K]``, number of objects of each class.
    """
    table = np.full((len(hits), len(RECALLS), len(objects)), -1.0)
    for k in np.flatnonzero(objects):
        part = slice(starts[k], starts[k + 1])
        counted = np.cumsum(~ignored[:, part], axis=1)
        for t, here in enumerate(hits[:, part]):
            places = np.flatnonzero(here)
            true = np.arange(1, len(places) + 1)
            precision = true / (counted[t, places] + np.spacing(1))
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            reached = np.searchsorted(true / objects[k], RECALLS)
            table[t, :, k] = np.append(envelope, 0.0)[reached]  # 0 at recall points that no hit reaches
    return table


def _recall(hits: NDArray[np.bool_], starts: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.float64]:
    """Largest recall ``[T, K]``; see `_precision`."""
    table = np.full((len(hits), len(objects)), -1.0)
    for k in np.flatnonzero(objects):
        table[:, k] = np.count_nonzero(hits[:, starts[k] : starts[k + 1]], axis=1) / objects[k]
    return table
