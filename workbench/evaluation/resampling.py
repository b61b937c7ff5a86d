"""AP of the same detections on resampled images, without matching anything again.

pycocotools matches detections to objects image by image, so that what a resample of the images changes is only how
often each match counts. AP is COCO's (https://cocodataset.org/#detection-eval): over IoU 0.50:0.05:0.95 at 101 recall
points, all sizes, at most 100 detections per image and class, the mean over the classes that the images hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

RECALLS = np.linspace(0.0, 1.0, 101)
"""As pycocotools has them, to the last bit: 35 of 100 objects do not reach the 36th, 0.35000000000000003."""

CELLS = 2**21
"""Detections times resamples that are worked on at a time; bounds the memory, and fits the caches."""


@dataclass(frozen=True)
class ClassMatches:
    """What one class's detections matched, those of the best score first.

    Attributes:
        image: `[D]`, the place of the detection's image among the images.
        matched: `[T, D]`, whether it found an object, at each IoU threshold.
        ignored: `[T, D]`, whether it is neither right nor wrong (it found a crowd).
        objects: `[I]`, how many objects each image holds, crowds left out.
    """

    image: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class Matches:
    """All matches of an evaluation: `image_ids`, I in ascending order, and the `classes` that have objects there."""

    image_ids: tuple[int, ...]
    classes: tuple[ClassMatches, ...]


def matches_of(evaluation: COCOeval) -> Matches:
    """The matches of a run of pycocotools' evaluation, ranked as its `accumulate` ranks them (ties in their order)."""
    ids, classes, limit = evaluation.params.imgIds, evaluation.params.catIds, evaluation.params.maxDets[-1]
    areas = len(evaluation.params.areaRng)  # of which the first is "all"
    by_class = (_class_matches(evaluation.evalImgs, k * areas * len(ids), len(ids), limit) for k in range(len(classes)))
    return Matches(tuple(int(i) for i in ids), tuple(c for c in by_class if c.objects.any()))


def _class_matches(results: list[dict | None], first: int, images: int, limit: int) -> ClassMatches:
    """One class's, whose results of each image stand from ``first`` on; None where there is nothing of the class."""
    seen = [(place, found) for place, found in enumerate(results[first : first + images]) if found is not None]
    objects = np.zeros(images, dtype=np.int64)
    if not seen:
        none = np.zeros((10, 0), dtype=bool)
        return ClassMatches(np.zeros(0, dtype=np.int64), none, none, objects)
    for place, found in seen:
        objects[place] = np.count_nonzero(np.asarray(found["gtIgnore"]) == 0)
    scores = np.concatenate([found["dtScores"][:limit] for _, found in seen])
    order = np.argsort(-scores, kind="mergesort")
    image = np.repeat([place for place, _ in seen], [len(found["dtScores"][:limit]) for _, found in seen])
    matched, ignored = (
        np.concatenate([found[key][:, :limit] for _, found in seen], axis=1)[:, order].astype(bool)
        for key in ("dtMatches", "dtIgnore")
    )
    return ClassMatches(image[order], matched & ~ignored, ignored, objects)


def average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP when each image counts as often as it was drawn.

    This is pycocotools' AP, to rounding, of a data set that holds each image that many times. (Where one image has two
    detections of a class with the same score, copies of the first stand before those of the second.)

    Args:
        weights: `[R, I]` whole numbers, how often each of R resamples holds each image.

    Returns:
        `[R]`, fractions; NaN where the images drawn hold no object.
    """
    total, counted = np.zeros(len(weights)), np.zeros(len(weights), dtype=np.int64)
    drawn = np.ascontiguousarray(weights.T, dtype=np.int32)  # [I, R]: an image's row is copied as a whole
    for one in matches.classes:
        objects = one.objects @ drawn
        for part in _parts(len(weights), len(one.image)):
            total[part] += _class_precision(one, drawn[:, part], np.maximum(objects[part], 1))
        counted += objects > 0
    return np.divide(total, counted, out=np.full(len(weights), np.nan), where=counted > 0)


def _parts(resamples: int, detections: int) -> Iterator[slice]:
    step = max(1, CELLS // max(1, detections))
    return (slice(start, start + step) for start in range(0, resamples, step))


def _class_precision(one: ClassMatches, drawn: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Mean precision of one class over thresholds and recalls, `[R]`; drawn `[I, R]`, objects `[R]`, at least 1.

    Between two hits precision only falls, and among the copies of a hit it does not, so that its envelope is that of
    the hits alone, each behind its last copy. A recall is first reached at a hit, so that a hit's envelope counts as
    often as there are recalls that it reaches and the one before it does not.
    """
    weight = drawn[one.image]  # [D, R]
    seen = np.cumsum(weight, axis=0, dtype=np.int32)
    precision = np.zeros(drawn.shape[1])
    for matched, ignored in zip(one.matched, one.ignored, strict=True):
        hits, void = np.flatnonzero(matched), np.flatnonzero(ignored)
        if not hits.size:
            continue
        found, counted = np.cumsum(weight[hits], axis=0, dtype=np.int32), seen[hits]
        if void.size:
            before = np.concatenate([np.zeros_like(weight[:1]), np.cumsum(weight[void], axis=0, dtype=np.int32)])
            counted -= before[np.searchsorted(void, hits)]
        envelope = np.maximum.accumulate((found / (counted + np.spacing(1)))[::-1])[::-1]
        reached = _recalls_reached(found / objects)
        reached[1:] -= reached[:-1].copy()
        precision += np.einsum("hr,hr->r", envelope, reached)
    return precision / (len(one.matched) * len(RECALLS))


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """How many of `RECALLS` are no greater, as floats; ``searchsorted`` says the same, in four times the time."""
    # A recall is a fraction of whole numbers: a hundred times it is whole, or far from it on the scale of 1e-7.
    below = (100 * recall + 1e-7).astype(np.int32)
    return below + (RECALLS[below] <= recall)
