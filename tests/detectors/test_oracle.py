"""Oracles: every value of a small case, Table 1's ten scores, identities, and equal scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench.assigners.assignment import BACKGROUND, IGNORE, PADDING, Assignment
from workbench.data.batch import Batch
from workbench.detectors.oracle import _logit, foreground_iou, put_truth
from workbench.detectors.postprocess import postprocess
from workbench.detectors.predictions import Predictions
from workbench.settings.catalog import load_row
from workbench.settings.data import ImageSize
from workbench.settings.detectors import VFNet
from workbench.settings.variant import Oracle, Variant, check_evaluation
from workbench.support.errors import WorkbenchError

IMAGE = ImageSize(long=128, short=96)
NOTHING = Oracle()
EVERY = [
    Oracle(centerness="truth"),
    Oracle(centerness="iou"),
    Oracle(boxes=True),
    Oracle(score="one"),
    Oracle(score="iou"),
    Oracle(centerness="iou", boxes=True, score="iou"),
]


# Two images, three objects, five locations of two levels, four classes. For each foreground (image, location): the index
# of the object, the IoU of the predicted box with the object, and the centerness of the point in the object.
OBJECTS = {(0, 0): ([0, 0, 10, 10], 2), (0, 1): ([20, 20, 40, 30], 0), (1, 0): ([4, 4, 12, 20], 3)}
POINTS = [[2, 5], [30, 25], [9, 9], [24, 22]], [[6, 8]]
FOREGROUND = {
    (0, 0): (0, 1 / 2, 1 / 2),  # l, r = 2, 8; t, b = 5, 5
    (0, 1): (1, 1.0, 1.0),  # in the middle
    (0, 3): (1, 0.0, math.sqrt(4 / 16 * 2 / 8)),
    (0, 4): (0, 60 / (100 + 144 - 60), math.sqrt(4 / 6 * 2 / 8)),
    (1, 2): (0, 8 * 16 / 400, math.sqrt(3 / 5 * 5 / 11)),
}
INDEX = [[0, 1, BACKGROUND, 1, 0], [PADDING, IGNORE, 0, BACKGROUND, PADDING]]
BOXES = [
    [[0, 0, 10, 5], [20, 20, 40, 30], [1, 2, 3, 4], [41, 20, 60, 30], [-2, 4, 10, 16]],
    [[5, 5, 9, 9], [0, 0, 60, 60], [0, 0, 20, 20], [7, 7, 8, 8], [0, 0, 2, 2]],
]
"""The fifth box of the first image reaches beyond the image; its IoU is computed with the whole box."""


@pytest.fixture
def case():
    """Predictions, Assignment and Batch of the case."""
    rng = np.random.default_rng(0)
    predictions = Predictions(
        logits=torch.tensor(rng.normal(-1, 2, (2, 5, 4)), dtype=torch.float32),
        boxes=torch.tensor(BOXES, dtype=torch.float32),
        points=[torch.tensor(points, dtype=torch.float32) for points in POINTS],
        shapes=[(2, 2), (1, 1)],
        strides=(8, 16),
        quality=torch.tensor(rng.normal(0, 2, (2, 5)), dtype=torch.float32),
    )
    boxes, labels, valid = torch.zeros(2, 2, 4), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2).bool()
    for place, (box, label) in OBJECTS.items():
        boxes[place], labels[place], valid[place] = torch.tensor(box), label, True
    sizes = torch.tensor([[60, 60], [60, 60]])
    batch = Batch(torch.zeros(2, 3, 64, 64), boxes, labels, valid, sizes, sizes, (1, 2), ("a", "b"))
    return predictions, Assignment(torch.tensor(INDEX)), batch


def same_bits(a: Predictions, b: Predictions) -> bool:
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in ("logits", "boxes", "quality"))


@pytest.mark.parametrize("oracle", EVERY, ids=lambda oracle: oracle.title)
def test_every_value_of_a_small_case(case, oracle):
    predictions, assignment, batch = case
    logits, boxes, centerness = (
        getattr(predictions, part).double() for part in ("logits", "boxes", "quality")
    )  # expected values, first the predicted ones
    scores, centerness = logits.sigmoid(), centerness.sigmoid()
    for (image, location), (number, iou, true_centerness) in FOREGROUND.items():
        box, label = OBJECTS[image, number]
        if oracle.boxes:
            boxes[image, location] = torch.tensor(box)
            iou = 1.0
        if oracle.score:
            scores[image, location, label] = {"one": 1.0, "iou": iou}[oracle.score]
        if oracle.centerness:
            centerness[image, location] = {"truth": true_centerness, "iou": iou}[oracle.centerness]
    before = replace(predictions)
    actual = put_truth(predictions, assignment, batch, oracle)
    assert same_bits(predictions, before)  # the input is unchanged
    assert torch.equal(actual.boxes.double(), boxes)
    torch.testing.assert_close(actual.logits.sigmoid().double(), scores, rtol=3e-7, atol=0)
    torch.testing.assert_close(actual.quality.sigmoid().double(), centerness, rtol=3e-7, atol=0)
    assert (actual.logits.sigmoid()[scores == 1] == 1).all()
    assert (actual.logits.sigmoid()[scores == 0] == 0).all()
    # All other values keep their bits: the background, the padding, the other classes.
    for part, expected in (("logits", scores), ("quality", centerness)):
        untouched = expected == getattr(predictions, part).double().sigmoid()
        assert untouched.sum() >= expected.numel() - len(FOREGROUND)
        assert torch.equal(getattr(actual, part)[untouched], getattr(predictions, part)[untouched])


def test_the_ious_of_the_small_case(case):
    assert foreground_iou(*case).tolist() == pytest.approx([iou for _, iou, _ in FOREGROUND.values()], rel=1e-15)


SCORES = {
    "t1_base_noctr": lambda p, c, true_c, iou: p,
    "t1_base_ctr": lambda p, c, true_c, iou: p * c,
    "t1_gt_ctr": lambda p, c, true_c, iou: p * true_c,
    "t1_gt_ctr_iou": lambda p, c, true_c, iou: p * iou,
    "t1_gt_bbox_noctr": lambda p, c, true_c, iou: p,
    "t1_gt_bbox_ctr": lambda p, c, true_c, iou: p * c,
    "t1_gt_cls_noctr": lambda p, c, true_c, iou: 1.0,
    "t1_gt_cls_ctr": lambda p, c, true_c, iou: c,
    "t1_gt_cls_iou_noctr": lambda p, c, true_c, iou: iou,
    "t1_gt_cls_iou_ctr": lambda p, c, true_c, iou: iou * c,
}
"""Final score of a foreground location for its object's class, in each column of Table 1."""


@pytest.mark.parametrize("row", SCORES)
def test_final_scores_are_as_table_1_defines_them(case, row):
    """The variants are from the table's file; the post-processing drops nothing."""
    predictions, assignment, batch = case
    stated = load_row("table1", row).variant
    variant = stated.model_copy(update={"score_threshold": 0.0, "nms_iou": 1.0})
    if variant.oracle:
        predictions = put_truth(predictions, assignment, batch, variant.oracle)
    detections = postprocess(predictions, batch.sizes, variant)
    p, c = case[0].logits.double().sigmoid(), case[0].quality.double().sigmoid()
    expected = [[], []]
    for image, location, label in np.ndindex(2, 5, 4):
        values = p[image, location, label].item(), c[image, location].item()
        number, iou, true_centerness = FOREGROUND.get((image, location), (None, None, None))
        if number is not None and OBJECTS[image, number][1] == label:
            score = SCORES[row](*values, true_centerness, iou)
        elif number is not None and row == "t1_gt_ctr":
            score = values[0] * true_centerness
        elif number is not None and row == "t1_gt_ctr_iou":
            score = values[0] * iou
        else:
            score = values[0] * values[1] if stated.centerness else values[0]
        box = OBJECTS[image, number][0] if "bbox" in row and number is not None else BOXES[image][location]
        if score or "cls_iou" not in row:  # a class score of 0 is not above the threshold
            expected[image].append((score, label, [min(max(v, 0), 60) for v in box]))
    for one, sorted_expected in zip(detections, expected, strict=True):
        sorted_expected.sort(key=lambda item: -item[0])
        assert len(one.scores) == len(sorted_expected)
        np.testing.assert_allclose(one.scores, [score for score, _, _ in sorted_expected], rtol=1e-6)
        assert one.labels.tolist() == [label for _, label, _ in sorted_expected]  # ties keep the order of locations
        assert one.boxes.tolist() == [box for _, _, box in sorted_expected]


def test_the_sigmoid_of_a_logit_is_the_probability():
    """0 and 1 are exact, other probabilities within 1e-7, in the same order."""
    q = torch.cat([torch.linspace(0, 1, 200_001, dtype=torch.float64), torch.logspace(-30, -5, 1000).double()])
    back = _logit(q).sigmoid()
    assert (back[q == 0] == 0).all()
    assert (back[q == 1] == 1).all()
    assert ((back - q).abs() <= 1e-7).all()
    assert (back[1:200_001] >= back[:200_000]).all()


def test_replacing_nothing_changes_nothing(case):
    predictions, assignment, batch = case
    assert same_bits(put_truth(predictions, assignment, batch, NOTHING), predictions)
    nothing_assigned = Assignment(torch.tensor(INDEX).clamp(max=BACKGROUND))
    for oracle in EVERY:
        assert same_bits(put_truth(predictions, nothing_assigned, batch, oracle), predictions)
        none = replace(batch, boxes=batch.boxes[:, :0], labels=batch.labels[:, :0], valid=batch.valid[:, :0])
        assert same_bits(put_truth(predictions, nothing_assigned, none, oracle), predictions)


def test_replacing_twice_is_replacing_once(case):
    predictions, assignment, batch = case
    for oracle in EVERY:
        once = put_truth(predictions, assignment, batch, oracle)
        assert same_bits(put_truth(once, assignment, batch, oracle), once)


def test_true_boxes_have_an_iou_of_one(case):
    one, iou = (put_truth(*case, Oracle(boxes=True, score=score)) for score in ("one", "iou"))
    assert same_bits(one, iou)


def test_replaced_values_keep_their_bits_in_half_precision(case):
    predictions, assignment, batch = case
    half = replace(predictions, logits=predictions.logits.bfloat16(), quality=predictions.quality.bfloat16())
    actual = put_truth(half, assignment, batch, Oracle(centerness="iou", score="iou"))
    expected = put_truth(predictions, assignment, batch, Oracle(centerness="iou", score="iou"))
    image, location = assignment.places
    labels = assignment.gather(batch.labels)
    assert torch.equal(actual.logits[image, location, labels], expected.logits[image, location, labels])
    assert torch.equal(actual.quality[image, location], expected.quality[image, location])


def test_the_truth_comes_before_the_choice_of_candidates(case):
    predictions, assignment, batch = case
    hidden = replace(predictions, logits=predictions.logits.clone())
    hidden.logits[0, 1] = -20  # the lowest score of all locations
    actual = put_truth(hidden, assignment, batch, Oracle(score="iou"))
    variant = Variant(image=IMAGE, candidates=1, centerness=False)
    assert postprocess(actual, batch.sizes, variant)[0].boxes[0].tolist() == [20, 20, 40, 30]


# -------------------------------------------------------------------------------------------------- equal scores


def equal(count, limit, boxes):
    """Detections of locations of one level that all have the score 1."""
    predictions = Predictions(
        logits=torch.full((1, count, 2), torch.inf),
        boxes=torch.tensor(boxes, dtype=torch.float32)[None],
        points=[torch.zeros(count, 2)],
        shapes=[(1, count)],
        strides=(8,),
    )
    variant = Variant(image=IMAGE, candidates=limit)
    return postprocess(predictions, torch.tensor([[96, 128]]), variant)[0]


@pytest.mark.parametrize(("count", "limit"), [(3000, 40), (40, 1000)])
def test_detections_of_equal_score_are_in_the_order_of_locations(count, limit):
    corners = np.stack([np.arange(count) % 128, np.arange(count) // 128 * 2.0], axis=-1)
    detections = equal(count, limit, np.concatenate([corners, corners + 1], axis=-1))
    assert detections.boxes[:, :2].tolist() == [c.tolist() for c in corners[:40] for _ in range(2)]
    assert detections.labels.tolist() == [0, 1] * 40


def test_nms_keeps_the_first_box_of_equal_score():
    rng = np.random.default_rng(0)
    boxes = np.array([10, 10, 50, 50]) + rng.uniform(-1, 1, (500, 4))
    detections = equal(500, 1000, boxes)
    np.testing.assert_allclose(detections.boxes, boxes[[0, 0]], rtol=1e-6)
    assert detections.labels.tolist() == [0, 1]


# ---------------------------------------------------------------------------------------------------------- refusals


def test_meaningless_oracles_are_errors(case):
    with pytest.raises(ValueError, match="replaces nothing; remove it"):
        Variant(image=IMAGE, oracle=NOTHING)
    with pytest.raises(ValueError, match="no effect with centerness: false"):
        Variant(image=IMAGE, centerness=False, oracle=Oracle(centerness="iou"))
    predictions, assignment, batch = case
    with pytest.raises(WorkbenchError, match="no centerness to replace"):
        put_truth(replace(predictions, quality=None), assignment, batch, Oracle(centerness="truth"))
    for wrong, output in (
        ({"centerness": False}, "x: vfnet has no centerness to leave out; remove it"),
        ({"oracle": Oracle(centerness="iou")}, "x: vfnet has no centerness to replace; remove it"),
    ):
        with pytest.raises(WorkbenchError, match=output):
            check_evaluation(VFNet(), Variant(image=IMAGE, **wrong), "x")
        check_evaluation(VFNet(star=False, refine=False, centerness=True), Variant(image=IMAGE, **wrong), "x")
