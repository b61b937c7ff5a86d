"""Parts of detectors are exchanged without a change to a head: another assigner, another quality branch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.samples import BACKBONE, CANVAS, CLASSES, make_batch
from workbench.assigners.atss import ATSSAssigner
from workbench.assigners.fcos import FCOSAssigner, assign_fcos
from workbench.boxes import aligned_iou
from workbench.detectors.atss import ATSSHead, ATSSObjective
from workbench.detectors.codes import SquareAnchorDeltas
from workbench.detectors.detector import DenseDetector
from workbench.detectors.quality import CENTERNESS, IOU
from workbench.detectors.vfnet import VFNetHead, VFNetObjective
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.necks import FPN
from workbench.losses.classification import FocalLoss, VarifocalLoss
from workbench.settings.data import ImageSize
from workbench.settings.experiment import Head
from workbench.settings.variant import Variant

SETTINGS = Head(channels=8, norm_groups=4, stacked_convs=1, anchor_scale=4.0, init_std=0.1)
VARIANT = Variant(image=ImageSize(long=CANVAS[1], short=CANVAS[0]))


def put_together(head, assigner, objective):
    """Detector with a small backbone and a neck; ``head`` is a function of the number of levels."""
    torch.manual_seed(0)
    backbone = ResidualBackbone(BACKBONE)
    for name, parameter in backbone.named_parameters():
        if name.endswith("bn3.weight"):  # zero at the start, which would hide the gradients behind it
            torch.nn.init.ones_(parameter)
    neck = FPN(backbone.channels, SETTINGS.channels)
    levels = len(neck.output_strides(backbone.strides))
    return DenseDetector(backbone, neck, head(levels), assigner, objective, VARIANT).train()


def vfnet(assigner):
    return put_together(lambda levels: VFNetHead(SETTINGS, CLASSES, levels), assigner, VFNetObjective(VarifocalLoss()))


def fcos_atss(quality):
    """FCOS + ATSS with a quality branch."""
    return put_together(
        lambda levels: VFNetHead(SETTINGS, CLASSES, levels, star=False, refine=False, quality_branch=True),
        ATSSAssigner(SETTINGS.anchor_scale),
        VFNetObjective(FocalLoss(), quality),
    )


def atss(quality):
    """ATSS with a quality branch."""
    code = SquareAnchorDeltas(SETTINGS.anchor_scale)
    return put_together(
        lambda levels: ATSSHead(SETTINGS, CLASSES, levels, code, quality_branch=True),
        ATSSAssigner(SETTINGS.anchor_scale),
        ATSSObjective(FocalLoss(), quality),
    )


def some_batch():
    return dataclasses.replace(make_batch((3, 2)), images=torch.randn(2, 3, *CANVAS))


def assert_trains_a_step(detector, batch):
    """The loss is finite, every parameter gets a gradient, and a small step lowers the loss."""
    before = sum(detector.loss(batch).values())
    assert before.isfinite()
    before.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "scales" in name, name  # a level without positives does not move its factor
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter -= 1e-4 * parameter.grad
        assert sum(detector.loss(batch).values()) < before


# ------------------------------------------------------------------------------------------------------ an assigner


def test_fcos_assigns_in_place_of_atss():
    detector, batch = vfnet(FCOSAssigner(SETTINGS.anchor_scale)), some_batch()
    predictions = detector.predict(batch.images)
    index = detector.assign(predictions, batch).index
    expected = assign_fcos(predictions.points, predictions.strides, batch.boxes, batch.valid, SETTINGS.anchor_scale)
    assert torch.equal(index, expected.index)
    assert not torch.equal(index >= 0, ATSSAssigner(SETTINGS.anchor_scale)(predictions, batch).positive)


def test_vfnet_trains_with_fcos():
    detector, batch = vfnet(FCOSAssigner(SETTINGS.anchor_scale)), some_batch()
    assert list(detector.loss(batch)) == ["cls", "box_initial", "box"]
    assert_trains_a_step(detector, batch)


def test_the_assigner_decides_what_is_learnt_and_not_what_is_built():
    one, other = vfnet(FCOSAssigner(SETTINGS.anchor_scale)), vfnet(ATSSAssigner(SETTINGS.anchor_scale))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    batch = some_batch()
    assert one.loss(batch)["box"] != other.loss(batch)["box"]


# ----------------------------------------------------------------------------------------------- a quality branch


@pytest.mark.parametrize("build", [atss, fcos_atss])
def test_the_target_of_an_iou_branch_is_the_iou_of_the_predicted_box(build):
    """The term of the branch is the binary cross entropy with the IoU, and boxes are weighted by the IoU."""
    detector, batch = build(IOU), some_batch()
    predictions = detector.predict(batch.images)
    assignment = detector.assign(predictions, batch)
    objects = assignment.gather(batch.boxes)
    iou = aligned_iou(predictions.boxes[assignment.places], objects).detach()
    target = IOU.target(predictions.all_points[assignment.places[1]], predictions.boxes[assignment.places], objects)
    assert torch.equal(target, iou)
    assert not target.requires_grad
    assert 0 < iou.min() < iou.max() < 1

    p = predictions.quality[assignment.places].sigmoid().double()
    entropy = -(iou * p.log() + (1 - iou) * (1 - p).log()).sum() / len(iou)
    assert detector.terms(predictions, batch)["iou"].item() == pytest.approx(entropy.item(), rel=1e-5)


@pytest.mark.parametrize("build", [atss, fcos_atss])
def test_the_score_is_the_product_of_class_score_and_quality(build):
    detector, batch = build(IOU).eval(), some_batch()
    with torch.no_grad():
        detector.head.cls_out.bias.fill_(0)
        detector.head.centerness_out.bias.fill_(1)
        predictions = detector.predict(batch.images)
    product = predictions.logits.sigmoid() * predictions.quality.sigmoid().unsqueeze(-1)
    torch.testing.assert_close(predictions.scores().best, product.amax(-1))
    detections = detector.detect(batch.images, batch.sizes)
    assert all(
        (one.scores[:, None] - product[b].flatten()).abs().amin(1).max() < 1e-6 for b, one in enumerate(detections)
    )
    without = detector.detect(batch.images, batch.sizes, VARIANT.model_copy(update={"centerness": False}))
    assert detections[0].scores.max() < without[0].scores.max()


@pytest.mark.parametrize("build", [atss, fcos_atss])
def test_a_detector_with_an_iou_branch_trains(build):
    detector, batch = build(IOU), some_batch()
    assert list(detector.loss(batch)) == ["cls", "box", "iou"]
    assert_trains_a_step(detector, batch)


@pytest.mark.parametrize("build", [atss, fcos_atss])
def test_the_branch_changes_the_loss_and_no_tensor(build):
    one, other, batch = build(IOU), build(CENTERNESS), some_batch()
    assert one.state_dict().keys() == other.state_dict().keys()
    ours, theirs = one.loss(batch), other.loss(batch)
    assert ours["cls"] == theirs["cls"]
    assert ours["box"] != theirs["box"]
    assert ours["iou"] != theirs["centerness"]
