"""Post-processing against loops over locations, classes and pairs of boxes, on predictions without ties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.samples import make_batch
from workbench.detectors.postprocess import postprocess, to_original_pixels
from workbench.detectors.predictions import Detections, Predictions
from workbench.settings.data import ImageSize
from workbench.settings.variant import Variant

IMAGE = ImageSize(long=128, short=96)
SIZES = torch.tensor([[90, 120], [64, 30]])


def make(shapes, classes=4, centerness=False, shift=-2.0, seed=0, side=30):
    """Random predictions for two images: distinct scores, boxes that overlap and reach beyond the image."""
    rng = np.random.default_rng(seed)
    locations = sum(rows * columns for rows, columns in shapes)
    corner = rng.uniform(-10, 110, (2, locations, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, side, (2, locations, 2))], axis=-1)
    logits = rng.normal(shift, 1.5, (2, locations, classes))
    return Predictions(
        logits=torch.tensor(logits, dtype=torch.float32),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        points=[torch.zeros(rows * columns, 2) for rows, columns in shapes],
        shapes=shapes,
        strides=[8 * 2**level for level in range(len(shapes))],
        quality=torch.tensor(rng.normal(0, 2, (2, locations)), dtype=torch.float32) if centerness else None,
    )


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def slow(predictions, size, image, threshold=0.05, nms=0.6, limit=1000, most=100):
    """Detections of one image as (score, label, box), by descending score."""
    height, width = size
    p = predictions.logits[image].double().sigmoid().tolist()
    quality = [1.0] * len(p)
    if predictions.quality is not None:
        quality = predictions.quality[image].double().sigmoid().tolist()
    candidates, start = [], 0
    for rows, columns in predictions.shapes:
        level = sorted(range(start, start + rows * columns), key=lambda location: -max(p[location]) * quality[location])
        candidates += level[:limit]
        start += rows * columns
    results = []
    for location in candidates:
        x1, y1, x2, y2 = predictions.boxes[image, location].tolist()
        box = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
        for label, score in enumerate(p[location]):
            if score > threshold:
                results.append((score * quality[location], label, box))
    kept = []
    for one in sorted(results, key=lambda f: -f[0]):
        if all(one[1] != other[1] or iou(one[2], other[2]) <= nms for other in kept):
            kept.append(one)
    return kept[:most]


def compare(detections, expected):
    assert detections.labels.dtype == torch.int64
    assert detections.labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(detections.scores, [score for score, _, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(detections.boxes, [box for _, _, box in expected], rtol=0, atol=1e-4)


FEW, MANY = [(6, 8), (3, 4), (2, 2), (1, 1), (1, 1)], [(40, 30), (20, 55), (2, 3)]
CASES = {
    "few locations": (FEW, {}, {}),
    "one class": (FEW, {"classes": 1}, {}),
    "another NMS": (FEW, {"side": 90, "shift": 0}, {"nms_iou": 0.3}),
    "another threshold": (FEW, {"shift": 0}, {"score_threshold": 0.5, "max_detections": 5}),
    "more than 1000 locations a level": (MANY, {"shift": -4.5}, {}),
    "few candidates": ([(20, 15), (10, 8)], {}, {"candidates": 30, "max_detections": 1000}),
}


@pytest.mark.parametrize("centerness", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_detections_agree_with_loops(case, centerness):
    shapes, making, changes = CASES[case]
    predictions, variant = make(shapes, centerness=centerness, **making), Variant(image=IMAGE, **changes)
    detections = postprocess(predictions, SIZES, variant)
    for image in range(2):
        expected = slow(
            predictions,
            SIZES[image].tolist(),
            image,
            variant.score_threshold,
            variant.nms_iou,
            variant.candidates,
            variant.max_detections,
        )
        assert len(expected) > 3
        compare(detections[image], expected)


def only(logits, boxes, centerness=None, shapes=((1, 3),)):
    """Predictions of one image from plain lists."""
    return Predictions(
        logits=torch.tensor([logits]).logit(),
        boxes=torch.tensor([boxes], dtype=torch.float32),
        points=[torch.zeros(rows * columns, 2) for rows, columns in shapes],
        shapes=shapes,
        strides=[8 * 2**level for level in range(len(shapes))],
        quality=None if centerness is None else torch.tensor([centerness]).logit(),
    )


BOXES = [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]]
WIDE = torch.tensor([[96, 128]])


def test_the_threshold_applies_to_the_class_score_before_the_quality():
    predictions = only([[0.06, 0.04], [0.9, 0.04], [0.04, 0.04]], BOXES, centerness=[0.1, 0.02, 0.999])
    (detections,) = postprocess(predictions, WIDE, Variant(image=IMAGE))
    assert detections.scores.tolist() == pytest.approx([0.9 * 0.02, 0.06 * 0.1], rel=1e-4)  # the product, not its root
    assert detections.boxes.tolist() == [BOXES[1], BOXES[0]]


def test_candidates_are_ranked_by_the_product_and_chosen_by_location():
    predictions = only([[0.9, 0.8], [0.7, 0.6], [0.5, 0.4]], BOXES, centerness=[0.1, 0.9, 0.8])
    (detections,) = postprocess(predictions, WIDE, Variant(image=IMAGE, candidates=2))
    assert detections.scores.tolist() == pytest.approx([0.63, 0.54, 0.4, 0.32])  # both classes of both locations
    assert detections.labels.tolist() == [0, 1, 0, 1]


def test_nms_suppresses_within_a_class_and_above_the_limit_only():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 7]]  # IoU with the first: 0.6, 0.7
    same = only([[0.9], [0.8], [0.7]], boxes)
    (detections,) = postprocess(same, WIDE, Variant(image=IMAGE))
    assert detections.boxes.tolist() == boxes[:2]
    other = only([[0.9, 0.01], [0.01, 0.8], [0.01, 0.7]], boxes)
    (detections,) = postprocess(other, WIDE, Variant(image=IMAGE))
    assert detections.boxes.tolist() == boxes[:2]  # the second box suppresses the third, of the same class: IoU 6/7
    assert detections.labels.tolist() == [0, 1]


def test_without_scores_above_the_threshold_there_are_no_detections():
    detections = postprocess(make(FEW, shift=-30), SIZES, Variant(image=IMAGE))
    for one in detections:
        assert one.boxes.shape == (0, 4)
        assert one.scores.shape == one.labels.shape == (0,)


def test_boxes_are_clipped_before_nms():
    """Two boxes differ outside the image only, so their clipped boxes are equal."""
    boxes = [[100, 80, 128, 96], [100, 80, 500, 500], [0, 0, 1, 1]]
    (detections,) = postprocess(only([[0.9], [0.8], [0.01]], boxes), WIDE, Variant(image=IMAGE))
    assert detections.boxes.tolist() == [[100, 80, 128, 96]]


def test_infinite_boxes_are_clipped():
    boxes = [[-torch.inf, -torch.inf, torch.inf, torch.inf], [20, 20, 30, 30], [40, 40, 1e30, 50]]
    (detections,) = postprocess(only([[0.9], [0.8], [0.7]], boxes), WIDE, Variant(image=IMAGE))
    assert detections.boxes.tolist() == [[0, 0, 128, 96], [20, 20, 30, 30], [40, 40, 128, 50]]


# ------------------------------------------------------------------------------------------ scores, original pixels


def test_scores_are_sigmoids_and_the_quality_can_be_left_out():
    predictions = only([[0.9, 0.8], [0.7, 0.6], [0.5, 0.4]], BOXES, centerness=[0.1, 0.9, 0.8])
    classes, quality = predictions.scores()
    assert classes[0].flatten().tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert quality[0].tolist() == pytest.approx([0.1, 0.9, 0.8])
    assert predictions.scores().best[0].tolist() == pytest.approx([0.09, 0.63, 0.4])
    assert predictions.scores(with_quality=False).quality is None
    assert predictions.scores(with_quality=False).best[0].tolist() == pytest.approx([0.9, 0.7, 0.5])


def test_detections_are_scaled_to_the_original_size_of_their_image():
    batch = replace(make_batch((1, 1)), original_sizes=torch.tensor([[192, 384], [20, 25]]))
    boxes = torch.tensor([[10.0, 20, 30, 40]])
    detections = [Detections(boxes, torch.tensor([0.5]), torch.tensor([number])) for number in range(2)]
    scaled = to_original_pixels(detections, batch)
    assert scaled[0].boxes.tolist() == [[30, 40, 90, 80]]  # 96 × 128 pixels
    np.testing.assert_allclose(scaled[1].boxes, [[5, 20 / 3, 15, 40 / 3]], rtol=1e-6)  # 60 × 50 pixels
    assert [one.labels.item() for one in scaled] == [0, 1]
    assert boxes.tolist() == [[10, 20, 30, 40]]
