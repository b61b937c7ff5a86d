"""ATSS against its definition in loops over images, objects, levels and anchors, in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.assigners.padded import pad
from tests.detectors.slow import slow_iou
from workbench.assigners.assignment import BACKGROUND, PADDING, Assignment
from workbench.assigners.atss import _nearest_locations, assign_atss
from workbench.boxes import locations_in_images, pyramid_points

STRIDES = (8, 16, 32, 64, 128)
NEAR = 1e-4
"""Distance from a tie up to which rounding and the sort may decide."""


def slow_atss(canvas, size, boxes, scale=8):
    """Index of each location of one image, and the locations that a tie decides."""
    padded = [32 * math.ceil(side / 32) for side in size]
    locations, levels = [], []
    for stride in STRIDES:
        level = []
        for i in range(math.ceil(canvas[0] / stride)):
            for j in range(math.ceil(canvas[1] / stride)):
                if i < math.ceil(padded[0] / stride) and j < math.ceil(padded[1] / stride):
                    level.append(len(locations))
                    locations.append((j * stride, i * stride, scale * stride / 2))
                else:
                    locations.append(None)
        levels.append(level)

    owner = [PADDING if location is None else BACKGROUND for location in locations]
    best = [-1.0] * len(locations)
    doubtful = set()
    for g, box in enumerate(boxes):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates, tied = [], False
        for level in levels:
            ranked = sorted((math.hypot(locations[c][0] - cx, locations[c][1] - cy), c) for c in level)
            candidates += [c for _, c in ranked[:9]]
            tied |= len(ranked) > 9 and ranked[9][0] - ranked[8][0] < NEAR
        overlaps = {}
        for c in candidates:
            x, y, half = locations[c]
            overlaps[c] = slow_iou((x - half, y - half, x + half, y + half), box)
        values = list(overlaps.values())
        threshold = sum(values) / len(values) + np.std(values, ddof=1)
        for c, overlap in overlaps.items():
            x, y, _ = locations[c]
            margin = min(x - box[0], y - box[1], box[2] - x, box[3] - y)
            if abs(min(overlap - threshold, margin - 0.01)) < NEAR:
                doubtful.add(c)
            if overlap >= threshold and margin > 0.01:
                if abs(overlap - best[c]) < NEAR:
                    doubtful.add(c)
                if overlap > best[c]:
                    best[c], owner[c] = overlap, g
        if tied:  # another choice of the ninth candidate moves the threshold, too
            near = [
                c for level in levels for _, c in sorted((math.dist(locations[c][:2], (cx, cy)), c) for c in level)[:16]
            ]
            doubtful.update(near)
    return owner, doubtful


def objects(rng, count, canvas, kind):
    """Boxes of many sizes; some reach beyond the image, some are a pixel wide."""
    side = {"any": (1, max(canvas)), "tiny": (1, 16), "large": (max(canvas) / 2, 2 * max(canvas))}[kind]
    wh = np.exp(rng.uniform(*np.log(side), (count, 2)))
    centre = rng.uniform(-0.1, 1.1, (count, 2)) * canvas[::-1]
    return np.concatenate([centre - wh / 2, centre + wh / 2], axis=1).astype(np.float32)


def run(canvas, sizes, boxes, scale=8):
    shapes = [(math.ceil(canvas[0] / s), math.ceil(canvas[1] / s)) for s in STRIDES]
    padded, valid = pad(boxes)
    inside = locations_in_images(shapes, STRIDES, torch.tensor(sizes))
    points = pyramid_points(shapes, STRIDES, "cpu")
    return assign_atss(points, [scale * s for s in STRIDES], padded, valid, inside)


def test_distances_are_rounded_as_sums_of_squares():
    """Rounding decides ties, and so the candidates: the published assignments follow from these bits."""
    generator = torch.Generator().manual_seed(0)
    points = pyramid_points([(25, 42), (13, 21)], (8, 16), "cpu")
    centres = torch.rand(2, 200, 2, generator=generator) * torch.tensor([336.0, 200])
    centres[0, :100] = (centres[0, :100] / 4).round() * 4  # ties
    inside = torch.rand(2, 25 * 42 + 13 * 21, generator=generator) < 0.9
    expected, start = [], 0
    for level in points:
        distance = (level - centres.unsqueeze(2)).square().sum(-1).sqrt()
        distance[~inside[:, None, start : start + len(level)].expand_as(distance)] = torch.inf
        expected.append(distance.topk(9, largest=False).indices + start)
        start += len(level)
    assert torch.equal(_nearest_locations(points, centres, inside), torch.cat(expected, dim=-1))


CANVASES = [(96, 96), (160, 64), (64, 224), (32, 32), (256, 192)]


@pytest.mark.parametrize("kind", ["any", "tiny", "large"])
@pytest.mark.parametrize("canvas", CANVASES, ids=lambda c: f"{c[0]}x{c[1]}")
def test_the_assignment_agrees_with_loops(canvas, kind):
    """300 batches of two or three images of different sizes."""
    rng = np.random.default_rng([*canvas, len(kind)])
    compared = positives = 0
    for repeat in range(20):
        counts = [[2, 0], [30, 7, 0], [0, 0], [30, 1], [50, 20 if repeat < 19 else 200]][repeat % 5]
        sizes = [canvas] + [tuple(int(rng.integers(1, side + 1)) for side in canvas) for _ in counts[1:]]
        boxes = [objects(rng, n, canvas, kind) for n in counts]
        scale = 8 if repeat % 3 else 4
        actual = run(canvas, sizes, boxes, scale).index
        for b in range(len(counts)):
            expected, doubtful = slow_atss(canvas, sizes[b], boxes[b].astype(float), scale)
            sure = [c for c in range(len(expected)) if c not in doubtful]
            assert [actual[b, c].item() for c in sure] == [expected[c] for c in sure]
            compared += sum(expected[c] >= 0 for c in sure)
            positives += sum(owner >= 0 for owner in expected)
    assert compared > 0.95 * positives > 20  # few locations are decided by a tie


def test_locations_in_the_padding_are_marked_with_and_without_objects():
    for boxes in ([np.zeros((0, 4))] * 2, [np.array([[10.0, 10, 50, 50]])] * 2):
        index = run((96, 96), [(96, 96), (40, 20)], boxes).index
        grid = index[1, :144].view(12, 12)
        inside = torch.zeros(12, 12, dtype=torch.bool)
        inside[:8, :4] = True  # 40 × 20 pixels in a canvas of 64 × 32
        assert torch.equal(grid != PADDING, inside)
        assert not (index[0] == PADDING).any()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_location_claimed_twice_gets_the_object_of_higher_iou(order):
    """Both objects have their centre at (48, 48) on stride 8, where the anchor of side 64 fits the first object."""
    boxes = np.array([[16.0, 16, 80, 80], [24.0, 24, 72, 72]])[list(order)]
    index = run((96, 96), [(96, 96)], [boxes]).index[0]
    assert index[6 * 12 + 6] == order.index(0)


def test_an_object_may_get_no_location():
    index = run((96, 96), [(96, 96)], [np.array([[1.0, 1, 7, 7]])]).index[0]
    assert (index == BACKGROUND).all()


def test_objects_that_are_not_valid_claim_nothing():
    index = run((96, 96), [(96, 96)] * 2, [np.array([[16.0, 16, 80, 80]]), np.zeros((0, 4))]).index
    assert (index[0] == 0).any()
    assert (index[1] == BACKGROUND).all()


def test_gather_takes_the_objects_of_the_positives_in_order():
    assignment = Assignment(torch.tensor([[BACKGROUND, 1, 0], [0, PADDING, BACKGROUND]]))
    assert assignment.positive.tolist() == [[False, True, True], [True, False, False]]
    assert assignment.gather(torch.tensor([[10, 11], [20, 21]])).tolist() == [11, 10, 20]
    assert assignment.gather(torch.zeros(2, 2, 4)).shape == (3, 4)
