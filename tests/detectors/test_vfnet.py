"""Head of VarifocalNet with its switches: star offsets, numbers of parameters, start values and gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import workbench
from tests import samples
from tests.samples import CLASSES, STRIDES, pyramid, silent
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


def make_detector(switches="full", loss="varifocal", *, dcn=False, **settings):
    settings = {"channels": 8, "norm_groups": 4, "stacked_convs": 2, "init_std": 0.1} | settings
    head, backbone = Head().model_copy(update=settings), samples.BACKBONE.model_copy(update={"dcn": dcn})
    return samples.make_detector(VFNet(**SWITCHES[switches]), LOSSES[loss], head, backbone)


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
