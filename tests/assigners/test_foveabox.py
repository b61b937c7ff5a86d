"""FoveaBox's assignment against a loop that paints one object after the other, from large to small."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.assigners.padded import pad
from workbench.assigners.assignment import BACKGROUND
from workbench.assigners.foveabox import assign_foveabox, scale_ranges

STRIDES = (8, 16, 32, 64, 128)
RANGES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
NEAR = 1e-4
"""Distance from a tie up to which rounding may decide."""
CANVASES = [(96, 96), (320, 64), (64, 416), (32, 32), (256, 192)]


def pyramid(canvas):
    return [(math.ceil(canvas[0] / s), math.ceil(canvas[1] / s)) for s in STRIDES]


def fovea(low, high, stride, locations, shrink=0.0):
    """First and last location of an axis (section e4 of the recipes), slightly shrunk or enlarged to detect ties."""
    low, half = low / stride, (high - low) / stride / 2
    first, last = math.ceil(low + (1 - 0.4) * half - 0.5 + shrink), math.floor(low + (1 + 0.4) * half - 0.5 - shrink)
    return range(min(max(first, 0), locations - 1), min(max(last, 0), locations - 1) + 1)


def slow_foveabox(canvas, boxes, factor=1.0):
    """Index of each location of one image, and the locations that a tie decides."""
    owners, doubtful, start = [], set(), 0
    scales = [math.sqrt((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in boxes]
    for (rows, columns), stride, (low, high) in zip(pyramid(canvas), STRIDES, RANGES, strict=True):
        painted = [[[] for _ in range(columns)] for _ in range(rows)]
        for g in sorted(range(len(boxes)), key=lambda g: -scales[g]):
            margin = min(scales[g] - low * factor, high * factor - scales[g])
            if margin < -NEAR:
                continue
            x1, y1, x2, y2 = boxes[g]

            def locations(shrink, x=(x1, x2, stride, columns), y=(y1, y2, stride, rows)):
                return {(i, j) for i in fovea(*y, shrink) for j in fovea(*x, shrink)}

            sure = locations(NEAR) if margin > NEAR or margin == 0 else set()
            doubtful |= {start + i * columns + j for i, j in locations(-NEAR) - sure}
            for i, j in locations(0) if margin >= 0 else ():
                if painted[i][j] and 0 < abs(scales[painted[i][j][-1]] - scales[g]) < NEAR:
                    doubtful.add(start + i * columns + j)
                painted[i][j].append(g)
        owners += [location[-1] if location else BACKGROUND for row in painted for location in row]
        start += rows * columns
    return owners, doubtful


def objects(rng, count, canvas, kind):
    """Boxes of many sizes; some of them reach beyond the image."""
    centre = rng.uniform(-0.1, 1.1, (count, 2)) * canvas[::-1]
    wh = np.exp(rng.uniform(*np.log((0.5, 3 * max(canvas))), (count, 2)))
    if kind == "on two levels":  # squares whose side is exactly the bound of a level
        wh = rng.choice([1, 32, 64, 128, 256, 512], count)[:, None].repeat(2, axis=1)
        centre = np.round(centre) + 0.25
    elif kind == "equal":  # swapped sides in whole numbers: all areas are equal
        wh = np.array([[20, 60], [60, 20], [30, 40]])[rng.integers(0, 3, count)]
        centre = np.round(centre) + 0.25
    elif kind == "nested":
        centre = np.asarray(canvas[::-1]) / 2 + rng.uniform(-2, 2, (count, 2))
    return np.concatenate([centre - wh / 2, centre + wh / 2], axis=1).astype(np.float32)


def run(canvas, boxes, factor=1.0):
    padded, valid = pad(boxes)
    ranges = [(low * factor, high * factor) for low, high in RANGES]
    return assign_foveabox(pyramid(canvas), STRIDES, ranges, padded, valid)


def levels_of(box):
    """Strides of the levels that accept an object; on a map of one location every fovea contains the location."""
    index = run((8, 8), [np.array([box], dtype=np.float32)]).index[0]
    return [stride for stride, owner in zip(STRIDES, index.tolist(), strict=True) if owner == 0]


@pytest.mark.parametrize("kind", ["any", "on two levels", "equal", "nested"])
@pytest.mark.parametrize("canvas", CANVASES, ids=lambda c: f"{c[0]}x{c[1]}")
def test_the_assignment_agrees_with_painted_objects(canvas, kind):
    rng = np.random.default_rng([*canvas, len(kind)])
    compared = positives = 0
    for repeat in range(10):
        counts = [[2, 0], [30, 7, 1], [0, 0], [1], [200 if repeat > 5 else 50, 20]][repeat % 5]
        boxes = [objects(rng, n, canvas, kind) for n in counts]
        factor = 1.0 if repeat % 3 else 0.5
        actual = run(canvas, boxes, factor).index
        for b in range(len(counts)):
            expected, doubtful = slow_foveabox(canvas, boxes[b].astype(float).tolist(), factor)
            sure = [c for c in range(len(expected)) if c not in doubtful]
            assert [actual[b, c].item() for c in sure] == [expected[c] for c in sure]
            compared += sum(expected[c] >= 0 for c in sure)
            positives += sum(owner >= 0 for owner in expected)
    assert compared > 0.95 * positives > 20  # few locations are decided by a tie


def test_ranges_of_the_levels():
    assert scale_ranges(STRIDES, 8.0) == list(RANGES)
    assert scale_ranges(STRIDES, 4.0) == [(low / 2, high / 2) for low, high in RANGES]
    assert scale_ranges((16, 32), 8.0) == [(1, 128), (64, 512)]


@pytest.mark.parametrize(
    ("side", "strides"),
    [
        (31, [8]),
        (32, [8, 16]),
        (63.9, [8, 16]),
        (64, [8, 16, 32]),
        (64.1, [16, 32]),
        (128, [16, 32, 64]),
        (128.1, [32, 64]),
        (256, [32, 64, 128]),
        (512, [64, 128]),
        (2048, [128]),
        (2050, []),
        (1, [8]),
        (0.9, []),
    ],
)
def test_a_level_accepts_both_of_its_bounds(side, strides):
    assert levels_of([2.0, 3, 2 + side, 3 + side]) == strides


def test_the_scale_is_the_root_of_the_area():
    assert levels_of([28.0, 92, 228, 164]) == [16, 32]  # 200 x 72: 120 px


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_location_gets_the_smaller_object(order):
    boxes = np.array([[16.0, 16, 80, 80], [28.0, 28, 68, 68]], dtype=np.float32)[list(order)]
    grid = run((96, 96), [boxes]).index[0, :144].view(12, 12)
    assert grid[6, 6] == order.index(1)
    assert grid[4, 4] == order.index(0)


def test_a_location_gets_the_last_of_equally_large_objects():
    index = run((96, 96), [np.array([[16.0, 16, 76, 76]] * 5, dtype=np.float32)]).index
    assert set(index.unique().tolist()) == {BACKGROUND, 4}


def test_the_fovea_agrees_with_a_calculation_by_hand():
    """x 8..48, y 16..56 on stride 8: columns ceil(1 + 1.5 - 0.5) to floor(1 + 3.5 - 0.5), rows one more."""
    grid = run((96, 64), [np.array([[8.1, 16.1, 48.1, 56.1]], dtype=np.float32)]).index[0, : 12 * 8].view(12, 8)
    assert (grid >= 0).nonzero().tolist() == [[i, j] for i in (4, 5) for j in (3, 4)]


def test_a_small_object_between_centres_has_a_location_only_at_the_border():
    between, right, left = [46.0, 46, 50, 50], [91.0, 42, 95, 46], [1.0, 42, 3, 46]
    for box, locations in ((between, []), (right, [5 * 12 + 11]), (left, [5 * 12])):
        index = run((96, 96), [np.array([box], dtype=np.float32)]).index[0]
        assert (index >= 0).nonzero().flatten().tolist() == locations


@pytest.mark.parametrize("objects", [0, 3])
def test_all_is_background_without_objects(objects):
    index = assign_foveabox(
        pyramid((96, 64)), STRIDES, RANGES, torch.rand(2, objects, 4) * 90, torch.zeros(2, objects, dtype=torch.bool)
    ).index
    assert index.shape == (2, 12 * 8 + 6 * 4 + 3 * 2 + 2 + 1)
    assert index.dtype == torch.int64
    assert (index == BACKGROUND).all()


def test_objects_that_are_not_valid_claim_nothing():
    boxes = torch.tensor([[[16.0, 16, 76, 76], [28, 28, 68, 68]]] * 2)
    valid = torch.tensor([[True, True], [True, False]])
    index = assign_foveabox(pyramid((96, 96)), STRIDES, RANGES, boxes, valid).index
    assert (index[0] == 1).any()
    assert set(index[1].unique().tolist()) == {BACKGROUND, 0}
