"""Head of VarifocalNet with its switches: numbers of parameters, gradients, and losses against slow loops."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

import workbench
from tests import samples
from tests.samples import CLASSES, STRIDES, make_batch, pyramid, silent
from workbench.assigners.assignment import PADDING
from workbench.detectors.vfnet import star_offsets
from workbench.losses.classification import FocalLoss, QualityFocalLoss, VarifocalLoss
from workbench.settings.detectors import VFNet
from workbench.settings.experiment import Head

SWITCHES = {
    "full": {},
    "star": {"refine": False},
    "raw": {"star": False, "refine": False},
    "centerness": {"star": False, "refine": False, "centerness": True},
}
LOSSES = {"varifocal": VarifocalLoss(), "focal": FocalLoss(), "quality_focal": QualityFocalLoss()}


def make_detector(switches="full", loss="varifocal", *, dcn=False, whole=False, **settings):
    settings = {"channels": 8, "norm_groups": 4, "stacked_convs": 2, "init_std": 0.1} | settings
    head, backbone = Head().model_copy(update=settings), samples.BACKBONE.model_copy(update={"dcn": dcn})
    return samples.make_detector(VFNet(**SWITCHES[switches]), LOSSES[loss], head, backbone, whole=whole)


def make_head(*arguments, **settings):
    return make_detector(*arguments, **settings).head


# ---------------------------------------------------------------------------------------------------- star offsets


def test_star_offsets_of_a_square_of_one_stride_are_zero():
    assert (star_offsets(torch.full((2, 4, 3, 5), 16.0), 16) == 0).all()


def test_star_offsets_agree_tap_by_tap():
    left, top, right, bottom = 8.0, 24.0, 40.0, 12.0
    stride, regular = 8, list(itertools.product((-1, 0, 1), repeat=2))
    offsets = star_offsets(torch.tensor([left, top, right, bottom]).view(1, 4, 1, 1), stride).view(9, 2)
    sampled = [
        *((-top, -left), (-top, 0), (-top, right)),
        *((0, -left), (0, 0), (0, right)),
        *((bottom, -left), (bottom, 0), (bottom, right)),
    ]
    expected = [
        [p / stride - g for p, g in zip(pair, grid, strict=True)] for pair, grid in zip(sampled, regular, strict=True)
    ]
    assert offsets.tolist() == expected
    assert offsets[2].tolist() == [-2, 4]  # upper right: three strides up, five to the right


@pytest.mark.parametrize("refine", [False, True])
def test_a_star_on_the_grid_is_an_ordinary_convolution_with_the_same_start(refine):
    """Whatever the box: the control differs from a star in the sampled points alone."""
    heads = [
        samples.make_detector(
            VFNet(refine=refine, star_points=points), VarifocalLoss(), Head(channels=8, norm_groups=4, init_std=0.1)
        ).head
        for points in ("box", "grid")
    ]
    star, grid = (head.state_dict() for head in heads)
    assert star.keys() == grid.keys()
    assert all(torch.equal(star[key], grid[key]) for key in star)
    maps = pyramid()
    with torch.no_grad():
        outputs = [head(maps) for head in heads]
        assert not torch.equal(outputs[0].logits, outputs[1].logits)
        level = heads[1].cls_tower(maps.maps[0])
        convolved = torch.nn.functional.conv2d(level, heads[1].cls_star.weight, padding=1).relu()
        expected = heads[1].cls_out(convolved).flatten(2).transpose(1, 2)
    torch.testing.assert_close(outputs[1].logits[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ shapes and counts


def parameters(table, row):
    with torch.device("meta"):
        return sum(
            p.numel() for p in workbench.build_detector(workbench.load_experiment(table, row, "coco")).parameters()
        )


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ("t3_full_vfl", 32_891_554),
        ("t3_raw_vfl", 32_293_017),
        ("t3_raw_fl", 32_293_017),
        ("t3_fcos_atss", 32_293_017 + 3 * 3 * 256 + 1),
        ("t3_star_vfl", 32_293_017 - 2 * 256),  # the star convolution has no GroupNorm
    ],
)
def test_parameters_are_as_many_as_published(row, count):
    assert parameters("table3", row) == count


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("channels", [8, 12])
@pytest.mark.parametrize("canvas", [(96, 96), (320, 32), (32, 288)])
def test_predictions_of_a_head_have_their_shapes(switches, channels, canvas):
    head = make_head(switches, channels=channels)
    maps = pyramid(*canvas, channels=channels)
    with torch.no_grad():
        predictions = head(maps)
    locations = sum(x.shape[2] * x.shape[3] for x in maps.maps)
    assert predictions.shapes == [tuple(x.shape[2:]) for x in maps.maps]
    assert predictions.logits.shape == (2, locations, CLASSES)
    assert predictions.boxes.shape == (2, locations, 4)
    assert [len(p) for p in predictions.points] == [x.shape[2] * x.shape[3] for x in maps.maps]
    assert (predictions.initial_boxes is not None) == (switches == "full")
    assert (predictions.quality is not None) == (switches == "centerness")
    all_points = torch.cat(list(predictions.points))
    assert ((predictions.boxes[..., :2] < all_points) & (all_points < predictions.boxes[..., 2:])).all()


@pytest.mark.parametrize("canvas", [(96, 160), (160, 96)])
def test_predictions_belong_to_their_locations(canvas):
    """A bright spot in the map changes the predictions at its own location, not at a mirrored one."""
    head = make_head("raw", stacked_convs=1)
    maps = silent(pyramid(*canvas, images=1))
    with torch.no_grad():
        quiet = head(maps).logits
        maps.maps[1][0, :, 1, 3] = 50  # stride 16, row 1, column 3
        rise = (head(maps).logits - quiet)[0].abs().amax(-1)
    points = torch.cat(list(head(maps).points))
    start = maps.maps[0][0, 0].numel()
    rows, columns = maps.maps[1].shape[2:]
    changed = (rise[start : start + rows * columns] > 0).view(rows, columns)
    assert points[start + columns + 3].tolist() == [48, 16]
    assert changed[1, 3]


@pytest.mark.parametrize("switches", SWITCHES)
def test_an_untrained_head_predicts_boxes_of_eight_strides(switches):
    """Without a signal boxes reach eight strides to every side, and class scores are 0.01."""
    head = make_head(switches, init_std=0.01)
    with torch.no_grad():
        predictions = head(silent(pyramid()))
    side = torch.cat([torch.full((len(p),), 8.0 * s) for p, s in zip(predictions.points, STRIDES, strict=True)])
    all_points = torch.cat(list(predictions.points))
    expected = torch.cat([all_points - side[:, None], all_points + side[:, None]], dim=1).expand(2, -1, -1)
    torch.testing.assert_close(predictions.boxes, expected)
    torch.testing.assert_close(
        predictions.logits.sigmoid(), torch.full_like(predictions.logits, 0.01), rtol=1e-4, atol=0
    )


def test_each_level_has_its_own_scale():
    head = make_head("raw")
    torch.nn.init.zeros_(head.box_out.weight)
    torch.nn.init.constant_(head.box_out.bias, math.log(2))
    with torch.no_grad():
        head.scales.factors.copy_(torch.tensor([0.0, 1, 2, 3, -1]))
        predictions = head(pyramid())
    width = (predictions.boxes[..., 2] - predictions.boxes[..., 0]) / 2
    expected = [2.0**power * 8 * s for power, s in zip((0, 1, 2, 3, -1), STRIDES, strict=True)]
    torch.testing.assert_close(
        width[0], torch.cat([torch.full((len(p),), side) for p, side in zip(predictions.points, expected, strict=True)])
    )


def test_convolutions_have_their_start_values():
    head = make_head("full", channels=32, init_std=0.01)
    convs = [m for m in head.modules() if hasattr(m, "weight") and m.weight.dim() == 4]
    assert len(convs) == 2 * 2 + 1 + 2 + 3  # towers, box block, stars, outputs
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert conv is head.cls_out or getattr(conv, "bias", None) is None or (conv.bias == 0).all()
    assert head.cls_out.bias.tolist() == pytest.approx([-4.59512] * CLASSES, abs=1e-5)
    assert (torch.cat([head.scales.factors, head.refine_scales.factors]) == 1).all()


# ---------------------------------------------------------------------------------------------------- gradient paths


def box_out_gradient(head, maps, value):
    head.zero_grad()
    value(head(maps)).backward()
    return torch.zeros(()) if head.box_out.weight.grad is None else head.box_out.weight.grad.clone()


@pytest.mark.parametrize("name", ["logits", "boxes"])
def test_a_tenth_of_the_gradient_passes_through_the_star_offsets(name, monkeypatch):
    """A factor ten times as large gives a gradient ten times as large, so nothing reaches the box on another path."""
    head, maps = make_head(), pyramid(images=1)

    def value(predictions):
        return getattr(predictions, name).double().square().mean()

    tenth = box_out_gradient(head, maps, value)
    assert tenth.abs().max() > 0
    monkeypatch.setattr("workbench.detectors.vfnet.OFFSET_GRADIENT", 1.0)
    whole = box_out_gradient(head, maps, value)
    torch.testing.assert_close(tenth, 0.1 * whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
    monkeypatch.setattr("workbench.detectors.vfnet.OFFSET_GRADIENT", 0.0)
    assert (box_out_gradient(head, maps, value) == 0).all()


def test_the_initial_box_has_its_own_full_gradient(monkeypatch):
    head, maps = make_head(), pyramid(images=1)

    def value(predictions):
        return predictions.initial_boxes.square().mean()

    actual = box_out_gradient(head, maps, value)
    monkeypatch.setattr("workbench.detectors.vfnet.OFFSET_GRADIENT", 0.0)
    assert torch.equal(box_out_gradient(head, maps, value), actual)
    assert actual.abs().max() > 0


def test_the_refinement_reads_the_stacked_tower_and_scales_the_initial_distances():
    head, maps = make_head(), pyramid(images=1)
    with torch.no_grad():
        before = head(maps)
        head.refine_out.weight.zero_()
        head.refine_out.bias.fill_(math.log(2))
        doubled = head(maps)
        head.refine_scales.factors[1] = 0
        level = head(maps)
    all_points = torch.cat(list(before.points))
    torch.testing.assert_close(doubled.initial_boxes, before.initial_boxes)
    torch.testing.assert_close(
        doubled.boxes - all_points.repeat(1, 2),
        2 * (before.initial_boxes - all_points.repeat(1, 2)),
        rtol=1e-4,
        atol=1e-3,
    )
    first, second = len(before.points[0]), len(before.points[0]) + len(before.points[1])
    torch.testing.assert_close(level.boxes[:, first:second], before.initial_boxes[:, first:second])
    assert torch.equal(level.boxes[:, :first], doubled.boxes[:, :first])

    head = make_head()
    seen = []
    head.box_star.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head(maps)
    assert torch.equal(seen[0], head.reg_tower(maps.maps[0]))


# ------------------------------------------------------------------------------------------------------------ losses


def slow_box(a, b):
    """IoU and GIoU of two boxes."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union, shared / union - (hull - union) / hull


def slow_terms(predictions, assignment, batch, loss):
    """Loss terms (section f of the recipes), location by location in double precision, and the number of positives."""
    points = [p for level in predictions.points for p in level.tolist()]
    logits, boxes = predictions.logits.tolist(), predictions.boxes.tolist()
    initial = None if predictions.initial_boxes is None else predictions.initial_boxes.tolist()
    positives = 0
    sums = {"cls": 0.0, "box": 0.0, "box_initial": 0.0, "centerness": 0.0}
    weights = {"box": 0.0, "box_initial": 0.0}

    def entropy(x, y):
        return y * math.log1p(math.exp(-x)) + (1 - y) * math.log1p(math.exp(x))

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


# ------------------------------------------------------------------------------------------------- the whole detector


def small_detector(switches="full"):
    return make_detector(switches, whole=True)


@pytest.mark.parametrize("canvas", [(96, 96), (288, 32), (64, 352)])
def test_a_detector_works_on_tall_and_wide_images(canvas):
    detector = small_detector().eval()
    with torch.no_grad():
        predictions = detector.predict(torch.randn(2, 3, *canvas))
        detector.head.cls_out.bias.fill_(0)
    assert predictions.shapes == [(math.ceil(canvas[0] / s), math.ceil(canvas[1] / s)) for s in STRIDES]
    detector.train()
    sizes = torch.tensor([canvas, (canvas[0] - 9, canvas[1] - 5)])
    detections = detector.detect(torch.randn(2, 3, *canvas), sizes)
    assert detector.training  # unchanged
    for one, (height, width) in zip(detections, sizes.tolist(), strict=True):
        assert 0 < len(one.scores) <= 100
        assert (one.boxes.amin(0) >= 0).all()
        assert (one.boxes.amax(0) <= torch.tensor([width, height, width, height])).all()


def test_a_training_step_reaches_all_parameters():
    detector, batch = small_detector().train(), make_batch((3, 2))
    terms = detector.loss(dataclasses.replace(batch, images=torch.randn(2, 3, 96, 128)))
    assert list(terms) == ["cls", "box_initial", "box"]
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in detector.parameters())


def test_an_image_has_the_same_predictions_alone_and_in_a_batch():
    detector = small_detector().eval()
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        both, alone = detector.predict(images), detector.predict(images[1:])
    torch.testing.assert_close(both.boxes[1:], alone.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(both.logits[1:], alone.logits, rtol=1e-4, atol=1e-4)
