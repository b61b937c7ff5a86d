"""Losses of ATSS and GFL against slow loops, for each part and each loss."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests.detectors.slow import entropy, slow_box
from tests.detectors.test_atss import LOSSES, SWITCHES, distribution_of, make_detector
from tests.samples import STRIDES, make_batch, pyramid
from workbench.assigners.assignment import BACKGROUND, PADDING


def slow_decode(point, stride, codes, head):
    """Box decoded from its codes."""
    (x, y), side = point, 4.0 * stride
    if distribution_of(head) is None:
        dx, dy, dw, dh = (value * s for value, s in zip(codes, (0.1, 0.1, 0.2, 0.2), strict=True))
        x, y, w, h = x + dx * side, y + dy * side, side * math.exp(dw), side * math.exp(dh)
        return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    distances = []
    for start in range(0, len(codes), len(codes) // 4):
        weights = [math.exp(code) for code in codes[start : start + len(codes) // 4]]
        mean = sum(i * weight for i, weight in enumerate(weights)) / sum(weights)
        distances.append(mean * distribution_of(head).interval * stride)
    left, top, right, bottom = distances
    return [x - left, y - top, x + right, y + bottom]


def slow_distribution_loss(codes, distances, stride, distribution):
    """Mean over the sides of the cross entropy with the two values next to each distance."""
    total, n = 0.0, distribution.intervals
    for side, distance in enumerate(distances):
        logits = codes[side * (n + 1) : (side + 1) * (n + 1)]
        y = min(distance / stride / distribution.interval, n - 0.1)
        i = int(y)
        log_sum = math.log(sum(math.exp(x) for x in logits))
        total += (i + 1 - y) * (log_sum - logits[i]) + (y - i) * (log_sum - logits[i + 1])
    return total / 4


def slow_entry(loss, x, quality):
    """Loss of one logit (section f of the recipes); the quality is None for a negative."""
    p = 1 / (1 + math.exp(-x))
    if loss == "focal":
        return 0.75 * p**2 * -math.log(1 - p) if quality is None else 0.25 * (1 - p) ** 2 * -math.log(p)
    if loss == "quality_focal":
        return ((quality or 0) - p) ** 2 * entropy(x, quality or 0)
    return 0.75 * p**2 * entropy(x, 0) if quality is None else quality * entropy(x, quality)


def slow_terms(head, predictions, assignment, batch, loss, boxes=None):
    """All terms, location by location in double precision, and the number of positives; ``boxes`` replace decoded codes."""
    locations = [(p, s) for level, s in zip(predictions.points, STRIDES, strict=True) for p in level.tolist()]
    logits, codes = predictions.logits.double().tolist(), predictions.codes.double().tolist()
    sums, weights, count = {"cls": 0.0, "box": 0.0}, 0.0, 0
    if predictions.quality is not None:
        sums["centerness"] = 0.0
    if distribution_of(head) is not None:
        sums["distribution"] = 0.0
    positives = 0
    for b, index in enumerate(assignment.index.tolist()):
        own = sum(g >= 0 for g in index)
        positives, count = positives + own, count + max(own, 1)
        for location, g in enumerate(index):
            quality, label = None, None
            if g >= 0:
                truth, label = batch.boxes[b, g].tolist(), batch.labels[b, g].item()
                (x, y), stride = locations[location]
                box = boxes[b][location] if boxes else slow_decode((x, y), stride, codes[b][location], head)
                quality, giou = slow_box(box, truth)
                quality = max(quality, 1e-6)
                distances = [x - truth[0], y - truth[1], truth[2] - x, truth[3] - y]
                across, down = sorted(distances[0::2]), sorted(distances[1::2])
                centerness = math.sqrt(across[0] / across[1] * down[0] / down[1])
                if predictions.quality is not None:
                    weight = centerness
                    sums["centerness"] += entropy(predictions.quality[b, location].item(), centerness)
                else:
                    weight = 1 / (1 + math.exp(-max(logits[b][location])))
                sums["box"] += 2.0 * weight * (1 - giou)
                if distribution_of(head) is not None:
                    side = slow_distribution_loss(codes[b][location], distances, stride, distribution_of(head))
                    sums["distribution"] += 0.25 * weight * side
                weights += weight
            if g == PADDING and loss != "varifocal":
                continue
            for c, x in enumerate(logits[b][location]):
                sums["cls"] += slow_entry(loss, x, quality if c == label else None)
    normaliser = {"cls": count, "centerness": count, "box": weights or 1, "distribution": weights or 1}
    return {term: value / normaliser[term] for term, value in sums.items()}, positives


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 2), (200, 5)], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("switches", SWITCHES)
def test_loss_terms_agree_with_loops(switches, loss, counts):
    detector, batch = make_detector(switches, loss), make_batch(counts)
    head = detector.head
    torch.nn.init.normal_(head.cls_out.bias, -2)
    predictions = head(pyramid())
    assignment = detector.assign(predictions, batch)
    terms = detector.terms(predictions, batch)
    expected, positives = slow_terms(head, predictions, assignment, batch, loss)
    assert (assignment.index == PADDING).any()
    assert (assignment.index == BACKGROUND).any()
    assert positives >= min(sum(counts), 1)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected, rel=2e-4, abs=1e-6)
    sum(terms.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name  # connected even without objects
        assert parameter.grad.isfinite().all(), name
    assert head.cls_out.weight.grad.abs().max() > 0
    assert (head.box_out.bias.grad.abs().max() > 0) == (positives > 0)
    if head.centerness_out:
        assert (head.centerness_out.bias.grad.abs().max() > 0) == (positives > 0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("switches", ["atss", "gfl"])
def test_positives_whose_boxes_miss_their_objects_stay_positives(switches, loss):
    """Their quality has a floor, so that the varifocal loss does not treat them as negatives."""
    detector, batch = make_detector(switches, loss), make_batch((3, 2))
    head = detector.head
    torch.nn.init.zeros_(
        head.cls_out.bias
    )  # scores so high that a positive treated as a negative would change the loss
    predictions = head(pyramid())
    astray = dataclasses.replace(predictions, boxes=predictions.boxes + 5000)
    terms = detector.terms(astray, batch)
    expected, positives = slow_terms(head, astray, detector.assign(astray, batch), batch, loss, astray.boxes.tolist())
    assert positives > 0
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("switches", ["atss", "joint", "atss_dfl", "gfl"])
def test_each_term_has_gradients_of_its_own_outputs_only(switches):
    """The quality, and the score that weights the box terms, are detached."""
    detector, batch = make_detector(switches, "quality_focal"), make_batch((3, 2))
    head = detector.head
    predictions = head(pyramid())
    names = [name for name in ("logits", "boxes", "quality", "codes") if getattr(predictions, name) is not None]
    leaves = {name: getattr(predictions, name).detach().requires_grad_() for name in names}
    terms = detector.terms(dataclasses.replace(predictions, **leaves), batch)
    sources = {"cls": {"logits"}, "box": {"boxes"}}
    if head.centerness_out:
        sources["centerness"] = {"quality"}
    if distribution_of(head):
        sources["distribution"] = {"codes"}
    assert terms.keys() == sources.keys()
    for term, value in terms.items():
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, retain_graph=True)
        reached = {name for name, g in zip(leaves, gradients, strict=True) if g is not None and g.any()}
        assert reached == sources[term]
