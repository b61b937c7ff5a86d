"""COCO's twelve metrics of detections, AP at two strict IoU thresholds, and the AP of each class.

The protocol is COCO's for boxes (https://cocodataset.org/#detection-eval):

- AP over IoU 0.50:0.05:0.95 at 101 recall points.
- At most 100 detections per image and class.
- Areas small < 32² <= medium <= 96² < large, in pixels of the original image.

For the same objects, the metrics are equal to those of pycocotools, bit for bit; tests/evaluation compares them.
Objects that training leaves out are left out here too; docs/evidence.md lists such annotations. This module does not
import torch, so that the pipeline's evaluation step starts quickly.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data.annotations import Columns, read_annotations
from workbench.evaluation.matching import Objects, Ranked, rank_detections
from workbench.evaluation.precision import Evaluated, evaluate_boxes
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json

METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
"""Keys of COCO's twelve metrics, in the order of pycocotools."""
STRICT_METRICS = ("AP80", "AP90")
"""Keys of AP at strict IoU thresholds, where a better ranking of the boxes shows most."""
_PLACES = {"AP50": 0, "AP75": 5, "AP80": 6, "AP90": 8}
"""Metric of one IoU threshold → the threshold's index in `IOU_THRESHOLDS`."""
_DETECTION_KEYS = ("image_id", "category_id", "bbox", "score")


def evaluate_detections(
    annotations: Path, detections: list[dict], image_ids: Sequence[int] | None = None
) -> dict[str, Any]:
    """COCO's metrics of detections against an annotation file: `metrics_of(run_evaluation(…))`."""
    return metrics_of(run_evaluation(annotations, detections, image_ids))


def run_evaluation(annotations: Path, detections: list[dict], image_ids: Sequence[int] | None = None) -> Evaluated:
    """Match detections with the objects of an annotation file, and compute precision and recall.

    Args:
        annotations: file in COCO format, read by `read_annotations` as in training. A detection of a crowd, or of an
            object with the flag `ignore`, counts neither as a hit nor as a miss. An object is left out if its category
            is not listed, or if no part of it is inside its image: training leaves it out, too.
        detections: entries in COCO's results format, `bbox` as x, y, width, height in pixels of the original image.
        image_ids: images to evaluate, each counted once; None for all. Detections on other images are left out.

    Raises:
        WorkbenchError: the file is not in COCO format, there is no image to evaluate, or the file lacks image or
            category ids of the detections.
    """
    columns = read_annotations(Path(annotations), named=False)
    file_ids = set(columns.image_ids.tolist())
    chosen = file_ids if image_ids is None else {int(i) for i in image_ids}
    _refuse_unknown(chosen, file_ids, f"{annotations}: images to evaluate that are not in the file")
    _refuse_unknown(
        (d["image_id"] for d in detections), file_ids, f"{annotations}: detections on images not in the file"
    )
    classes = set(columns.category_ids)
    _refuse_unknown((d["category_id"] for d in detections), classes, f"{annotations}: detections of unknown categories")
    if not chosen:
        raise WorkbenchError(
            f"{annotations}: no images to evaluate; choose a file, or image ids, with at least one image"
        )
    ids = np.array(sorted(chosen))
    kept = detections if image_ids is None else [d for d in detections if d["image_id"] in chosen]
    objects, ranked = _objects(columns, ids), _ranked(kept, ids, columns.category_ids)
    classes = columns.category_ids, columns.class_names
    return evaluate_boxes(objects, ranked, tuple(ids.tolist()), *classes, detections=len(kept))


def metrics_of(evaluated: Evaluated) -> dict[str, Any]:
    """Metrics of an evaluation.

    Returns:
        Dictionary with

        - the twelve `METRICS` and `STRICT_METRICS` as fractions; None if there is no ground truth of that size,
        - `per_class`: AP by class name; None for a class without ground truth,
        - `images` and `detections`: numbers of evaluated images and detections.
    """
    tables = {f"AP{area}": table for area, table in evaluated.precision.items()}
    tables |= {name: tables["AP"][place] for name, place in _PLACES.items()}
    tables |= evaluated.recall
    metrics: dict[str, Any] = {name: _mean(tables[name]) for name in (*METRICS, *STRICT_METRICS)}
    metrics["per_class"] = _ap_per_class(evaluated)
    return metrics | {"images": len(evaluated.image_ids), "detections": evaluated.detections}


def read_detections(path: Path) -> list[dict]:
    """Read a results file in COCO's format: a list of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`.

    Raises WorkbenchError if the file is missing, truncated or not a list. It also raises WorkbenchError if an entry
    lacks one of these keys or has a number that is not finite; the message names the first of these entries.
    """
    detections = read_json(path, "detections")
    if not isinstance(detections, list):
        raise WorkbenchError(f"{path}: not a list of detections; use a file in COCO's results format")
    for index, entry in enumerate(detections):
        fault = _fault(entry)
        if fault:
            raise WorkbenchError(f"{path}: detection {index} {fault}; use a file in COCO's results format")
    return detections


def _fault(entry: Any) -> str | None:
    """Description of the fault of one entry of a results file; None if it has no fault."""
    if not isinstance(entry, dict):
        return "is not an object with keys"
    missing = [key for key in _DETECTION_KEYS if key not in entry]
    if missing:
        return f"lacks {', '.join(missing)}"
    if not all(type(entry[key]) is int for key in ("image_id", "category_id")):
        return "has an image or category id that is not a whole number"
    box = entry["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
        return "has a bbox that is not four finite numbers"
    return None if _is_finite(entry["score"]) else "has a score that is not a finite number"


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _refuse_unknown(ids: Iterable[int], expected: set[int], message: str) -> None:
    unknown = sorted(set(ids) - expected)
    if unknown:
        first = ", ".join(map(str, unknown[:3])) + (", …" if len(unknown) > 3 else "")
        raise WorkbenchError(f"{message} (ids {first}); use the annotations from which the images were listed")


def _objects(columns: Columns, ids: NDArray[np.int64]) -> Objects:
    """Objects of the chosen images, as `run_evaluation` describes them."""
    image_ids = columns.image_ids[columns.image_of]
    kept = (columns.labels >= 0) & columns.visible & np.isin(image_ids, ids)
    group = columns.labels[kept] * len(ids) + np.searchsorted(ids, image_ids[kept])
    return Objects(group, columns.boxes[kept], columns.areas[kept], (columns.crowd | columns.ignored)[kept])


def _ranked(detections: list[dict], ids: NDArray[np.int64], category_ids: Sequence[int]) -> Ranked:
    """Detections of the chosen images, sorted and limited to `MOST_DETECTIONS` per image and class."""
    count = len(detections)
    image_ids, labels = (np.fromiter((d[key] for d in detections), np.int64, count) for key in _DETECTION_KEYS[:2])
    group = np.searchsorted(np.array(category_ids), labels) * len(ids) + np.searchsorted(ids, image_ids)
    boxes = np.fromiter((value for d in detections for value in d["bbox"]), np.float64, 4 * count).reshape(-1, 4)
    return rank_detections(group, boxes, np.fromiter((d["score"] for d in detections), np.float64, count))


def _mean(table: NDArray[np.float64]) -> float | None:
    """Mean of the entries that exist; None if there is none. Entries of classes without ground truth are -1."""
    values = table[table > -1]
    return float(np.mean(values)) if values.size else None


def _ap_per_class(evaluated: Evaluated) -> dict[str, float | None]:
    """AP by class name, in the order of their ids; a name of several categories is followed by the id."""
    shared = Counter(evaluated.class_names)
    per_class = {}
    for k, (id_, name) in enumerate(zip(evaluated.category_ids, evaluated.class_names, strict=True)):
        ap = float(np.mean(evaluated.precision[""][:, :, k]))  # either all values are -1 (no ground truth), or none is
        per_class[name if shared[name] == 1 else f"{name} ({id_})"] = None if ap < 0 else ap
    return per_class
