"""RepPoints with moments and its losses against MMDetection 3.3.0, with the same random weights.

MMDetection drops boxes that are empty after clipping, so the samples have none. MMDetection has the focal loss only;
tests/detectors checks the other losses. Its two deformable convolutions have default start values; ours have the start
values of the released code, which tests/detectors checks.
"""

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
    draw_samples,
    enliven,
    take_weights,
)
from tests.samples import STRIDES
from workbench.boxes import per_location
from workbench.data.transforms import Sample, collate
from workbench.detectors import build_detector
from workbench.detectors.parts import flatten_levels
from workbench.layers.deform import regular_grid
from workbench.settings.catalog import load_experiment, load_row
from workbench.weights.mmdet_names import renamer

# The two detectors with the same weights.


reppoints_name = renamer(load_experiment("table5", "t5_reppoints_fl", "coco"))


@torch.no_grad()
def enliven_points(model):
    """Set initial boxes of about four strides, and classes that differ between locations."""
    head, generator = model.bbox_head, torch.Generator().manual_seed(1)
    head.moment_transfer.copy_(torch.tensor([0.2, -0.3]))
    head.reppoints_pts_init_out.weight.mul_(0.5)
    head.reppoints_pts_init_out.bias.copy_(2 * regular_grid("cpu") + torch.randn(18, generator=generator) * 0.3)
    head.reppoints_pts_refine_out.weight.mul_(0.3)
    weight = head.reppoints_cls_out.weight
    weight.copy_(2 * (weight - weight.mean(1, keepdim=True)))  # rectified features have similar means
    head.reppoints_cls_out.bias.copy_(torch.randn(CLASSES, generator=generator) * 0.3 - 5.2)
    return model


@pytest.fixture(scope="session")
def theirs(mm):
    """MMDetection's RepPoints, built from its shipped configuration."""
    config = mm.config("reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py").model
    config.backbone.init_cfg = None
    return enliven_points(enliven(mm.model(config), 0))


@pytest.fixture(scope="session")
def ours(theirs):
    detector = build_detector(load_experiment("table5", "t5_reppoints_fl", "coco"))
    detector.load_state_dict(take_weights(detector.state_dict(), theirs.state_dict(), reppoints_name))
    return detector.eval()


# 1. Predictions.


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_predictions_agree(mm, ours, theirs, shape):
    samples = draw_samples(SHAPES[shape], [0] * len(SHAPES[shape]))
    batch = collate(samples).to("cpu")
    images, _ = as_theirs(mm, theirs, samples)
    predictions = ours.predict(batch.images)
    theirs.train()  # only in training mode it returns the points; its BatchNorm stays frozen
    logits, initial, refined = theirs(images, mode="tensor")
    theirs.eval()
    assert difference(predictions.logits, flatten_levels(logits)) < 1e-4
    assert flatten_levels(logits).std() > 0.5
    all_points, strides = torch.cat(list(predictions.points)).repeat(1, 2), per_location(STRIDES, predictions.points)
    for boxes, points in ((predictions.initial_boxes, initial), (predictions.boxes, refined)):
        expected = flatten_levels([theirs.bbox_head.points2bbox(x) for x in points])
        actual = (boxes - all_points) / strides
        assert expected.std() > 0.3
        start = 0
        for level in points:
            locations = slice(start, start + level[0, 0].numel())
            assert difference(actual[:, locations], expected[:, locations]) < 1e-4
            start = locations.stop
        # Moments of MMDetection's points, in double precision.
        y, x = flatten_levels(points).double().unflatten(-1, (9, 2)).unbind(-1)
        half = torch.stack([x.std(-1), y.std(-1)], dim=-1) * theirs.bbox_head.moment_transfer.double().exp()
        mean = torch.stack([x.mean(-1), y.mean(-1)], dim=-1)
        assert difference(actual.double(), torch.cat([mean - half, mean + half], dim=-1)) < 1e-4


# 2. Losses and 3. their gradients.

ON_BORDERS = [  # width and height whose level, log2(sqrt(w h) / 4), is a whole number, exactly or up to rounding
    *((32, 32), (64, 64), (128, 128), (32, 128), (128, 32), (16, 64), (150, 27.306666)),
    *((48, 85.333333), (63.999996, 64), (64.00001, 64), (100, 40.96), (30, 136.533333), (127.99999, 128)),
]
OBJECTS = {"none": (0, 0), "one": (0, 1), "200 and 120": (200, 120), "borders of levels": (13, 0)}


def objects_on_borders(sample):
    """Sample with other objects; some of them claim the same point."""
    size = np.array(ON_BORDERS, np.float32)
    corner = np.random.default_rng(2).random(size.shape).astype(np.float32) * (np.array([224, 160]) - size).clip(0)
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    return Sample(sample.image, boxes, sample.labels, sample.record)


def make_case(mm, ours, theirs, sizes, counts, outputs=None, edit=None):
    """Our predictions and batch; MMDetection's outputs, ground truth and image facts."""
    samples = draw_samples(sizes, counts, seed=1)
    if edit is not None:
        samples[0] = edit(samples[0])
    batch = collate(samples).to("cpu")
    images, listed = as_theirs(mm, theirs, samples)
    if outputs is None:  # in training mode, in which BatchNorm must not change
        outputs = ours.train().predict(batch.images), theirs.train()(images, mode="tensor")
        ours.eval(), theirs.eval()
    return outputs[0], batch, outputs[1], [x.gt_instances for x in listed], [x.metainfo for x in listed]


@pytest.fixture(scope="module")
def cases(mm, ours, theirs):
    made, outputs = {}, None
    for name, counts in OBJECTS.items():
        edit = objects_on_borders if name == "borders of levels" else None
        case = made[name] = make_case(mm, ours, theirs, SHAPES["unequal"], counts, outputs, edit)
        outputs = case[0], case[2]
    return made


def their_losses(theirs, outputs, instances, facts):
    terms = theirs.bbox_head.loss_by_feat(*outputs, instances, facts)
    names = {"cls": "loss_cls", "box_initial": "loss_pts_init", "box": "loss_pts_refine"}
    assert set(terms) == set(names.values())
    return {actual: sum(terms[name]) for actual, name in names.items()}


@pytest.mark.parametrize("objects", OBJECTS)
@torch.no_grad()
def test_losses_agree(ours, theirs, cases, objects):
    actual, batch, *their_case = cases[objects]
    ours_index, expected = ours.terms(actual, batch), their_losses(theirs, *their_case)
    assert ours_index.keys() == expected.keys()
    for term, value in expected.items():
        assert value.isfinite()
        assert (value > 0) == (term == "cls" or objects != "none")
        assert float(ours_index[term]) == pytest.approx(float(value), rel=1e-5), term


@torch.no_grad()
def test_losses_of_groups_of_four_agree(mm, ours, theirs):
    """Six images are compared with two devices of four and two images, whose losses are averaged."""
    sizes = [(64, 96), (96, 64), (64, 64), (50, 96), (96, 96), (33, 70)]
    predictions, batch, outputs, *truth = make_case(mm, ours, theirs, sizes, (5, 0, 9, 1, 30, 0))
    actual = ours.terms(predictions, batch)
    devices = [
        their_losses(theirs, *([[x[part] for x in maps] for maps in outputs],), *(x[part] for x in truth))
        for part in (slice(0, 4), slice(4, 6))
    ]
    for term, value in actual.items():
        assert float(value) == pytest.approx(float(devices[0][term] + devices[1][term]) / 2, rel=1e-5), term


@pytest.mark.parametrize("objects", ["none", "200 and 120"])
def test_gradients_agree(ours, theirs, cases, objects):
    actual, batch, *their_case = cases[objects]
    terms = {"ours": ours.terms(actual, batch), "theirs": their_losses(theirs, *their_case)}
    gradients = {}
    for side, model in (("ours", ours), ("theirs", theirs)):
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        values = torch.autograd.grad(sum(terms[side].values()), list(trained.values()), retain_graph=True)
        gradients[side] = dict(zip(trained, values, strict=True))
    frozen = ("backbone.net.conv1", "backbone.net.bn1", "backbone.net.layer1")
    assert not any(name.startswith(frozen) for name in gradients["ours"])
    reference = take_weights(gradients["ours"], gradients["theirs"], reppoints_name)
    without = ("head.refine_", "head.moment_transfer") if objects == "none" else ()
    for name, gradient in gradients["ours"].items():
        if name.startswith(without):
            assert not gradient.any(), name
            assert not reference[name].any(), name
            continue
        assert reference[name].any(), name
        assert difference(gradient, reference[name]) < 1e-3, name
        assert (gradient - reference[name]).norm() < 1e-3 * reference[name].norm(), name


# 4. Detections.


@pytest.mark.parametrize("sizes", DETECTION_SIZES[:4], ids=DETECTION_IDS[:4])
@torch.no_grad()
def test_detections_agree(mm, ours, theirs, monkeypatch, sizes):
    actual, expected = both_detections(
        mm,
        ours,
        theirs,
        load_row("table5", "t5_reppoints_fl", "coco").variant,
        theirs.bbox_head.reppoints_cls_out,
        sizes,
        monkeypatch,
    )
    for here, there in zip(actual, expected, strict=True):
        assert_same_detections(here, there)
