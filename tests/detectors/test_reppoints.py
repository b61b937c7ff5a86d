"""Head of RepPoints: moments, offsets, start values, and factors of gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import workbench
from tests import samples
from tests.samples import CLASSES, STRIDES, pyramid, silent
from workbench.detectors.predictions import Pyramid
from workbench.detectors.reppoints import RepPointsHead, moment_boxes, point_offsets
from workbench.layers.deform import regular_grid
from workbench.losses.classification import FocalLoss, QualityFocalLoss, VarifocalLoss
from workbench.settings.detectors import RepPoints
from workbench.settings.experiment import Head

LOSSES = {"varifocal": VarifocalLoss(), "focal": FocalLoss(), "quality_focal": QualityFocalLoss()}


def make_detector(loss="varifocal", **settings):
    settings = {"channels": 8, "norm_groups": 4, "stacked_convs": 2, "init_std": 0.1, "anchor_scale": 4.0} | settings
    detector = samples.make_detector(RepPoints(), LOSSES[loss], Head().model_copy(update=settings))
    with torch.no_grad():  # initial boxes of some strides
        detector.head.points_out.bias.copy_(2 * regular_grid("cpu") + 0.3 * torch.randn(18))
        detector.head.moment_transfer.copy_(torch.tensor([0.1, -0.2]))
    return detector


def make_head(*arguments, **settings):
    return make_detector(*arguments, **settings).head


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
