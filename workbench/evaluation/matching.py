"""Matches of detections and objects by COCO's rules for boxes (https://cocodataset.org/#detection-eval).

pycocotools compares the boxes of one class and image, detection by detection, at one IoU threshold and for one range of
areas at a time. This module has the same rules and the same result, but it treats all images, classes and thresholds at
once. The IoU is computed by pycocotools itself. A test compares the results with those of pycocotools bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Thresholds T of the IoU, bit for bit as in pycocotools."""
MOST_DETECTIONS = 100
"""Largest number of detections per image and class."""


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of all images, in the order of the annotation file.

    Attributes:
        group: ``[N]``, number of the class and image: class index times the number of images, plus image index.
        boxes: ``[N, 4]``, ``x, y, width, height`` in pixels.
        areas: ``[N]``, square pixels.
        crowd: ``[N]``, whether an object is a crowd or is ignored. Several detections can match it.
    """

    group: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    def outside(self, area: tuple[float, float]) -> NDArray[np.bool_]:
        """``[N]``, whether an object is not counted in a range of areas; a crowd is never counted."""
        return self.crowd | (self.areas < area[0]) | (self.areas > area[1])


@dataclass(frozen=True, eq=False)
class Ranked:
    """At most `MOST_DETECTIONS` detections of each class and image, sorted by group, then in descending order of score.

    Attributes:
        group: ``[D]``, number of the class and image, as in `Objects`.
        boxes: ``[D, 4]``, ``x, y, width, height`` in pixels.
        scores: ``[D]``.
        rank: ``[D]``, place of a detection in its group, from 0.
    """

    group: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    rank: NDArray[np.int64]

    def outside(self, area: tuple[float, float]) -> NDArray[np.bool_]:
        """``[D]``, whether the area of a detection is not in a range of areas."""
        areas = self.boxes[:, 2] * self.boxes[:, 3]
        return (areas < area[0]) | (areas > area[1])


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of a detection and an object of one class and image, with at least the lowest IoU threshold.

    Attributes:
        detection, object: ``[P]``, indices.
        iou: ``[P]``.
        turn: ``[P]``, place of the detection among the detections of its group that have a pair, from 0.
    """

    detection: NDArray[np.int64]
    object: NDArray[np.int64]
    iou: NDArray[np.float64]
    turn: NDArray[np.int64]


def rank_detections(group: NDArray[np.int64], boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> Ranked:
    """Sort detections by group and score; of equal scores, the first detection of the list is the first one."""
    order = np.lexsort((-scores, group))
    rank = _place_in_run(group[order])
    order, rank = order[rank < MOST_DETECTIONS], rank[rank < MOST_DETECTIONS]
    return Ranked(group[order], boxes[order], scores[order], rank)


def overlapping_pairs(objects: Objects, detections: Ranked) -> Pairs:
    """Pairs of a detection and an object that can match at an IoU threshold, sorted by detection."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for these, those in _common_groups(objects.group, detections.group):
        iou = mask.iou(detections.boxes[those], objects.boxes[these], objects.crowd[these])
        detection, object_ = np.nonzero(iou >= IOU_THRESHOLDS[0])
        if len(detection):
            parts.append((detection + those.start, these[object_], iou[detection, object_]))
    detection, object_, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    paired, of_pair = np.unique(detection, return_inverse=True)
    return Pairs(detection, object_, iou, _place_in_run(detections.group[paired])[of_pair])


def match(
    objects: Objects, detections: Ranked, pairs: Pairs, area: tuple[float, float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match detections with objects for one range of areas.

    In descending order of score, each detection takes the free object with the highest IoU; of equal IoU, the last one
    in the file. Objects that are not counted are taken only if no counted object is free. A crowd is always free.

    Returns:
        hits: ``[T, D]``, whether a detection matches a counted object.
        ignored: ``[T, D]``, whether a detection counts neither as a hit nor as a miss. It matches an object that is not
            counted, or matches no object and its area is outside the range.
    """
    uncounted = objects.outside(area)
    matched, ignored = (np.zeros((len(IOU_THRESHOLDS), len(detections.group)), dtype=bool) for _ in range(2))
    taken = np.zeros((len(objects.group), len(IOU_THRESHOLDS)), dtype=bool)
    order = np.lexsort((-pairs.object, -pairs.iou, uncounted[pairs.object], pairs.detection, pairs.turn))
    # One turn takes at most one detection of each group, so that the detections of a turn do not compete.
    for turn in np.split(order, np.flatnonzero(np.diff(pairs.turn[order])) + 1):
        detection, object_ = pairs.detection[turn], pairs.object[turn]
        possible = (pairs.iou[turn, None] >= IOU_THRESHOLDS) & ~(taken[object_] & ~objects.crowd[object_, None])
        place = np.where(possible, np.arange(len(turn))[:, None], len(turn))
        first = np.flatnonzero(np.diff(detection, prepend=-1))
        best = np.minimum.reduceat(place, first, axis=0) if len(turn) else place  # [detections, T]
        index, threshold = np.nonzero(best < len(turn))
        chosen = object_[best[index, threshold]]
        taken[chosen, threshold] = True
        matched[threshold, detection[first][index]] = True
        ignored[threshold, detection[first][index]] = uncounted[chosen]
    return matched & ~ignored, ignored | (~matched & detections.outside(area))


def _common_groups(
    objects: NDArray[np.int64], detections: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], slice]]:
    """Indices of the objects, in the order of the file, and the slice of the detections of each group that has both."""
    order = np.argsort(objects, kind="stable")
    groups, first, count = np.unique(objects[order], return_index=True, return_counts=True)
    start, stop = (np.searchsorted(detections, groups, side=side) for side in ("left", "right"))
    columns = (first, first + count, start, stop)
    for begin, end, one, other in zip(*(column[start < stop].tolist() for column in columns), strict=True):
        yield order[begin:end], slice(one, other)


def _place_in_run(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place ``[N]`` of each value in its run of equal values, from 0."""
    first = np.flatnonzero(np.diff(values, prepend=-1))
    return np.arange(len(values)) - np.repeat(first, np.diff(first, append=len(values)))
