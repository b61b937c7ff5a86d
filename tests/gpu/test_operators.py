"""Operator by operator, a GPU computes the same values and gradients as the CPU; run with ``make test-gpu``."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.comparison import (
    CLASSES,
    LOSS,
    LOSS_GRADIENT,
    SHAPES,
    SIZES,
    VALUE,
    assert_agrees,
    assert_close,
    noise_batch,
    normal,
    random,
    random_boxes,
)
from tests.samples import STRIDES
from workbench.assigners.atss import assign_atss
from workbench.boxes import aligned_giou, aligned_iou, locations_in_images, pairwise_iou, pyramid_points
from workbench.detectors import Predictions
from workbench.detectors.postprocess import postprocess
from workbench.detectors.vfnet import star_offsets
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.deform import back_ends, deform_conv2d
from workbench.layers.necks import FPN
from workbench.losses.classification import CLASSIFICATION_LOSSES
from workbench.settings.catalog import load_row
from workbench.settings.data import ImageSize
from workbench.settings.variant import Variant

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("device", "no_tf32")]


@pytest.mark.parametrize("back_end", ["sample", "torchvision", "mmcv"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (5, 9), (24, 32)])
def test_deformable_convolution_agrees_with_the_cpu(device, back_end, masked, rows, columns):
    if back_end not in back_ends(device):
        pytest.skip(f"{back_end} is not installed with operators for this device")
    # Not on the lattice, since the gradient is not defined there; one tap samples far outside.
    offset = random(2, 18, rows, columns, low=-3, high=3).floor() + random(2, 18, rows, columns, low=0.05, high=0.95)
    offset[0, 4] = 1e6
    tensors = [normal(2, 8, rows, columns), offset, normal(6, 8, 3, 3, seed=1)]
    if masked:
        tensors.append(random(2, 9, rows, columns))
    assert_agrees(lambda *t: deform_conv2d(*t, back_end=back_end), tensors, device)


@pytest.mark.parametrize(
    ("function", "tensors"),
    [
        (aligned_iou, (random_boxes(50), random_boxes(50, seed=2))),
        (pairwise_iou, (random_boxes(2, 20), random_boxes(2, 30, seed=2))),
        (aligned_giou, (random_boxes(50), random_boxes(50, seed=2))),
        (lambda a, b: aligned_giou(a[:, None], b), (random_boxes(20), random_boxes(30, seed=2))),
        (lambda distances: star_offsets(distances, 16), (random(2, 4, 6, 8, high=90),)),
    ],
    ids=["iou", "pairwise-iou", "giou", "pairwise-giou", "star-offsets"],
)
def test_geometry_agrees_with_the_cpu(device, function, tensors):
    assert_agrees(function, tensors, device)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_classification_losses_agree_with_the_cpu(device, name):
    loss = CLASSIFICATION_LOSSES[name]()
    quality = random(64, CLASSES) * (random(64, CLASSES, seed=1) > 0.7)
    target = quality if loss.wants_quality else quality.ceil()
    assert_agrees(lambda logits: loss(logits, target.to(logits.device)), [4 * normal(64, CLASSES)], device)


class Pyramid(FPN):
    def forward(self, *maps):
        return super().forward(maps)


def test_neck_agrees_with_the_cpu(device):
    torch.manual_seed(0)
    maps = [normal(2, 4 * 2**i, 12 // 2**i, 16 // 2**i) for i in range(3)]
    assert_agrees(Pyramid([4, 8, 16], 8), maps, device)


@pytest.mark.parametrize("norm", ["trained", "frozen"])
def test_backbone_agrees_with_the_cpu(device, norm):
    torch.manual_seed(0)
    settings = load_row("table3", "t3_full_vfl").experiment.backbone.model_copy(update={"norm": norm})
    assert_agrees(ResidualBackbone(settings).train(), [normal(4, 3, 96, 128)], device, LOSS, LOSS_GRADIENT)


def test_points_and_locations_agree_with_the_cpu(device):
    for here, there in zip(*(pyramid_points(SHAPES, STRIDES, d) for d in ("cpu", device)), strict=True):
        assert there.device.type == device.type
        assert torch.equal(here, there.cpu())
    assert torch.equal(
        locations_in_images(SHAPES, STRIDES, SIZES), locations_in_images(SHAPES, STRIDES, SIZES.to(device)).cpu()
    )


def test_assignment_is_identical(device):
    """The boxes have no ties, which devices may break differently."""

    def assign(device):
        batch = noise_batch().to(device)
        inside = locations_in_images(SHAPES, STRIDES, batch.sizes)
        points = pyramid_points(SHAPES, STRIDES, device)
        return assign_atss(points, [4.0 * stride for stride in STRIDES], batch.boxes, batch.valid, inside).index.cpu()

    expected = assign("cpu")
    assert (expected >= 0).sum() > 10
    assert torch.equal(assign(device), expected)


@pytest.mark.parametrize("centerness", [False, True])
def test_post_processing_agrees_with_the_cpu(device, centerness):
    locations = sum(rows * columns for rows, columns in SHAPES)
    # Scores at equal distances, in random order: rounding decides neither their order nor the threshold.
    order = torch.randperm(2 * locations * CLASSES, generator=torch.Generator().manual_seed(0))
    logits = torch.linspace(-6, 2, len(order))[order].view(2, locations, CLASSES)
    boxes, quality = random_boxes(2, locations), normal(2, locations)

    def found(device):
        there = [t.to(device) for t in (logits, boxes, quality)]
        points = pyramid_points(SHAPES, STRIDES, device)
        predictions = Predictions(there[0], there[1], points, SHAPES, STRIDES, quality=there[2] if centerness else None)
        # Few candidates per level, so that their choice matters.
        variant = Variant(image=ImageSize(long=128, short=96), candidates=40)
        return postprocess(predictions, SIZES.to(device), variant)

    for here, there in zip(found("cpu"), found(device), strict=True):
        assert len(here.scores) > 20
        assert torch.equal(there.labels.cpu(), here.labels)
        assert torch.equal(there.boxes.cpu(), here.boxes)
        assert_close({"scores": there.scores}, {"scores": here.scores}, VALUE)


def test_equal_scores_come_in_the_same_order(device):
    """An oracle gives scores of 1; ties occur in the choice of candidates and in NMS."""
    locations = sum(rows * columns for rows, columns in SHAPES)
    logits, boxes = torch.full((2, locations, CLASSES), torch.inf), random_boxes(2, locations)

    def found(device):
        points = pyramid_points(SHAPES, STRIDES, device)
        predictions = Predictions(logits.to(device), boxes.to(device), points, SHAPES, STRIDES)
        variant = Variant(image=ImageSize(long=128, short=96), candidates=40)
        return postprocess(predictions, SIZES.to(device), variant)

    for here, there in zip(found("cpu"), found(device), strict=True):
        assert torch.equal(there.labels.cpu(), here.labels)
        assert torch.equal(there.boxes.cpu(), here.boxes)
