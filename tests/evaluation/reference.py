"""Evaluation by pycocotools, with which the tests compare the workbench's evaluation bit for bit."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from workbench.data.annotations import read_annotations
from workbench.evaluation.matching import MOST_DETECTIONS
from workbench.evaluation.resampling import ClassMatches, Matches


def reference_evaluation(annotations, detections, image_ids=None):
    """Run pycocotools on an annotation file as `run_evaluation` reads it."""
    columns = read_annotations(annotations, named=False)
    ids = sorted(columns.image_ids.tolist() if image_ids is None else set(image_ids))
    results = [
        {**d, "id": number, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0}
        for number, d in enumerate((d for d in detections if d["image_id"] in ids), start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = dataset(columns)
        evaluation = COCOeval(_coco(truth), _coco(truth | {"annotations": results}), "bbox")
        evaluation.params.imgIds = ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def dataset(columns):
    """Ground truth in the form that pycocotools needs.

    Annotations have new ids from 1. pycocotools stores a match as the annotation's id, so that an annotation with id 0
    would never count as matched.
    """
    crowd, counted = columns.crowd | columns.ignored, (columns.labels >= 0) & columns.visible
    return {
        "images": [{"id": id_} for id_ in columns.image_ids.tolist()],
        "annotations": [
            {
                "id": n + 1,
                "image_id": int(columns.image_ids[columns.image_of[n]]),
                "category_id": columns.category_ids[columns.labels[n]],
                "bbox": columns.boxes[n].tolist(),
                "area": float(columns.areas[n]),
                "iscrowd": int(crowd[n]),
            }
            for n in np.flatnonzero(counted).tolist()
        ],
        "categories": [
            {"id": id_, "name": name} for id_, name in zip(columns.category_ids, columns.class_names, strict=True)
        ],
    }


def reference_matches(evaluation):
    """Matches of an evaluation by pycocotools, in the order of its method `accumulate` (a stable sort by score)."""
    ids, classes = evaluation.params.imgIds, evaluation.params.catIds
    size = len(evaluation.params.areaRng) * len(ids)  # results of one class; the first range of areas is "all"
    by_class = (_class_matches(evaluation.evalImgs[k * size :][: len(ids)]) for k in range(len(classes)))
    return Matches(tuple(map(int, ids)), tuple(c for c in by_class if c.objects.any()))


def _class_matches(results):
    """Matches of one class from a result per image; None for an image without objects and detections of the class."""
    entries = [(image, entry) for image, entry in enumerate(results) if entry is not None]
    objects = np.zeros(len(results), dtype=np.int64)
    for image, entry in entries:
        objects[image] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
    if not entries:
        none = np.zeros((10, 0), dtype=bool)
        return ClassMatches(np.zeros(0, dtype=np.int64), none, none, objects)
    scores = np.concatenate([entry["dtScores"][:MOST_DETECTIONS] for _, entry in entries])
    image = np.concatenate([[image] * len(entry["dtScores"][:MOST_DETECTIONS]) for image, entry in entries])
    order = np.argsort(-scores, kind="mergesort")
    matched, ignored = (
        np.concatenate([entry[key][:, :MOST_DETECTIONS] for _, entry in entries], axis=1)[:, order].astype(bool)
        for key in ("dtMatches", "dtIgnore")
    )
    return ClassMatches(image[order].astype(np.int64), matched & ~ignored, ignored, objects)


def _coco(truth):
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    return coco
