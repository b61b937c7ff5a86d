"""Assignments of RepPoints' two stages against MMDetection 3.3.0.

Of several points equally near to an object's centre, MMDetection takes any and we take the first, so both are checked
against the rule in double precision.
"""

import numpy as np
import pytest
import torch

from tests.parity.comparison import draw_boxes
from tests.samples import STRIDES
from workbench.assigners.assignment import BACKGROUND, IGNORE, PADDING
from workbench.assigners.max_iou import assign_max_iou
from workbench.assigners.nearest_point import assign_nearest_point
from workbench.boxes import locations_in_images, pairwise_iou, per_location, pyramid_points
from workbench.detectors.reppoints import moment_boxes
from workbench.layers.deform import regular_grid

NEAR = 1e-6
"""Relative difference up to which rounding may decide."""


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
