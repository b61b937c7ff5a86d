"""Head of ATSS and GFL with its parts: shapes, start values, distributions and targets."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import workbench
from tests import samples
from tests.samples import CANVAS, CLASSES, STRIDES, level_shapes, make_batch, pyramid, silent
from workbench.assigners.assignment import PADDING
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


def test_expected_distances_have_the_digits_of_single_precision():
    code, generator = DistanceDistributions(16, 1.0), torch.Generator().manual_seed(0)
    codes = 3 * torch.randn(1000, code.size, generator=generator)
    expected = code.expected_distances(codes.double())
    torch.testing.assert_close(code.expected_distances(codes).double(), expected, rtol=1e-6, atol=1e-6)


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


@pytest.mark.parametrize("branch", ["logits", "codes", "quality"])
def test_boxes_and_centerness_share_a_tower(branch):
    head = make_head()
    getattr(head(pyramid()), branch).square().sum().backward()
    reached = {name.split("_")[0] for name, p in head.named_parameters() if "tower" in name and p.grad is not None}
    assert reached == {"cls" if branch == "logits" else "reg"}
