"""RepPoints with moments, its losses and both its assignments against MMDetection 3.3.0, with the same random weights.

Differences: of several points equally near to an object's centre, MMDetection takes any and we take the first, so both
are checked against the rule in double precision. MMDetection drops boxes that are empty after clipping, so the samples
have none. MMDetection has the focal loss only; tests/detectors checks the other losses. Its two deformable convolutions
have default start values; ours have the start values of the released code, which tests/detectors checks.
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
    draw_boxes,
    draw_samples,
    enliven,
    take_weights,
)
from tests.samples import STRIDES
from workbench.assigners.assignment import BACKGROUND, IGNORE, PADDING
from workbench.assigners.max_iou import assign_max_iou
from workbench.assigners.nearest_point import assign_nearest_point
from workbench.boxes import locations_in_images, pairwise_iou, per_location, pyramid_points
from workbench.data.transforms import Sample, collate
from workbench.detectors import build_detector
from workbench.detectors.parts import flatten_levels
from workbench.detectors.reppoints import moment_boxes
from workbench.layers.deform import regular_grid
from workbench.settings.catalog import load_experiment, load_row
from workbench.weights.mmdet_names import renamer

NEAR = 1e-6
"""Relative difference up to which rounding may decide."""


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


# 4. Assignments.


def draw_images(rng, images, grid=None):
    """Random batch: numbers of objects, boxes, validity, a pyramid's points, and the locations inside the images.

    With a ``grid``, corners are on multiples of ``grid`` pixels.
    """
    sizes = rng.integers(33, 420, (images, 2))
    counts = rng.choice([0, 1, 2, 5, 20, 60], images).tolist()
    boxes, valid = torch.zeros(images, max(counts), 4), torch.zeros(images, max(counts), dtype=torch.bool)
    for i, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        drawn = draw_boxes(rng, count, *size, smallest=1.0)
        if grid is not None:
            drawn = np.floor(drawn / grid) * grid + [0, 0, grid, grid]
        boxes[i, :count], valid[i, :count] = torch.from_numpy(drawn), True
    canvas = -(-sizes.max(0) // 32) * 32
    shapes = [tuple(int(-(-side // 8)) for side in canvas)]
    while len(shapes) < 5:
        shapes.append(tuple(-(-side // 2) for side in shapes[-1]))
    inside = locations_in_images(shapes, STRIDES, torch.from_numpy(sizes))
    return counts, boxes, valid, pyramid_points(shapes, STRIDES, "cpu"), inside


def their_index(mm, assigner, priors, keep, boxes):
    """Index ``[P]`` of MMDetection's assignment among the valid locations of one image; IGNORE elsewhere."""
    truth = mm.Instances(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.int64))
    actual = assigner.assign(mm.Instances(priors=priors[keep]), truth).gt_inds
    index = torch.full((len(priors),), IGNORE)
    index[keep] = torch.where(actual < 0, IGNORE, torch.where(actual == 0, BACKGROUND, actual - 1))
    return index


def nearest_by_rule(points, strides, boxes, keep):
    """Mask ``[G, P]`` of the locations that each object may claim, and distances ``[G, P]``, in double precision."""
    boxes, points = boxes.double(), points.double()
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    level = (size / 4).log2().mean(1)
    distance = ((points - (boxes[:, None, :2] + boxes[:, None, 2:]) / 2) / size[:, None]).norm(dim=-1)
    allowed = torch.zeros_like(distance, dtype=torch.bool)
    for number, stride in enumerate(STRIDES, start=3):
        on_level = keep & (strides == stride)
        lower, upper = -torch.inf if number == 3 else number, torch.inf if number == 7 else number + 1
        of_level = (level > lower - NEAR) & (level < upper + NEAR)
        least = distance.masked_fill(~on_level, torch.inf).amin(1, keepdim=True)
        allowed |= of_level[:, None] & on_level & (distance <= least * (1 + NEAR) + NEAR)
    return allowed, distance


def assert_obeys_the_rule(index, allowed, distance):
    """Check that owners may claim their locations, and that objects without a location lost it to an object as near."""
    owned = (index >= 0).nonzero().flatten()
    owners = index[owned]
    assert allowed[owners, owned].all()
    assert owners.unique().numel() == len(owners)
    held = distance.new_full(distance.shape[1:], torch.inf)
    held[owned] = distance[owners, owned]
    losers = torch.ones(len(distance), dtype=torch.bool)
    losers[owners] = False
    assert (allowed & (held <= distance * (1 + NEAR) + NEAR))[losers].any(1).all()


@pytest.mark.parametrize("grid", [None, 8])
def test_initial_assignment_agrees(mm, grid):
    """240 images each; on a grid many centres are halfway between points."""
    assigner = mm.task({"type": "PointAssigner", "scale": 4, "pos_num": 1})
    generator = mm.task({"type": "MlvlPointGenerator", "strides": list(STRIDES), "offset": 0.0})
    rng = np.random.default_rng(4)
    positives = losers = ties = differing = 0
    for _ in range(80):
        counts, boxes, valid, points, locations = draw_images(rng, 3, grid)
        index = assign_nearest_point(points, STRIDES, boxes, valid, locations, unit=4).index
        strides, level_points = per_location(STRIDES, points), torch.cat(points)
        priors = torch.cat([level_points, strides, strides], dim=1)
        shapes = [tuple((level[-1] / s + 1).int().flip(0).tolist()) for level, s in zip(points, STRIDES, strict=True)]
        assert torch.equal(torch.cat(generator.grid_priors(shapes, device="cpu", with_stride=True)), priors)
        for i, count in enumerate(counts):
            ours_index, own = index[i], boxes[i, :count]
            actual = their_index(mm, assigner, priors, locations[i], own)
            assert torch.equal(ours_index == PADDING, ~locations[i])
            allowed, distance = nearest_by_rule(level_points, strides.squeeze(1), own, locations[i])
            rivals = distance.masked_fill(~allowed, torch.inf).sort(dim=0).values[:2]
            tied = bool((allowed.sum(1) > 1).any() or (count > 1 and (rivals[1] - rivals[0] < NEAR).any()))
            for result in (ours_index, actual):
                assert_obeys_the_rule(result, allowed, distance)
            same = torch.equal(ours_index[locations[i]], actual[locations[i]])
            assert same or tied
            positives, losers = positives + int((ours_index >= 0).sum()), losers + count - int((ours_index >= 0).sum())
            ties, differing = ties + tied, differing + (not same)
    assert positives > 3000
    assert losers > 100
    assert ties < 5 if grid is None else 0 < differing < ties / 10


def draw_predictions(rng, boxes, points, spread):
    """Boxes ``[B, P, 4]`` of random points of that spread; every fourth location has a box near an object."""
    total = sum(map(len, points))
    drawn = torch.from_numpy(rng.normal(0, spread, (len(boxes), total, 18))).float() + 2 * regular_grid("cpu")
    predicted = moment_boxes(drawn, torch.zeros(2)) * per_location(STRIDES, points) + torch.cat(points).repeat(1, 2)
    if boxes.shape[1]:
        near = boxes[:, torch.from_numpy(rng.integers(0, boxes.shape[1], len(predicted[0, ::4])))]
        size = (near[..., 2:] - near[..., :2]).repeat(1, 1, 2)
        predicted[:, ::4] = near + size * torch.from_numpy(rng.normal(0, 0.15, near.shape)).float()
    return predicted


def test_refined_assignment_agrees(mm):
    """Each of 240 images has its own predicted boxes; some sets of boxes overlap no object."""
    settings = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0, "ignore_iof_thr": -1}
    assigner = mm.task({"type": "MaxIoUAssigner", **settings})
    rng = np.random.default_rng(5)
    positives = ignored = differing = 0
    for repeat in range(80):
        counts, boxes, valid, points, locations = draw_images(rng, 3)
        predicted = draw_predictions(rng, boxes, points, [0.3, 1.0, 2.0][repeat % 3])
        if repeat % 16 == 0:
            predicted[1] += 2000  # an object without overlap claims all boxes
        index = assign_max_iou(predicted, boxes, valid, locations).index
        for i, count in enumerate(counts):
            keep, ours_index = locations[i], index[i]
            actual = their_index(mm, assigner, predicted[i], keep, boxes[i, :count])
            assert (ours_index[~keep] == IGNORE).all()
            positives, ignored = positives + int((actual >= 0).sum()), ignored + int((actual[keep] == IGNORE).sum())
            if torch.equal(ours_index, actual):
                continue
            differing += 1
            iou = pairwise_iou(boxes[i, :count].double(), predicted[i].double()).masked_fill(~keep, -1)
            best = iou.topk(min(2, count), dim=0).values
            doubtful = ((best[0] - 0.4).abs() < NEAR) | ((best[0] - 0.5).abs() < NEAR)
            doubtful |= (best[0] - best[-1] < NEAR) & (count > 1)
            doubtful |= ((iou.amax(1, keepdim=True) - iou).abs() < NEAR).any(0)
            assert doubtful[ours_index != actual].all()
    assert positives > 20000
    assert ignored > 3000
    assert differing <= 2


# 5. Detections.


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
