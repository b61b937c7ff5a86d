"""RepPoints: moments, offsets, factors of gradients, and losses with their assignments against slow loops."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import workbench
from tests import samples
from tests.samples import CANVAS, CLASSES, STRIDES, pyramid, silent
from workbench.assigners.assignment import BACKGROUND, IGNORE
from workbench.detectors.predictions import Pyramid
from workbench.detectors.reppoints import RepPointsHead, moment_boxes, point_offsets
from workbench.layers.deform import regular_grid
from workbench.losses.classification import FocalLoss, QualityFocalLoss, VarifocalLoss
from workbench.settings.detectors import RepPoints
from workbench.settings.experiment import Head

LOSSES = {"varifocal": VarifocalLoss(), "focal": FocalLoss(), "quality_focal": QualityFocalLoss()}


def make_detector(loss="varifocal", *, whole=False, **settings):
    settings = {"channels": 8, "norm_groups": 4, "stacked_convs": 2, "init_std": 0.1, "anchor_scale": 4.0} | settings
    detector = samples.make_detector(RepPoints(), LOSSES[loss], Head().model_copy(update=settings), whole=whole)
    with torch.no_grad():  # initial boxes of some strides
        detector.head.points_out.bias.copy_(2 * regular_grid("cpu") + 0.3 * torch.randn(18))
        detector.head.moment_transfer.copy_(torch.tensor([0.1, -0.2]))
    return detector


def make_head(*arguments, **settings):
    return make_detector(*arguments, **settings).head


def make_batch(counts, canvas=CANVAS):
    """Images of different sizes, the first as large as the canvas."""
    return samples.make_batch(counts, (canvas, (60, 50), (96, 64), (33, 128), (90, 90)), canvas, spread=40)


# ------------------------------------------------------------------------------------------------ points and boxes


def test_boxes_follow_from_the_moments_of_points():
    rng = np.random.default_rng(0)
    points, transfer = rng.normal(0, 3, (2, 5, 9, 2)), np.array([0.3, -0.5])
    y, x = points[..., 0], points[..., 1]
    half_width, half_height = x.std(-1, ddof=1) * math.exp(0.3), y.std(-1, ddof=1) * math.exp(-0.5)
    expected = [x.mean(-1) - half_width, y.mean(-1) - half_height, x.mean(-1) + half_width, y.mean(-1) + half_height]
    actual = moment_boxes(torch.from_numpy(points.reshape(2, 5, 18)), torch.from_numpy(transfer))
    np.testing.assert_allclose(actual.numpy(), np.stack(expected, axis=-1), rtol=1e-12, atol=1e-12)


def test_points_in_one_place_make_an_empty_box_with_a_finite_gradient():
    points = torch.full((4, 18), 2.0, requires_grad=True)
    boxes = moment_boxes(points, torch.zeros(2))
    assert (boxes == 2).all()
    boxes[:, 2].sum().backward()
    assert points.grad.isfinite().all()


def test_offsets_lead_to_the_points():
    points = torch.randn(2, 18, 3, 5)
    offsets = point_offsets(points)
    taps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for tap, (dy, dx) in enumerate(taps):
        torch.testing.assert_close(offsets[:, 2 * tap] + dy, points[:, 2 * tap])
        torch.testing.assert_close(offsets[:, 2 * tap + 1] + dx, points[:, 2 * tap + 1])
    grid = regular_grid("cpu")[None, :, None, None].expand(1, 18, 2, 2)
    torch.testing.assert_close(point_offsets(grid), torch.zeros(1, 18, 2, 2))


def test_a_sample_moves_with_its_point():
    """The class of a location depends on a bright spot three rows below and one column to the left."""
    head = make_head(stacked_convs=1)
    head.cls_tower, head.reg_tower = torch.nn.Identity(), torch.nn.Identity()
    with torch.no_grad():
        head.points_out.weight.zero_()
        head.points_out.bias.zero_()
        head.points_out.bias[8], head.points_out.bias[9] = 3, -1  # the middle tap: y, x
        head.cls_conv.weight.zero_()
        head.cls_conv.weight[:, :, 1, 1] = 1
        head.cls_out.weight.fill_(1)
        maps = silent(pyramid(images=1))
        quiet = head(maps).logits
        maps.maps[0][0, :, 7, 4] = 1
        rise = (head(maps).logits - quiet)[0].abs().amax(-1)
    assert (rise[: 12 * 16].view(12, 16) > 0.01 * rise.max()).nonzero().tolist() == [[4, 5]]


@pytest.mark.parametrize("canvas", [(96, 96), (320, 32), (32, 288)])
def test_predictions_of_a_head_have_their_shapes(canvas):
    head, maps = make_head(), pyramid(*canvas)
    for parameter in (head.points_out.weight, head.refine_out.weight):
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        head.points_out.bias.copy_(regular_grid("cpu") + torch.tensor([0.5, -0.25] * 9))
        head.refine_out.bias.copy_(torch.tensor([1.0, 2] * 9))
        predictions = head(maps)
    locations = sum(x.shape[2] * x.shape[3] for x in maps.maps)
    assert predictions.shapes == [tuple(x.shape[2:]) for x in maps.maps]
    assert predictions.logits.shape == (2, locations, CLASSES)
    assert [len(p) for p in predictions.points] == [x.shape[2] * x.shape[3] for x in maps.maps]
    # The regular grid's unbiased deviation is the root of 6 / 8.
    reach = torch.tensor([math.exp(0.1), math.exp(-0.2)]) * math.sqrt(6 / 8)
    start = 0
    for level_points, stride in zip(predictions.points, STRIDES, strict=True):
        for boxes, mean in ((predictions.initial_boxes, [-0.25, 0.5]), (predictions.boxes, [1.75, 1.5])):
            centre = level_points + torch.tensor(mean) * stride
            expected = torch.cat([centre - reach * stride, centre + reach * stride], dim=1)
            torch.testing.assert_close(boxes[1, start : start + len(level_points)], expected, rtol=1e-5, atol=1e-3)
        start += len(level_points)


def test_half_precision_ends_where_boxes_begin():
    """Near 1000, bfloat16 has steps of 4 pixels; near 400, of 2 pixels."""
    head, maps, seen = make_head(), pyramid(32, 1024, images=1), []
    head.points_out.register_forward_hook(lambda module, inputs, out: seen.append(out))
    head.refine_out.register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        predictions = head(maps)
    start = 0
    for level_points, stride, initial, shift in zip(predictions.points, STRIDES, seen[::2], seen[1::2], strict=True):
        assert initial.dtype == shift.dtype == torch.bfloat16
        locations, initial, shift = slice(start, start + len(level_points)), initial.double(), shift.double()
        for boxes, points in ((predictions.initial_boxes, initial), (predictions.boxes, initial + shift)):
            expected = moment_boxes(points[0].flatten(1).T, head.moment_transfer.detach().double())
            expected = expected * stride + level_points.repeat(1, 2)
            torch.testing.assert_close(boxes[0, locations], expected.float(), rtol=1e-5, atol=1e-3)
        start = locations.stop


# ------------------------------------------------------------------------------------------------ parameters


def test_parameters_are_as_many_as_published():
    """ResNet-50 without its classifier, 80 classes; the loss has no parameters."""
    with torch.device("meta"):
        for row in ("t5_reppoints_fl", "t5_reppoints_gfl", "t5_reppoints_vfl"):
            detector = workbench.build_detector(workbench.load_experiment("table5", row, "coco"))
            assert sum(p.numel() for p in detector.parameters()) == 36_849_078
    assert detector.variant.nms_iou == 0.5


def test_convolutions_have_their_start_values():
    torch.manual_seed(0)
    head = RepPointsHead(Head(channels=32, norm_groups=8), CLASSES)
    convs = [m for m in head.modules() if hasattr(m, "weight") and m.weight.dim() == 4]
    assert len(convs) == 2 * 3 + 2 + 2 + 2
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.2)
        assert conv is head.cls_out or getattr(conv, "bias", None) is None or (conv.bias == 0).all()
    assert head.cls_out.bias.tolist() == pytest.approx([-4.59512] * CLASSES, abs=1e-5)
    assert head.moment_transfer.tolist() == [0, 0]
    with torch.no_grad():
        predictions = head(pyramid(channels=32))
    assert (predictions.logits.sigmoid() - 0.01).abs().max() < 1e-3


# ------------------------------------------------------------------------------------------------ gradient paths


@pytest.mark.parametrize("name", ["initial_boxes", "boxes"])
def test_moments_learn_by_a_hundredth_of_their_gradient(name):
    head, maps = make_head().double(), Pyramid([x.double() for x in pyramid(images=1).maps], STRIDES)
    head.float = None  # the head converts points to single precision

    def value():
        return getattr(head(maps), name).square().mean()

    value().backward()
    actual, step = head.moment_transfer.grad.clone(), 1e-2
    for axis in (0, 1):
        with torch.no_grad():
            head.moment_transfer[axis] += step
            above = value()
            head.moment_transfer[axis] -= 2 * step
            slope = (above - value()) / (2 * step)
            head.moment_transfer[axis] += step
        assert actual[axis].item() == pytest.approx(0.01 * slope.item(), rel=1e-2)
        assert actual[axis] != 0


def points_gradient(head, maps, value):
    head.zero_grad()
    value(head(maps)).backward()
    gradient = head.points_out.weight.grad
    return torch.zeros(()) if gradient is None else gradient.clone()


@pytest.mark.parametrize("name", ["logits", "boxes"])
def test_a_tenth_of_the_gradient_passes_through_the_offsets(name, monkeypatch):
    """A factor ten times as large gives a gradient ten times as large, so nothing reaches the points on another path."""
    head, maps = make_head(), pyramid(images=1)

    def value(predictions):
        return getattr(predictions, name).double().square().mean()

    tenth = points_gradient(head, maps, value)
    assert tenth.abs().max() > 0
    monkeypatch.setattr("workbench.detectors.reppoints.OFFSET_GRADIENT", 1.0)
    whole = points_gradient(head, maps, value)
    torch.testing.assert_close(tenth, 0.1 * whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
    monkeypatch.setattr("workbench.detectors.reppoints.OFFSET_GRADIENT", 0.0)
    assert (points_gradient(head, maps, value) == 0).all()


def test_the_initial_box_has_its_own_full_gradient(monkeypatch):
    head, maps = make_head(), pyramid(images=1)
    actual = points_gradient(head, maps, lambda predictions: predictions.initial_boxes.square().mean())
    monkeypatch.setattr("workbench.detectors.reppoints.OFFSET_GRADIENT", 0.0)
    again = points_gradient(head, maps, lambda predictions: predictions.initial_boxes.square().mean())
    assert torch.equal(again, actual)
    assert actual.abs().max() > 0


# ------------------------------------------------------------------------------------------------------------ losses


def slow_iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


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
        entropy = y * math.log1p(math.exp(-x)) + (1 - y) * math.log1p(math.exp(x))
        if name == "varifocal":
            total += (y if y > 0 else 0.75 * p**2) * entropy
        elif name == "quality_focal":
            total += (y - p) ** 2 * entropy
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


# ------------------------------------------------------------------------------------------------- the whole detector


def small_detector():
    return make_detector(whole=True)


@pytest.mark.parametrize("canvas", [(96, 96), (288, 32), (64, 352)])
def test_a_detector_works_on_tall_and_wide_images(canvas):
    detector = small_detector().eval()
    with torch.no_grad():
        predictions = detector.predict(torch.randn(2, 3, *canvas))
        detector.head.cls_out.bias.fill_(0)
    assert predictions.shapes == [(math.ceil(canvas[0] / s), math.ceil(canvas[1] / s)) for s in STRIDES]
    sizes = torch.tensor([canvas, (canvas[0] - 9, canvas[1] - 5)])
    detections = detector.detect(torch.randn(2, 3, *canvas), sizes)
    for one, (height, width) in zip(detections, sizes.tolist(), strict=True):
        assert 0 < len(one.scores) <= 100
        assert (one.boxes.amin(0) >= 0).all()
        assert (one.boxes.amax(0) <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize("counts", [(3, 2), (0, 0)])
def test_a_training_step_reaches_all_parameters(counts):
    detector, batch = small_detector().train(), make_batch(counts)
    terms = detector.loss(dataclasses.replace(batch, images=torch.randn(2, 3, *CANVAS)))
    assert list(terms) == ["cls", "box_initial", "box"]
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
