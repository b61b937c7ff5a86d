"""Head of FoveaBox: layout, decoding, and losses against slow loops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import workbench
from tests import samples
from tests.detectors.slow import slow_iou
from tests.samples import CLASSES, STRIDES, pyramid, silent
from workbench.assigners.assignment import BACKGROUND
from workbench.detectors.predictions import Pyramid
from workbench.losses.classification import FocalLoss, QualityFocalLoss, VarifocalLoss
from workbench.settings.detectors import FoveaBox
from workbench.settings.experiment import Head

LENGTHS = {8.0: (16, 32, 64, 128, 256), 4.0: (8, 16, 32, 64, 128)}
LOSSES = {"varifocal": VarifocalLoss(), "focal": FocalLoss(alpha=0.4, gamma=1.5), "quality_focal": QualityFocalLoss()}


def make_detector(loss="varifocal", *, depth=3, whole=False, **settings):
    settings = {"channels": 8, "norm_groups": 1, "init_std": 0.15} | settings
    head = Head().model_copy(update=settings | {"stacked_convs": depth - 1})
    return samples.make_detector(FoveaBox(), LOSSES[loss], head, whole=whole)


def make_head(*arguments, **settings):
    return make_detector(*arguments, **settings).head


def make_batch(counts, canvas=samples.CANVAS):
    """Images of the canvas's size and of a smaller one in turns."""
    return samples.make_batch(counts, (canvas, (60, 50)), canvas, spread=80)


# ------------------------------------------------------------------------------------------------ shapes and counts


@pytest.mark.parametrize("row", ["t5_foveabox_fl", "t5_foveabox_gfl", "t5_foveabox_vfl"])
def test_parameters_are_as_many_as_published(row):
    with torch.device("meta"):
        detector = workbench.build_detector(workbench.load_experiment("table5", row, "coco"))
    assert sum(p.numel() for p in detector.parameters()) == 36_419_732
    assert detector.variant.nms_iou == 0.5


def test_the_neck_takes_p6_from_the_backbone_and_rectifies_nothing():
    with torch.device("meta"):
        neck = workbench.build_detector(workbench.load_experiment("table5", "t5_foveabox_fl", "coco")).neck
    assert neck.extra[0].in_channels == 2048
    assert not neck.relu_before_p7


def test_towers_have_biases_and_no_norm():
    head = make_head(depth=4, channels=32, init_std=0.01)
    convs = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 2 * 4 + 2
    assert sum(p.numel() for p in head.parameters()) == sum(c.weight.numel() + c.out_channels for c in convs)
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert conv is head.cls_out or (conv.bias == 0).all()
    assert head.cls_out.bias.tolist() == pytest.approx([-4.59512] * CLASSES, abs=1e-5)


@pytest.mark.parametrize("canvas", [(96, 96), (320, 32), (32, 288)])
def test_predictions_of_a_head_have_their_shapes(canvas):
    maps = pyramid(*canvas)
    with torch.no_grad():
        predictions = make_head()(maps)
    assert predictions.shapes == [tuple(x.shape[2:]) for x in maps.maps]
    locations = sum(rows * columns for rows, columns in predictions.shapes)
    assert predictions.logits.shape == (2, locations, CLASSES)
    assert predictions.boxes.shape == predictions.codes.shape == (2, locations, 4)
    assert predictions.initial_boxes is None
    assert predictions.quality is None
    for stride, (rows, columns), points in zip(STRIDES, predictions.shapes, predictions.points, strict=True):
        assert points.tolist() == [
            [(j + 0.5) * stride, (i + 0.5) * stride] for i in range(rows) for j in range(columns)
        ]


@pytest.mark.parametrize("canvas", [(96, 160), (160, 96)])
def test_predictions_belong_to_their_locations(canvas):
    """A bright spot in the map changes the predictions at its own location, not at a mirrored one."""
    head = make_head(depth=1)
    maps = silent(pyramid(*canvas, images=1))
    with torch.no_grad():
        quiet = head(maps)
        maps.maps[1][0, :, 1, 3] = 50  # stride 16, row 1, column 3
        predictions = head(maps)
    start, (rows, columns) = maps.maps[0][0, 0].numel(), maps.maps[1].shape[2:]
    assert torch.cat(predictions.points)[start + columns + 3].tolist() == [56, 24]
    for one, other in ((predictions.logits, quiet.logits), (predictions.boxes, quiet.boxes)):
        rise = (one - other)[0, start : start + rows * columns].abs().amax(-1).view(rows, columns)
        changed = (rise > 0).nonzero()
        assert changed.amin(0).tolist() == [0, 1]  # two convolutions reach two locations
        assert changed.amax(0).tolist() == [3, 5]


@pytest.mark.parametrize("scale", LENGTHS)
def test_codes_are_decoded_to_boxes(scale):
    head = make_head(anchor_scale=scale)
    torch.nn.init.zeros_(head.box_out.weight)
    with torch.no_grad():
        head.box_out.bias.copy_(torch.tensor([0.5, 1, 2, 3]).log())
        predictions = head(pyramid())
    expected = [
        [x - 0.5 * e, y - e, x + 2 * e, y + 3 * e]
        for level, e in zip(predictions.points, LENGTHS[scale], strict=True)
        for x, y in level.tolist()
    ]
    torch.testing.assert_close(predictions.boxes, torch.tensor(expected).expand(2, -1, -1))


def test_absurd_codes_give_finite_boxes_that_are_clipped_to_the_whole_image():
    detector = make_detector("quality_focal")
    head = detector.head
    torch.nn.init.constant_(head.box_out.bias, 1e4)
    predictions, batch = head(pyramid()), make_batch((3, 2))
    assert predictions.boxes.isfinite().all()
    assert workbench.boxes.area(predictions.boxes).isfinite().all()
    clipped = workbench.boxes.clip_boxes(predictions.boxes, batch.sizes, predictions.clip_margin)
    assert (clipped[1] == torch.tensor([0.0, 0, 49, 59])).all()
    terms = detector.terms(predictions, batch)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert head.box_out.bias.grad.abs().max() > 0  # the loss is computed from the codes and reduces them


# ------------------------------------------------------------------------------------------------------------ losses


def slow_terms(predictions, assignment, batch, loss, lengths):
    """Loss terms (sections d7, e4 and f of the recipes), location by location; a device has four images."""
    points = [(p, e) for level, e in zip(predictions.points, lengths, strict=True) for p in level.tolist()]
    logits, codes = predictions.logits.tolist(), predictions.codes.tolist()
    images = range(len(batch.boxes))
    groups = [{"cls": 0.0, "box": 0.0, "positives": 0, "images": 0} for _ in images[::4]]
    qualities = []

    def entropy(x, y):
        return y * math.log1p(math.exp(-x)) + (1 - y) * math.log1p(math.exp(x))

    for b in images:
        group, (height, width) = groups[b // 4], batch.sizes[b].tolist()
        group["images"] += 1
        for location, g in enumerate(assignment.index[b].tolist()):
            quality, label = 0.0, None
            if g >= 0:
                group["positives"] += 1
                truth, label = batch.boxes[b, g].tolist(), batch.labels[b, g].item()
                ((x, y), e), code = points[location], codes[b][location]
                box = [x - e * math.exp(code[0]), y - e * math.exp(code[1])]
                box += [x + e * math.exp(code[2]), y + e * math.exp(code[3])]
                box = [min(max(v, 0), m - 1) for v, m in zip(box, (width, height) * 2, strict=True)]
                quality = max(slow_iou(box, truth), 1e-6)
                qualities.append(quality)
                for o, side in zip(code, (x - truth[0], y - truth[1], truth[2] - x, truth[3] - y), strict=True):
                    d = abs(o - math.log(min(max(side / e, 1 / 16), 16)))
                    group["box"] += d * d / 0.22 if d < 0.11 else d - 0.055
            for c in range(CLASSES):
                v, p = logits[b][location][c], 1 / (1 + math.exp(-logits[b][location][c]))
                hit = c == label
                if loss == "varifocal":
                    group["cls"] += quality * entropy(v, quality) if hit else 0.75 * p**2 * entropy(v, 0)
                elif loss == "focal":
                    group["cls"] += 0.4 * (1 - p) ** 1.5 * -math.log(p) if hit else 0.6 * p**1.5 * -math.log(1 - p)
                else:
                    target = quality if hit else 0
                    group["cls"] += (target - p) ** 2 * entropy(v, target)
    terms = {
        "cls": sum(x["cls"] / (x["positives"] + x["images"]) for x in groups) / len(groups),
        "box": sum(x["box"] / max(x["positives"], 1) for x in groups) / len(groups),
    }
    return terms, qualities


def assert_terms(detector, predictions, batch, loss, scale):
    expected, qualities = slow_terms(predictions, detector.assign(predictions, batch), batch, loss, LENGTHS[scale])
    terms = detector.terms(predictions, batch)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected, rel=2e-5, abs=1e-7)
    return terms, qualities


@pytest.mark.parametrize(
    "counts",
    [(0, 0), (1, 0), (3, 2), (200, 5), (3, 0, 2, 1, 9, 6), (2, 1, 3, 4, 0)],
    ids=lambda c: "-".join(map(str, c)),
)
@pytest.mark.parametrize("scale", LENGTHS)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_terms_agree_with_loops(loss, scale, counts):
    detector, batch = make_detector(loss, anchor_scale=scale), make_batch(counts)
    head = detector.head
    predictions = head(pyramid(images=len(counts)))
    terms, qualities = assert_terms(detector, predictions, batch, loss, scale)
    assert len(qualities) >= min(sum(counts), 1)
    sum(terms.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name  # connected even without objects
        assert parameter.grad.isfinite().all(), name
    assert head.cls_out.weight.grad.abs().max() > 0
    assert (head.box_out.bias.grad.abs().max() > 0) == (len(qualities) > 0)


@pytest.mark.parametrize("canvas", [(320, 64), (64, 288)])
def test_loss_terms_of_tall_and_wide_images(canvas):
    detector, batch = make_detector(), make_batch((6, 0, 4), canvas)
    head = detector.head
    assert_terms(detector, head(pyramid(*canvas, images=3)), batch, "varifocal", 8.0)


def test_target_distances_are_between_a_sixteenth_and_sixteen_base_lengths():
    """The object is 700 px long and 1 px high, over the centres of a row of stride 8, whose base length is 16 px."""
    detector, batch = make_detector(), make_batch((1,), (64, 704))
    head = detector.head
    batch.boxes[0, 0] = torch.tensor([0, 35.5, 700, 36.5])
    predictions = head(pyramid(64, 704, images=1))
    (locations,) = (detector.assign(predictions, batch).index[0] >= 0).nonzero(as_tuple=True)
    assert locations.tolist() == list(range(4 * 88 + 26, 4 * 88 + 61))  # x from 212 to 484
    assert_terms(detector, predictions, batch, "varifocal", 8.0)


@pytest.mark.parametrize("scale", LENGTHS)
def test_sizes_follow_the_anchor_scale(scale):
    """Maps have one location, so each level that accepts the object has it."""
    detector, batch = make_detector(anchor_scale=scale), make_batch((1,), (32, 32))
    head = detector.head
    predictions = head(Pyramid([x[..., :1, :1] for x in pyramid(images=1).maps], STRIDES))
    for side in (1, 20, 30, 40, 60, 100, 120, 150, 250, 300, 500, 1000, 2000):
        batch.boxes[0, 0] = torch.tensor([0, 0, side, side])
        bounds = [(1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)]
        accepted = [low * scale / 8 <= side <= high * scale / 8 for low, high in bounds]
        assert detector.assign(predictions, batch).positive[0].tolist() == accepted


@pytest.mark.parametrize("loss", LOSSES)
def test_positives_whose_boxes_miss_their_objects_stay_positives(loss):
    detector, batch = make_detector(loss), make_batch((3, 2))
    head = detector.head
    torch.nn.init.zeros_(
        head.cls_out.bias
    )  # scores so high that a positive treated as a negative would change the loss
    predictions = head(pyramid())
    points = torch.cat(list(predictions.points)).repeat(2, 1, 2)  # boxes without area
    astray = dataclasses.replace(predictions, codes=torch.full_like(predictions.codes, -200.0), boxes=points)
    _, qualities = assert_terms(detector, astray, batch, loss, 8.0)
    assert set(qualities) == {1e-6}


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_is_background_for_every_loss(loss):
    detector, batch = make_detector(loss), make_batch((2, 1))
    head = detector.head
    predictions = head(pyramid())
    assert set(detector.assign(predictions, batch).index[1].unique().tolist()) == {BACKGROUND, 0}
    predictions.logits.retain_grad()
    detector.terms(predictions, batch)["cls"].backward()
    assert (predictions.logits.grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("loss", ["varifocal", "quality_focal"])
def test_the_target_is_the_iou_of_the_clipped_box_and_is_detached(loss):
    detector, batch = make_detector(loss), make_batch((3, 2))
    head = detector.head
    predictions = head(pyramid())
    logits, boxes, codes = (getattr(predictions, k).detach().requires_grad_() for k in ("logits", "boxes", "codes"))
    leaves = dataclasses.replace(predictions, logits=logits, boxes=boxes, codes=codes)
    terms = detector.terms(leaves, batch)
    terms["cls"].backward(retain_graph=True)
    assert logits.grad.abs().max() > 0
    assert boxes.grad is None
    assert codes.grad is None

    # The part of a box outside the image changes nothing; the size of the image changes the target.
    clipped = workbench.boxes.clip_boxes(boxes.detach(), batch.sizes, 1)
    assert (clipped != boxes).any()
    assert detector.terms(dataclasses.replace(leaves, boxes=clipped), batch)["cls"] == terms["cls"]
    small = dataclasses.replace(batch, sizes=batch.sizes // 2)
    assert detector.terms(leaves, small)["cls"] != terms["cls"]
    assert detector.terms(leaves, small)["box"] == terms["box"]


def test_a_loss_without_quality_does_not_depend_on_the_boxes():
    detector, batch = make_detector("focal"), make_batch((3, 2))
    head = detector.head
    predictions = head(pyramid())
    other = dataclasses.replace(predictions, boxes=predictions.boxes * 0)
    assert detector.terms(other, batch)["cls"] == detector.terms(predictions, batch)["cls"]


# ------------------------------------------------------------------------------------------------- the whole detector


def small_detector(loss="varifocal"):
    return make_detector(loss, whole=True)


@pytest.mark.parametrize("canvas", [(96, 96), (288, 32), (64, 352)])
def test_detections_end_a_pixel_before_the_right_and_bottom_side(canvas):
    detector = small_detector()
    with torch.no_grad():
        detector.head.cls_out.bias.fill_(0)
        detector.head.box_out.bias.fill_(1)
    sizes = torch.tensor([canvas, (canvas[0] - 9, canvas[1] - 5)])
    detections = detector.detect(torch.randn(2, 3, *canvas), sizes)
    for one, (height, width) in zip(detections, sizes.tolist(), strict=True):
        assert 0 < len(one.scores) <= 100
        assert one.boxes.amin(0)[:2].tolist() == [0, 0]
        assert one.boxes.amax(0)[2:].tolist() == [width - 1, height - 1]
