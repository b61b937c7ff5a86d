"""FoveaBox, its targets and its losses against MMDetection 3.3.0, with the same random weights.

MMDetection has FoveaBox with the focal loss only; tests/detectors checks the other losses.
"""

import numpy as np
import pytest
import torch

from tests.parity.comparison import (
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
from workbench.assigners.assignment import BACKGROUND
from workbench.assigners.foveabox import assign_foveabox, scale_ranges
from workbench.boxes import area, encode_distances, per_location, pyramid_points
from workbench.data.transforms import collate
from workbench.detectors import build_detector
from workbench.detectors.parts import flatten_levels
from workbench.settings.catalog import load_experiment, load_row
from workbench.weights.mmdet_names import renamer

LENGTHS = (16, 32, 64, 128, 256)
RANGES = scale_ranges(STRIDES, 8)


our_name = renamer(load_experiment("table5", "t5_foveabox_fl", "coco"))


@torch.no_grad()
def even_out(mm, model):
    """Give every channel of the towers and of the outputs an ordinary mean and spread; the head has no norms."""
    head = model.bbox_head
    images, _ = as_theirs(mm, model, draw_samples(SHAPES["square"], [0]))
    maps = model.extract_feat(images)[:3]
    for tower, out in ((head.cls_convs, head.conv_cls), (head.reg_convs, head.conv_reg)):
        features = maps
        for conv in [*(block.conv for block in tower), out]:
            values = torch.cat([conv(x).flatten(2) for x in features], dim=2)[0]
            spread = values.std(1) if conv is not head.conv_reg else 2 * values.std(1)
            conv.weight /= spread[:, None, None, None]
            conv.bias.sub_(values.mean(1)).div_(spread)
            features = [conv(x).relu() for x in features]
    head.conv_cls.bias -= 5
    return model


@pytest.fixture(scope="module")
def theirs(mm):
    config = mm.config("foveabox/fovea_r50_fpn_4xb4-1x_coco.py").model
    config.backbone.init_cfg = None
    return even_out(mm, enliven(mm.model(config), 0))


@pytest.fixture(scope="module")
def ours(theirs):
    detector = build_detector(load_experiment("table5", "t5_foveabox_fl", "coco"))
    detector.load_state_dict(take_weights(detector.state_dict(), theirs.state_dict(), our_name))
    return detector.eval()


# 1. Predictions.


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_predictions_agree(mm, ours, theirs, shape):
    samples = draw_samples(SHAPES[shape], [0] * len(SHAPES[shape]))
    batch = collate(samples).to("cpu")
    images, _ = as_theirs(mm, theirs, samples)
    predictions = ours.predict(batch.images)
    logits, codes = theirs(images, mode="tensor")
    assert difference(predictions.logits, flatten_levels(logits)) < 1e-4
    assert flatten_levels(logits).std() > 0.5
    assert flatten_levels(codes).std() > 0.3
    ends = np.cumsum([x[0, 0].numel() for x in codes])
    for level, expected in enumerate(codes):
        actual = predictions.codes[:, ends[level] - expected[0, 0].numel() : ends[level]]
        assert difference(actual, expected.flatten(2).transpose(1, 2)) < 1e-4
    priors = theirs.bbox_head.prior_generator.grid_priors([x.shape[-2:] for x in codes], device="cpu")
    for actual, expected in zip(predictions.points, priors, strict=True):
        assert torch.equal(actual, expected)
    # MMDetection decodes only in its detections, so the decoding is repeated here.
    distances = flatten_levels([x.double().exp() * e for x, e in zip(codes, LENGTHS, strict=True)])
    actual = encode_distances(torch.cat(priors), predictions.boxes)
    assert ((actual - distances).abs() / distances).max() < 1e-3  # of each distance, however short


# 2. Losses and 3. their gradients.

CASES = {  # name: shape of the images, number of objects of each
    "square": ("square", (3,)),
    "tall": ("tall", (5,)),
    "wide": ("wide", (5,)),
    "none": ("unequal", (0, 0)),
    "one": ("unequal", (0, 1)),
    "200 and 120": ("unequal", (200, 120)),
    "on two levels": ("unequal", (12, 12)),
}


def on_two_levels(rng, count, height, width):
    """Boxes whose scale is exactly the bound of a level."""
    side = rng.choice([s for s in (32, 64, 128, 256, 512) if s <= min(height, width)], count)[:, None]
    corner = np.floor(rng.random((count, 2)) * (np.array([width, height]) - side))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def both_losses(mm, ours, theirs):
    """Function from a case of the table above to the loss terms of both sides; networks run once per shape."""
    outputs = {}

    def terms(case):
        shape, counts = CASES[case]
        samples = draw_samples(SHAPES[shape], counts, seed=1)
        if case == "on two levels":
            rng = np.random.default_rng(2)
            for sample in samples:
                sample.boxes[:] = on_two_levels(rng, len(sample.boxes), *sample.image.shape[1:])
        batch = collate(samples).to("cpu")
        images, listed = as_theirs(mm, theirs, samples)
        if shape not in outputs:  # in training mode, in which BatchNorm must not change
            with torch.enable_grad():
                outputs[shape] = ours.train().predict(batch.images), theirs.train()(images, mode="tensor")
            ours.eval(), theirs.eval()
        predictions, out = outputs[shape]
        instances, facts = [x.gt_instances for x in listed], [x.metainfo for x in listed]
        expected = theirs.bbox_head.loss_by_feat(*out, instances, facts)
        assert set(expected) == {"loss_cls", "loss_bbox"}
        return ours.terms(predictions, batch), {"cls": expected["loss_cls"], "box": expected["loss_bbox"]}

    return terms


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_losses_agree(both_losses, case):
    actual, expected = both_losses(case)
    assert actual.keys() == expected.keys()
    for term, value in expected.items():
        assert value.isfinite()
        assert (value > 0) == (term == "cls" or case != "none")
        assert float(actual[term]) == pytest.approx(float(value), rel=1e-5), term


def test_gradients_agree(ours, theirs, both_losses):
    actual, expected = both_losses("200 and 120")
    gradients = {}
    for side, model, terms in (("ours", ours, actual), ("theirs", theirs, expected)):
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        values = torch.autograd.grad(sum(terms.values()), list(trained.values()), retain_graph=True)
        gradients[side] = dict(zip(trained, values, strict=True))
    assert not any(
        name.startswith(("backbone.net.conv1", "backbone.net.bn1", "backbone.net.layer1")) for name in gradients["ours"]
    )
    reference = take_weights(gradients["ours"], gradients["theirs"], our_name)
    for name, gradient in gradients["ours"].items():
        assert reference[name].any(), name
        assert difference(gradient, reference[name]) < 1e-3, name
        assert (gradient - reference[name]).norm() < 1e-3 * reference[name].norm(), name


# 4. Assignment.


@pytest.fixture(scope="module")
def labeller(mm):
    """Narrow head of MMDetection with so many classes that an object's label can be its index."""
    head = dict(mm.config("foveabox/fovea_r50_fpn_4xb4-1x_coco.py").model.bbox_head)
    return mm.model(head | {"num_classes": 1000, "in_channels": 4, "feat_channels": 4, "stacked_convs": 1})


def drawn(rng, kind, count, height, width):
    if kind == "on two levels":
        return on_two_levels(rng, count, height, width)
    boxes = draw_boxes(rng, count, height, width, smallest=1.0)
    return boxes.round() + np.array([0, 0, 1, 1], dtype=np.float32) if kind == "whole" else boxes


def claims(boxes, shapes):
    """Mask ``[G, P]`` of the locations of each object, assigned alone."""
    alone = torch.ones(len(boxes), 1, dtype=torch.bool)
    return assign_foveabox(shapes, STRIDES, RANGES, boxes.unsqueeze(1), alone).positive


def test_assignment_agrees(mm, labeller):
    """Compare owners and box targets on all locations of the canvas.

    Among more than 16 objects, the order of equally large ones is undefined in MMDetection; our order does not change.
    """
    rng = np.random.default_rng(4)
    images, positives, doubled, differing = 0, 0, 0, 0
    while images < 240:
        kind = ("any", "whole", "on two levels")[images // 3 % 3]
        sizes = rng.integers(33, 420, (3, 2))
        counts = rng.choice([0, 1, 2, 5, 20, 60, 200], 3).tolist()
        boxes, valid = torch.zeros(3, max(counts), 4), torch.zeros(3, max(counts), dtype=torch.bool)
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            boxes[i, :count], valid[i, :count] = torch.from_numpy(drawn(rng, kind, count, *size)), True
        canvas = -(-sizes.max(0) // 32) * 32
        shapes = [tuple(int(-(-side // 8)) for side in canvas)]
        while len(shapes) < 5:
            shapes.append(tuple(-(-side // 2) for side in shapes[-1]))
        points = pyramid_points(shapes, STRIDES, "cpu", offset=0.5)
        index = assign_foveabox(shapes, STRIDES, RANGES, boxes, valid).index

        truth = [mm.Instances(bboxes=b[:n], labels=torch.arange(n)) for b, n in zip(boxes, counts, strict=True)]
        labels, targets = labeller.get_targets(truth, shapes, points)
        # Order: level by level, and image by image within a level.
        locations = [3 * len(all_points) for all_points in points]
        actual = torch.cat([x.view(3, -1) for x in labels.split(locations)], dim=1)
        codes = torch.cat([x.view(3, -1, 4) for x in targets.split(locations)], dim=1)
        actual[actual == 1000] = BACKGROUND
        scale = area(boxes).sqrt()
        for i in (index != actual).any(1).nonzero().flatten().tolist():
            differing += 1
            assert counts[i] > 16
            location = (index[i] != actual[i]).nonzero().flatten()
            owners = torch.stack([index[i, location], actual[i, location]])
            assert (owners >= 0).all()
            assert torch.equal(*scale[i, owners])
            assert all(claims(boxes[i], shapes)[owners, location].flatten())

        image, location = (actual >= 0).nonzero(as_tuple=True)
        all_points, lengths = torch.cat(points)[location].double(), per_location(LENGTHS, points)[location].double()
        distances = encode_distances(all_points, boxes[image, actual[image, location]].double())
        torch.testing.assert_close(
            codes[image, location].double(), (distances / lengths).clamp(1 / 16, 16).log(), rtol=0, atol=1e-5
        )
        images, positives = images + 3, positives + len(location)
        owned = [x[x >= 0] for x in index[0].split([len(all_points) for all_points in points])]
        doubled += len(np.intersect1d(owned[0], owned[1])) > 0
    assert positives > 5000
    assert doubled > 10
    assert differing <= 30, "only the squares of five sizes, where there are many, are that often equally large"


# 5. Detections.


@pytest.mark.parametrize("sizes", DETECTION_SIZES, ids=DETECTION_IDS)
@torch.no_grad()
def test_detections_agree(mm, ours, theirs, monkeypatch, sizes):
    actual, expected = both_detections(
        mm,
        ours,
        theirs,
        load_row("table5", "t5_foveabox_fl", "coco").variant,
        theirs.bbox_head.conv_cls,
        sizes,
        monkeypatch,
    )
    for here, there, (height, width) in zip(actual, expected, sizes, strict=True):
        assert_same_detections(here, there)
        # Only this detector clips boxes one pixel before the right and bottom side.
        assert there.bboxes[:, 2].max() == width - 1
        assert there.bboxes[:, 3].max() == height - 1
