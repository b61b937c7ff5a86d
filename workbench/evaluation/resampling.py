"""AP on resampled images from one evaluation, without a second matching of detections and objects.

Detections and objects are matched within each image. Resampling the images therefore changes only the number
of times that each match counts. AP is COCO's (https://cocodataset.org/#detection-eval): over IoU 0.50:0.05:0.95 at 101
recall points, all sizes, at most 100 detections per image and class. It is the mean over the classes with objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from workbench.evaluation.precision import RECALLS, Evaluated

CHUNK = 2**22
"""Largest number of hits times resamples that is computed at once; it bounds the memory."""


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


def matches_of(evaluated: Evaluated) -> Matches:
    """Matches of an evaluation, for objects of all sizes."""
    parts = [slice(*ends) for ends in pairwise(evaluated.starts.tolist())]
    return Matches(
        evaluated.image_ids,
        tuple(
            ClassMatches(evaluated.image_of[part], evaluated.hits[:, part], evaluated.ignored[:, part], objects)
            for part, objects in zip(parts, evaluated.objects, strict=True)
            if objects.any()
        ),
    )


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
    drawn = np.ascontiguousarray(weights.T, dtype=np.float64)  # [I, R], so that an image's row is contiguous
    for one in matches.classes:
        objects = one.objects @ drawn
        for part in _parts(len(weights), np.count_nonzero(one.matched.any(axis=0))):
            total[part] += _class_precision(one, drawn[:, part], np.maximum(objects[part], 1))
        counted += objects > 0
    return np.divide(total, counted, out=np.full(len(weights), np.nan), where=counted > 0)


def _parts(resamples: int, hits: int) -> Iterator[slice]:
    step = max(1, CHUNK // max(1, hits))
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
    rows, table, first = list(drawn), *_reached_table(objects)
    any_hit = np.flatnonzero(one.matched.any(axis=0))
    ranked = _running_sums(rows, one.image, any_hit)
    precision = np.zeros(drawn.shape[1])
    for matched, ignored in zip(one.matched, one.ignored, strict=True):
        hits, skipped = np.flatnonzero(matched), np.flatnonzero(ignored)
        if not hits.size:
            continue
        true = _running_sums(rows, one.image[hits], np.arange(len(hits)))
        before = [np.zeros(drawn.shape[1]), *_running_sums(rows, one.image[skipped], np.arange(len(skipped)))]
        counted = np.empty_like(true)
        places = zip(np.searchsorted(any_hit, hits).tolist(), np.searchsorted(skipped, hits).tolist(), strict=True)
        for row, (place, skips) in zip(counted, places, strict=True):
            np.subtract(ranked[place], before[skips], out=row)
        reached = np.take(table, (true + first).astype(np.intp))
        reached[1:] -= reached[:-1].copy()
        precision += np.einsum("hr,hr->r", _envelope(true, counted), reached)
    return precision / (len(one.matched) * len(RECALLS))


def _reached_table(objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of recall points that 0, 1, 2, … hits reach: a table, and the place of 0 hits for each of R resamples."""
    counts, of_resample = np.unique(objects, return_inverse=True)
    table = np.concatenate([_recalls_reached(np.arange(n + 1) / n).astype(np.uint8) for n in counts.tolist()])
    return table, np.concatenate([[0], np.cumsum(counts + 1)])[of_resample]


def _running_sums(rows: list[np.ndarray], images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sums `[P, R]` of the rows `[R]` of some images, up to and including each place; `places` ascends.

    A loop over rows takes a quarter of the time of `np.cumsum`, which moves along a column.
    """
    sums = np.empty((len(places), len(rows[0])))
    total, start = np.zeros(len(rows[0])), 0
    for row, stop in zip(sums, (places + 1).tolist(), strict=True):
        first, *others = images[start:stop].tolist()
        np.add(total, rows[first], out=row)
        for image in others:
            np.add(row, rows[image], out=row)
        total, start = row, stop
    return sums


def _envelope(true: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Largest precision `[H, R]` at each hit and all later hits; it takes the place of `counted`.

    Args:
        true: `[H, R]`, number of hits so far.
        counted: `[H, R]`, number of detections so far that are not ignored.
    """
    counted += np.spacing(1)
    precision = np.divide(true, counted, out=counted)
    for following, row in pairwise(reversed(list(precision))):  # a loop for the same reason as in `_running_sums`
        np.maximum(row, following, out=row)
    return precision


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """Number of `RECALLS` that are not greater than each recall, as ``searchsorted`` but in a quarter of the time."""
    # A recall is a number of hits divided by the number of objects. A hundred times the recall is a whole number, or
    # differs from all whole numbers by at least 1 / objects. This difference is much larger than 1e-7.
    below = (100 * recall + 1e-7).astype(np.int32)
    return below + (RECALLS[below] <= recall)
