"""AP on resampled images from one evaluation, without a second matching of detections and objects.

pycocotools matches detections and objects within each image. Resampling the images therefore changes only the number
of times that each match counts. AP is COCO's (https://cocodataset.org/#detection-eval): over IoU 0.50:0.05:0.95 at 101
recall points, all sizes, at most 100 detections per image and class. It is the mean over the classes with objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recall points, bit for bit as in pycocotools: 35 of 100 objects do not reach the 36th, 0.35000000000000003."""

CHUNK = 2**21
"""Largest number of detections times resamples that is computed at once; it bounds the memory and fits the caches."""


@dataclass(frozen=True)
class ClassMatches:
    """Matches of the detections of one class, in descending order of score.

    Attributes:
        image: `[D]`, index of each detection's image.
        matched: `[T, D]`, whether the detection matches an object, at each of T IoU thresholds.
        ignored: `[T, D]`, whether the detection is ignored because it matches a crowd.
        objects: `[I]`, number of objects in each image, without crowds.
    """

    image: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class Matches:
    """All matches of an evaluation.

    Attributes:
        image_ids: I ids in ascending order.
        classes: matches of each class that has objects in these images.
    """

    image_ids: tuple[int, ...]
    classes: tuple[ClassMatches, ...]


def matches_of(evaluation: COCOeval) -> Matches:
    """Matches of an evaluation by pycocotools, in the order of its method `accumulate` (a stable sort by score)."""
    ids, classes, limit = evaluation.params.imgIds, evaluation.params.catIds, evaluation.params.maxDets[-1]
    areas = len(evaluation.params.areaRng)  # the first range is "all"
    by_class = (_class_matches(evaluation.evalImgs, k * areas * len(ids), len(ids), limit) for k in range(len(classes)))
    return Matches(tuple(int(i) for i in ids), tuple(c for c in by_class if c.objects.any()))


def _class_matches(results: list[dict | None], first: int, images: int, limit: int) -> ClassMatches:
    """Matches of one class.

    Args:
        results: pycocotools' results; None for an image without objects and detections of the class.
        first: index of the class's result on the first image; the other images follow.
        images: number of images.
        limit: largest number of detections per image.
    """
    entries = [(place, entry) for place, entry in enumerate(results[first : first + images]) if entry is not None]
    objects = np.zeros(images, dtype=np.int64)
    if not entries:
        none = np.zeros((10, 0), dtype=bool)
        return ClassMatches(np.zeros(0, dtype=np.int64), none, none, objects)
    for place, entry in entries:
        objects[place] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
    scores = np.concatenate([entry["dtScores"][:limit] for _, entry in entries])
    order = np.argsort(-scores, kind="mergesort")
    image = np.repeat([place for place, _ in entries], [len(entry["dtScores"][:limit]) for _, entry in entries])
    matched, ignored = (
        np.concatenate([entry[key][:, :limit] for _, entry in entries], axis=1)[:, order].astype(bool)
        for key in ("dtMatches", "dtIgnore")
    )
    return ClassMatches(image[order], matched & ~ignored, ignored, objects)


def average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP on each resample, in which an image counts as often as it was drawn.

    The result is, up to rounding, pycocotools' AP on a data set that contains each image that many times. If two
    detections of one class in one image have equal scores, all copies of the first one precede copies of the other.

    Args:
        weights: `[R, I]` whole numbers, the number of times that each of R resamples contains each image.

    Returns:
        `[R]`, AP as fractions; NaN for a resample without objects.
    """
    total, counted = np.zeros(len(weights)), np.zeros(len(weights), dtype=np.int64)
    drawn = np.ascontiguousarray(weights.T, dtype=np.int32)  # [I, R], so that an image's row is contiguous
    for one in matches.classes:
        objects = one.objects @ drawn
        for part in _parts(len(weights), len(one.image)):
            total[part] += _class_precision(one, drawn[:, part], np.maximum(objects[part], 1))
        counted += objects > 0
    return np.divide(total, counted, out=np.full(len(weights), np.nan), where=counted > 0)


def _parts(resamples: int, detections: int) -> Iterator[slice]:
    step = max(1, CHUNK // max(1, detections))
    return (slice(start, start + step) for start in range(0, resamples, step))


def _class_precision(one: ClassMatches, drawn: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Mean precision `[R]` of one class over thresholds and recall points.

    Precision never rises between two hits (true positives) and never falls among the copies of one hit. Its envelope
    is therefore the envelope of the precisions after the last copy of each hit. Every recall point is first reached at
    a hit. The envelope at a hit counts once for each recall point that is first reached there.

    Args:
        drawn: `[I, R]`, the number of times that each resample contains each image.
        objects: `[R]`, number of objects in each resample, at least 1.
    """
    weight = drawn[one.image]  # [D, R]
    ranked = np.cumsum(weight, axis=0, dtype=np.int32)
    precision = np.zeros(drawn.shape[1])
    for matched, ignored in zip(one.matched, one.ignored, strict=True):
        hits, skipped = np.flatnonzero(matched), np.flatnonzero(ignored)
        if not hits.size:
            continue
        true, counted = np.cumsum(weight[hits], axis=0, dtype=np.int32), ranked[hits]
        if skipped.size:
            before = np.concatenate([np.zeros_like(weight[:1]), np.cumsum(weight[skipped], axis=0, dtype=np.int32)])
            counted -= before[np.searchsorted(skipped, hits)]
        envelope = np.maximum.accumulate((true / (counted + np.spacing(1)))[::-1])[::-1]
        reached = _recalls_reached(true / objects)
        reached[1:] -= reached[:-1].copy()
        precision += np.einsum("hr,hr->r", envelope, reached)
    return precision / (len(one.matched) * len(RECALLS))


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """Number of `RECALLS` that are not greater than each recall, as ``searchsorted`` but in a quarter of the time."""
    # A recall is a number of hits divided by the number of objects. A hundred times the recall is a whole number, or
    # differs from all whole numbers by at least 1 / objects. This difference is much larger than 1e-7.
    below = (100 * recall + 1e-7).astype(np.int32)
    return below + (RECALLS[below] <= recall)
