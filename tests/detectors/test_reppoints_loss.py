"""Losses of RepPoints, with the assignments of both stages, against slow loops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests import samples
from tests.detectors.slow import entropy, slow_iou
from tests.detectors.test_reppoints import LOSSES, make_detector
from tests.samples import CANVAS, CLASSES, STRIDES, pyramid
from workbench.assigners.assignment import BACKGROUND, IGNORE


def make_batch(counts, canvas=CANVAS):
    """Images of different sizes, the first as large as the canvas."""
    return samples.make_batch(counts, (canvas, (60, 50), (96, 64), (33, 128), (90, 90)), canvas, spread=40)


def slow_initial(locations, inside, truth, unit):
    """Cell → object of the first stage."""
    claims = {}
    for g, (x1, y1, x2, y2) in enumerate(truth):
        level = math.floor(math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / unit))
        stride = 2 ** min(max(level, 3), 7)
        distance = {
            c: math.hypot((x - (x1 + x2) / 2) / (x2 - x1), (y - (y1 + y2) / 2) / (y2 - y1))
            for c, (x, y, own) in enumerate(locations)
            if own == stride and inside[c]
        }
        nearest = min(distance, key=distance.get)
        if distance[nearest] < claims.get(nearest, (math.inf,))[0]:
            claims[nearest] = distance[nearest], g
    return {c: g for c, (_, g) in claims.items()}


def slow_refined(boxes, inside, truth):
    """Index of each location in the second stage, by the IoU of its initial box."""
    overlaps = [[slow_iou(box, t) if inside[c] else -1 for t in truth] for c, box in enumerate(boxes)]
    index = []
    for c, row in enumerate(overlaps):
        best = max(row, default=0)
        index.append(row.index(best) if row and best >= 0.5 else IGNORE if best >= 0.4 else BACKGROUND)
        index[-1] = index[-1] if inside[c] else IGNORE
    for g in range(len(truth)):
        largest = max(row[g] for row in overlaps)
        for c, row in enumerate(overlaps):
            if inside[c] and row[g] == largest:
                index[c] = g
    return index


def slow_classification(name, logits, label, quality):
    """Classification loss of a location, summed over the classes."""
    total = 0.0
    for c, x in enumerate(logits):
        p, y = 1 / (1 + math.exp(-x)), quality if c == label else 0.0
        if name == "varifocal":
            total += (y if y > 0 else 0.75 * p**2) * entropy(x, y)
        elif name == "quality_focal":
            total += (y - p) ** 2 * entropy(x, y)
        else:
            total += 0.25 * (1 - p) ** 2 * -math.log(p) if c == label else 0.75 * p**2 * -math.log(1 - p)
    return total


def slow_smooth_l1(box, truth, size):
    distances = [abs(a - b) / size for a, b in zip(box, truth, strict=True)]
    return sum(0.5 * d * d / 0.11 if d < 0.11 else d - 0.5 * 0.11 for d in distances)


def slow_terms(predictions, batch, loss, unit):
    """Loss terms (sections e and f of the recipes), location by location in double precision, and the indices."""
    locations = [
        (*point, stride)
        for level, stride in zip(predictions.points, STRIDES, strict=True)
        for point in level.double().tolist()
    ]
    images = []
    for b, (height, width) in enumerate(batch.sizes.tolist()):
        high, wide = (32 * math.ceil(side / 32) for side in (height, width))
        inside = [x < math.ceil(wide / s) * s and y < math.ceil(high / s) * s for x, y, s in locations]
        truth = batch.boxes[b][batch.valid[b]].double().tolist()
        initial, final = (x[b].double().tolist() for x in (predictions.initial_boxes, predictions.boxes))
        first, second = slow_initial(locations, inside, truth, unit), slow_refined(initial, inside, truth)
        sums = {"cls": 0.0, "box_initial": 0.0, "box": 0.0, "N1": len(first), "N2": 0}
        for c, g in first.items():
            sums["box_initial"] += 0.5 * slow_smooth_l1(initial[c], truth[g], unit * locations[c][2])
        for c, g in enumerate(second):
            label, quality = None, 0.0
            if g >= 0:
                sums["N2"] += 1
                sums["box"] += slow_smooth_l1(final[c], truth[g], unit * locations[c][2])
                label, quality = batch.labels[b, g].item(), slow_iou(final[c], truth[g])
            if g != IGNORE:
                sums["cls"] += slow_classification(loss, predictions.logits[b, c].tolist(), label, quality)
        images.append((sums, second))
    groups = [[sums for sums, _ in images[i : i + 4]] for i in range(0, len(images), 4)]
    terms = {}
    for term, count in (("cls", "N2"), ("box_initial", "N1"), ("box", "N2")):
        shares = [sum(one[term] for one in group) / sum(max(one[count], 1) for one in group) for group in groups]
        terms[term] = sum(shares) / len(groups)
    return terms, [second for _, second in images]


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 2), (60, 5), (4, 0, 2, 1, 7)], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_terms_agree_with_loops(loss, counts):
    detector, batch = make_detector(loss), make_batch(counts)
    head = detector.head
    predictions = head(pyramid(images=len(counts)))
    expected, index = slow_terms(predictions, batch, loss, unit=2)
    assert detector.assign(predictions, batch).index.tolist() == index
    assert any(g >= 0 for row in index for g in row) == any(counts)
    terms = detector.terms(predictions, batch)
    assert list(terms) == list(expected)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected, rel=2e-4, abs=1e-6)
    sum(terms.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name  # connected even without objects
        assert parameter.grad.isfinite().all(), name
    assert head.cls_out.weight.grad.abs().max() > 0
    for part in (head.refine_out.bias, head.moment_transfer):
        assert (part.grad.abs().max() > 0) == any(counts)


def test_some_positives_reach_half_and_some_boxes_are_ignored():
    """Without such positives the comparison above would not test the thresholds."""
    detector, batch = make_detector(), make_batch((60, 5))
    head = detector.head
    index = detector.assign(head(pyramid()), batch).index
    assert (index[0] >= 0).sum() > 60
    assert (index[0] == IGNORE).sum() > 10


@pytest.mark.parametrize("loss", LOSSES)
def test_a_positive_without_overlap_has_no_floor(loss):
    """A loss that wants a quality treats it as a negative; the focal loss treats it as a positive."""
    detector, batch = make_detector(loss), make_batch((3, 2))
    head = detector.head
    torch.nn.init.zeros_(head.cls_out.bias)
    predictions = head(pyramid())
    astray = dataclasses.replace(predictions, boxes=predictions.boxes + 5000)
    expected, _ = slow_terms(astray, batch, loss, unit=2)
    terms = detector.terms(astray, batch)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected, rel=2e-4)
    shared = dataclasses.replace(batch, labels=(batch.labels + 1) % CLASSES)
    assert (detector.terms(astray, shared)["cls"] == terms["cls"]) == (loss != "focal")


def test_ignored_locations_and_padding_have_no_gradient():
    for loss in LOSSES:
        detector, batch = make_detector(loss), make_batch((60, 5))
        head = detector.head
        predictions = head(pyramid())
        predictions.logits.retain_grad()
        detector.terms(predictions, batch)["cls"].backward()
        ignored = detector.assign(predictions, batch).index == IGNORE
        gradient = predictions.logits.grad.abs().amax(-1)
        assert ignored[0].any()
        assert (gradient[ignored] == 0).all()
        assert (gradient[~ignored] > 0).all()


def test_the_target_is_the_iou_of_the_final_box_and_is_detached():
    detector, batch = make_detector(), make_batch((3, 2))
    head = detector.head
    predictions = head(pyramid())
    leaves = {
        name: getattr(predictions, name).detach().requires_grad_() for name in ("logits", "boxes", "initial_boxes")
    }
    predictions = dataclasses.replace(predictions, **leaves)
    detector.terms(predictions, batch)["cls"].backward()
    assert leaves["logits"].grad.abs().max() > 0
    assert leaves["boxes"].grad is None
    assert leaves["initial_boxes"].grad is None
    moved = dataclasses.replace(predictions, boxes=predictions.boxes + 1)
    assert detector.terms(moved, batch)["cls"] != detector.terms(predictions, batch)["cls"]
