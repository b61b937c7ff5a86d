"""Head of ATSS and GFL with its parts: shapes, start values, and losses against slow loops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import workbench
from tests import samples
from tests.samples import CANVAS, CLASSES, STRIDES, level_shapes, make_batch, pyramid, silent
from workbench.assigners.assignment import BACKGROUND, PADDING
from workbench.assigners.atss import assign_atss
from workbench.boxes import locations_in_images
from workbench.detectors.codes import DistanceDistributions
from workbench.losses.classification import FocalLoss, QualityFocalLoss, VarifocalLoss
from workbench.settings.detectors import ATSS, Distribution
from workbench.settings.experiment import Head

SWITCHES = {
    "atss": {"centerness": True, "distribution": None},
    "joint": {"centerness": False, "distribution": None},
    "atss_dfl": {"centerness": True, "distribution": Distribution()},
    "gfl": {"centerness": False, "distribution": Distribution()},
    "gfl_wide": {"centerness": False, "distribution": Distribution(intervals=3, interval=0.5)},
}
LOSSES = {"focal": FocalLoss(), "quality_focal": QualityFocalLoss(), "varifocal": VarifocalLoss()}
SHAPES = level_shapes(*CANVAS)


def make_detector(switches="atss", loss="focal", *, depth=2, **settings):
    settings = {"channels": 8, "norm_groups": 4, "init_std": 0.1, "anchor_scale": 4.0} | settings
    head = Head().model_copy(update=settings | {"stacked_convs": depth - 1})
    return samples.make_detector(ATSS(**SWITCHES[switches]), LOSSES[loss], head)


def distribution_of(head):
    return head.code if isinstance(head.code, DistanceDistributions) else None


def make_head(*arguments, **settings):
    return make_detector(*arguments, **settings).head


# -------------------------------------------------------------------------------------------- shapes, counts, starts


@pytest.mark.parametrize(
    ("table", "row", "count"),
    [
        ("table5", "t5_atss_fl", 32_295_322),
        ("table5", "t5_atss_vfl", 32_295_322),  # every loss keeps the centerness branch
        ("table5", "t5_atss_gfl", 32_295_322),
        ("gfl_table3", "gfl3_qfl", 32_295_322 - (9 * 256 + 1)),
        ("gfl_table3", "gfl3_qfl_dfl", 32_440_537),
        ("gfl_table3", "gfl3_dfl", 32_440_537 + 9 * 256 + 1),
        ("gfl_table2b", "gfl2b_n12", 32_440_537 - 4 * 4 * (9 * 256 + 1)),
        ("gfl_table2c", "gfl2c_delta2", 32_440_537),
    ],
)
def test_parameters_are_as_many_as_published(table, row, count):
    with torch.device("meta"):
        detector = workbench.build_detector(workbench.load_experiment(table, row, "coco"))
    assert sum(p.numel() for p in detector.parameters()) == count
    assert not detector.neck.relu_before_p7
    assert not detector.neck.p6_from_input
    assert [detector.assigner.anchor_scale * stride for stride in detector.strides] == [64, 128, 256, 512, 1024]


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("canvas", [(96, 96), (320, 32), (32, 288)])
def test_predictions_of_a_head_have_their_shapes(switches, canvas):
    head, maps = make_head(switches), pyramid(*canvas)
    with torch.no_grad():
        predictions = head(maps)
    locations = sum(x.shape[2] * x.shape[3] for x in maps.maps)
    distribution = SWITCHES[switches]["distribution"]
    assert predictions.shapes == [tuple(x.shape[2:]) for x in maps.maps]
    assert predictions.logits.shape == (2, locations, CLASSES)
    assert predictions.boxes.shape == (2, locations, 4)
    assert predictions.codes.shape == (2, locations, 4 * (distribution.intervals + 1 if distribution else 1))
    assert [len(p) for p in predictions.points] == [x.shape[2] * x.shape[3] for x in maps.maps]
    assert predictions.initial_boxes is None
    if SWITCHES[switches]["centerness"]:
        assert predictions.quality.shape == (2, locations)
    else:
        assert predictions.quality is None
    assert (predictions.boxes[..., :2] < predictions.boxes[..., 2:]).all()


@pytest.mark.parametrize("canvas", [(96, 160), (160, 96)])
@pytest.mark.parametrize("branch", ["logits", "codes", "quality"])
def test_predictions_belong_to_their_locations(canvas, branch):
    """A bright spot in the map changes the predictions at its own location, not at a mirrored one."""
    head = make_head(depth=1)
    maps = silent(pyramid(*canvas, images=1))
    with torch.no_grad():
        quiet = getattr(head(maps), branch)
        maps.maps[1][0, :, 1, 4] = 50  # stride 16, row 1, column 4
        predictions = head(maps)
        rise = (getattr(predictions, branch) - quiet).view(sum(map(len, predictions.points)), -1).abs().amax(-1)
    start, (rows, columns) = len(predictions.points[0]), predictions.shapes[1]
    assert torch.cat(list(predictions.points))[start + columns + 4].tolist() == [64, 16]
    row, column = divmod(int(rise[start : start + rows * columns].argmax()), columns)
    assert max(abs(row - 1), abs(column - 4)) < 3  # two convolutions reach so far


@pytest.mark.parametrize(
    ("switches", "strides"), [("atss", 4), ("joint", 4), ("gfl", 16), ("atss_dfl", 16), ("gfl_wide", 1.5)]
)
def test_an_untrained_head_predicts_its_anchors(switches, strides):
    """Without a signal boxes are the anchors, or the mean of all distances, and class scores are 0.01."""
    head = make_head(switches, init_std=0.01)
    with torch.no_grad():
        predictions = head(silent(pyramid()))
    half = torch.cat(
        [torch.full((len(p), 1), strides * s / 2) for p, s in zip(predictions.points, STRIDES, strict=True)]
    )
    all_points = torch.cat(list(predictions.points))
    torch.testing.assert_close(
        predictions.boxes, torch.cat([all_points - half, all_points + half], dim=1).expand(2, -1, -1)
    )
    torch.testing.assert_close(
        predictions.logits.sigmoid(), torch.full_like(predictions.logits, 0.01), rtol=1e-4, atol=0
    )


def test_each_level_has_its_own_scale():
    head = make_head()
    torch.nn.init.zeros_(head.box_out.weight)
    with torch.no_grad():
        head.box_out.bias.copy_(torch.tensor([1.0, 0, 0, 5 * math.log(2)]))  # deviations 0.1 and 0.2
        head.scales.factors.copy_(torch.tensor([0.0, 1, 2, 3, -1]))
        predictions = head(pyramid())
    for level, power in enumerate((0, 1, 2, 3, -1)):
        stride, point = STRIDES[level], predictions.points[level][-1]
        box = predictions.boxes[1, sum(map(len, predictions.points[: level + 1])) - 1]
        x, half = point[0] + 0.1 * power * 4 * stride, 2 * stride
        expected = torch.stack([x - half, point[1] - half * 2**power, x + half, point[1] + half * 2**power])
        torch.testing.assert_close(box, expected)


@pytest.mark.parametrize("switches", SWITCHES)
def test_convolutions_have_their_start_values(switches):
    head = make_head(switches, channels=32, init_std=0.01, depth=4)
    convs = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 2 * 4 + 2 + SWITCHES[switches]["centerness"]
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert conv is head.cls_out or conv.bias is None or (conv.bias == 0).all()
    assert head.cls_out.bias.tolist() == pytest.approx([-4.59512] * CLASSES, abs=1e-5)
    assert (head.scales.factors == 1).all()


# --------------------------------------------------------------------------------------------------- distributions


def test_expected_distances_agree_with_a_calculation_by_hand():
    logits = torch.full((2, 4, 3), -torch.inf)
    logits[0, 0, 2] = 0  # the last value with certainty
    logits[0, 1, :] = 0  # uniform
    logits[0, 2, :2] = torch.tensor([math.log(1), math.log(3)])
    logits[0, 3, 0] = 7
    logits[1] = torch.tensor([0.0, math.log(2), 0])
    expected = [[2, 1, 0.75, 0], [1, 1, 1, 1]]
    for interval in (1.0, 0.5, 4.0):
        actual = DistanceDistributions(2, interval).expected_distances(logits.flatten(1))
        assert actual.flatten().tolist() == pytest.approx([interval * x for row in expected for x in row])


@pytest.mark.parametrize("intervals", [16, 12])
def test_the_sides_of_a_distribution_are_in_order(intervals):
    """The order is l, t, r, b, and the values of one side follow each other."""
    logits = torch.randn(5, 4 * (intervals + 1), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, actual in zip(
        logits.tolist(), DistanceDistributions(intervals, 2.0).expected_distances(logits).tolist(), strict=True
    ):
        for side in range(4):
            weights = [math.exp(x) for x in row[side * (intervals + 1) : (side + 1) * (intervals + 1)]]
            mean = sum(i * w for i, w in enumerate(weights)) / sum(weights)
            assert actual[side] == pytest.approx(2 * mean)


# ---------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(("anchor_scale", "level"), [(8.0, 0), (4.0, 1)])
def test_targets_are_from_atss_with_the_anchors_of_the_settings(anchor_scale, level):
    """An object of 64 pixels is learnt on the level whose anchor has 64 pixels."""
    detector = make_detector(anchor_scale=anchor_scale)
    predictions = detector.head(pyramid())
    batch = make_batch((1, 1))
    batch = dataclasses.replace(batch, boxes=torch.tensor([[[16.0, 16, 80, 80]], [[0.0, 0, 50, 60]]]))
    index = detector.assign(predictions, batch).index
    start = sum(map(len, predictions.points[:level]))
    assert (index[0] >= 0).nonzero().min() >= start
    assert (index[0] >= 0).nonzero().max() < start + len(predictions.points[level])
    # 60 × 50 pixels are padded to 64 × 64, half of the canvas.
    inside = [i < math.ceil(64 / s) and j < math.ceil(64 / s) for (h, w), s in zip(SHAPES, STRIDES, strict=True) for i in range(h) for j in range(w)]  # fmt: skip
    assert (index[1] == PADDING).tolist() == [not x for x in inside]
    locations = locations_in_images(SHAPES, STRIDES, batch.sizes)
    sides = [anchor_scale * s for s in STRIDES]
    assert torch.equal(index, assign_atss(predictions.points, sides, batch.boxes, batch.valid, locations).index)


# ----------------------------------------------------------------------------------------------------------- losses


def slow_box(a, b):
    """IoU and GIoU of two boxes."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union, shared / union - (hull - union) / hull


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


def entropy(x, y):
    return y * math.log1p(math.exp(-x)) + (1 - y) * math.log1p(math.exp(x))


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


@pytest.mark.parametrize("branch", ["logits", "codes", "quality"])
def test_boxes_and_centerness_share_a_tower(branch):
    head = make_head()
    getattr(head(pyramid()), branch).square().sum().backward()
    reached = {name.split("_")[0] for name, p in head.named_parameters() if "tower" in name and p.grad is not None}
    assert reached == {"cls" if branch == "logits" else "reg"}


@pytest.mark.parametrize("switches", ["atss", "gfl"])
def test_a_whole_detector_trains_and_detects(switches):
    row = {"atss": ("table5", "t5_atss_vfl"), "gfl": ("gfl_table3", "gfl3_qfl_dfl")}[switches]
    torch.manual_seed(0)
    detector = workbench.build_detector(workbench.load_experiment(*row, "ladder5")).train()
    terms = detector.loss(dataclasses.replace(make_batch((3, 2)), images=torch.randn(2, 3, *CANVAS)))
    assert list(terms) == ["cls", "box", "centerness" if switches == "atss" else "distribution"]
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    with torch.no_grad():
        detector.head.cls_out.bias.fill_(0)
    detections = detector.detect(torch.randn(1, 3, *CANVAS), torch.tensor([[90, 120]]))[0]
    assert 0 < len(detections.scores) <= 100
    assert (detections.boxes.amin(0) >= 0).all()
    assert (detections.boxes.amax(0) <= torch.tensor([120, 90, 120, 90])).all()
