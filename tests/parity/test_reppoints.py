"""RepPoints with moments, its losses and both its assignments against MMDetection 3.3.0, with the same random weights.

Where MMDetection differs: of several points equally near to an object's centre it takes what its sort puts first, we
take the first, so both are checked against the rule itself, in double precision; boxes that are empty once they are
clipped it drops, so there are none in the comparison; it has the focal loss alone (the others are written out in
tests/detectors); its start values leave the two deformable convolutions at their own default, ours are those of the
released code, also tested there.
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
"""Relative differences below this one are left to rounding."""


# The two detectors with the same weights.


reppoints_name = renamer(load_experiment("table5", "t5_reppoints_fl", "coco"))


@torch.no_grad()
def enliven_points(model):
    """Initial boxes of about four strides, and classes that differ from cell to cell."""
    head, generator = model.bbox_head, torch.Generator().manual_seed(1)
    head.moment_transfer.copy_(torch.tensor([0.2, -0.3]))
    head.reppoints_pts_init_out.weight.mul_(0.5)
    head.reppoints_pts_init_out.bias.copy_(2 * regular_grid("cpu") + torch.randn(18, generator=generator) * 0.3)
    head.reppoints_pts_refine_out.weight.mul_(0.3)
    weight = head.reppoints_cls_out.weight
    weight.copy_(2 * (weight - weight.mean(1, keepdim=True)))  # rectified features are alike in their mean
    head.reppoints_cls_out.bias.copy_(torch.randn(CLASSES, generator=generator) * 0.3 - 5.2)
    return model


@pytest.fixture(scope="session")
def theirs(mm):
    """MMDetection's RepPoints by its shipped configuration."""
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
def test_predictions(mm, ours, theirs, shape):
    samples = draw_samples(SHAPES[shape], [0] * len(SHAPES[shape]))
    batch = collate(samples)
    images, _ = as_theirs(mm, theirs, samples)
    found = ours.predict(batch.images)
    theirs.train()  # only then it returns the points; its BatchNorm stays frozen
    logits, initial, refined = theirs(images, mode="tensor")
    theirs.eval()
    assert difference(found.logits, flatten_levels(logits)) < 1e-4
    assert flatten_levels(logits).std() > 0.5
    at, strides = torch.cat(list(found.points)).repeat(1, 2), per_location(STRIDES, found.points)
    for boxes, points in ((found.initial_boxes, initial), (found.boxes, refined)):
        wanted = flatten_levels([theirs.bbox_head.points2bbox(x) for x in points])
        mine = (boxes - at) / strides
        assert wanted.std() > 0.3
        start = 0
        for level in points:
            cells = slice(start, start + level[0, 0].numel())
            assert difference(mine[:, cells], wanted[:, cells]) < 1e-4
            start = cells.stop
        # The moments of their points, in double precision.
        y, x = flatten_levels(points).double().unflatten(-1, (9, 2)).unbind(-1)
        half = torch.stack([x.std(-1), y.std(-1)], dim=-1) * theirs.bbox_head.moment_transfer.double().exp()
        mean = torch.stack([x.mean(-1), y.mean(-1)], dim=-1)
        assert difference(mine.double(), torch.cat([mean - half, mean + half], dim=-1)) < 1e-4


# 2. Losses and 3. their gradients.

ON_BORDERS = [  # width and height whose level, log2(sqrt(w h) / 4), is a whole number, exactly or but for rounding
    *((32, 32), (64, 64), (128, 128), (32, 128), (128, 32), (16, 64), (150, 27.306666)),
    *((48, 85.333333), (63.999996, 64), (64.00001, 64), (100, 40.96), (30, 136.533333), (127.99999, 128)),
]
OBJECTS = {"none": (0, 0), "one": (0, 1), "200 and 120": (200, 120), "borders of levels": (13, 0)}


def objects_on_borders(sample):
    """The sample with other objects; some claim the same point."""
    size = np.array(ON_BORDERS, np.float32)
    corner = np.random.default_rng(2).random(size.shape).astype(np.float32) * (np.array([224, 160]) - size).clip(0)
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    return Sample(sample.image, boxes, sample.labels, sample.record)


def make_case(mm, ours, theirs, sizes, counts, outputs=None, edit=None):
    """(our predictions, our batch, their outputs, their ground truth, their image facts)"""
    samples = draw_samples(sizes, counts, seed=1)
    if edit is not None:
        samples[0] = edit(samples[0])
    batch = collate(samples)
    images, listed = as_theirs(mm, theirs, samples)
    if outputs is None:  # in training mode, where BatchNorm must stay as it is
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
    return {mine: sum(terms[name]) for mine, name in names.items()}


@pytest.mark.parametrize("objects", OBJECTS)
@torch.no_grad()
def test_losses(ours, theirs, cases, objects):
    found, batch, *their_case = cases[objects]
    mine, wanted = ours.terms(found, batch), their_losses(theirs, *their_case)
    assert mine.keys() == wanted.keys()
    for term, value in wanted.items():
        assert value.isfinite()
        assert (value > 0) == (term == "cls" or objects != "none")
        assert float(mine[term]) == pytest.approx(float(value), rel=1e-5), term


@torch.no_grad()
def test_losses_of_groups_of_four(mm, ours, theirs):
    """Six images are to be those of two devices, with four and two, whose losses are averaged."""
    sizes = [(64, 96), (96, 64), (64, 64), (50, 96), (96, 96), (33, 70)]
    found, batch, outputs, *truth = make_case(mm, ours, theirs, sizes, (5, 0, 9, 1, 30, 0))
    mine = ours.terms(found, batch)
    devices = [
        their_losses(theirs, *([[x[part] for x in maps] for maps in outputs],), *(x[part] for x in truth))
        for part in (slice(0, 4), slice(4, 6))
    ]
    for term, value in mine.items():
        assert float(value) == pytest.approx(float(devices[0][term] + devices[1][term]) / 2, rel=1e-5), term


@pytest.mark.parametrize("objects", ["none", "200 and 120"])
def test_gradients(ours, theirs, cases, objects):
    found, batch, *their_case = cases[objects]
    terms = {"mine": ours.terms(found, batch), "theirs": their_losses(theirs, *their_case)}
    gradients = {}
    for side, model in (("mine", ours), ("theirs", theirs)):
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        values = torch.autograd.grad(sum(terms[side].values()), list(trained.values()), retain_graph=True)
        gradients[side] = dict(zip(trained, values, strict=True))
    frozen = ("backbone.net.conv1", "backbone.net.bn1", "backbone.net.layer1")
    assert not any(name.startswith(frozen) for name in gradients["mine"])
    reference = take_weights(gradients["mine"], gradients["theirs"], reppoints_name)
    without = ("head.refine_", "head.moment_transfer") if objects == "none" else ()
    for name, gradient in gradients["mine"].items():
        if name.startswith(without):
            assert not gradient.any(), name
            assert not reference[name].any(), name
            continue
        assert reference[name].any(), name
        assert difference(gradient, reference[name]) < 1e-3, name
        assert (gradient - reference[name]).norm() < 1e-3 * reference[name].norm(), name


# 4. Assignments.


def draw_images(rng, images, grid=None):
    """Numbers of objects, boxes and validity of a batch, a pyramid's points, and the cells of each image's own size.

    Corners lie on multiples of ``grid`` pixels where there is one.
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
    cells = locations_in_images(shapes, STRIDES, torch.from_numpy(sizes))
    return counts, boxes, valid, pyramid_points(shapes, STRIDES, "cpu"), cells


def their_index(mm, assigner, priors, keep, boxes):
    """Index ``[P]`` of their assignment among the valid cells of one image; IGNORE elsewhere."""
    truth = mm.Instances(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.int64))
    found = assigner.assign(mm.Instances(priors=priors[keep]), truth).gt_inds
    index = torch.full((len(priors),), IGNORE)
    index[keep] = torch.where(found < 0, IGNORE, torch.where(found == 0, BACKGROUND, found - 1))
    return index


def nearest_by_rule(points, strides, boxes, keep):
    """Which of the cells ``[G, P]`` each object may claim, and distances ``[G, P]``, in double precision."""
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
    """Owners stand where they may; an object without a cell has lost one that it might claim to one as near."""
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
def test_initial_assignment(mm, grid):
    """Of 240 images each; on a grid many centres lie halfway between points."""
    assigner = mm.task({"type": "PointAssigner", "scale": 4, "pos_num": 1})
    generator = mm.task({"type": "MlvlPointGenerator", "strides": list(STRIDES), "offset": 0.0})
    rng = np.random.default_rng(4)
    positives = losers = ties = differing = 0
    for _ in range(80):
        counts, boxes, valid, points, cells = draw_images(rng, 3, grid)
        index = assign_nearest_point(points, STRIDES, boxes, valid, cells, unit=4).index
        strides, at = per_location(STRIDES, points), torch.cat(points)
        priors = torch.cat([at, strides, strides], dim=1)
        shapes = [tuple((level[-1] / s + 1).int().flip(0).tolist()) for level, s in zip(points, STRIDES, strict=True)]
        assert torch.equal(torch.cat(generator.grid_priors(shapes, device="cpu", with_stride=True)), priors)
        for i, count in enumerate(counts):
            mine, own = index[i], boxes[i, :count]
            found = their_index(mm, assigner, priors, cells[i], own)
            assert torch.equal(mine == PADDING, ~cells[i])
            allowed, distance = nearest_by_rule(at, strides.squeeze(1), own, cells[i])
            rivals = distance.masked_fill(~allowed, torch.inf).sort(dim=0).values[:2]
            tied = bool((allowed.sum(1) > 1).any() or (count > 1 and (rivals[1] - rivals[0] < NEAR).any()))
            for result in (mine, found):
                assert_obeys_the_rule(result, allowed, distance)
            same = torch.equal(mine[cells[i]], found[cells[i]])
            assert same or tied
            positives, losers = positives + int((mine >= 0).sum()), losers + count - int((mine >= 0).sum())
            ties, differing = ties + tied, differing + (not same)
    assert positives > 3000
    assert losers > 100
    assert ties < 5 if grid is None else 0 < differing < ties / 10


def draw_predictions(rng, boxes, points, spread):
    """Boxes ``[B, P, 4]`` such as points of that spread make, and at every fourth cell one near some object."""
    total = sum(map(len, points))
    drawn = torch.from_numpy(rng.normal(0, spread, (len(boxes), total, 18))).float() + 2 * regular_grid("cpu")
    predicted = moment_boxes(drawn, torch.zeros(2)) * per_location(STRIDES, points) + torch.cat(points).repeat(1, 2)
    if boxes.shape[1]:
        near = boxes[:, torch.from_numpy(rng.integers(0, boxes.shape[1], len(predicted[0, ::4])))]
        size = (near[..., 2:] - near[..., :2]).repeat(1, 1, 2)
        predicted[:, ::4] = near + size * torch.from_numpy(rng.normal(0, 0.15, near.shape)).float()
    return predicted


def test_refined_assignment(mm):
    """By predicted boxes, a set for each of 240 images; now and then they miss everything."""
    settings = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0, "ignore_iof_thr": -1}
    assigner = mm.task({"type": "MaxIoUAssigner", **settings})
    rng = np.random.default_rng(5)
    positives = ignored = differing = 0
    for repeat in range(80):
        counts, boxes, valid, points, cells = draw_images(rng, 3)
        predicted = draw_predictions(rng, boxes, points, [0.3, 1.0, 2.0][repeat % 3])
        if repeat % 16 == 0:
            predicted[1] += 2000  # an object that no box meets claims all of them
        index = assign_max_iou(predicted, boxes, valid, cells).index
        for i, count in enumerate(counts):
            keep, mine = cells[i], index[i]
            found = their_index(mm, assigner, predicted[i], keep, boxes[i, :count])
            assert (mine[~keep] == IGNORE).all()
            positives, ignored = positives + int((found >= 0).sum()), ignored + int((found[keep] == IGNORE).sum())
            if torch.equal(mine, found):
                continue
            differing += 1
            iou = pairwise_iou(boxes[i, :count].double(), predicted[i].double()).masked_fill(~keep, -1)
            best = iou.topk(min(2, count), dim=0).values
            doubtful = ((best[0] - 0.4).abs() < NEAR) | ((best[0] - 0.5).abs() < NEAR)
            doubtful |= (best[0] - best[-1] < NEAR) & (count > 1)
            doubtful |= ((iou.amax(1, keepdim=True) - iou).abs() < NEAR).any(0)
            assert doubtful[mine != found].all()
    assert positives > 20000
    assert ignored > 3000
    assert differing <= 2


# 5. Detections.


@pytest.mark.parametrize("sizes", DETECTION_SIZES[:4], ids=DETECTION_IDS[:4])
@torch.no_grad()
def test_detections(mm, ours, theirs, monkeypatch, sizes):
    mine, wanted = both_detections(
        mm,
        ours,
        theirs,
        load_row("table5", "t5_reppoints_fl", "coco").variant,
        theirs.bbox_head.reppoints_cls_out,
        sizes,
        monkeypatch,
    )
    for here, there in zip(mine, wanted, strict=True):
        assert_same_detections(here, there)
