"""RepPoints' initial assignment against its definition in loops, in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.assigners.padded import pad
from workbench.assigners.assignment import BACKGROUND, PADDING
from workbench.assigners.nearest_point import assign_nearest_point
from workbench.boxes import locations_in_images, pyramid_points

STRIDES = (8, 16, 32, 64, 128)
NEAR = 1e-6


def differ_by_rounding(a, b):
    return a != b and abs(a - b) < NEAR


def slow_assignment(canvas, size, boxes, unit):
    """Index of each location of one image, and the locations that rounding decides."""
    padded = [32 * math.ceil(side / 32) for side in size]
    levels, owner = {}, []
    for level, stride in enumerate(STRIDES, start=3):
        levels[level] = []
        for i in range(math.ceil(canvas[0] / stride)):
            for j in range(math.ceil(canvas[1] / stride)):
                inside = i < math.ceil(padded[0] / stride) and j < math.ceil(padded[1] / stride)
                if inside:
                    levels[level].append((len(owner), j * stride, i * stride))
                owner.append(BACKGROUND if inside else PADDING)
    best, doubtful = {}, set()
    for g, (x1, y1, x2, y2) in enumerate(boxes):
        width, height = x2 - x1, y2 - y1
        exact = 0.5 * (math.log2(width / unit) + math.log2(height / unit))
        assert not differ_by_rounding(exact, round(exact))
        level = min(max(int(exact), 3), 7)
        distance = {
            c: math.hypot((x - (x1 + x2) / 2) / width, (y - (y1 + y2) / 2) / height) for c, x, y in levels[level]
        }
        nearest = min(distance, key=distance.get)
        least = distance[nearest]
        rivals = {c for c, d in distance.items() if differ_by_rounding(d, least)}
        if rivals:
            doubtful |= rivals | {nearest}
        if nearest in best and differ_by_rounding(least, best[nearest]):
            doubtful.add(nearest)
        if least < best.get(nearest, math.inf):
            best[nearest], owner[nearest] = least, g
    return owner, doubtful


def run(canvas, sizes, boxes, unit=4.0):
    shapes = [(math.ceil(canvas[0] / s), math.ceil(canvas[1] / s)) for s in STRIDES]
    padded, valid = pad(boxes)
    inside = locations_in_images(shapes, STRIDES, torch.tensor(sizes))
    return assign_nearest_point(pyramid_points(shapes, STRIDES, "cpu"), STRIDES, padded, valid, inside, unit=unit).index


def objects(rng, count, canvas, kind):
    """Boxes of many sizes, some outside the image, some with corners on a grid, which makes ties."""
    low, high = {"tiny": (1, 16), "large": (max(canvas) / 2, 20 * max(canvas))}.get(kind, (1, 2 * max(canvas)))
    wh = np.exp(rng.uniform(math.log(low), math.log(high), (count, 2)))
    centre = rng.uniform(-0.1, 1.1, (count, 2)) * canvas[::-1]
    boxes = np.concatenate([centre - wh / 2, centre + wh / 2], axis=1)
    if kind == "grid":
        boxes = np.floor(boxes / 8) * 8 + [0, 0, 8, 8]
    return boxes.astype(np.float32)


@pytest.mark.parametrize("kind", ["any", "tiny", "large", "grid"])
@pytest.mark.parametrize("canvas", [(96, 96), (160, 64), (64, 224), (32, 32), (256, 192)], ids=str)
def test_the_assignment_agrees_with_loops(canvas, kind):
    """400 batches of two or three images of different sizes."""
    rng = np.random.default_rng([*canvas, len(kind)])
    compared = doubts = losers = 0
    for repeat in range(20):
        counts = [[2, 0], [30, 7, 0], [0, 0], [30, 1], [50, 20]][repeat % 5]
        sizes = [canvas] + [tuple(int(rng.integers(1, side + 1)) for side in canvas) for _ in counts[1:]]
        boxes = [objects(rng, n, canvas, kind) for n in counts]
        unit = 4 if repeat % 3 else 2
        actual = run(canvas, sizes, boxes, unit).tolist()
        for b, count in enumerate(counts):
            expected, doubtful = slow_assignment(canvas, sizes[b], boxes[b].astype(float), unit)
            assert [g for c, g in enumerate(actual[b]) if c not in doubtful] == [
                g for c, g in enumerate(expected) if c not in doubtful
            ]
            compared += sum(owner >= 0 for owner in expected)
            losers += count - sum(owner >= 0 for owner in expected)
            doubts += len(doubtful)
    assert compared > 50
    assert losers > 30
    assert doubts < 0.1 * compared


@pytest.mark.parametrize(("unit", "side", "level"), [(4, 31.9, 0), (4, 63.9, 0), (4, 64, 1), (2, 32, 1), (4, 256, 3)])
@pytest.mark.parametrize("aspect", [0.25, 1, 4])
def test_the_level_follows_from_the_area(unit, side, level, aspect):
    width, height = side * aspect, side / aspect
    box = np.array([[128 - width / 2, 128 - height / 2, 128 + width / 2, 128 + height / 2]], np.float32)
    index = run((256, 256), [(256, 256)], [box], unit)[0]
    levels = torch.repeat_interleave(torch.arange(5), torch.tensor([1024, 256, 64, 16, 4]))
    assert levels[index >= 0].tolist() == [level]


def test_distance_is_measured_in_widths_and_heights():
    """The centre is 3 pixels to the right of one point and 4 below another; a wide object takes the first point."""
    wide, tall = [[11.0, 24.0, 75, 40], [35.0, 0.0, 51, 64]]  # centres (43, 32), with half widths of 32 and 8 pixels
    index = run((96, 96), [(96, 96)] * 3, [np.array([b], np.float32) for b in (wide, tall)] + [np.zeros((0, 4))])
    assert [(row >= 0).nonzero().flatten().tolist() for row in index] == [[4 * 12 + 5]] * 2 + [[]]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_point_claimed_twice_gets_the_nearer_object(order):
    near, far = [32.0, 32, 64, 64], [33.0, 33, 65, 65]
    index = run((96, 96), [(96, 96)], [np.array([near, far], np.float32)[list(order)]])[0]
    assert index[6 * 12 + 6] == order.index(0)
    assert (index >= 0).sum() == 1


def test_ties_go_to_the_first_point_and_the_first_object():
    """Four points have the same distance from the centre, and two objects have the same centre."""
    index = run((96, 96), [(96, 96)], [np.array([[28.0, 28, 60, 60]] * 2, np.float32)])[0]
    assert (index >= 0).nonzero().tolist() == [[5 * 12 + 5]]
    assert index[5 * 12 + 5] == 0


def test_only_locations_inside_the_image_are_assigned():
    """The centre is in the padding of the second image, which has 64 × 32 pixels with its own padding."""
    box = np.array([[50.0, 60, 82, 92]], np.float32)  # centre (66, 76)
    index = run((96, 96), [(96, 96), (40, 20)], [box, box])
    assert (index >= 0).nonzero().tolist() == [[0, 9 * 12 + 8], [1, 7 * 12 + 3]]
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[:8, :4] = True
    assert torch.equal(index[1, :144].view(12, 12) != PADDING, inside)
    assert torch.equal(run((96, 96), [(40, 20)], [np.zeros((0, 4))])[0] == PADDING, index[1] == PADDING)
