"""RetinaNet, its losses and the assignment by IoU against MMDetection 3.3.0, with the same random weights.

MMDetection differs in two points: the choice of candidates, and empty boxes, which it drops. The inputs are chosen so
that both sides agree.
"""

from dataclasses import replace

import numpy as np
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
    draw_boxes,
    draw_samples,
    enliven,
    take_weights,
)
from tests.samples import STRIDES
from workbench.assigners.assignment import BACKGROUND, IGNORE
from workbench.assigners.max_iou import assign_max_iou
from workbench.boxes import decode_deltas, encode_deltas, locations_in_images, pairwise_iou, pyramid_points
from workbench.data.transforms import collate
from workbench.detectors import build_detector
from workbench.detectors.predictions import Detections
from workbench.detectors.retinanet import AnchorGrid
from workbench.settings.catalog import load_experiment, load_row
from workbench.weights.mmdet_names import renamer

ROW = ("table5", "t5_retinanet_fl", "coco")


retinanet_name = renamer(load_experiment(*ROW))


@torch.no_grad()
def calm_outputs(model):
    """Set scores as low as a trained head's, and boxes near their anchors."""
    model.bbox_head.retina_cls.weight *= 0.1
    model.bbox_head.retina_cls.bias.mul_(7).sub_(5.2)
    model.bbox_head.retina_reg.weight *= 0.03
    return model


@pytest.fixture(scope="session")
def theirs(mm):
    """MMDetection's RetinaNet, built from its shipped configuration."""
    config = mm.config("retinanet/retinanet_r50_fpn_1x_coco.py").model
    config.backbone.init_cfg = None
    return calm_outputs(enliven(mm.model(config), 10))


@pytest.fixture(scope="session")
def ours(theirs):
    detector = build_detector(load_experiment(*ROW))
    detector.load_state_dict(take_weights(detector.state_dict(), theirs.state_dict(), retinanet_name))
    return detector.eval()


@pytest.fixture(scope="session")
def generator(theirs):
    """MMDetection's generator of anchors."""
    return theirs.bbox_head.prior_generator


def anchors_flat(maps, numbers):
    """Maps ``[B, 9 numbers, H, W]`` of MMDetection as ``[B, P, numbers]``."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, numbers) for x in maps], dim=1)


# 1. Predictions.


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_predictions_agree(mm, ours, theirs, generator, shape):
    samples = draw_samples(SHAPES[shape], [0] * len(SHAPES[shape]))
    batch = collate(samples).to("cpu")
    images, _ = as_theirs(mm, theirs, samples)
    predictions = ours.predict(batch.images)
    logits, deltas = theirs(images, mode="tensor")
    assert difference(predictions.logits, anchors_flat(logits, CLASSES)) < 1e-4
    assert difference(predictions.codes, anchors_flat(deltas, 4)) < 1e-4
    assert predictions.logits.std() > 0.5
    assert predictions.codes.std() > 0.1
    start = 0
    for level in deltas:  # the levels differ in size
        some = slice(start, start + level[0, :36:4].numel())
        assert difference(predictions.codes[:, some], anchors_flat([level], 4)) < 1e-4
        start = some.stop

    anchors = torch.cat(generator.grid_priors([x.shape[-2:] for x in logits], device="cpu"))
    assert torch.equal(predictions.anchors, anchors)
    boxes = torch.stack([theirs.bbox_head.bbox_coder.decode(anchors, x) for x in anchors_flat(deltas, 4)])
    size = (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
    assert ((predictions.boxes - boxes).abs() / size).max() < 1e-4


def test_deltas_agree(mm, theirs):
    """Some sizes have a logarithm out of bounds."""
    rng, coder = np.random.default_rng(11), theirs.bbox_head.bbox_coder
    anchors, boxes = (torch.from_numpy(draw_boxes(rng, 3000, 900, 1300, smallest=2.0)) for _ in range(2))
    deltas = encode_deltas(anchors, boxes)
    torch.testing.assert_close(deltas, coder.encode(anchors, boxes), rtol=1e-5, atol=1e-4)
    assert deltas[:, 2:].abs().max() > 4.2
    for factor in (1.0, 1.5):
        actual, expected = decode_deltas(anchors, deltas * factor), coder.decode(anchors, deltas * factor)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-3)


# 2. Losses and 3. their gradients.


def border_boxes(rng, count, height, width):
    """Objects of a size halfway between the anchors of two levels, with centres on points and halfway between them."""
    stride = rng.choice(STRIDES[:2], count)
    ratio = rng.choice([0.5, 1.0, 2.0], count) ** 0.5
    side = 4 * stride * 2 ** (rng.choice([5 / 6, 0.5, 1 / 6], count))
    points = rng.integers(0, [2 * width, 2 * height], (count, 2)) // stride[:, None] * stride[:, None] / 2
    half = np.stack([side / ratio, side * ratio], axis=1) / 2
    return np.concatenate([points - half, points + half], axis=1).astype(np.float32)


OBJECTS = {"none": (0, 0), "one": (0, 1), "200 and 120": (200, 120), "borders": (25, 9)}


@pytest.fixture(scope="module")
def outputs(mm, ours, theirs):
    """For each number of objects: our predictions and batch; MMDetection's outputs, ground truth and image facts."""
    made, rng = {}, np.random.default_rng(12)
    for name, counts in OBJECTS.items():
        samples = draw_samples(SHAPES["unequal"], counts, seed=1)
        if name == "borders":
            drawn = [border_boxes(rng, n, *size) for n, size in zip(counts, SHAPES["unequal"], strict=True)]
            samples = [replace(sample, boxes=boxes) for sample, boxes in zip(samples, drawn, strict=True)]
        batch = collate(samples).to("cpu")
        images, listed = as_theirs(mm, theirs, samples)
        instances, facts = [x.gt_instances for x in listed], [x.metainfo for x in listed]
        if not made:  # in training mode, in which BatchNorm must not change
            predictions, out = ours.train().predict(batch.images), theirs.train()(images, mode="tensor")
            ours.eval(), theirs.eval()
        made[name] = predictions, batch, out, instances, facts
    return made


def both_losses(ours, theirs, case):
    predictions, batch, out, instances, facts = case
    expected = theirs.bbox_head.loss_by_feat(*out, instances, facts)
    assert set(expected) == {"loss_cls", "loss_bbox"}
    return ours.terms(predictions, batch), {"cls": sum(expected["loss_cls"]), "box": sum(expected["loss_bbox"])}


@pytest.mark.parametrize("objects", OBJECTS)
@torch.no_grad()
def test_losses_agree(ours, theirs, outputs, objects):
    actual, expected = both_losses(ours, theirs, outputs[objects])
    assert actual.keys() == expected.keys()
    for term, value in expected.items():
        assert value.isfinite()
        assert (value > 0) == (term == "cls" or objects != "none")
        assert float(actual[term]) == pytest.approx(float(value), rel=1e-5), term


@pytest.mark.parametrize("objects", ["none", "200 and 120"])
def test_gradients_agree(ours, theirs, outputs, objects):
    actual, expected = both_losses(ours, theirs, outputs[objects])
    gradients = {}
    for side, model, terms in (("ours", ours, actual), ("theirs", theirs, expected)):
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        values = torch.autograd.grad(sum(terms.values()), list(trained.values()), retain_graph=True)
        gradients[side] = dict(zip(trained, values, strict=True))
    assert not any(
        name.startswith(("backbone.net.conv1", "backbone.net.bn1", "backbone.net.layer1")) for name in gradients["ours"]
    )
    reference = take_weights(gradients["ours"], gradients["theirs"], retinanet_name)
    for name, gradient in gradients["ours"].items():
        if objects == "none" and name.startswith(("head.reg_tower", "head.box_out")):
            assert not gradient.any()
            assert not reference[name].any()
            continue
        assert reference[name].any(), name
        assert difference(gradient, reference[name]) < 1e-3, name
        assert (gradient - reference[name]).norm() < 1e-3 * reference[name].norm(), name


# 4. Assignment.


def doubtful(anchors, boxes, nearness=1e-6):
    """Mask of the anchors that rounding decides: at a threshold, between two objects or between two anchors."""
    iou = pairwise_iou(boxes.double(), anchors.double())
    best = iou.topk(min(2, len(iou)), dim=0).values
    result = ((best[0] - 0.4).abs() < nearness) | ((best[0] - 0.5).abs() < nearness)
    if len(iou) > 1:
        result |= best[0] - best[1] < nearness
    largest = iou > iou.amax(1, keepdim=True) - nearness
    return result | (largest & (largest.sum(1, keepdim=True) > 1)).any(0)


def test_assignment_agrees(mm, theirs, generator):
    assigner = mm.task(theirs.train_cfg.assigner)
    rng = np.random.default_rng(14)
    images, positives, ignored, forced, differing = 0, 0, 0, 0, 0
    while images < 240:
        sizes = rng.integers(33, 360, (3, 2))
        counts = rng.choice([0, 1, 2, 5, 20, 200], 3, p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.1]).tolist()
        boxes, valid = torch.zeros(3, max(counts), 4), torch.zeros(3, max(counts), dtype=torch.bool)
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            draw = border_boxes if rng.random() < 0.3 else draw_boxes
            boxes[i, :count], valid[i, :count] = torch.from_numpy(draw(rng, count, *size)), True
        canvas = -(-sizes.max(0) // 32) * 32
        shapes = [tuple(int(-(-side // 8)) for side in canvas)]
        while len(shapes) < 5:
            shapes.append(tuple(-(-side // 2) for side in shapes[-1]))
        priors = generator.grid_priors(shapes, device="cpu")
        points = pyramid_points(shapes, STRIDES, "cpu")
        anchors = AnchorGrid(4)(points, STRIDES)
        assert torch.equal(anchors, torch.cat(priors))
        inside = locations_in_images(shapes, STRIDES, torch.from_numpy(sizes)).repeat_interleave(9, dim=1)
        index = assign_max_iou(anchors, boxes, valid, inside).index
        for i, count in enumerate(counts):
            pad = tuple(int(-(-side // 32) * 32) for side in sizes[i])
            keep = torch.cat(generator.valid_flags(shapes, pad, device="cpu"))
            assert torch.equal(keep, inside[i])
            truth = mm.Instances(bboxes=boxes[i, :count], labels=torch.zeros(count, dtype=torch.int64))
            result = assigner.assign(mm.Instances(priors=anchors[keep]), truth)
            actual = torch.where(result.gt_inds < 0, IGNORE, result.gt_inds - 1)
            assert BACKGROUND == -1
            assert (index[i][~keep] == IGNORE).all()
            our_values = index[i][keep]
            images, positives = images + 1, positives + int((actual >= 0).sum())
            ignored += int((actual == IGNORE).sum())
            forced += int(((actual >= 0) & (result.max_overlaps < 0.5)).sum())
            if not torch.equal(our_values, actual):
                differing += 1
                assert doubtful(anchors[keep], boxes[i, :count])[our_values != actual].all(), images
    assert positives > 10000
    assert ignored > 10000
    assert forced > 1000
    assert differing <= images // 50


@pytest.mark.parametrize("touching", [False, True])
def test_assignment_of_objects_that_no_anchor_overlaps_agrees(mm, theirs, touching):
    """Such objects claim all anchors without overlap; this occurs with predicted boxes."""
    rng = np.random.default_rng(15)
    anchors = torch.from_numpy(draw_boxes(rng, 300, 100, 100))
    boxes = torch.tensor([[10.0, 10, 60, 60], [200, 200, 240, 240], [50, 50, 50, 50], [30, 30, 90, 80]])
    boxes = boxes if touching else boxes[:2]
    truth = mm.Instances(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.int64))
    result = mm.task(theirs.train_cfg.assigner).assign(mm.Instances(priors=anchors), truth)
    padded = torch.cat([boxes, torch.zeros(3, 4)])[None]
    valid = torch.arange(padded.shape[1])[None] < len(boxes)
    actual = assign_max_iou(anchors, padded, valid, torch.ones(1, 300, dtype=torch.bool)).index[0]
    assert torch.equal(actual, torch.where(result.gt_inds < 0, IGNORE, result.gt_inds - 1))
    assert (actual == (2 if touching else 1)).sum() > 250


# 5. Detections.


@pytest.mark.parametrize("sizes", DETECTION_SIZES, ids=DETECTION_IDS)
@torch.no_grad()
def test_detections_agree(mm, ours, theirs, monkeypatch, sizes):
    variant = load_row(*ROW).variant
    assert (variant.nms_iou, variant.max_detections) == (0.5, 100)
    more = variant.model_copy(update={"max_detections": 10_000})
    actual, expected = both_detections(mm, ours, theirs, more, theirs.bbox_head.retina_cls, sizes, monkeypatch)
    for here, there in zip(actual, expected, strict=True):
        # MMDetection drops boxes that are empty after clipping; they suppress no other box.
        kept = (here.boxes[:, 2:] > here.boxes[:, :2]).all(1).nonzero().flatten()[:100]
        assert_same_detections(Detections(here.boxes[kept], here.scores[kept], here.labels[kept]), there)
