"""Soft-NMS against its definition in loops, and against mmcv's operator if mmcv is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.detectors.postprocess import postprocess, soft_nms
from workbench.detectors.predictions import Predictions
from workbench.settings.data import ImageSize
from workbench.settings.ids import variant_id
from workbench.settings.variant import Variant

IMAGE = ImageSize(long=128, short=96)
SIZES = torch.tensor([[96, 128]])


def draw(count, classes, seed, side=40.0):
    """Boxes in groups, so that many overlap strongly, with distinct scores."""
    rng = np.random.default_rng(seed)
    heaps = rng.uniform(0, 60, (5, 2))[rng.integers(0, 5, count)]
    corner = heaps + rng.uniform(0, 6, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.7 * side, side, (count, 2))], axis=1)
    scores = rng.permutation(np.linspace(0.05, 0.99, count))
    return boxes, scores, rng.integers(0, classes, count)


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slow(boxes, scores, labels, threshold, limit):
    """Pairs (index, score) by the definition: each class on its own, then the best of all."""
    results = []
    for label in set(labels.tolist()):
        left = {i: float(scores[i]) for i in np.flatnonzero(labels == label)}
        while left:
            best = max(left, key=left.get)
            results.append((best, left.pop(best)))
            for i in list(left):
                overlap = iou(boxes[best], boxes[i])
                if overlap >= threshold:
                    left[i] *= 1 - overlap
                if left[i] < 0.001:
                    del left[i]
    return sorted(results, key=lambda f: -f[1])[:limit]


CASES = {  # boxes, classes, threshold, limit
    "one class": (60, 1, 0.65, 100),
    "several classes": (200, 5, 0.65, 100),
    "stops early": (300, 7, 0.5, 40),
    "all fall": (80, 2, 0.01, 1000),
    "as many classes as boxes": (40, 80, 0.3, 100),
    "one box": (1, 3, 0.65, 100),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_soft_nms_agrees_with_loops(case, seed):
    count, classes, threshold, limit = CASES[case]
    boxes, scores, labels = draw(count, classes, seed)
    index, score = soft_nms(*map(torch.from_numpy, (boxes, scores, labels)), threshold, limit)
    expected = slow(boxes, scores, labels, threshold, limit)
    assert index.tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(score, [s for _, s in expected], rtol=1e-12)
    if case == "all fall":
        assert len(expected) < count  # some are dropped
        assert min(score) >= 0.001
    if count > 50:
        assert (score.numpy() < scores[index]).any()


def only(scores, boxes):
    """Predictions of one image and one class from plain lists."""
    locations = len(boxes)
    return Predictions(
        logits=torch.tensor([[[score] for score in scores]]).logit(),
        boxes=torch.tensor([boxes], dtype=torch.float32),
        points=[torch.zeros(locations, 2)],
        shapes=[(1, locations)],
        strides=(8,),
    )


def test_an_iou_equal_to_the_threshold_is_an_overlap():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9]]  # IoU with the first: 0.5 and 0.49
    (detections,) = postprocess(only([0.9, 0.8, 0.1], boxes), SIZES, Variant(image=IMAGE, nms="soft", nms_iou=0.5))
    # The second score decreases to 0.4. The third box has an IoU of 0.98 with the second: 0.1 x 0.02.
    assert detections.scores.tolist() == pytest.approx([0.9, 0.4, 0.002], rel=1e-3)
    assert detections.scores.dtype == torch.float32
    assert detections.boxes.tolist() == np.float32(boxes).tolist()
    assert detections.labels.tolist() == [0, 0, 0]


def test_scores_under_a_thousandth_are_dropped():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9.95], [0, 0, 10, 9.8]]  # IoU 0.995 and 0.98
    (detections,) = postprocess(only([0.9, 0.15, 0.06], boxes), SIZES, Variant(image=IMAGE, nms="soft"))
    assert detections.scores.tolist() == pytest.approx([0.9, 0.06 * 0.02], rel=1e-3)


def test_without_scores_above_the_threshold_there_are_no_detections():
    (detections,) = postprocess(only([0.01], [[0, 0, 10, 10]]), SIZES, Variant(image=IMAGE, nms="soft"))
    assert detections.boxes.shape == (0, 4)
    assert detections.scores.shape == detections.labels.shape == (0,)
    assert detections.labels.dtype == torch.int64


def test_post_processing_with_the_papers_setting_agrees_with_loops():
    """One location may give several classes; at most 100 detections; logits are in single precision."""
    boxes, _, _ = draw(400, 1, seed=9)
    logits = torch.tensor(np.random.default_rng(9).normal(-1.5, 1.5, (1, 400, 3)), dtype=torch.float32)
    one = torch.tensor(boxes, dtype=torch.float32)
    predictions = Predictions(logits, one[None], [torch.zeros(400, 2)], [(20, 20)], (8,))
    (detections,) = postprocess(predictions, SIZES, Variant(image=IMAGE, nms="soft", nms_iou=0.65))
    scores = logits[0].sigmoid().double()
    location, label = (scores > 0.05).nonzero(as_tuple=True)
    limits = torch.tensor([128, 96, 128, 96])
    candidates = torch.minimum(one, limits)[location].double().numpy()
    expected = slow(candidates, scores[location, label].numpy(), label.numpy(), 0.65, 100)
    assert len(detections.scores) == len(expected) == 100
    index = [i for i, _ in expected]
    np.testing.assert_allclose(detections.scores, [s for _, s in expected], rtol=1e-5)
    assert detections.labels.tolist() == label[index].tolist()
    np.testing.assert_array_equal(detections.boxes, candidates[index].astype(np.float32))


def test_hard_nms_is_the_default_and_soft_nms_another_variant():
    assert Variant(image=IMAGE) == Variant(image=IMAGE, nms="hard")
    assert variant_id(Variant(image=IMAGE)) == variant_id(Variant(image=IMAGE, nms="hard"))
    assert variant_id(Variant(image=IMAGE, nms="soft", nms_iou=0.65)).startswith("soft_nms0.65-128x96-")


@pytest.mark.parametrize("case", CASES)
def test_soft_nms_agrees_with_mmcv(case):
    """mmcv's operator has no classes, so they are moved apart, by steps that are exact in single precision."""
    try:
        from mmcv.ops import soft_nms as theirs
    except Exception as error:  # not installed, or without its operators
        pytest.skip(f"mmcv's operators cannot be imported: {type(error).__name__}: {error}")
    count, classes, threshold, limit = CASES[case]
    boxes, scores, labels = draw(count, classes, seed=5)
    boxes = np.round(boxes * 16) / 16
    apart = np.float32(boxes + labels[:, None] * 500.0)
    decayed, kept = theirs(apart, np.float32(scores), threshold, min_score=0.001, method="linear")
    single = [torch.from_numpy(np.float32(value)) for value in (boxes, scores)]
    index, score = soft_nms(*single, torch.from_numpy(labels), threshold, limit)
    assert index.tolist() == kept[:limit].tolist()
    np.testing.assert_allclose(score, decayed[:limit, 4], rtol=0, atol=1e-6)
