"""Losses of VarifocalNet against slow loops, for each switch and each loss."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests.detectors.slow import entropy, slow_box
from tests.detectors.test_vfnet import LOSSES, SWITCHES, make_detector
from tests.samples import CLASSES, make_batch, pyramid
from workbench.assigners.assignment import PADDING


def slow_terms(predictions, assignment, batch, loss):
    """Loss terms (section f of the recipes), location by location in double precision, and the number of positives."""
    points = [p for level in predictions.points for p in level.tolist()]
    logits, boxes = predictions.logits.tolist(), predictions.boxes.tolist()
    initial = None if predictions.initial_boxes is None else predictions.initial_boxes.tolist()
    positives = 0
    sums = {"cls": 0.0, "box": 0.0, "box_initial": 0.0, "centerness": 0.0}
    weights = {"box": 0.0, "box_initial": 0.0}

    for b, index in enumerate(assignment.index.tolist()):
        for location, g in enumerate(index):
            quality, label = 0.0, None
            if g >= 0:
                positives += 1
                truth, label = batch.boxes[b, g].tolist(), batch.labels[b, g].item()
                quality, giou = slow_box(boxes[b][location], truth)
                weight = quality
                if predictions.quality is not None:
                    (x, y), (x1, y1, x2, y2) = points[location], truth
                    across, down = sorted((x - x1, x2 - x)), sorted((y - y1, y2 - y))
                    weight = math.sqrt(across[0] / across[1] * down[0] / down[1])
                    sums["centerness"] += entropy(predictions.quality[b, location].item(), weight)
                sums["box"] += 2.0 * weight * (1 - giou)
                weights["box"] += weight
                if initial is not None:
                    own, giou = slow_box(initial[b][location], truth)
                    sums["box_initial"] += 1.5 * own * (1 - giou)
                    weights["box_initial"] += own
            for c in range(CLASSES):
                x, p = logits[b][location][c], 1 / (1 + math.exp(-logits[b][location][c]))
                hit = c == label
                if loss == "varifocal":
                    q = max(quality, 1e-6)
                    sums["cls"] += q * entropy(x, q) if hit else 0.75 * p**2 * entropy(x, 0)
                elif g != PADDING and loss == "focal":
                    sums["cls"] += 0.25 * (1 - p) ** 2 * -math.log(p) if hit else 0.75 * p**2 * -math.log(1 - p)
                elif g != PADDING:
                    y = max(quality, 1e-6) if hit else 0
                    sums["cls"] += (y - p) ** 2 * entropy(x, y)
    count = max(positives, 1)
    terms = {
        "cls": sums["cls"] / count,
        "box": sums["box"] / max(weights["box"], 1 if predictions.quality is None else 1e-6),
    }
    if initial is not None:
        terms["box_initial"] = sums["box_initial"] / max(weights["box_initial"], 1)
    if predictions.quality is not None:
        terms["centerness"] = sums["centerness"] / count
    return terms, positives


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 2), (200, 5)], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("switches", SWITCHES)
def test_loss_terms_agree_with_loops(switches, loss, counts):
    detector, batch = make_detector(switches, loss, anchor_scale=4.0), make_batch(counts)
    head = detector.head
    predictions = head(pyramid())
    assignment = detector.assign(predictions, batch)
    terms = detector.terms(predictions, batch)
    expected, positives = slow_terms(predictions, assignment, batch, loss)
    assert (assignment.index == PADDING).any()
    assert positives >= min(sum(counts), 1)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected, rel=2e-4, abs=1e-6)
    sum(terms.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name  # connected even without objects
        assert parameter.grad.isfinite().all(), name
    assert head.cls_out.weight.grad.abs().max() > 0
    assert (head.box_out.bias.grad.abs().max() > 0) == (positives > 0 or switches in ("full", "star"))


@pytest.mark.parametrize("loss", LOSSES)
def test_positives_whose_boxes_miss_their_objects_stay_positives(loss):
    detector, batch = make_detector("full", loss), make_batch((3, 2))
    head = detector.head
    torch.nn.init.zeros_(
        head.cls_out.bias
    )  # scores so high that a positive treated as a negative would change the loss
    predictions = head(pyramid())
    astray = dataclasses.replace(predictions, boxes=predictions.boxes + 5000)
    expected, positives = slow_terms(astray, detector.assign(astray, batch), batch, loss)
    assert positives > 0
    terms = detector.terms(astray, batch)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected, rel=2e-4, abs=1e-6)
    assert terms["box"] == 0


@pytest.mark.parametrize(("loss", "counted"), [("varifocal", True), ("focal", False), ("quality_focal", False)])
def test_padding_is_background_for_varifocal_alone(loss, counted):
    detector, batch = make_detector("raw", loss), make_batch((2, 1))
    head = detector.head
    predictions = head(pyramid())
    predictions.logits.retain_grad()
    detector.terms(predictions, batch)["cls"].backward()
    padding = detector.assign(predictions, batch).index == PADDING
    gradient = predictions.logits.grad.abs().amax(-1)
    assert padding[1].any()
    assert (gradient[padding] > 0).all() if counted else (gradient[padding] == 0).all()
    assert (gradient[~padding] > 0).all()


def test_the_target_is_the_iou_of_the_final_box_and_is_detached():
    detector, batch = make_detector(), make_batch((3, 2))
    head = detector.head
    predictions = head(pyramid())
    logits, boxes = predictions.logits.detach().requires_grad_(), predictions.boxes.detach().requires_grad_()
    initial = predictions.initial_boxes.detach().requires_grad_()
    leaves = dataclasses.replace(predictions, logits=logits, boxes=boxes, initial_boxes=initial)
    detector.terms(leaves, batch)["cls"].backward()
    assert logits.grad.abs().max() > 0
    assert boxes.grad is None
    assert initial.grad is None

    other = dataclasses.replace(leaves, initial_boxes=initial.detach() + 3)
    one, two = detector.terms(leaves, batch), detector.terms(other, batch)
    assert one["cls"] == two["cls"]
    assert one["box"] == two["box"]
    assert one["box_initial"] != two["box_initial"]
