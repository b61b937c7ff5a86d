"""Head of RetinaNet: anchors, the order of channels, and losses against slow loops."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

import workbench
from tests import samples
from tests.detectors.slow import entropy, slow_iou
from tests.samples import CLASSES, STRIDES, pyramid, silent
from workbench.assigners.assignment import IGNORE
from workbench.detectors import FAMILIES
from workbench.detectors.retinanet import AnchorGrid
from workbench.layers.convolution import Conv2d
from workbench.losses.classification import CLASSIFICATION_LOSSES
from workbench.settings.detectors import RetinaNet
from workbench.settings.experiment import Head


def make_detector(loss="focal", *, depth=2, side=4.0, **settings):
    settings = {"channels": 8, "norm_groups": 1, "init_std": 0.1} | settings
    head = Head().model_copy(update=settings | {"stacked_convs": depth - 1, "anchor_scale": 2 * side})
    return samples.make_detector(RetinaNet(), CLASSIFICATION_LOSSES[loss](), head)


def make_head(*arguments, **settings):
    return make_detector(*arguments, **settings).head


def make_batch(counts, sizes=samples.SIZES, canvas=samples.CANVAS):
    return samples.make_batch(counts, sizes, canvas, smallest=12)


# ---------------------------------------------------------------------------------------------------------- anchors


def slow_anchors(shapes, side):
    """Anchors by their definition: location by location, ratio by ratio, octave by octave."""
    for (rows, columns), stride in zip(shapes, STRIDES, strict=True):
        for i, j, ratio, octave in itertools.product(range(rows), range(columns), (0.5, 1, 2), range(3)):
            size = side * stride * 2 ** (octave / 3)
            w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
            yield j * stride - w / 2, i * stride - h / 2, j * stride + w / 2, i * stride + h / 2


def test_anchors_agree_with_a_calculation_by_hand():
    """Anchors of the published size, at the places (0, 0) and (1, 2) of stride 8 and at one of stride 128."""
    shapes = [(2, 3), (1, 1), (1, 1), (1, 1), (1, 1)]
    points = [torch.tensor([[j * 8.0, i * 8.0] for i in range(2) for j in range(3)])]
    points += [torch.zeros(1, 2)] * 4
    anchors = AnchorGrid(4.0)(points, STRIDES)
    by_hand = [
        *((45.2548, 22.6274), (57.0175, 28.5088), (71.8376, 35.9188)),  # 32, 40.3175 and 50.7968, twice as wide as high
        *((32, 32), (40.3175, 40.3175), (50.7968, 50.7968)),
        *((22.6274, 45.2548), (28.5088, 57.0175), (35.9188, 71.8376)),
    ]
    for location, x, y, factor in ((0, 0, 0, 1), (5, 16, 8, 1), (9, 0, 0, 16)):
        expected = [
            (x - w / 2 * factor, y - h / 2 * factor, x + w / 2 * factor, y + h / 2 * factor) for w, h in by_hand
        ]
        torch.testing.assert_close(
            anchors[9 * location : 9 * location + 9], torch.tensor(expected), rtol=1e-5, atol=1e-4
        )
    torch.testing.assert_close(anchors, torch.tensor(list(slow_anchors(shapes, 4))), rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(AnchorGrid(2.0)(points, STRIDES), torch.tensor(list(slow_anchors(shapes, 2))))


@pytest.mark.parametrize(("scale", "side"), [("coco", 4), ("bccd", 4)])
def test_the_scales_state_depth_and_anchors(scale, side):
    experiment = workbench.load_experiment("table5", "t5_retinanet_fl", scale)
    detector = FAMILIES["retinanet"].build(experiment, samples.NoBackbone())
    neck, head = detector.neck, detector.head
    assert head.anchors.side == side
    assert len(head.cls_tower) == len(head.reg_tower) == {"coco": 4, "bccd": 3}[scale]
    assert (neck.p6_from_input, neck.relu_before_p7) == (True, False)
    kinds = {type(part) for module in (neck, head) for part in module.modules() if not list(part.children())}
    assert kinds == {Conv2d, torch.nn.ReLU}  # neither a norm nor a factor of a level


# -------------------------------------------------------------------------------------------- shapes, counts, orders


def test_parameters_are_as_many_as_published():
    with torch.device("meta"):
        detector = workbench.build_detector(workbench.load_experiment("table5", "t5_retinanet_fl", "coco"))
    assert sum(p.numel() for p in detector.parameters()) == 37_968_692


@pytest.mark.parametrize("canvas", [(96, 96), (320, 32), (32, 288)])
def test_anchors_and_channels_are_in_order(canvas):
    """In the channels, classes (or deltas) vary fastest, then anchors; the anchors of a place follow each other."""
    head, maps = make_head(), pyramid(*canvas)
    for conv in (head.cls_out, head.box_out):
        torch.nn.init.zeros_(conv.weight)
        conv.bias.data = torch.arange(len(conv.bias)) / 100
    with torch.no_grad():
        predictions = head(maps)
    locations = [x.shape[2] * x.shape[3] for x in maps.maps]
    assert predictions.shapes == [tuple(x.shape[2:]) for x in maps.maps]
    assert [len(p) for p in predictions.points] == [9 * n for n in locations]
    expected = head.cls_out.bias.view(9, CLASSES).repeat(sum(locations), 1)
    assert torch.equal(predictions.logits, expected.expand(2, -1, -1))
    assert torch.equal(predictions.codes, head.box_out.bias.view(9, 4).repeat(sum(locations), 1).expand(2, -1, -1))

    anchors = torch.tensor(list(slow_anchors(predictions.shapes, 4)), dtype=torch.float64)
    size, centre = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    centre = centre + size * predictions.codes[0, :, :2]
    half = size * predictions.codes[0, :, 2:].double().exp() / 2
    boxes = torch.cat([centre - half, centre + half], dim=1).float()
    torch.testing.assert_close(predictions.boxes, boxes.expand(2, -1, -1), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("canvas", [(96, 160), (160, 96)])
def test_predictions_belong_to_their_locations(canvas):
    """A bright spot in the map changes the predictions at its own location, not at a mirrored one."""
    head = make_head(depth=1)
    maps = silent(pyramid(*canvas, images=1))
    with torch.no_grad():
        quiet = head(maps)
        maps.maps[1][0, :, 1, 3] = 50  # stride 16, row 1, column 3
        loud = head(maps)
    start, (rows, columns) = 9 * maps.maps[0][0, 0].numel(), maps.maps[1].shape[2:]
    location = start + 9 * (columns + 3)
    assert (torch.cat(loud.points)[location : location + 9] == torch.tensor([48.0, 16.0])).all()
    for name in ("logits", "codes"):
        rise = (getattr(loud, name) - getattr(quiet, name))[0].abs().amin(-1)
        assert (rise[location : location + 9] > 0).all()
        assert (rise[:start] == 0).all()
        grid = rise[start : start + 9 * rows * columns].view(rows, columns, 9)
        assert (grid[4:] == 0).all()  # two 3×3 convolutions reach two places
        assert (grid[:, 0] == 0).all()
        assert (rise[start + 9 * rows * columns :] == 0).all()


def test_an_untrained_head_predicts_its_anchors():
    """Without a signal boxes are the anchors, and class scores are 0.01."""
    head = make_head(init_std=0.01)
    with torch.no_grad():
        predictions = head(silent(pyramid()))
    torch.testing.assert_close(
        predictions.boxes[1], torch.tensor(list(slow_anchors(predictions.shapes, 4))), rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(
        predictions.logits.sigmoid(), torch.full_like(predictions.logits, 0.01), rtol=1e-4, atol=0
    )
    for conv in (part for part in make_head(channels=32, init_std=0.01).modules() if hasattr(part, "weight")):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)


# ------------------------------------------------------------------------------------------------------------ losses


def slow_entry(loss, x, quality):
    """Loss of one logit; ``quality`` is None for classes other than the object's."""
    p = 1 / (1 + math.exp(-x))
    if loss == "focal":
        return 0.75 * p**2 * -math.log(1 - p) if quality is None else 0.25 * (1 - p) ** 2 * -math.log(p)
    q = quality or 0.0
    if loss == "quality_focal":
        return (q - p) ** 2 * entropy(x, q)
    return q * entropy(x, q) if q > 0 else 0.75 * p**2 * entropy(x, 0)


def slow_terms(predictions, assignment, batch, loss, side=4.0):
    """Loss terms (section f of the recipes), anchor by anchor in double precision, four images per device."""
    anchors = list(slow_anchors(predictions.shapes, side))
    logits, boxes, codes = (x.tolist() for x in (predictions.logits, predictions.boxes, predictions.codes))
    devices = []
    for b, index in enumerate(assignment.index.tolist()):
        if b % 4 == 0:
            devices.append({"cls": 0.0, "box": 0.0, "count": 0})
        sums = devices[-1]
        sums["count"] += max(sum(g >= 0 for g in index), 1)
        for a, g in enumerate(index):
            if g == IGNORE:
                continue
            label = quality = None
            if g >= 0:
                label, truth = batch.labels[b, g].item(), batch.boxes[b, g].tolist()
                quality = slow_iou(boxes[b][a], truth)
                (x1, y1, x2, y2), (u1, v1, u2, v2) = anchors[a], truth
                w, h = x2 - x1, y2 - y1
                shift = ((u1 + u2 - x1 - x2) / 2 / w, (v1 + v2 - y1 - y2) / 2 / h)
                deltas = (*shift, math.log((u2 - u1) / w), math.log((v2 - v1) / h))
                sums["box"] += sum(abs(actual - expected) for actual, expected in zip(codes[b][a], deltas, strict=True))
            for c in range(CLASSES):
                sums["cls"] += slow_entry(loss, logits[b][a][c], quality if c == label else None)
    return {term: sum(d[term] / d["count"] for d in devices) / len(devices) for term in ("cls", "box")}


def values(terms):
    return {key: value.item() for key, value in terms.items()}


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 2), (200, 5)], ids=str)
@pytest.mark.parametrize("loss", CLASSIFICATION_LOSSES)
def test_loss_terms_agree_with_loops(loss, counts):
    detector, batch = make_detector(loss, side=2.0), make_batch(counts)
    head = detector.head
    predictions = head(pyramid())
    assignment = detector.assign(predictions, batch)
    terms = detector.terms(predictions, batch)
    assert (assignment.index[1] == IGNORE).sum() >= 9 * (12 * 16 - 8 * 8)  # 60 × 50 pixels in a canvas of 96 × 128
    assert ((assignment.index[0] == IGNORE).any()) == (counts[0] > 0)  # IoUs between the thresholds
    assert assignment.positive.sum() >= min(sum(counts), 1)
    assert values(terms) == pytest.approx(slow_terms(predictions, assignment, batch, loss, 2.0), rel=2e-4, abs=1e-6)
    sum(terms.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name  # connected even without objects
        assert parameter.grad.isfinite().all(), name
    assert head.cls_out.weight.grad.abs().max() > 0
    assert (head.box_out.bias.grad.abs().max() > 0) == (sum(counts) > 0)
    assert (terms["box"] == 0) == (sum(counts) == 0)


@pytest.mark.parametrize("loss", CLASSIFICATION_LOSSES)
def test_normalisers_are_of_four_images(loss):
    """Groups of four and of two images, each with images that have no positives."""
    counts, sizes = (3, 0, 0, 9, 0, 4), ((64, 64), (60, 50), (33, 64), (64, 40), (64, 64), (50, 64))
    detector, batch = make_detector(loss, side=2.0), make_batch(counts, sizes, (64, 64))
    head = detector.head
    predictions = head(pyramid(64, 64, images=6))
    terms = detector.terms(predictions, batch)
    expected = slow_terms(predictions, detector.assign(predictions, batch), batch, loss, 2.0)
    assert values(terms) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("loss", CLASSIFICATION_LOSSES)
def test_positives_without_overlap_are_negatives_for_a_loss_that_wants_a_quality(loss):
    detector, batch = make_detector(loss), make_batch((3, 2))
    head = detector.head
    torch.nn.init.zeros_(head.cls_out.bias)  # scores so high that the loss changes
    predictions = head(pyramid())
    astray = dataclasses.replace(predictions, boxes=predictions.boxes + 5000)
    assignment = detector.assign(predictions, batch)
    terms = detector.terms(astray, batch)
    assert values(terms) == pytest.approx(slow_terms(astray, assignment, batch, loss), rel=2e-4)
    assert terms["box"] == detector.terms(predictions, batch)["box"]  # depends on the deltas alone

    logits = predictions.logits.detach().requires_grad_()
    detector.terms(dataclasses.replace(astray, logits=logits), batch)["cls"].backward()
    image, anchor = assignment.positive.nonzero(as_tuple=True)
    own = logits.grad[image, anchor, assignment.gather(batch.labels)]
    assert (own < 0).all() if loss == "focal" else (own > 0).all()


@pytest.mark.parametrize("loss", CLASSIFICATION_LOSSES)
def test_ignored_anchors_have_no_gradient(loss):
    """Ignored are anchors with an IoU between the thresholds, and anchors outside an image."""
    detector, batch = make_detector(loss), make_batch((3, 2))
    head = detector.head
    predictions = head(pyramid())
    leaves = dataclasses.replace(
        predictions,
        **{name: getattr(predictions, name).detach().requires_grad_() for name in ("logits", "boxes", "codes")},
    )
    terms = detector.terms(leaves, batch)
    index = detector.assign(predictions, batch).index
    terms["cls"].backward(retain_graph=True)
    assert leaves.boxes.grad is None  # the quality is detached
    assert leaves.codes.grad is None
    assert ((leaves.logits.grad.abs().amax(-1) > 0) == (index != IGNORE)).all()
    terms["box"].backward()
    assert ((leaves.codes.grad.abs().amax(-1) > 0) == (index >= 0)).all()
    assert leaves.boxes.grad is None
