"""COCO's twelve metrics of detections, and the AP of each class, computed with pycocotools.

The protocol is COCO's for boxes (https://cocodataset.org/#detection-eval):

- AP over IoU 0.50:0.05:0.95 at 101 recall points.
- At most 100 detections per image and class.
- Areas small < 32² <= medium <= 96² < large, in pixels of the original image.

This module does not import torch, so that the pipeline's evaluation step starts quickly.
"""

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from workbench.data.annotations import Columns, read_annotations
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json

METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
"""Keys of COCO's twelve metrics, in the order of `COCOeval.stats`."""

_DETECTION_KEYS = ("image_id", "category_id", "bbox", "score")


def evaluate_detections(
    annotations: Path, detections: list[dict], image_ids: Sequence[int] | None = None
) -> dict[str, Any]:
    """COCO's metrics of detections against an annotation file: `metrics_of(run_evaluation(…))`."""
    return metrics_of(run_evaluation(annotations, detections, image_ids))


def run_evaluation(annotations: Path, detections: list[dict], image_ids: Sequence[int] | None = None) -> COCOeval:
    """Run pycocotools' evaluation of detections against an annotation file.

    Args:
        annotations: file in COCO format, read by `read_annotations` as in training. A detection of a crowd, or of an
            object with the flag `ignore`, counts neither as a hit nor as a miss.
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
    return _run_pycocotools(_dataset(columns), [d for d in detections if d["image_id"] in chosen], sorted(chosen))


def metrics_of(evaluation: COCOeval) -> dict[str, Any]:
    """Metrics of a finished evaluation by pycocotools.

    Returns:
        Dictionary with

        - the twelve `METRICS` as fractions; None if there is no ground truth of that size,
        - `per_class`: AP by class name; None for a class without ground truth,
        - `images` and `detections`: numbers of evaluated images and detections.
    """
    metrics: dict[str, Any] = {name: _or_none(value) for name, value in zip(METRICS, evaluation.stats, strict=True)}
    metrics["per_class"] = _ap_per_class(evaluation, evaluation.cocoGt.dataset["categories"])
    return metrics | {"images": len(evaluation.params.imgIds), "detections": len(evaluation.cocoDt.anns)}


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


def _dataset(columns: Columns) -> dict[str, Any]:
    """Ground truth in the form that pycocotools needs.

    An annotation is left out if its category is not listed, or if no part of it is inside its image: training leaves it
    out, too, and no detection could match it. Annotations have new ids from 1. pycocotools stores a match as the
    annotation's id, so that an annotation with id 0 would never count as matched.
    """
    columns_of_annotations = (
        columns.image_ids[columns.image_of].tolist(),
        columns.labels.tolist(),
        columns.boxes.tolist(),
        columns.areas.tolist(),
        (columns.crowd | columns.ignored).tolist(),
        ((columns.labels >= 0) & columns.visible).tolist(),
    )
    return {
        "info": {},
        "images": [{"id": id_} for id_ in columns.image_ids.tolist()],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": columns.category_ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for number, (image_id, label, box, area, crowd, is_counted) in enumerate(
                zip(*columns_of_annotations, strict=True), 1
            )
            if is_counted
        ],
        "categories": [
            {"id": id_, "name": name} for id_, name in zip(columns.category_ids, columns.class_names, strict=True)
        ],
    }


def _refuse_unknown(ids: Iterable[int], expected: set[int], message: str) -> None:
    unknown = sorted(set(ids) - expected)
    if unknown:
        first = ", ".join(map(str, unknown[:3])) + (", …" if len(unknown) > 3 else "")
        raise WorkbenchError(f"{message} (ids {first}); use the annotations from which the images were listed")


def _run_pycocotools(dataset: dict[str, Any], detections: list[dict], image_ids: list[int]) -> COCOeval:
    """Run pycocotools' evaluation without its prints."""
    # `COCO.loadRes` is not used, because it cannot load an empty list.
    results = [
        {**d, "id": number, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0}
        for number, d in enumerate(detections, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(dataset), _coco(dataset | {"annotations": results}), "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _or_none(value: float) -> float | None:
    """Return a metric, or None for -1, with which pycocotools marks a metric without ground truth."""
    return None if value < 0 else float(value)


def _ap_per_class(evaluation: COCOeval, categories: list[dict]) -> dict[str, float | None]:
    """AP by class name, in the order of their ids; a name of several categories is followed by the id."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], all sizes, 100 detections
    by_id = dict(zip(evaluation.params.catIds, precision.transpose(2, 0, 1), strict=True))
    shared = Counter(category["name"] for category in categories)
    per_class = {}
    for category in categories:
        name, values = category["name"], by_id[category["id"]]
        key = name if shared[name] == 1 else f"{name} ({category['id']})"
        per_class[key] = _or_none(np.mean(values))  # either all values are -1 (no ground truth), or none is
    return per_class
