"""VFNet and its raw ancestors against MMDetection 3.3.0, with the same random weights.

MMDetection differs in two points: the choice of candidates, and empty boxes, which it drops. The inputs are chosen so
that both sides agree.
"""

from dataclasses import replace

import pytest
import torch

from tests.parity.comparison import (
    CLASSES,
    DETECTION_IDS,
    DETECTION_SIZES,
    SHAPES,
    as_theirs,
    assert_same_detections,
    both_detections,
    difference,
    draw_samples,
    enliven,
    head_renamer,
    take_weights,
)
from tests.samples import STRIDES
from workbench.boxes import encode_distances
from workbench.data.transforms import collate
from workbench.detectors import build_detector
from workbench.detectors.parts import flatten_levels
from workbench.detectors.predictions import Pyramid
from workbench.detectors.vfnet import VFNetHead, VFNetObjective
from workbench.losses.classification import FocalLoss, VarifocalLoss
from workbench.settings.catalog import load_experiment, load_row
from workbench.settings.experiment import Head
from workbench.weights.mmdet_names import renamer

FOCAL = {
    "use_vfl": False,
    "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
}


# The two detectors with the same weights.


vfnet_name = renamer(load_experiment("table3", "t3_full_vfl", "coco"))
fcos_name = head_renamer(load_experiment("table3", "t3_fcos_atss", "coco"))


@pytest.fixture(scope="session")
def theirs(mm):
    """MMDetection's VFNet, built from its shipped configuration; ``.focal`` is a second head with the same weights."""
    config = mm.config("vfnet/vfnet_r50_fpn_1x_coco.py").model
    config.backbone.init_cfg = None
    model = enliven(mm.model(config), 0)
    head = dict(config.bbox_head, train_cfg=config.train_cfg, test_cfg=config.test_cfg)
    focal = mm.model({**head, **FOCAL})
    for name, parameter in model.bbox_head.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(focal.get_submodule(owner), leaf, parameter)
    model.__dict__["focal"] = focal.eval()  # not a submodule, so that its parameters are not listed
    return model


@pytest.fixture(scope="session")
def ours(theirs):
    detector = build_detector(load_experiment("table3", "t3_full_vfl", "coco"))
    detector.load_state_dict(take_weights(detector.state_dict(), theirs.state_dict(), vfnet_name))
    return detector.eval()


# 1. Predictions.


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_predictions_agree(mm, ours, theirs, shape):
    samples = draw_samples(SHAPES[shape], [0] * len(SHAPES[shape]))
    batch = collate(samples).to("cpu")
    images, _ = as_theirs(mm, theirs, samples)
    torch.testing.assert_close(batch.images, images, rtol=0, atol=1e-6)

    predictions = ours.predict(batch.images)
    theirs.train()  # only in training mode it returns the initial boxes; its BatchNorm stays frozen
    logits, initial, refined = theirs(images, mode="tensor")
    theirs.eval()
    points = torch.cat(list(predictions.points))
    assert difference(predictions.logits, flatten_levels(logits)) < 1e-4
    assert flatten_levels(logits).std() > 0.5
    for boxes, distances in ((predictions.initial_boxes, initial), (predictions.boxes, refined)):
        actual, expected = encode_distances(points, boxes), flatten_levels(distances)
        assert expected.log().std() > 0.3
        assert ((actual - expected).abs() / expected).max() < 1e-3  # of each distance, however short
        start = 0
        for level in distances:
            locations = level[0, 0].numel()
            assert difference(actual[:, start : start + locations], expected[:, start : start + locations]) < 1e-4
            start += locations


# 2. Losses and 3. their gradients.

OBJECTS = {"none": (0, 0), "one": (0, 1), "200 and 120": (200, 120)}


@pytest.fixture(scope="module")
def outputs(mm, ours, theirs):
    """For each number of objects: our predictions and batch; MMDetection's outputs, ground truth and image facts."""
    made = {}
    for name, counts in OBJECTS.items():
        samples = draw_samples(SHAPES["unequal"], counts, seed=1)
        batch = collate(samples).to("cpu")
        images, listed = as_theirs(mm, theirs, samples)
        instances, facts = [x.gt_instances for x in listed], [x.metainfo for x in listed]
        if not made:  # in training mode, in which BatchNorm must not change
            predictions, out = ours.train().predict(batch.images), theirs.train()(images, mode="tensor")
            ours.eval(), theirs.eval()
        made[name] = predictions, batch, out, instances, facts
    return made


def both_losses(ours, theirs, case, monkeypatch, loss):
    predictions, batch, out, instances, facts = case
    head = theirs.bbox_head if isinstance(loss, VarifocalLoss) else theirs.focal
    monkeypatch.setattr(ours, "objective", VFNetObjective(loss))
    expected = head.loss_by_feat(*out, instances, facts)
    assert set(expected) == {"loss_cls", "loss_bbox", "loss_bbox_rf"}
    renamed = {"cls": expected["loss_cls"], "box_initial": expected["loss_bbox"], "box": expected["loss_bbox_rf"]}
    return ours.terms(predictions, batch), renamed


@pytest.mark.parametrize("loss", [VarifocalLoss(), FocalLoss()], ids=lambda loss: loss.name)
@pytest.mark.parametrize("objects", OBJECTS)
@torch.no_grad()
def test_losses_agree(ours, theirs, outputs, monkeypatch, objects, loss):
    actual, expected = both_losses(ours, theirs, outputs[objects], monkeypatch, loss)
    assert actual.keys() == expected.keys()
    for term, value in expected.items():
        assert value.isfinite()
        assert (value > 0) == (term == "cls" or objects != "none")
        assert float(actual[term]) == pytest.approx(float(value), rel=1e-5), term


@pytest.mark.parametrize("loss", [VarifocalLoss(), FocalLoss()], ids=lambda loss: loss.name)
def test_gradients_agree(ours, theirs, outputs, monkeypatch, loss):
    actual, expected = both_losses(ours, theirs, outputs["200 and 120"], monkeypatch, loss)
    gradients = {}
    for side, model, terms in (("ours", ours, actual), ("theirs", theirs, expected)):
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        values = torch.autograd.grad(sum(terms.values()), list(trained.values()), retain_graph=True)
        gradients[side] = dict(zip(trained, values, strict=True))
    assert not any(
        name.startswith(("backbone.net.conv1", "backbone.net.bn1", "backbone.net.layer1")) for name in gradients["ours"]
    )
    reference = take_weights(gradients["ours"], gradients["theirs"], vfnet_name)
    for name, gradient in gradients["ours"].items():
        assert reference[name].any(), name
        assert difference(gradient, reference[name]) < 1e-3, name
        assert (gradient - reference[name]).norm() < 1e-3 * reference[name].norm(), name


def test_loss_of_positives_without_overlap_agrees(ours, theirs, outputs, monkeypatch):
    """They stay positives with the least quality, which shows only in the gradients of the logits."""
    predictions, batch, (logits, initial, refined), *truth = outputs["200 and 120"]
    logits = [(x.detach() + 5).requires_grad_() for x in logits]
    points = torch.cat(list(predictions.points))
    predictions = replace(predictions, logits=flatten_levels(logits), boxes=points.repeat(2, 1, 2))
    empty = [torch.zeros_like(x) for x in refined]
    case = (predictions, batch, (logits, initial, empty), *truth)
    actual, expected = both_losses(ours, theirs, case, monkeypatch, VarifocalLoss())
    # MMDetection has a floor for the weights of the box terms, too: a box without overlap costs a millionth.
    assert float(actual["cls"]) == pytest.approx(float(expected["cls"]), rel=1e-5)
    assert abs(float(actual["box"] - expected["box"])) < 5e-3
    gradients = [torch.autograd.grad(terms["cls"], logits, retain_graph=True) for terms in (actual, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-12)


# 4. Detections.


@pytest.mark.parametrize("sizes", DETECTION_SIZES, ids=DETECTION_IDS)
@torch.no_grad()
def test_detections_agree(mm, ours, theirs, monkeypatch, sizes):
    actual, expected = both_detections(
        mm,
        ours,
        theirs,
        load_row("table3", "t3_full_vfl", "coco").variant,
        theirs.bbox_head.vfnet_cls,
        sizes,
        monkeypatch,
    )
    for here, there in zip(actual, expected, strict=True):
        assert_same_detections(here, there)


# An ancestor.


@torch.no_grad()
def test_head_of_fcos_atss_agrees(mm):
    """Raw VFNet is this head without centerness. FCOS's distances do not have the factor of the level."""
    torch.manual_seed(0)
    settings = {"type": "FCOSHead", "num_classes": CLASSES, "in_channels": 64, "feat_channels": 64, "stacked_convs": 4}
    theirs = enliven(mm.model({**settings, "strides": list(STRIDES), "centerness_on_reg": True}), 6)
    ours = VFNetHead(Head(channels=64), CLASSES, len(STRIDES), star=False, refine=False, quality_branch=True)
    ours.load_state_dict(take_weights(ours.state_dict(), theirs.state_dict(), fcos_name))
    pyramid = [torch.randn(2, 64, *size) for size in ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2))]
    predictions, (logits, distances, centerness) = ours(Pyramid(pyramid, STRIDES)), theirs(pyramid)
    assert difference(predictions.logits, flatten_levels(logits)) < 1e-4
    assert difference(predictions.quality, flatten_levels(centerness).squeeze(-1)) < 1e-4
    expected = flatten_levels([x * 8 * stride for x, stride in zip(distances, STRIDES, strict=True)])
    actual = encode_distances(torch.cat(list(predictions.points)), predictions.boxes)
    assert ((actual - expected).abs() / expected).max() < 1e-3
    assert predictions.initial_boxes is None
