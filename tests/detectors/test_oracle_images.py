"""Oracles on whole images: a perfect detector, objects that are not truth, and the study's shortcut."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.detectors.slow import slow_iou
from tests.detectors.test_oracle import IMAGE
from workbench.data.coco import read_coco
from workbench.detectors import build_detector
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.evaluation.inference import detect_data_set, detections_of_image, predicted_images
from workbench.settings.catalog import load_row, load_table
from workbench.settings.variant import Oracle, Variant, published_variant
from workbench.support.files import write_json_atomically

DETECTORS = [
    ("table3", "t3_fcos_atss"),
    ("table3", "t3_full_vfl"),
    *(("table5", f"t5_{family}_vfl") for family in ("atss", "reppoints", "retinanet")),
    ("gfl_table3", "gfl3_qfl_dfl"),
]


@pytest.mark.parametrize(("table", "row"), DETECTORS, ids=lambda name: name)
def test_a_perfect_detector_misses_only_objects_without_foreground(table, row, tiny_data):
    """Boxes and scores are the truth; an untrained network has no other score above the threshold."""
    torch.manual_seed(0)
    experiment = load_row(table, row).experiment
    detector = build_detector(experiment)
    plain = published_variant(experiment)
    data = read_coco(tiny_data, "val2017", training=False)
    variant = plain.model_copy(update={"oracle": Oracle(boxes=True, score="one")})
    detections = detect_data_set(detector, data, variant, "cpu")

    objects, there = np.zeros(len(data.class_names)), np.zeros(len(data.class_names))
    for batch, predictions in predicted_images(detector, data, plain.image, "cpu"):
        kept = {}  # for each class, the objects with a foreground location, whose boxes NMS keeps
        for location, number in enumerate(detector.assign(predictions, batch).index[0].tolist()):
            if number >= 0:
                kept.setdefault(batch.labels[0, number].item(), {}).setdefault(number, location)
        for label in batch.labels[0][batch.valid[0]].tolist():
            objects[label] += 1
        for label, numbers in kept.items():
            there[label] += len(numbers)
            boxes = batch.boxes[0, list(numbers)]
            overlap = [slow_iou(a, b) for i, a in enumerate(boxes.tolist()) for b in boxes.tolist()[:i]]
            assert max(overlap, default=0) < plain.nms_iou - 0.05  # the drawn data have no such pairs
    recall = there[objects > 0] / objects[objects > 0]
    points = [np.count_nonzero(np.linspace(0, 1, 101) <= share + 1e-12) / 101 * (share > 0) for share in recall]
    metrics = evaluate_detections(tiny_data / "annotations/instances_val2017.json", detections)
    assert metrics["AP"] == pytest.approx(np.mean(points), abs=1e-9)
    assert metrics["AP"] > 0.5
    assert (metrics["AP"] == pytest.approx(1, abs=1e-9)) == bool((there == objects).all())
    assert detect_data_set(detector, data, plain, "cpu") == []


def test_crowds_and_objects_left_out_of_training_are_not_truth(tmp_path):
    """Three images: one with an object and entries that training leaves out, one empty, one with a crowd."""
    root = tmp_path / "data"
    (root / "val2017").mkdir(parents=True)
    for number in (1, 2, 3):
        Image.new("RGB", (256, 160)).save(root / "val2017" / f"{number}.png")
    crowd = {"image_id": 1, "category_id": 7, "bbox": [150, 20, 60, 60], "area": 3600, "iscrowd": 1}
    annotations = [
        {"image_id": 1, "category_id": 7, "bbox": [20, 20, 80, 64], "area": 5120, "iscrowd": 0},
        crowd,
        {**crowd, "iscrowd": 0, "ignore": 1},
        {**crowd, "iscrowd": 0, "bbox": [150, 20, 60, 0.5]},
        {**crowd, "image_id": 3},
    ]
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 256, "height": 160} for n in (1, 2, 3)],
        "annotations": [{"id": n, **a} for n, a in enumerate(annotations)],
        "categories": [{"id": 7, "name": "thing"}],
    }
    write_json_atomically(root / "annotations/instances_val2017.json", document)
    experiment = load_row("table3", "t3_fcos_atss").experiment
    data = experiment.data.model_copy(update={"classes": 1})
    detector = build_detector(experiment.model_copy(update={"data": data}))
    variant = Variant(image=IMAGE, centerness=False, oracle=Oracle(boxes=True, score="one"))
    detections = detect_data_set(detector, read_coco(root, "val2017", training=False), variant, "cpu")
    assert detections == [{"image_id": 1, "category_id": 7, "bbox": [20, 20, 80, 64], "score": 1.0}]


def test_study_and_pipeline_give_the_same_detections(tiny_data):
    """The study predicts each image once for all variants; the pipeline predicts it for each variant."""
    torch.manual_seed(0)
    rows = load_table("table1")[1][::3]
    detector = build_detector(rows[0].experiment)
    data = read_coco(tiny_data, "val2017", training=False)
    variants = [row.variant.model_copy(update={"score_threshold": 0.0, "max_detections": 30}) for row in rows]
    together = [[] for _ in rows]
    for batch, predictions in predicted_images(detector, data, variants[0].image, "cpu"):
        for results, variant in zip(together, variants, strict=True):
            results += detections_of_image(detector, data, batch, predictions, variant)
    alone = [detect_data_set(detector, data, variant, "cpu") for variant in variants]
    assert together == alone
    assert len({json.dumps(results) for results in alone}) == len(rows)
